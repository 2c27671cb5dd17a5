"""The README keeps its promises that a machine can check: links lead somewhere, commands and options exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from zero2hero_core.cli.main import build_parser


def test_links_lead_somewhere(repository: Path) -> None:
    text = (repository / "README.md").read_text(encoding="utf-8")
    assert "@@" not in text
    links = re.findall(r"\]\(([^)#]+)\)", text)
    local = [link for link in links if "://" not in link]
    assert "docs/compare.png" in local
    assert [link for link in local if not (repository / link).exists()] == []


def test_commands_of_the_readme_parse(repository: Path) -> None:
    text = (repository / "README.md").read_text(encoding="utf-8")
    lines = [line.split("#")[0] for line in text.splitlines() if line.startswith("zero2hero ")]
    commands = [shlex.split(line)[1:] for line in lines] + [shlex.split("tiny evaluate --clips 20")]
    assert len(commands) >= 4
    for command in commands:
        try:
            build_parser().parse_args(command)
        except SystemExit:
            pytest.fail(f"the README names a command that does not parse: {command}")
