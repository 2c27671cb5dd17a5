"""Imports run one way, and importing is light: both are read from the imports themselves.

The floors are those of the house (docs/design.md). A module lies in the room with the longest name that is its own or a
package above it; a module in no room is an error, so a new package is a decision about its floor.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

CORE = "zero2hero_core"
HOST = {"comfy", "comfy_api", "comfy_api_nodes", "comfy_execution", "comfy_extras", "folder_paths", "server"}

# From the roof to the ground: a room may import every floor below its own.
FLOORS = (
    ("__main__",),
    ("cli",),
    ("evaluation.ablation",),
    (
        "evaluation.bench_fidelity",
        "evaluation.bench_quality",
        "evaluation.bench_speed",
        "evaluation.bundled",
        "evaluation.demo",
        "evaluation.pretraining",
    ),
    ("evaluation.page",),
    ("evaluation.quality",),
    ("evaluation.speed", "evaluation.making"),  # with what the figures were made, for the tables of speed
    ("evaluation.dataset_tasks",),
    ("evaluation.blender",),
    ("evaluation.dataset",),
    ("evaluation",),
    ("jobs",),
    ("hero_stage", "zero_stage", "guidance", "propagation"),
    ("tiny", "metrics"),
    ("backbones", "correspondence", "video", "flow"),
    ("attention", "diffusion", "files"),
    ("stopwatch", "memory_batches"),
    ("checks", "luma", "paper", "spread", "version"),
)
# Who may import whom on the same floor; nobody else may.
BESIDE = {("evaluation.making", "evaluation.speed"), ("evaluation.speed", "evaluation.making")}
PLANNED: set[str] = set()  # rooms that are not built yet

# The nodes: schemas on top, no schema knows another; convert and host know no work, convert no host.
NODE_FLOORS = (
    ("extension",),
    (
        "models",
        "video",
        "key_frames",
        "propagation",
        "deflicker",
        "guidance",
        "guidance_patches",
        "zero_stage",
        "hero_training",
        "hero_stage",
        "evaluation",
    ),
    ("work",),
    ("host",),
    ("convert",),
    ("",),
)
# Floors of the core that a part of the nodes must not know, beside `cli` and `evaluation`, which none knows.
NODES_WITHOUT = {"convert": {"jobs", "hero_stage", "zero_stage", "guidance", "propagation", "tiny", "backbones"}}

# Against the law today, to be mended; a pair that is gone must go from here as well.
PENDING: set[tuple[str, str]] = set()
PENDING_CIRCLES: set[tuple[str, ...]] = set()


def room_of(name: str, floors: Collection[tuple[str, ...]]) -> str:
    """The room of a module, by its name below the package. Raises: LookupError when it lies in none."""
    rooms = [room for floor in floors for room in floor if name == room or name.startswith(f"{room}.")]
    if not rooms:
        raise LookupError(f"{name or 'the root'} lies in no room; give it a floor")
    return max(rooms, key=len)


def is_lower(room: str, other: str, floors: Collection[tuple[str, ...]]) -> bool:
    """Whether `other` lies on a floor below that of `room`."""
    heights = {name: -i for i, floor in enumerate(floors) for name in floor}
    return heights[other] < heights[room]


def imported_names(tree: ast.AST, module: str, is_package: bool, modules: Collection[str]) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a module imports, also inside functions, for types only, and through
    `import_module`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                above = len(parents) - node.level + is_package
                # Inside custom_nodes the checkout is itself a package: from nodes/ one may go up to it, no further.
                if above < (0 if parents[0] == "nodes" else 1):
                    base = "<above the package>"
                else:
                    base = ".".join([*parents[:above], base]).strip(".")
            for alias in node.names:
                name = f"{base}.{alias.name}".strip(".")
                yield node.lineno, name if name in modules else base
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function in {"import_module", "__import__"}:
                yield node.lineno, str(node.args[0].value)


def fault(module: str, name: str, absolute: bool = False) -> str:
    """Why `module` may not import `name`; empty where it may."""
    package, _, inner = module.partition(".")
    other, _, below = name.partition(".")
    if package == CORE:
        if other in HOST or other == "nodes" or name.startswith("<above"):
            return "the core imports neither host nor nodes"
        if other != CORE:
            return ""
        if absolute:
            return "the core imports itself relatively: inside custom_nodes it has another name"
        if not below:
            return "the root hands on jobs: nothing below it may import it"
        if not inner:
            return "" if room_of(below, FLOORS) in {"jobs", "version"} else "the root hands on jobs, nothing else"
        room, target = room_of(inner, FLOORS), room_of(below, FLOORS)
        if room == target or (room, target) in BESIDE or is_lower(room, target, FLOORS):
            return ""
        return f"{target} is not below {room}; see FLOORS"
    room = room_of(inner, NODE_FLOORS)
    if other in HOST:
        return "" if room == "host" else "only nodes/host imports the host"
    if other == CORE:
        target = room_of(below, FLOORS) if below else "jobs"
        if absolute:
            return "nodes import the core relatively: inside custom_nodes it has another name"
        if target.split(".")[0] in {"cli", "evaluation", "__main__", *NODES_WITHOUT.get(room, ())}:
            return f"{room} does not know {target}"
        return ""
    if other == "nodes" and not absolute:
        target = room_of(below, NODE_FLOORS)
        same = room == target and room in {"work", "host", "convert"}
        return "" if same or is_lower(room, target, NODE_FLOORS) else f"{target} is not below {room}; see NODE_FLOORS"
    outside = other in {"nodes", "tests"} or name.startswith("<above")
    return "nodes import nothing else of the checkout" if outside else ""


def edges_of(source: str, module: str, is_package: bool, modules: Collection[str]) -> Iterator[tuple[str, str, str]]:
    """Every import of a module: "file:line", what it imports, and why it may not."""
    tree = ast.parse(source)
    absolute = {
        name
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and not node.level
            else [str(node.args[0].value)]
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)
            else []
        )
    }
    for line, name in imported_names(tree, module, is_package, modules):
        by_name = any(name == written or name.startswith(f"{written}.") for written in absolute if written)
        yield f"{module}:{line}", name, fault(module, name, by_name)


def modules_of(root: Path) -> dict[str, Path]:
    """Every module of core and nodes by its full name."""
    modules = {}
    for package in (CORE, "nodes"):
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def circles(graph: dict[str, set[str]]) -> set[tuple[str, ...]]:
    """Strongly connected components of more than one node, or of one that points at itself, each sorted."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            new = graph.get(todo.pop(), set()) - seen
            seen |= new
            todo += new
        return seen

    reach = {node: reached(node) for node in graph}
    return {
        tuple(sorted(other for other in reach[node] if node in reach.get(other, ())))
        for node in graph
        if node in reach[node]
    }


@pytest.fixture(scope="module")
def edges(repository: Path) -> list[tuple[str, str, str]]:
    """All imports of core and nodes."""
    modules = modules_of(repository)
    assert {CORE, f"{CORE}.checks", f"{CORE}.__main__", "nodes.extension", "nodes.host.services"} <= set(modules)
    return [
        edge
        for module, path in modules.items()
        for edge in edges_of(path.read_text(encoding="utf-8"), module, path.name == "__init__.py", set(modules))
    ]


def test_imports_run_one_way(edges: list[tuple[str, str, str]]) -> None:
    wrong = [edge for edge in edges if edge[2] and (edge[0].partition(":")[0], edge[1]) not in PENDING]
    assert not wrong, "\n".join(f"{place} imports {name}: {why}" for place, name, why in wrong)


def test_what_is_pending_is_still_there(edges: list[tuple[str, str, str]]) -> None:
    assert {(place.partition(":")[0], name) for place, name, why in edges if why} >= PENDING, "mended: take it out"


def test_no_circle_between_files(edges: list[tuple[str, str, str]], repository: Path) -> None:
    """Imports for types only count as well, and so does the root's version."""
    graph: dict[str, set[str]] = {module: set() for module in modules_of(repository)}
    for place, name, _ in edges:
        if name in graph:
            graph[place.partition(":")[0]].add(name)
    assert sum(map(len, graph.values())) > 300
    assert circles(graph) == PENDING_CIRCLES


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a", "e"}, "e": set(), "f": {"f"}}) == {
        ("a", "b", "c"),
        ("f",),
    }
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == set()


def test_every_room_stands(repository: Path) -> None:
    """Each room of the floors is there, and everything in the two packages lies in a room."""
    names = {CORE: FLOORS, "nodes": NODE_FLOORS}
    for package, floors in names.items():
        inner = {name.partition(".")[2] for name in modules_of(repository) if name.partition(".")[0] == package}
        filled = {room_of(name, floors) for name in inner if name}
        assert filled == {room for floor in floors for room in floor} - PLANNED - {""}
    tops = {name.split(".")[1] for name in modules_of(repository) if name.startswith(f"{CORE}.")}
    assert len(tops) <= 25


KNOWN = {
    f"{CORE}.{name}"
    for name in (
        "zero_stage",
        "zero_stage.stage",
        "backbones",
        "backbones.sd",
        "backbones.sd.unet",
        "tiny",
        "jobs.edit",
    )
}


def faults(module: str, source: str) -> list[str]:
    return [why for _, _, why in edges_of(source, module, False, KNOWN) if why]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("attention.hooks", "import comfy.model_management"),
        ("attention.hooks", "from folder_paths import models_dir"),
        ("cli.main", "import nodes"),
        ("cli.main", "from ... import nodes"),
        ("attention.hooks", "from ..backbones.sd.unet import UNetBackbone"),
        ("attention.hooks", "from ..backbones.sd import unet"),
        ("attention.hooks", "from .. import zero_stage"),
        ("attention.hooks", "from ..files.json_file import write_json"),
        ("attention.hooks", "from ..diffusion.adain import adain"),
        ("attention.hooks", "from zero2hero_core.checks import ShapeError"),
        ("cli.main", "import zero2hero_core.checks"),
        ("cli.main", "import importlib\nimportlib.import_module('zero2hero_core.checks')"),
        ("video.source", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..tiny import scenes"),
        ("video.source", "def read():\n    from ..cli import main"),
        ("video.source", "from ..flow.dis import dis_flow"),
        ("checks", "from .stopwatch import Stopwatch"),
        ("backbones.sd.unet", "from ...zero_stage import edit"),
        ("backbones.sd.unet", "from ...correspondence.match import match_features"),
        ("backbones.sd.unet", "from ...tiny.unet import load"),
        ("zero_stage.stage", "from ..hero_stage.stage import HeroStage"),
        ("hero_stage.stage", "from ..zero_stage.stage import ZeroStage"),
        ("propagation.flow", "from ..zero_stage.stage import ZeroStage"),
        ("guidance.fusion", "from ..propagation.flow import propagate"),
        ("hero_stage.stage", "from ..jobs.train import train"),
        ("tiny.recipe.unet", "from ...zero_stage.stage import ZeroStage"),
        ("tiny.unet", "from ..metrics.psnr import psnr"),
        ("metrics.psnr", "from ..tiny.unet import load"),
        ("jobs.edit", "from ..cli.console import say"),
        ("jobs.edit", "from ..evaluation.quality.methods import run"),
        ("evaluation.quality.runner", "from ..page.report import write"),
        ("evaluation.speed.clocks", "from ..quality.runner import run"),
        ("evaluation.dataset.task", "from ..blender.render import run"),
        ("evaluation.page.report", "from ...cli.main import main"),
    ],
)
def test_a_wrong_import_of_the_core_is_found(module: str, source: str) -> None:
    assert len(faults(f"{CORE}.{module}", source)) == 1


def test_a_module_outside_every_room_is_found() -> None:
    with pytest.raises(LookupError, match="new_topic lies in no room"):
        faults(f"{CORE}.new_topic", "from .checks import ShapeError")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("attention.hooks", "import torch\nfrom ..checks import ShapeError\nfrom . import cross_image"),
        ("video.source", "from ..version import __version__"),
        ("metrics.temporal", "from ..flow.warp import warp_backward"),
        ("tiny.unet", "from ..backbones.sd.unet import UNetBackbone\nfrom .scenes import scene"),
        ("hero_stage.stage", "from ..metrics.psnr import psnr\nfrom ..backbones.sd import unet"),
        ("jobs.edit", "from ..zero_stage.stage import ZeroStage\nfrom ..hero_stage.stage import HeroStage"),
        ("evaluation.quality.methods", "from ..speed.clocks import Clock\nfrom ...jobs.edit import edit"),
        ("cli.edit", "from ..jobs.edit import edit\nfrom ..evaluation.page.report import write\nfrom .. import tiny"),
        ("__main__", "from .cli.main import main"),
    ],
)
def test_a_right_import_of_the_core_passes(module: str, source: str) -> None:
    assert faults(f"{CORE}.{module}", source) == []


def test_the_root_hands_on_jobs_only() -> None:
    def root(source: str) -> list[str]:
        return [why for _, _, why in edges_of(source, CORE, True, KNOWN) if why]

    assert root("def edit():\n    from .jobs import edit") == []
    assert len(root("from .zero_stage.stage import ZeroStage")) == len(root("from . import tiny")) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("convert.pictures", "import comfy.utils"),
        ("convert.pictures", "from ..host.services import io"),
        ("convert.pictures", "from ...zero2hero_core.jobs.edit import edit"),
        ("host.unet", "from ..work.zero_stage import edit_clip"),
        ("work.video", "from comfy_api.latest import io"),
        ("work.video", "from ..video import VideoLoad"),
        ("video", "from .zero_stage import ZeroStage"),
        ("video", "from folder_paths import models_dir"),
        ("video", "from ..zero2hero_core.cli.main import main"),
        ("video", "from ..zero2hero_core.evaluation.page.report import write"),
        ("video", "from zero2hero_core.video.source import open_frames"),
        ("video", "from ..tests import conftest"),
        ("video", "from ... import folder_paths"),
        ("video", "import nodes.host.services"),
    ],
)
def test_a_wrong_import_of_the_nodes_is_found(module: str, source: str) -> None:
    assert len([why for _, _, why in edges_of(source, f"nodes.{module}", False, KNOWN) if why]) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("convert.pictures", "import torch\nfrom ...zero2hero_core.checks import ShapeError"),
        ("host.unet", "import comfy.utils\nfrom ..convert.checks import check_choice\nfrom . import services"),
        ("work.video", "from ..host.services import io\nfrom ..convert.pictures import to_core"),
        ("video", "from .work.video import load\nfrom ..zero2hero_core.video.source import open_frames"),
        ("extension", "from .video import NODES"),
    ],
)
def test_a_right_import_of_the_nodes_passes(module: str, source: str) -> None:
    assert [why for _, _, why in edges_of(source, f"nodes.{module}", False, KNOWN) if why] == []


# Runs before the import; FORBIDDEN names what is refused.
WATCH = """
import sys
def watch(event, args):
    if "network" in FORBIDDEN and event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        raise RuntimeError(f"import reaches for the network: {event} {args[1:]}")
    if "writing" in FORBIDDEN and event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        raise RuntimeError(f"import writes to {args[0]}")
sys.addaudithook(watch)
"""


def run_watched(
    code: str, cwd: Path, forbidden: tuple[str, ...] = ("network", "writing")
) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter that refuses what is forbidden; it writes no bytecode either."""
    code = f"FORBIDDEN = {forbidden}\n" + WATCH + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-B", "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120)


def test_importing_the_package_is_light_and_silent(repository):
    done = run_watched(
        """
        import zero2hero_core
        heavy = {"torch", "diffusers", "transformers", "numpy", "av", "PIL", "rich"} & set(sys.modules)
        assert not heavy, f"import zero2hero_core also imported {sorted(heavy)}"
        """,
        repository,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_watch_notices_network_and_writing(repository):
    for code in ("import socket; socket.getaddrinfo('example.org', 80)", "open('x.tmp', 'w')"):
        done = run_watched(code, repository)
        assert done.returncode == 1 and "RuntimeError: import " in done.stderr
    assert not (repository / "x.tmp").exists()


def test_no_module_of_the_core_reaches_for_the_network(repository):
    names = [name for name in modules_of(repository) if name.startswith(CORE) and not name.endswith("__main__")]
    # Only the network: libraries may write caches of their own when they are first imported.
    code = f"import importlib\nfor name in {names!r}:\n    importlib.import_module(name)\n"
    done = run_watched(code, repository, ("network",))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_the_root_loads_without_a_host(repository):
    done = run_watched(
        """
        import importlib.util
        spec = importlib.util.spec_from_file_location("zero2hero_root", "__init__.py", submodule_search_locations=["."])
        root = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(root)
        assert not hasattr(root, "NODE_CLASS_MAPPINGS"), "NODE_CLASS_MAPPINGS would silence comfy_entrypoint"
        """,
        repository,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
