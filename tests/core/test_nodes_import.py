"""The nodes load quickly beside the host, and the root says only what the host reads. Which part of the nodes imports
what is in test_imports.py."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

LATE = {"diffusers", "peft", "transformers", "matplotlib", "rich"}  # slow to import: only inside functions


def late_imports(source: str) -> list[str]:
    """What of LATE a module imports when it is loaded."""
    tree = ast.parse(source)
    later = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or _for_types_only(block)
        for node in ast.walk(block)
    }
    names = []
    for node in ast.walk(tree):
        if id(node) in later:
            continue
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.append(node.module or "")
    return [name for name in names if name.split(".")[0] in LATE]


def _for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def test_slow_libraries_wait_until_they_are_needed(repository: Path) -> None:
    files = sorted((repository / "nodes").rglob("*.py"))
    assert {"services.py", "video.py"} <= {path.name for path in files}
    slow = {path.name: late_imports(path.read_text(encoding="utf-8")) for path in files}
    assert {name: names for name, names in slow.items() if names} == {}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import diffusers", ["diffusers"]),
        ("class A:\n    from peft.tuners import lora", ["peft.tuners"]),
        ("def f():\n    import diffusers, comfy.sd", []),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import diffusers", []),
        ("import torch, av\nfrom .rich import table", []),
    ],
)
def test_a_slow_import_is_found(source: str, names: list[str]) -> None:
    assert late_imports(source) == names


def test_the_root_names_no_old_mappings(repository: Path) -> None:
    """NODE_CLASS_MAPPINGS beside comfy_entrypoint would silence it."""
    tree = ast.parse((repository / "__init__.py").read_text(encoding="utf-8"))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    functions = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
    assert "comfy_entrypoint" in functions and "NODE_CLASS_MAPPINGS" not in names
