"""The extension loads in a real ComfyUI: fast, silent, and every node says what it is."""

from __future__ import annotations

import pytest

NODES = {
    "VideoLoad",
    "VideoSave",
    "DIFTCorrespondence",
    "MaskedCiAKSampler",
    "HeroLoRATrainer",
    "HeroRestore",
    "OpticalFlow",
    "SelectKeyFrames",
    "PixelSwap",
    "VideoMetrics",
}


@pytest.fixture(scope="module")
def ours(server):
    """What the host tells about our nodes, by id."""
    info = server.get("/object_info")
    return {name: node for name, node in info.items() if node["python_module"] == "custom_nodes.zero2hero"}


def test_the_host_loads_it_without_a_word(server):
    lines = [line for line in server.start_log.splitlines() if "zero2hero" in line.lower()]
    assert lines and all("seconds:" in line for line in lines), "\n".join(lines)


def test_all_nodes_are_there(ours):
    assert set(ours) >= NODES


def test_every_node_is_described(ours):
    for name, node in ours.items():
        assert node["description"] and node["display_name"], name
        assert node["category"].split("/")[0] == "Zero-to-Hero", name
        inputs = {key: spec for kind in ("required", "optional") for key, spec in node["input"].get(kind, {}).items()}
        silent = [key for key, spec in inputs.items() if not spec[1].get("tooltip")]
        assert not silent, f"{name}: no tooltip on inputs {silent}"
        assert all(node["output_tooltips"]) and len(node["output_tooltips"]) == len(node["output"]), name


def test_import_is_fast_and_ids_are_disjoint(answer):
    done = answer("load_extension.py")
    assert done["seconds"] < 1.0
    for name, node in done["nodes"].items():
        assert not {*node["inputs"]} & {*node["outputs"]}, name
        assert len({*node["inputs"]}) == len(node["inputs"]), name
    assert set(done["nodes"]) >= NODES
