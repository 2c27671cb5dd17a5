"""The README and the pages of docs keep those promises that a machine can check: links lead somewhere, commands and
options exist, figures are the measured ones."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from zero2hero_core.checks import InputError
from zero2hero_core.cli.main import build_parser

PAGES = ("README.md", "CHANGELOG.md", "docs/cli.md", "docs/comfyui.md", "docs/design.md", "docs/development.md")
PAGES += ("docs/results.md", "docs/tiny-models.md")
LONGEST, LINES = 140, 140  # characters of a line outside tables, lines of the README


def text_of(repository: Path, page: str) -> str:
    return (repository / page).read_text(encoding="utf-8")


def links_of(text: str) -> list[str]:
    """Targets of links and pictures that lead to files or headings of the repository, not to the web."""
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]


def headings_of(text: str) -> set[str]:
    """The names by which links reach the headings of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def commands_of(text: str) -> list[str]:
    """Commands of the program in blocks of code and in running text, those over several lines joined."""
    blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    lines = [line.split("#")[0] for line in re.sub(r"\\\n\s*", "", blocks).splitlines()]
    inline = re.findall(r"`(zero2hero [^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    whole = [line for line in inline if "--" in line]  # a name such as `zero2hero edit` alone is no command line
    return [line for line in lines if line.startswith("zero2hero ")] + [" ".join(line.split()) for line in whole]


def test_every_page_is_checked(repository: Path) -> None:
    assert set(PAGES) == {"README.md", "CHANGELOG.md"} | {
        f"docs/{path.name}" for path in (repository / "docs").glob("*.md")
    }


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(repository: Path, page: str) -> None:
    text, folder = text_of(repository, page), (repository / page).parent
    assert "@@" not in text
    for link in links_of(text):
        name, _, heading = link.partition("#")
        target = folder / name if name else repository / page
        assert target.exists(), f"{page}: {link} leads nowhere"
        if heading:
            assert heading in headings_of(target.read_text(encoding="utf-8")), f"{page}: {link} is no heading"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere_in_the_copy_of_the_registry(repository: Path, page: str) -> None:
    if not (repository / ".git").exists():
        pytest.skip("not a git checkout: git tells what .comfyignore leaves out")
    files = {link.partition("#")[0] for link in links_of(text_of(repository, page))} - {""}
    targets = {(repository / page).parent / name for name in files}
    names = sorted({target.resolve().relative_to(repository.resolve()).as_posix() for target in targets} | {page})
    command = ["git", "ls-files", "--cached", "--others", "--ignored", "--exclude-from=.comfyignore", "--", *names]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    assert not done.stdout.split(), f"{page}: .comfyignore leaves these out; name them without a link"


def test_the_picture_is_in_the_first_screen(repository: Path) -> None:
    head = "\n".join(text_of(repository, "README.md").splitlines()[:12])
    assert "docs/compare.png" in links_of(head)
    assert (repository / "docs/compare.png").stat().st_size < 400_000


def test_the_readme_is_short(repository: Path) -> None:
    lines = text_of(repository, "README.md").splitlines()
    assert len(lines) <= LINES
    assert [line for line in lines if len(line) > LONGEST and not line.startswith("|")] == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_parse(page: str, repository: Path) -> None:
    for command in commands_of(text_of(repository, page)):
        words = shlex.split(command)[1:]
        if "--help" in words or "COMMAND" in words:
            continue
        try:
            build_parser().parse_args(words)
        except InputError as error:  # in running text a command may be named by the options that matter there
            if "required" not in str(error):
                pytest.fail(f"{page} names a command that does not parse: {command}: {error}")


def test_commands_are_found(repository: Path) -> None:
    assert len(commands_of(text_of(repository, "README.md"))) >= 1
    assert len(commands_of(text_of(repository, "docs/cli.md"))) >= 5
    assert commands_of("```\nzero2hero a --b \\\n    --c 1  # why\n```\n`zero2hero edit`, `zero2hero x --y`") == [
        "zero2hero a --b --c 1  ",
        "zero2hero x --y",
    ]


def test_every_command_has_a_row(repository: Path) -> None:
    text = text_of(repository, "docs/cli.md")
    actions = [action for action in build_parser()._actions if action.choices]
    assert [name for name in actions[0].choices or () if not re.search(rf"^\| `{name}[ `]", text, re.MULTILINE)] == []


def test_figures_of_the_readme_are_those_of_the_results(repository: Path) -> None:
    if not (repository / "benchmarks/RESULTS.md").exists():
        pytest.skip("the registry's copy has no benchmarks")
    results = text_of(repository, "benchmarks/RESULTS.md")
    table = text_of(repository, "README.md").partition("\n## Results\n")[2].partition("\n## ")[0]
    figures = re.findall(r"\d+\.\d+ ± \d+\.\d+", table)
    assert len(figures) >= 20
    assert [figure for figure in figures if figure not in results] == []
