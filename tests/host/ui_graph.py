"""Workflows as the front end saves them, made into what it sends when the user presses Run."""

from __future__ import annotations

from typing import Any

TEXTS = {"Note", "MarkdownNote"}  # of the front end alone
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
BUTTONS = ("image_upload", "video_upload", "audio_upload", "animated_image_upload")


def widgets(node: dict[str, Any], described: dict[str, Any]) -> dict[str, int]:
    """Widget name -> its place among the saved values. described: the node type's entry of /object_info."""
    inputs = described["input"].get("required", {}) | described["input"].get("optional", {})
    found, place, buttons = {}, 0, 0
    for name, (kind, *more) in inputs.items():
        options = more[0] if more else {}
        if not (isinstance(kind, list) or kind in WIDGETS) or options.get("forceInput"):
            continue
        found[name] = place
        place += 2 if options.get("control_after_generate") else 1
        buttons += any(options.get(button) for button in BUTTONS)
    assert place + buttons == len(node.get("widgets_values") or []), f"{node['type']}: values that no widget has"
    return found


def widget_values(node: dict[str, Any], described: dict[str, Any]) -> dict[str, Any]:
    """Widget name -> saved value."""
    return {name: node["widgets_values"][place] for name, place in widgets(node, described).items()}


def to_prompt(saved: dict[str, Any], described: dict[str, Any]) -> dict[str, Any]:
    """The graph in API format. described: the answer of /object_info."""
    sources = {link: [str(node), slot] for link, node, slot, *_ in saved["links"]}
    prompt = {}
    for node in saved["nodes"]:
        if node["type"] in TEXTS:
            continue
        inputs = widget_values(node, described[node["type"]])
        inputs |= {one["name"]: sources[one["link"]] for one in node["inputs"] if one["link"] is not None}
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt
