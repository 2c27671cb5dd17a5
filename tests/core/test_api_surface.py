"""The public surface is frozen: a name that goes away or comes new is a decision, not an accident.

`api_surface.json` beside this file holds the public names of every module of the core: functions, classes and their
public methods, and what a package's `__init__` hands on. After a decision, write it anew, and look at what changed:

    python tests/core/test_api_surface.py
"""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

CORE = "zero2hero_core"
FROZEN = Path(__file__).with_suffix("").with_name("api_surface.json")
Named = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public(nodes: list[ast.stmt]) -> list[Named]:
    """The public functions and classes among statements, also those under an `if` or `try`."""
    found: list[Named] = []
    for node in nodes:
        if isinstance(node, Named):
            found += [node] if not node.name.startswith("_") else []
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            found += public([child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)])
    return found


def names_of(source: str, is_package: bool) -> list[str]:
    """The public names of one module, sorted; methods as Class.method."""
    tree = ast.parse(source)
    names = set()
    for node in public(tree.body):
        names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{method.name}" for method in public(node.body)}
    for node in tree.body if is_package else []:
        if isinstance(node, ast.ImportFrom) and node.level:
            names |= {alias.asname or alias.name for alias in node.names}
    return sorted(names)


def surface(root: Path) -> dict[str, list[str]]:
    """Module below the core -> its public names; modules without any are left out."""
    found = {}
    for path in sorted((root / CORE).rglob("*.py")):
        parts = path.relative_to(root / CORE).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        names = names_of(path.read_text(encoding="utf-8"), is_package)
        if names:
            found[".".join(parts[:-1] if is_package else parts) or CORE] = names
    return found


def undocumented(source: str) -> list[str]:
    """Public functions, classes and methods of public classes that say nothing about themselves, as line and name."""
    missing = []
    for node in public(ast.parse(source).body):
        inner = public(node.body) if isinstance(node, ast.ClassDef) else []
        missing += [f"{item.lineno} {item.name}" for item in (node, *inner) if not ast.get_docstring(item)]
    return missing


def test_the_public_surface_is_the_frozen_one(repository: Path) -> None:
    frozen, now = json.loads(FROZEN.read_text(encoding="utf-8")), surface(repository)
    assert len(now) > 80
    changed = [
        f"{sign} {module}: {', '.join(sorted(names))}"
        for module in sorted({*frozen, *now})
        for sign, names in (
            ("-", set(frozen.get(module, ())) - set(now.get(module, ()))),
            ("+", set(now.get(module, ())) - set(frozen.get(module, ()))),
        )
        if names
    ]
    assert not changed, "\n".join([*changed, "meant so? then: python tests/core/test_api_surface.py"])


def test_every_public_name_says_what_it_is(repository: Path) -> None:
    missing = [
        f"{path.relative_to(repository)}:{what}"
        for path in sorted((repository / CORE).rglob("*.py"))
        for what in undocumented(path.read_text(encoding="utf-8"))
    ]
    assert not missing, "\n".join(missing)


def test_every_module_says_what_it_is(repository: Path) -> None:
    """What is in a file, or in a folder, stands at its head."""
    sources = {path: path.read_text(encoding="utf-8") for path in sorted((repository / CORE).rglob("*.py"))}
    bare = [
        str(path.relative_to(repository)) for path, text in sources.items() if not ast.get_docstring(ast.parse(text))
    ]
    assert bare == []


@pytest.mark.parametrize(
    ("source", "is_package", "names"),
    [
        ("def a(): ...\ndef _b(): ...\nasync def c(): ...", False, ["a", "c"]),
        ("class A:\n    def go(self): ...\n    def _stay(self): ...", False, ["A", "A.go"]),
        ("try:\n    def a(): ...\nexcept ImportError:\n    pass\nif True:\n    class B: ...", False, ["B", "a"]),
        ("from .inner import a, b as c\nimport torch\nfrom torch import nn", True, ["a", "c"]),
        ("from .inner import a", False, []),
    ],
)
def test_public_names_are_found(source: str, is_package: bool, names: list[str]) -> None:
    assert names_of(source, is_package) == names


def test_a_missing_docstring_is_found() -> None:
    source = 'class A:\n    """It."""\n    def go(self): ...\n    def _stay(self): ...\ndef f(): ...\nclass _B: ...'
    assert undocumented(source) == ["3 go", "5 f"]


if __name__ == "__main__":
    FROZEN.write_text(json.dumps(surface(Path(__file__).resolve().parents[2]), indent=1) + "\n", encoding="utf-8")
