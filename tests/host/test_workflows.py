"""The workflows: sound, offered by the host, and read as the front end reads them."""

from __future__ import annotations

import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from ui_graph import BYPASSED, NAMES, TEXTS, WORKFLOWS, load, switched_on, to_prompt, widget_values, widgets

REPOSITORY = Path(__file__).resolve().parents[2]
TITLE = 30  # height of a node's title, pixels
WITH_HERO = ["colorize", "zero_to_hero_sd15_flux"]  # their Hero-Stage is bypassed at first
Graph = dict[str, Any]


def test_there_are_eight() -> None:
    without_models = ["propagate_keyframes", "repair_other_tools"]
    with_models = ["colorize", "fresco_sd15", "rerender_sd15", "zero_stage_only", "zero_to_hero_sd15_flux"]
    expected = sorted(["demo_cpu", *without_models, *with_models])
    assert expected == NAMES


def test_the_host_offers_them_with_pictures(server: Any) -> None:
    assert sorted(server.get("/workflow_templates")["zero2hero"]) == NAMES
    for path in WORKFLOWS:
        with Image.open(path.with_suffix(".jpg")) as picture:
            assert picture.format == "JPEG" and picture.width == 640


@pytest.mark.parametrize("name", NAMES)
def test_core_and_own_nodes_only(described: Graph, name: str) -> None:
    for node in load(name)["nodes"]:
        if node["type"] not in TEXTS:
            module = described[node["type"]]["python_module"]
            assert module == "nodes" or module.startswith("comfy_extras.") or module == "custom_nodes.zero2hero"


def offered(kind: Any, options: Graph) -> list[Any] | None:
    """What a combo offers; None where it is no combo, or lists files that another machine has."""
    if any(f"{what}_upload" in options for what in ("image", "video")):
        return None
    return kind if isinstance(kind, list) else options.get("options")


def nodes_of(name: str) -> list[Graph]:
    """All nodes that the host knows, bypassed ones, too."""
    return [node for node in load(name)["nodes"] if node["type"] not in TEXTS]


def sockets(facts: Graph) -> Graph:
    """Input -> its type and options."""
    return facts["input"].get("required", {}) | facts["input"].get("optional", {})


@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_that_the_hosts_nodes_take(described: Graph, name: str) -> None:
    for node in nodes_of(name):
        inputs = sockets(described[node["type"]])
        files = {file["name"] for file in node["properties"].get("models", [])}
        for widget, value in widget_values(node, described[node["type"]]).items():
            kind, *more = inputs[widget]
            options = more[0] if more else {}
            if (choices := offered(kind, options)) is not None:
                assert value in choices or value in files, (node["type"], widget, value)
            if kind in ("INT", "FLOAT"):
                assert options.get("min", value) <= value <= options.get("max", value), (node["type"], widget, value)


@pytest.mark.parametrize("name", NAMES)
def test_links_fit_and_none_is_missing(described: Graph, name: str) -> None:
    nodes, saved = {node["id"]: node for node in nodes_of(name)}, load(name)
    for node in nodes.values():
        facts = described[node["type"]]
        linked = {one["name"] for one in node["inputs"] if one["link"] is not None}
        wanted = set(facts["input"].get("required", {})) - set(widgets(node, facts))
        assert wanted <= linked, (node["type"], wanted - linked)
    for link, source, slot, target, place, _ in saved["links"]:
        socket = nodes[target]["inputs"][place]
        assert socket["link"] == link
        kind = sockets(described[nodes[target]["type"]])[socket["name"]][0]
        assert described[nodes[source]["type"]]["output"][slot] in kind.split(",")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_overlaps_and_a_note_says_what_to_do(name: str) -> None:
    nodes = load(name)["nodes"]
    assert [node for node in nodes if node["type"] in TEXTS and len(node["widgets_values"][0]) > 200]
    for a, b in combinations(nodes, 2):
        apart = [
            a["pos"][axis] + a["size"][axis] + margin <= b["pos"][axis]
            or b["pos"][axis] + b["size"][axis] + margin <= a["pos"][axis]
            for axis, margin in ((0, 0), (1, TITLE))
        ]
        assert any(apart), (a["type"], b["type"])


def test_models_are_those_of_the_guide() -> None:
    guide = (REPOSITORY / "docs" / "comfyui.md").read_text(encoding="utf-8")
    files = [file for name in NAMES for node in load(name)["nodes"] for file in node["properties"].get("models", [])]
    assert len(files) > 6
    for file in files:
        assert f"[{file['name']}]({file['url']})" in guide
        assert file["name"] == file["url"].rsplit("/", 1)[-1] and f"`models/{file['directory']}`" in guide


@pytest.mark.parametrize("name", WITH_HERO)
def test_as_shipped_the_hero_stage_is_off(described: Graph, name: str) -> None:
    off = {node["type"] for node in load(name)["nodes"] if node["mode"] == BYPASSED}
    assert {"UNETLoader", "HeroLoRATrainer", "HeroRestore"} < off and "MaskedCiAKSampler" not in off
    prompt = to_prompt(load(name), described)
    ends = [node["inputs"] for node in prompt.values() if node["class_type"] == "VideoSave"]
    assert [inputs["filename_prefix"] for inputs in ends] == ["zero2hero/zero"]
    assert prompt[ends[0]["frames"][0]]["class_type"] == "MaskedCiAKSampler"
    linked = {value[0] for node in prompt.values() for value in node["inputs"].values() if isinstance(value, list)}
    assert linked <= set(prompt) < set(to_prompt(switched_on(load(name)), described))


def test_a_bypassed_node_hands_on_what_fits(described: Graph) -> None:
    """As the front ends 1.27.10 and 1.35.9 do."""
    saved = load("demo_cpu")
    first = {node["type"]: node for node in reversed(saved["nodes"])}
    first["MaskedCiAKSampler"]["mode"] = BYPASSED
    prompt = to_prompt(saved, described)
    trainer, clip = (str(first[kind]["id"]) for kind in ("HeroLoRATrainer", "ZeroToHeroDemoClip"))
    assert prompt[trainer]["inputs"]["zero_frames"] == [clip, 0]  # what its first IMAGE reads
    first["HeroLoRATrainer"]["mode"] = BYPASSED
    restore = to_prompt(saved, described)[str(first["HeroRestore"]["id"])]
    assert "hero_lora" not in restore["inputs"]  # it has no such input to hand on
