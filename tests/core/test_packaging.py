"""What is said twice agrees: version, requirements, and what the requirements are for."""

from __future__ import annotations

import ast
import re
import socket

import pytest

import zero2hero_core

TORCH_FAMILY = {"torch", "torchaudio", "torchvision", "xformers"}
MODULE_OF = {"opencv-python-headless": "cv2", "pillow": "PIL"}
# Needed although no line imports them, with the reason.
INDIRECT: dict[str, str] = {}


def toml_list(text: str, key: str) -> list[str]:
    """The strings of `key = [...]`; tomllib is missing on Python 3.10."""
    found = re.search(rf"^{key} = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert found, f"no {key} in pyproject.toml"
    return re.findall(r'"([^"]+)"', found.group(1))


def project_name(requirement: str) -> str:
    return re.split(r"[<>=!~\[; ]", requirement)[0].lower()


@pytest.fixture(scope="module")
def pyproject(repository):
    return (repository / "pyproject.toml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def requirements(repository):
    lines = (repository / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_the_version_is_the_same_in_both_places(pyproject):
    assert f'\nversion = "{zero2hero_core.__version__}"\n' in pyproject


def test_requirements_are_the_dependencies_of_the_package(pyproject, requirements):
    assert requirements == toml_list(pyproject, "dependencies")


def test_requirements_name_no_torch_and_only_floors(requirements):
    assert not TORCH_FAMILY & {project_name(line) for line in requirements}
    for line in requirements:
        assert re.fullmatch(r"[\w.-]+(>=[\w.]+)?", line), f"{line}: expected a name, or a name and a floor"


def test_every_requirement_is_imported_by_the_core(repository, pyproject, requirements):
    imported = set()
    for path in (repository / "zero2hero_core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
    needed = {project_name(line) for line in requirements + toml_list(pyproject, "headless")} - set(INDIRECT)
    unused = {name for name in needed if MODULE_OF.get(name, name) not in imported}
    assert not unused, f"no line of the core imports {sorted(unused)}: drop them from the requirements"


def test_tests_cannot_reach_another_machine():
    with socket.socket() as connection, pytest.raises(ConnectionError, match="tests use no network"):
        connection.connect(("192.0.2.1", 80))
