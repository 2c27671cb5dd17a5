"""What a user reads besides the schemas: locales/en says the same, and every node has a complete help page.

The hosts merge locales/LANGUAGE/main.json and nodeDefs.json into what /i18n gives; the front end looks texts up as
nodeDefs.NODE.display_name, .description, .inputs.ID.name, .inputs.ID.tooltip, .outputs.INDEX.name and .tooltip, and a
help page at /extensions/FOLDER/docs/NODE.md.
"""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def schemas(answer) -> dict[str, Any]:
    """Texts of every node's schema, by node id."""
    return answer("schema_texts.py")


def locale(repository: Path, name: str) -> Any:
    return json.loads((repository / "locales/en" / name).read_text(encoding="utf-8"))


def help_page(repository: Path, node: str) -> str:
    return (repository / "web/docs" / f"{node}.md").read_text(encoding="utf-8")


def expected_entry(node: dict[str, Any]) -> dict[str, Any]:
    """The locale entry that says what the schema says."""
    entry: dict[str, Any] = {"display_name": node["display_name"], "description": node["description"]}
    inputs = {item["id"]: _texts(item) for item in node["inputs"]}
    outputs = {str(place): _texts(item) for place, item in enumerate(node["outputs"])}
    return entry | ({"inputs": inputs} if inputs else {}) | ({"outputs": outputs} if outputs else {})


def _texts(item: dict[str, Any]) -> dict[str, Any]:
    return {"name": item["display_name"] or item["id"], "tooltip": item["tooltip"]}


def test_the_locale_says_what_the_schemas_say(schemas, repository):
    found = locale(repository, "nodeDefs.json")
    assert list(found) == list(schemas)
    for name, node in schemas.items():
        assert found[name] == expected_entry(node), name


def test_categories_and_types_have_a_text(schemas, repository):
    main = locale(repository, "main.json")
    used = {part for node in schemas.values() for part in node["category"].split("/")}
    assert set(main["nodeCategories"]) == used
    assert set(main["dataTypes"]) == {"CORRESPONDENCE", "FLOW", "HERO_LORA"}


def test_no_text_holds_signs_of_the_message_syntax(repository):
    """The front end reads locale texts as templates, where these mean insertion, link and plural."""
    text = (repository / "locales/en/nodeDefs.json").read_text(encoding="utf-8")
    values = re.findall(r'": "((?:[^"\\]|\\.)*)"', text)
    assert len(values) > 100
    assert [value for value in values if re.search(r"[{}@|]", value)] == []


def test_outputs_are_shown_by_name(schemas):
    """Without a display name ComfyUI 0.3.64 labels an output with its type: IMAGE, IMAGE, INT ..."""
    nameless = [f"{name}.{item['id']}" for name, node in schemas.items() for item in node["outputs"]]
    named = [f"{name}.{item['display_name']}" for name, node in schemas.items() for item in node["outputs"]]
    assert named == nameless


def test_every_node_has_a_help_page_and_no_page_is_left_over(schemas, repository):
    pages = {path.stem for path in (repository / "web/docs").glob("*.md")}
    assert pages == set(schemas)


def test_help_pages_name_every_input_and_output_in_order(schemas, repository):
    for name, node in schemas.items():
        page = help_page(repository, name)
        assert page.startswith(f"# {node['display_name']}\n"), name
        for kind in ("inputs", "outputs"):
            heading, rows = f"## {kind.capitalize()}", [item["id"] for item in node[kind]]
            assert (heading in page) == bool(rows), f"{name}: {heading}"
            if rows:
                section = page.split(f"{heading}\n")[1].split("\n## ")[0]
                assert re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE) == rows, f"{name}: {kind}"
        assert "## Common mistakes\n" in page, name


def test_help_pages_are_short_and_lead_nowhere_else(repository):
    for path in (repository / "web/docs").glob("*.md"):
        page = path.read_text(encoding="utf-8")
        assert len(page.split()) < 1000, f"{path.name}: a help page is read in a side bar"
        assert not re.search(r"\]\((?!https://)", page), f"{path.name}: the front end serves no other file"


def test_the_host_serves_them(server):
    nodes = server.get("/i18n")["en"]["nodeDefs"]
    assert nodes["VideoLoad"]["outputs"]["1"]["name"] == "anchor"
    with urllib.request.urlopen(f"{server.url}/extensions/zero2hero/docs/VideoLoad.md", timeout=60) as answer:
        assert answer.read().decode().startswith("# Load Video")
