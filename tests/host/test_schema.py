"""What saved workflows rely on: ids, inputs and outputs of every node, as a running host describes them.

A workflow names a node by its id, its inputs by name and its outputs and widgets by their place. So ids are permanent,
and inputs and outputs are only appended. schema.json is what is published; to change it on purpose:

    ZERO2HERO_UPDATE_SCHEMA=1 pytest tests/host/test_schema.py

which refuses what breaks saved workflows. Where that is meant too, delete schema.json first.
"""

from __future__ import annotations

import json
import os
from copy import deepcopy
from difflib import unified_diff
from pathlib import Path
from typing import Any

import pytest

SNAPSHOT = Path(__file__).with_name("schema.json")
UPDATE = "ZERO2HERO_UPDATE_SCHEMA"
FILES = "files"  # stands for the options of an input of this name: they are what lies in a folder
VALUES = ("default", "min", "max", "step", "round")
WIDGETS = ("control_after_generate", "forceInput", "video_upload")  # each changes the number of a node's widgets
Schema = dict[str, Any]


def read_schema(object_info: Schema, module: str) -> Schema:
    """Node id -> what is published of it, for the nodes of one extension; what only some hosts say is left out."""
    ours = {name: info for name, info in object_info.items() if info["python_module"] == module}
    return {name: _node(info) for name, info in ours.items()}


def _node(info: Schema) -> Schema:
    kinds = ("required", "optional")  # the front end's order of widgets
    inputs = [
        {"name": name, "required": kind == "required"} | _input(name, *info["input"][kind][name])
        for kind in kinds
        for name in info["input_order"].get(kind, [])
    ]
    outputs = [{"name": name, "type": kind} for name, kind in zip(info["output_name"], info["output"], strict=True)]
    kept = {key: info[key] for key in ("display_name", "category", "output_node", "experimental")}
    return kept | {"inputs": inputs, "outputs": outputs}


def _input(name: str, kind: str, given: Schema) -> Schema:
    kept = {key: given[key] for key in (*VALUES, *WIDGETS) if key in given}
    if kind == "COMBO":
        kept["options"] = FILES if name == "file" else given["options"]
    return {"type": kind} | kept


def written(schema: Schema) -> str:
    """The schema as JSON with one line for each input and output, so that differences can be read."""
    nodes = []
    for name, node in schema.items():
        lines = [f"    {json.dumps(key)}: {_value(value)}" for key, value in node.items()]
        nodes.append(f"  {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n  }")
    return "{\n" + ",\n".join(nodes) + "\n}\n"


def _value(value: Any) -> str:
    if not isinstance(value, list) or not value:
        return json.dumps(value)
    return "[\n" + ",\n".join(f"      {json.dumps(item)}" for item in value) + "\n    ]"


def breaking_changes(old: Schema, new: Schema) -> list[str]:
    """What in `new` breaks workflows that were saved with `old`, one sentence each; nothing where all of them load."""
    found = [f"{name}: the node is gone" for name in old if name not in new]
    for name in (name for name in old if name in new):
        for side in ("inputs", "outputs"):
            found += [f"{name}.{text}" for text in _order(old[name][side], new[name][side])]
        before = {item["name"]: item for item in old[name]["inputs"]}
        for item in new[name]["inputs"]:
            found += [f"{name}.{item['name']}: {text}" for text in _input_changes(before.get(item["name"]), item)]
    return found


def _order(old: list[Schema], new: list[Schema]) -> list[str]:
    names = [item["name"] for item in new]
    for place, item in enumerate(old):
        if item["name"] not in names:
            return [f"{item['name']}: is gone"]
        if names[place] != item["name"]:
            return [f"{item['name']}: has moved from place {place} to {names.index(item['name'])}"]
        if new[place]["type"] != item["type"]:
            return [f"{item['name']}: was {item['type']}, is {new[place]['type']}"]
    return []


def _input_changes(old: Schema | None, new: Schema) -> list[str]:
    if old is None:
        return ["is new and required; make it optional"] if new["required"] else []
    found = ["is required now"] if new["required"] and not old["required"] else []
    found += [f"{key} has changed, and with it the widgets" for key in WIDGETS if old.get(key) != new.get(key)]
    if FILES not in (old.get("options"), new.get("options")):
        found += [f"lacks the option {one}" for one in old.get("options", []) if one not in new.get("options", [])]
    raised = new.get("min", float("-inf")) > old.get("min", float("-inf"))
    lowered = new.get("max", float("inf")) < old.get("max", float("inf"))
    return found + (["its range is narrower"] if raised or lowered else [])


def test_nodes_are_what_is_published(server: Any) -> None:
    schema = read_schema(server.get("/object_info"), "custom_nodes.zero2hero")
    assert len(schema) > 10
    published = json.loads(SNAPSHOT.read_text(encoding="utf-8")) if SNAPSHOT.exists() else {}
    broken = "\n".join(breaking_changes(published, schema))
    if os.environ.get(UPDATE) and not broken:
        SNAPSHOT.write_text(written(schema), encoding="utf-8")
        published = schema
    if published != schema:
        lines = unified_diff(written(published).splitlines(), written(schema).splitlines(), "published", "now", n=1)
        loads = f"saved workflows break:\n{broken}" if broken else "saved workflows still load"
        way = f"On purpose? {UPDATE}=1 pytest tests/host/test_schema.py" + ", after deleting schema.json" * bool(broken)
        pytest.fail("\n".join(["the nodes changed:", *lines, loads, way]), pytrace=False)


SMALL = {
    "Node": {
        "inputs": [
            {"name": "frames", "required": True, "type": "IMAGE"},
            {"name": "steps", "required": True, "type": "INT", "min": 1, "max": 9},
            {"name": "mode", "required": True, "type": "COMBO", "options": ["a", "b"]},
            {"name": "mask", "required": False, "type": "MASK"},
        ],
        "outputs": [{"name": "frames", "type": "IMAGE"}, {"name": "truth", "type": "IMAGE"}],
    },
}
NEW = {"name": "seed", "required": False, "type": "INT"}
CHANGES = {
    "nothing": (lambda node: None, []),
    "optional input appended": (lambda node: node["inputs"].append(NEW), []),
    "output appended": (lambda node: node["outputs"].append({"name": "mask", "type": "MASK"}), []),
    "wider range": (lambda node: node["inputs"][1].update(min=0, max=99, default=3), []),
    "option added": (lambda node: node["inputs"][2]["options"].append("c"), []),
    "input removed": (lambda node: node["inputs"].pop(3), ["Node.mask: is gone"]),
    "inputs swapped": (
        lambda node: node["inputs"].insert(0, node["inputs"].pop(1)),
        ["Node.frames: has moved from pl"],
    ),
    "input inserted": (lambda node: node["inputs"].insert(3, NEW), ["Node.mask: has moved from place 3 to 4"]),
    "input retyped": (lambda node: node["inputs"][1].update(type="FLOAT"), ["Node.steps: was INT, is FLOAT"]),
    "required appended": (lambda node: node["inputs"].append(NEW | {"required": True}), ["Node.seed: is new and req"]),
    "optional now required": (lambda node: node["inputs"][3].update(required=True), ["Node.mask: is required now"]),
    "another widget": (lambda node: node["inputs"][1].update(forceInput=True), ["Node.steps: forceInput has changed"]),
    "option removed": (lambda node: node["inputs"][2]["options"].pop(), ["Node.mode: lacks the option b"]),
    "narrower range": (lambda node: node["inputs"][1].update(max=8), ["Node.steps: its range is narrower"]),
    "output removed": (lambda node: node["outputs"].pop(), ["Node.truth: is gone"]),
    "outputs swapped": (lambda node: node["outputs"].reverse(), ["Node.frames: has moved from place 0 to 1"]),
    "output retyped": (lambda node: node["outputs"][1].update(type="MASK"), ["Node.truth: was IMAGE, is MASK"]),
}


@pytest.mark.parametrize("case", CHANGES)
def test_which_changes_break_saved_workflows(case: str) -> None:
    change, said = CHANGES[case]
    new = deepcopy(SMALL)
    change(new["Node"])
    found = breaking_changes(SMALL, new)
    assert len(found) == len(said) and all(one.startswith(begin) for one, begin in zip(found, said, strict=True)), found


def test_a_new_node_breaks_nothing_and_a_lost_one_does() -> None:
    assert breaking_changes({}, SMALL) == [] and breaking_changes(SMALL, {}) == ["Node: the node is gone"]
    assert json.loads(written(SMALL)) == SMALL
