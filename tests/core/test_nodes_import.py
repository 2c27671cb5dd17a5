"""The nodes import the host in `nodes/host*.py` only, and the core relatively: read from the imports themselves."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

# Top-level modules of ComfyUI.
HOST = {
    "comfy",
    "comfy_api",
    "comfy_api_nodes",
    "comfy_config",
    "comfy_execution",
    "comfy_extras",
    "execution",
    "folder_paths",
    "latent_preview",
    "node_helpers",
    "nodes",
    "server",
}
LATE = {"diffusers", "peft", "transformers", "matplotlib", "rich"}  # slow to import: only inside functions


def imported(tree: ast.AST) -> list[tuple[int, str, bool]]:
    """Line, dotted name (relative ones begin with a dot) and whether it runs when the module is imported."""
    inner = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for node in ast.walk(function)
    }
    inner |= {id(node) for block in ast.walk(tree) if _for_types_only(block) for node in ast.walk(block)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name, id(node) not in inner) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.lineno, "." * node.level + (node.module or ""), id(node) not in inner))
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function in {"import_module", "__import__"}:
                found.append((node.lineno, str(node.args[0].value), id(node) not in inner))
    return found


def _for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def violations(source: str, file: str) -> list[str]:
    """What is wrong with the imports of one file of nodes/."""
    found = []
    for line, name, at_import in imported(ast.parse(source)):
        top = name.split(".")[0]
        if top in HOST and not file.startswith("host"):
            found.append(f"{file}:{line}: imports {name}; only host*.py may")
        if top == "zero2hero_core":  # inside custom_nodes it is no top-level package
            found.append(f"{file}:{line}: imports {name}; write ..{name}")
        if name.startswith("..") and not name.startswith("..zero2hero_core"):
            found.append(f"{file}:{line}: imports {name} from above the nodes")
        if top in LATE and at_import:
            found.append(f"{file}:{line}: imports {name} when it is loaded; do it inside a function")
    return found


def test_only_the_host_files_import_the_host(repository):
    files = sorted((repository / "nodes").rglob("*.py"))
    assert {"host.py", "video.py"} <= {path.name for path in files}
    found = [line for path in files for line in violations(path.read_text(encoding="utf-8"), path.name)]
    assert not found, "\n".join(found)


def test_the_core_imports_itself_relatively(repository):
    """Inside custom_nodes the package has another name, so an absolute import fails or loads a second copy."""
    found = []
    for path in sorted((repository / "zero2hero_core").glob("*.py")):
        if path.name.startswith(("cli", "__main__")):  # never loaded by the nodes
            continue
        names = imported(ast.parse(path.read_text(encoding="utf-8")))
        found += [f"{path.name}:{line}: {name}" for line, name, _ in names if name.split(".")[0] == "zero2hero_core"]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("video.py", "import comfy.utils"),
        ("video.py", "from folder_paths import models_dir"),
        ("video.py", "def f():\n    from comfy_api.latest import io"),
        ("video.py", "from zero2hero_core.video.source import open_frames"),
        ("video.py", "import importlib\nimportlib.import_module('comfy.sd')"),
        ("host.py", "import zero2hero_core"),
        ("host_train.py", "import diffusers"),
        ("video.py", "from ..tests import conftest"),
        ("video.py", "class A:\n    import peft"),
    ],
)
def test_a_wrong_import_is_found(file, source):
    assert len(violations(source, file)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("host.py", "import comfy.utils\nimport folder_paths"),
        ("host_train.py", "def f():\n    import diffusers, comfy.sd"),
        ("video.py", "from .host import io, ui\nfrom ..zero2hero_core.video import open_frames\nimport torch, av"),
        ("host.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import diffusers"),
    ],
)
def test_a_right_import_passes(file, source):
    assert violations(source, file) == []


def test_the_root_names_no_old_mappings(repository):
    """NODE_CLASS_MAPPINGS beside comfy_entrypoint would silence it."""
    tree = ast.parse(Path(repository / "__init__.py").read_text(encoding="utf-8"))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    functions = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
    assert "comfy_entrypoint" in functions and "NODE_CLASS_MAPPINGS" not in names
