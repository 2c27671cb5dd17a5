"""Workflows as the front end saves them, made into what it sends when the user presses Run."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

WORKFLOWS = sorted((Path(__file__).resolve().parents[2] / "workflows").glob("*.json"))
NAMES = [path.stem for path in WORKFLOWS]

TEXTS = {"Note", "MarkdownNote"}  # of the front end alone
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
RUNNING, MUTED, BYPASSED = 0, 2, 4  # a node's mode
ANY = "*"
BUTTONS = ("image_upload", "video_upload", "audio_upload", "animated_image_upload")
Origin = tuple[dict[str, Any], int]  # node, number of its output


def load(name: str) -> dict[str, Any]:
    """A workflow as saved."""
    (path,) = [path for path in WORKFLOWS if path.stem == name]
    return json.loads(path.read_text(encoding="utf-8"))


def switched_on(saved: dict[str, Any]) -> dict[str, Any]:
    """The workflow after the user has set all bypassed nodes to run."""
    changed = deepcopy(saved)
    for node in changed["nodes"]:
        node["mode"] = RUNNING
    return changed


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
    nodes = {node["id"]: node for node in saved["nodes"]}
    origins = {link: (nodes[node], slot) for link, node, slot, *_ in saved["links"]}
    prompt = {}
    for node in saved["nodes"]:
        if node["type"] in TEXTS or node["mode"] in (MUTED, BYPASSED):
            continue
        inputs = widget_values(node, described[node["type"]])
        for one in node["inputs"]:
            source = _source(one, origins)
            if source is not None:
                inputs[one["name"]] = [str(source[0]["id"]), source[1]]
                if source[0]["mode"] == MUTED:
                    del inputs[one["name"]]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def _source(one: dict[str, Any], origins: dict[int, Origin]) -> Origin | None:
    """Node and output that an input reads. What reads a bypassed node, reads what one of that node's inputs reads."""
    if one["link"] is None:
        return None
    node, slot = origins[one["link"]]
    if node["mode"] != BYPASSED:
        return node, slot
    place = _passed_through(node, slot, one["type"])
    return None if place is None else _source(node["inputs"][place], origins)


def _passed_through(node: dict[str, Any], slot: int, wanted: str) -> int | None:
    """The input of a bypassed node that stands in for its output: the one of the same number where that fits, else the
    first of the type that is wanted, else the first that fits."""
    kinds, given = [one["type"] for one in node["inputs"]], node["outputs"][slot]["type"]
    if wanted == ANY:
        return slot if slot < len(kinds) else 0
    fitting = [place for place, kind in enumerate(kinds) if _fits(kind, given) and _fits(kind, wanted)]
    same = [place for place, kind in enumerate(kinds) if kind == wanted]
    return next(iter([slot] * (slot in fitting) + same + fitting), None)


def _fits(one: str, other: str) -> bool:
    """Whether sockets of these types may be connected; several types stand with commas between them."""
    return ANY in (one, other) or not {*one.lower().split(",")}.isdisjoint(other.lower().split(","))
