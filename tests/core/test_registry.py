"""What the ComfyUI registry reads: [tool.comfy], classifiers, pictures, and which files are uploaded.

Follows docs.comfy.org/registry/specifications and /registry/publishing.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

NEEDED = (
    "__init__.py",
    "pyproject.toml",
    "requirements.txt",
    "LICENSE",
    "README.md",
    "CHANGELOG.md",
    "docs/compare.png",
)
NEEDED_FOLDERS = ("workflows/", "locales/", "nodes/", "web/docs/", "zero2hero_core/")


@pytest.fixture(scope="module")
def pyproject(repository: Path) -> Any:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    return tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))


def png_size(path: Path) -> tuple[int, int]:
    """Width and height from the file's header."""
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n", path
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def test_the_project_can_be_registered(pyproject: Any) -> None:
    project = pyproject["project"]
    assert re.fullmatch(r"[a-z][a-z0-9]*([-_.][a-z0-9]+)*", project["name"]) and "comfyui" not in project["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert 20 < len(project["description"]) < 200
    assert "Operating System :: OS Independent" in project["classifiers"]
    assert not [name for name in project["classifiers"] if name.startswith("Environment ::")], "see pyproject.toml"


def test_the_registry_section_is_complete(pyproject: Any) -> None:
    comfy = pyproject["tool"]["comfy"]
    assert re.fullmatch(r"[a-z0-9][a-z0-9_-]*", comfy["PublisherId"])
    assert comfy["DisplayName"] == "Zero-to-Hero"
    assert re.fullmatch(r">=\d+\.\d+\.\d+", comfy["requires-comfyui"])


def test_icon_and_banner_have_addresses_as_soon_as_the_repository_has_one(pyproject: Any) -> None:
    urls, comfy = pyproject["project"].get("urls", {}), pyproject["tool"]["comfy"]
    if not urls:
        assert "Icon" not in comfy and "Banner" not in comfy, "a path is no address: the registry would show nothing"
        return
    assert {"Repository", "Documentation", "Issues", "Bug Tracker"} <= set(urls)
    assert comfy["Icon"].startswith("https://") and comfy["Icon"].endswith("/docs/icon.png")
    assert comfy["Banner"].startswith("https://") and comfy["Banner"].endswith("/docs/banner.png")


def test_icon_and_banner_have_the_asked_shape(repository: Path) -> None:
    width, height = png_size(repository / "docs/icon.png")
    assert width == height <= 400
    width, height = png_size(repository / "docs/banner.png")
    assert width * 9 == height * 21


def test_the_upload_holds_what_runs_and_no_more(repository: Path) -> None:
    if not (repository / ".git").exists():
        pytest.skip("not a git checkout: the registry's tool lists files with git")

    def listed(*options: str) -> set[str]:
        command = ["git", "ls-files", "-z", "--cached", "--others", *options]
        done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
        return set(filter(None, done.stdout.split("\0")))

    dropped = listed("--ignored", "--exclude-from=.comfyignore")
    uploaded = listed("--exclude-standard") - dropped
    assert set(NEEDED) <= uploaded
    for folder in NEEDED_FOLDERS:
        inside = {name for name in listed("--exclude-standard") if name.startswith(folder)}
        assert inside and inside <= uploaded, folder
    assert not [name for name in uploaded if name.split("/")[0] in ("tests", "benchmarks", ".github", ".ci")]
