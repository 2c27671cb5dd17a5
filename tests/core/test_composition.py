"""Composition is in jobs/ alone: command line and nodes ask for a job and hand on its result.

Read from the imports: of a stage they know settings and constants, of the rest of the method no function that does a
part of it. What they cannot import they cannot call.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

CORE = "zero2hero_core"
STAGES = {"hero_stage", "zero_stage", "guidance", "propagation"}
METHOD = {"attention", "diffusion", "backbones", "flow"}  # what stages are made of
SEARCHES = {"correspondence.match", "correspondence.track", "correspondence.narrow"}  # of these: types and constants

# Composition that is still outside jobs/: module and name. A pair that is gone must go from here as well.
PENDING: set[tuple[str, str]] = set()


def may_ask(place: str, name: str) -> bool:
    """Whether a module that only asks may import `name` from `place` (below the core)."""
    constant = name.lstrip("_").isupper()
    room = place.split(".")[0]
    if room in STAGES:
        return constant or name.endswith("Settings")
    if room in METHOD:
        return constant
    if place in SEARCHES:
        return constant or name[:1].isupper()
    return True


def imported(source: str) -> Iterator[tuple[str, str]]:
    """Module of the core, and name, of every `from ..x.y import name`; a whole module has the name "*"."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            place = (node.module or "").removeprefix(CORE).lstrip(".")
            for alias in node.names:
                whole = f"{place}.{alias.name}".lstrip(".")
                yield (whole, "*") if is_room(whole) else (place, alias.name)


def is_room(place: str) -> bool:
    """Whether a dotted name is a module or a package of the core."""
    path = Path(__file__).resolve().parents[2] / CORE / place.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def asking(repository: Path) -> list[Path]:
    """The files that only ask."""
    nodes = repository / "nodes"
    return [*nodes.glob("*.py"), *(nodes / "work").rglob("*.py"), *(repository / CORE / "cli").rglob("*.py")]


def composition(repository: Path) -> set[tuple[str, str]]:
    """Module and name of everything that is imported against the rule."""
    return {
        (".".join(path.relative_to(repository).with_suffix("").parts), name)
        for path in asking(repository)
        for place, name in imported(path.read_text(encoding="utf-8"))
        if not may_ask(place, name)
    }


def test_no_composition_outside_jobs(repository: Path) -> None:
    assert len(asking(repository)) > 20
    assert composition(repository) == PENDING


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("from ..hero_stage.training.trainer import HeroSettings, HeroTrainer", ["HeroTrainer"]),
        ("def f():\n    from ...zero2hero_core.zero_stage.stage import ZeroStage", ["ZeroStage"]),
        ("from ..hero_stage.training import trainer", ["*"]),
        ("from .. import propagation", ["*"]),
        ("from ..hero_stage.training.pairs import MODES, training_pairs", ["training_pairs"]),
        ("from ..correspondence.match import ADAPTIVE_MAX, Correspondence, match_features", ["match_features"]),
        ("from ..backbones.flux.loading import load_dit", ["load_dit"]),
        ("from ..jobs.edit import edit\nfrom ..video.source import open_frames\nimport torch", []),
    ],
)
def test_composition_is_found(source: str, names: list[str]) -> None:
    assert [name for place, name in imported(source) if not may_ask(place, name)] == names
