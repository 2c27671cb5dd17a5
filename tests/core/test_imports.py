"""Imports run one way, and importing is light: both are read from the imports themselves."""

from __future__ import annotations

import ast
import fnmatch
import subprocess
import sys
import textwrap
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

PACKAGE = "zero2hero_core"

HOST = {"comfy", "comfy_api", "comfy_api_nodes", "comfy_execution", "comfy_extras", "folder_paths", "nodes", "server"}

# The first pattern that fits a module (its name below the package) decides its layer; what fits none is a pure file.
LAYERS = (
    ("root", ""),
    ("cli", "cli", "cli.*", "cli_*", "__main__"),
    ("zero_stage", "zero_stage", "zero_stage.*", "zero_stage_*"),
    ("hero_training", "hero_training", "hero_training.*", "hero_training_*"),
    ("hero_stage", "hero_stage", "hero_stage.*", "hero_stage_*"),
    ("backbones", "backbones", "backbones.*"),
    ("bench", "bench", "bench.*"),
    ("tiny.evaluate", "tiny.evaluate", "tiny.evaluate_*"),
    ("tiny", "tiny", "tiny.*"),
    ("pure", "*"),
)

MAY_IMPORT = {
    "root": set(),
    "pure": {"pure"},
    "backbones": {"pure", "backbones"},
    "tiny": {"pure", "backbones", "tiny", "tiny.evaluate"},
    "tiny.evaluate": {"pure", "backbones", "tiny", "tiny.evaluate", "zero_stage"},
    "zero_stage": {"pure", "backbones", "zero_stage"},
    "hero_training": {"pure", "backbones", "hero_training"},
    "hero_stage": {"pure", "backbones", "hero_stage"},
    "bench": {"pure", "backbones", "tiny", "zero_stage", "hero_training", "hero_stage", "bench"},
    "cli": {
        "root",
        "pure",
        "backbones",
        "tiny",
        "tiny.evaluate",
        "zero_stage",
        "hero_training",
        "hero_stage",
        "bench",
        "cli",
    },
}


def layer_of(module: str) -> str:
    """The layer of a module, given by its full dotted name."""
    name = module.removeprefix(PACKAGE).lstrip(".")
    return next(layer for layer, *patterns in LAYERS if any(fnmatch.fnmatchcase(name, p) for p in patterns))


def imported_names(tree: ast.AST, module: str, is_package: bool, modules: Collection[str]) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a module imports, also inside functions and through `import_module`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                parents = parents[: len(parents) - node.level + is_package]
                base = ".".join([*parents, base]).strip(".") if parents else f"<above {PACKAGE}>"
            for alias in node.names:
                name = f"{base}.{alias.name}"
                if name != f"{PACKAGE}.__version__":
                    yield node.lineno, name if name in modules else base
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function in {"import_module", "__import__"}:
                yield node.lineno, str(node.args[0].value)


def violations(source: str, module: str, *, is_package: bool = False, modules: Collection[str] = ()) -> list[str]:
    """What is wrong with the imports of one module of the core."""
    layer, found = layer_of(module), []
    for line, name in imported_names(ast.parse(source), module, is_package, modules):
        top = name.split(".")[0]
        if top in HOST or top.startswith("<above"):
            found.append(f"{module}:{line}: the core imports {name}")
        elif top == PACKAGE and layer_of(name) not in MAY_IMPORT[layer]:
            found.append(f"{module}:{line}: {layer} imports {name} ({layer_of(name)}); see MAY_IMPORT")
    return found


def core_modules(root: Path) -> dict[str, Path]:
    """Every module of the core by its full name."""
    modules = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def test_imports_of_the_core_run_one_way(repository):
    modules = core_modules(repository)
    assert {PACKAGE, f"{PACKAGE}.checks", f"{PACKAGE}.__main__"} <= set(modules)
    found = []
    for module, path in modules.items():
        source, is_package = path.read_text(encoding="utf-8"), path.name == "__init__.py"
        found += violations(source, module, is_package=is_package, modules=set(modules))
    assert not found, "\n".join(found)


def test_every_layer_has_its_rule():
    assert {layer for layer, *_ in LAYERS} == set(MAY_IMPORT)
    assert set().union(*MAY_IMPORT.values()) <= set(MAY_IMPORT)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("attention", "import comfy.model_management"),
        ("attention", "from folder_paths import models_dir"),
        ("cli", "import nodes"),
        ("attention", "from zero2hero_core.backbones.unet import UNetBackbone"),
        ("attention", "from .backbones import unet"),
        ("attention", "from . import zero_stage"),
        ("attention", "import zero2hero_core.tiny"),
        ("video", "def read():\n    from .cli import main"),
        ("video", "import importlib\nimportlib.import_module('zero2hero_core.cli')"),
        ("video", "from zero2hero_core import ZeroStage"),
        ("backbones.unet", "from ..zero_stage import edit"),
        ("backbones.unet", "from ..cli import main"),
        ("backbones.unet", "from ... import nodes"),
        ("zero_stage", "from .hero_stage import restore"),
        ("zero_stage", "from .tiny import load"),
        ("hero_stage", "from .hero_training import train"),
        ("hero_training", "from .zero_stage import edit"),
        ("tiny.train", "from ..zero_stage import edit"),
        ("tiny.evaluate", "from ..cli import main"),
    ],
)
def test_a_wrong_import_is_found(module, source):
    known = {f"{PACKAGE}.{name}" for name in ("zero_stage", "backbones", "backbones.unet", "tiny")}
    assert len(violations(source, f"{PACKAGE}.{module}", modules=known)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("attention", "import torch\nfrom .checks import ShapeError\nfrom . import schedule"),
        ("video", "from zero2hero_core import __version__"),
        ("backbones.unet", "from ..checks import ShapeError\nfrom .loading import load"),
        ("zero_stage", "from .backbones.unet import UNetBackbone\nfrom .zero_stage_batches import split"),
        ("tiny.train", "from ..backbones.unet import UNetBackbone\nfrom .scenes import render"),
        ("tiny.evaluate", "from ..zero_stage import edit"),
        ("cli", "from .zero_stage import edit\nfrom .tiny.evaluate import evaluate\nfrom . import tiny"),
        ("__main__", "from .cli import main"),
    ],
)
def test_a_right_import_passes(module, source):
    known = {f"{PACKAGE}.{name}" for name in ("schedule", "tiny")}
    assert violations(source, f"{PACKAGE}.{module}", modules=known) == []


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
    names = [name for name in core_modules(repository) if not name.endswith("__main__")]
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
