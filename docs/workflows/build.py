"""Builds workflows/*.json and their pictures in a running ComfyUI's own front end, so that they are what it would save.

    python main.py --cpu                                             # a ComfyUI with this extension
    python docs/workflows/build.py http://127.0.0.1:8188             # builds, checks, takes the pictures

check.py opens them in other versions. Needs playwright and a Chromium; its path is --browser.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from graphs import GRAPHS
from parts import TINT, Graph
from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "host"))
from ui_graph import to_prompt  # noqa: E402

WORKFLOWS = ROOT / "workflows"
OBJECT_INFO = "async () => (await fetch('/object_info')).json()"
SCREEN = (4000, 2600)  # large enough for the front end to draw texts
THUMBNAIL = 640
GAP, MARGIN, TITLE = 20, 20, 30  # between nodes, around those of a group, height of a group's title
ROOM = 44  # by which the new renderer draws a node taller than the classic one, whose front end builds the graphs
BUILD = (Path(__file__).parent / "build.js").read_text(encoding="utf-8")


def main() -> None:
    """Read the command line, do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="of a running ComfyUI with this extension")
    parser.add_argument("--only", nargs="+", help="names of some graphs")
    parser.add_argument("--pictures", type=Path, help="folder for large screenshots to look at")
    parser.add_argument("--browser", default=shutil.which("chromium"), help="the Chromium to use")
    args = parser.parse_args()
    with sync_playwright() as player:
        browser = player.chromium.launch(
            executable_path=args.browser, args=["--no-sandbox", "--disable-background-networking"]
        )
        page = browser.new_page(viewport={"width": SCREEN[0], "height": SCREEN[1]})
        page.goto(args.url)
        page.wait_for_function("!!window.LiteGraph?.registered_node_types?.VideoLoad", timeout=120_000)
        page.wait_for_timeout(3000)
        page.evaluate(BUILD)
        for make in GRAPHS:
            if args.only is None or make.__name__ in args.only:
                do(page, make(), args)
        browser.close()


def do(page: Page, graph: Graph, args: argparse.Namespace) -> None:
    """Build one workflow, check it, take its pictures."""
    path = WORKFLOWS / f"{graph.name}.json"
    saved = json.loads(page.evaluate("spec => zeroToHeroBuild(spec)", described(graph)))
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")
    found = page.evaluate("saved => zeroToHeroOpen(saved)", json.loads(path.read_text(encoding="utf-8")))
    prompt = {key: {part: node[part] for part in ("class_type", "inputs")} for key, node in found["prompt"].items()}
    if prompt != to_prompt(json.loads(path.read_text(encoding="utf-8")), page.evaluate(OBJECT_INFO)):
        found["problems"].append("the tests read it otherwise than the front end (tests/host/ui_graph.py)")
    problems = [f"{graph.name}: {problem}" for problem in found["problems"]]
    if problems:
        raise SystemExit("\n".join(problems))
    page.wait_for_timeout(1000)
    page.keyboard.press("Escape")  # the list of models that this machine lacks
    page.wait_for_timeout(1000)
    picture = Image.open(io.BytesIO(page.screenshot(clip=found["clip"])))
    print(f"{graph.name}: {found['nodes']} nodes, {picture.width} x {picture.height}")
    if args.pictures:
        args.pictures.mkdir(parents=True, exist_ok=True)
        picture.save(args.pictures / f"{graph.name}.png")
    small = picture.convert("RGB").resize((THUMBNAIL, round(THUMBNAIL * picture.height / picture.width)))
    small.save(path.with_suffix(".jpg"), quality=85)


def described(graph: Graph) -> dict[str, Any]:
    """The graph for the page's script."""
    nodes = {key: asdict(node) | {"tint": TINT.get(node.tint, "")} for key, node in graph.nodes.items()}
    bypassed = [key for title in graph.bypassed for key in graph.groups[title]]
    frames = {"groups": graph.groups, "gap": GAP, "margin": MARGIN, "title": TITLE, "room": ROOM}
    return {"nodes": nodes, "bypassed": bypassed} | frames


if __name__ == "__main__":
    main()
