"""Opens workflows/*.json in a running ComfyUI's own front end, in both of its renderers, and prints what differs.

    python main.py --cpu                                             # a ComfyUI with this extension
    python docs/workflows/check.py http://127.0.0.1:8188 --pictures /tmp/pictures
    python docs/workflows/check.py http://127.0.0.1:8189 --renderer classic      # 0.3.64, whose other one was a sketch

For each workflow: every node is known and drawn, none overlaps another or sticks out of its group; nodes, links, groups
and values are those of the file; Run would send what the tests read from it; the browser's console has no complaint.
The host's settings stay as they are. Needs what build.py needs.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from build import BUILD, OBJECT_INFO, SCREEN, WORKFLOWS
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, sync_playwright
from ui_graph import TEXTS, to_prompt, widgets

VUE = "Comfy.VueNodes.Enabled"
RENDERERS = {"classic": False, "vue": True}
OURS = "zero2hero"
# What it says of files that this machine lacks: models, for whose size it asks their hosts, and the user's own clip.
EXPECTED = ("huggingface.co", "Content Security Policy", "fetching file size", "/view?type=input")
INSIDE = ("upload", "control_after_generate", "video-preview")  # what the new renderer draws in another way
KEPT = ("id", "type", "title", "mode", "pos", "color", "widgets_values")
DRAWN = """() => (app.graph.nodes ?? app.graph._nodes).map((node) => {
  const drawn = document.querySelector(`[data-node-id="${node.id}"]`)
  const shown = (node.widgets ?? []).filter((one) => !one.hidden && !one.options?.hidden && !one.options?.advanced)
  return {id: node.id, type: node.type, title: node.title, lines: drawn && drawn.innerText.split('\\n'),
    widgets: shown.map((one) => [one.name, one.label ?? one.name])}
})"""


def main() -> None:
    """Read the command line, check in each renderer; exit 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="of a running ComfyUI with this extension")
    parser.add_argument("--pictures", type=Path, help="folder for large screenshots to look at")
    parser.add_argument("--renderer", choices=RENDERERS, nargs="*", default=[*RENDERERS], help="default: both")
    parser.add_argument("--browser", default=shutil.which("chromium"), help="the Chromium to use")
    args = parser.parse_args()
    found = 0
    with sync_playwright() as player:
        browser = player.chromium.launch(
            executable_path=args.browser, args=["--no-sandbox", "--disable-background-networking"]
        )
        for renderer in args.renderer:
            found += check_renderer(browser, args, renderer, RENDERERS[renderer])
        browser.close()
    sys.exit(found > 0)


def check_renderer(browser: Browser, args: argparse.Namespace, renderer: str, vue: bool) -> int:
    """Check all workflows in one renderer, print; return how much was found."""
    page = browser.new_page(viewport={"width": SCREEN[0], "height": SCREEN[1]})
    said: list[str] = []
    page.on("console", lambda message: said.extend(complaint(message)))
    page.on("pageerror", lambda error: said.append(f"uncaught: {error}"))
    page.route("**/settings", lambda route: answer_settings(route, vue))
    page.route("**/settings/*", lambda route: route.fulfill(json={}))  # what the page would store
    page.route("**/object_info", answer_object_info)
    page.goto(args.url, timeout=180_000)
    page.wait_for_function("!!window.LiteGraph?.registered_node_types?.VideoLoad", timeout=180_000)
    page.wait_for_timeout(5000)
    version = page.evaluate("() => window.__COMFYUI_FRONTEND_VERSION__")
    if vue and not page.evaluate("() => !!LiteGraph.vueNodesMode"):
        print(f"front end {version} has no {renderer}: skipped")
        page.close()
        return 0
    page.evaluate(BUILD)
    facts = page.evaluate(OBJECT_INFO)
    ours = [OURS, *(name for name, node in facts.items() if OURS in node["python_module"])]
    problems = {"start": [line for line in said if any(name in line for name in ours)]}  # the rest is the host's own
    for path in sorted(WORKFLOWS.glob("*.json")):
        said.clear()
        problems[path.stem] = check_workflow(page, path, facts, vue, args.pictures)
        problems[path.stem] += said
    page.close()
    for name, lines in problems.items():
        print(f"front end {version}, {renderer}, {name}: " + ("; ".join(lines) or "as in the file"))
    return sum(map(len, problems.values()))


def complaint(message: ConsoleMessage) -> list[str]:
    """What of a console message is worth a look."""
    text = f"{message.type}: {message.text[:300]} ({message.location.get('url', '')})"
    return [text] if message.type in ("error", "warning") and not any(part in text for part in EXPECTED) else []


def answer_settings(route: Route, vue: bool) -> None:
    """The host's settings, with the renderer of our choice and without the tour for newcomers."""
    if route.request.method != "GET":
        route.fulfill(json={})
        return
    response = route.fetch()
    route.fulfill(response=response, json=response.json() | {VUE: vue, "Comfy.TutorialCompleted": True})


def answer_object_info(route: Route) -> None:
    """What the host says of its nodes, as if it had the files that the workflows name."""
    response = route.fetch()
    facts = response.json()
    for path in WORKFLOWS.glob("*.json"):
        for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
            if node["type"] in TEXTS or node["type"] not in facts:
                continue
            inputs = facts[node["type"]]["input"].get("required", {})
            for name, place in widgets(node, facts[node["type"]]).items():
                kind, *more = inputs.get(name, [""])
                offered = kind if isinstance(kind, list) else (more[0] if more else {}).get("options")
                if offered is not None and node["widgets_values"][place] not in offered:
                    offered.append(node["widgets_values"][place])
    route.fulfill(response=response, json=facts)


def check_workflow(page: Page, path: Path, facts: dict[str, Any], vue: bool, pictures: Path | None) -> list[str]:
    """Open one workflow, take its picture; return what differs."""
    file = json.loads(path.read_text(encoding="utf-8"))
    unknown = {node["type"] for node in file["nodes"]} - TEXTS - set(facts)
    if unknown:
        return [f"unknown nodes: {', '.join(sorted(unknown))}"]
    found = page.evaluate("saved => zeroToHeroOpen(saved)", file)
    problems = list(found["problems"])
    problems += compare(file, json.loads(page.evaluate("() => JSON.stringify(app.graph.serialize())")))
    prompt = {key: {part: node[part] for part in ("class_type", "inputs")} for key, node in found["prompt"].items()}
    for node in prompt.values():
        node["inputs"].pop("video-preview", None)  # of a clip that is there; the server takes no notice of it
    if prompt != to_prompt(file, facts):
        problems.append("Run would send something else than the tests read (tests/host/ui_graph.py)")
    if vue:
        problems += undrawn(page.evaluate(DRAWN))
    page.keyboard.press("Escape")  # the list of models that this machine lacks
    page.wait_for_timeout(1000)
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
        picture = Image.open(io.BytesIO(page.screenshot()))
        picture.save(pictures / f"{path.stem}-{'vue' if vue else 'classic'}.png")
    return problems


def compare(file: dict[str, Any], opened: dict[str, Any]) -> list[str]:
    """What of a file has changed after it was opened; inputs and outputs that a newer node has more do not count."""
    problems = []
    nodes = {node["id"]: node for node in opened["nodes"]}
    if sorted(nodes) != sorted(node["id"] for node in file["nodes"]):
        problems.append("other nodes")
    for node in file["nodes"]:
        now = nodes.get(node["id"], {})
        what = f"{node.get('title', node['type'])} ({node['id']})"
        changed = [part for part in KEPT if (node.get(part) or None) != (now.get(part) or None)]
        problems += [f"{what}: {part} is {now.get(part)}" for part in changed]
        for side, link in (("inputs", "link"), ("outputs", "links")):
            there = {one["name"]: (one["type"], one.get(link) or None) for one in now.get(side) or []}
            for one in node[side]:
                if there.get(one["name"]) != (one["type"], one.get(link) or None):
                    problems.append(f"{what}: {one['name']} of {side} is {there.get(one['name'])}")
    if sorted(file["links"]) != sorted(opened["links"]):
        problems.append("other links")
    frames = [[(one["title"], one["bounding"]) for one in graph["groups"]] for graph in (file, opened)]
    return problems + ["other groups"] * (frames[0] != frames[1])


def undrawn(nodes: list[dict[str, Any]]) -> list[str]:
    """Nodes that the new renderer does not draw, and widgets without a line of their own."""
    problems = []
    for node in nodes:
        what = f"{node['title']} ({node['id']})"
        if node["lines"] is None:
            problems.append(f"{what} is not drawn")
        elif node["type"] not in TEXTS:
            lost = [label for name, label in node["widgets"] if name not in INSIDE and label not in node["lines"]]
            problems += [f"{what} shows no {label}" for label in lost]
    return problems


if __name__ == "__main__":
    main()
