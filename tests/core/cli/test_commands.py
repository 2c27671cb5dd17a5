"""Every command is documented, every documented command exists, and each explains itself."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from zero2hero_core.cli import main as cli
from zero2hero_core.cli.main import build_parser

# Texts for readers; benchmarks and web/docs name commands as well.
DOCUMENTS = ("README.md", "docs/*.md", "docs/workflows/*.md", "benchmarks/*.md", "web/docs/*.md", "CHANGELOG.md")


def commands(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Words of every command that does something: ("hero", "train")."""
    choices = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not choices:
        yield path
    for inner in choices:
        for name, child in inner.items():
            yield from commands(child, (*path, name))


COMMANDS = sorted(commands(build_parser()))


def named_in(text: str) -> set[tuple[str, ...]]:
    """Words after `zero2hero`, up to the first that is no plain lower-case word; only where it is code."""
    code = "\n".join([*re.findall(r"`([^`\n]+)`", text), *re.findall(r"^(?:    )?(zero2hero .*)", text, re.MULTILINE)])
    found = re.findall(r"(?:^|\s)zero2hero((?: [a-z][a-z-]*)+)(?![\w./=-])", code, re.MULTILINE)
    return {tuple(words.split()) for words in found}


def documents(repository: Path, patterns: tuple[str, ...]) -> dict[str, set[tuple[str, ...]]]:
    paths = [path for pattern in patterns for path in sorted(repository.glob(pattern))]
    return {str(path.relative_to(repository)): named_in(path.read_text(encoding="utf-8")) for path in paths}


def exists(words: tuple[str, ...]) -> bool:
    """Whether the words begin a command, or go on after one (with an argument)."""
    return any(words[: len(known)] == known or known[: len(words)] == words for known in COMMANDS)


def test_every_command_has_a_row(repository: Path) -> None:
    """In the table of docs/cli.md: by its own words, or within the row of the command that it belongs to."""
    text = (repository / "docs" / "cli.md").read_text(encoding="utf-8")
    rows = {row.split("`")[1]: set(re.findall(r"`([^`]+)`", row)) for row in re.findall(r"^\| `.*", text, re.MULTILINE)}
    missing = [
        words for words in COMMANDS if " ".join(words) not in rows and not set(words[1:]) & rows.get(words[0], set())
    ]
    assert missing == []


def test_the_documents_name_no_command_that_is_not_there(repository: Path) -> None:
    named = documents(repository, DOCUMENTS)
    assert named["README.md"] and sum(map(len, named.values())) > 15
    assert [(file, words) for file, found in named.items() for words in sorted(found) if not exists(words)] == []


def test_commands_in_a_text_are_found() -> None:
    text = (
        "Run `zero2hero hero train --help`, or:\n\n    zero2hero dataset clip x.mp4\n```\nzero2hero edit --tiny\n```\n"
    )
    assert named_in(text + "zero2hero can do more; `pip install zero2hero`") == {
        ("hero", "train"),
        ("dataset", "clip"),
        ("edit",),
        ("can", "do", "more"),
    }
    assert exists(("hero", "train")) and exists(("hero",)) and not exists(("hero", "paint")) and not exists(("can",))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_each_command_explains_itself(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*words, "--help"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(f"usage: zero2hero {' '.join(words)} ") and shown.err == ""
    assert len(shown.out.split("\n\n")) > 1  # more than the line of its use


def test_each_option_explains_itself() -> None:
    """No option without a help text, in any command."""
    bare = []
    for words in COMMANDS:
        parser = build_parser()
        for word in words:
            (inner,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
            parser = inner.choices[word]
        bare += [f"{' '.join(words)} {a.dest}" for a in parser._actions if not a.help]
    assert bare == []


def test_the_list_of_commands_names_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    listed = re.findall(r"^    ([a-z]+)(?: |$)", capsys.readouterr().out, re.MULTILINE)
    assert set(listed) == {words[0] for words in COMMANDS}
