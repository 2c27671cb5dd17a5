"""What the commands share: common options, progress bars, reports, output folders."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..checks import InputError
from ..jobs.listener import Listener


def add_common(parser: argparse.ArgumentParser) -> None:
    """Options that every command has."""
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="also write the report to this file")
    parser.add_argument("--quiet", action="store_true", help="no progress bars and no summary")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def tokens(text: str) -> int | str:
    """The value of --k: a whole number or "adaptive".

    Raises: argparse.ArgumentTypeError for anything else.
    """
    if text == "adaptive":
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'expected a whole number, -1 or "adaptive", got {text!r}') from None


def say(args: argparse.Namespace, text: str) -> None:
    """Print a line of the summary, unless --quiet."""
    if not args.quiet:
        print(text, flush=True)


def progress(args: argparse.Namespace) -> Any:
    """A rich progress bar on stderr with rates; silent with --quiet or where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    class Rate(TextColumn):
        """Items per second."""

        def render(self, task: Any) -> Any:
            """The rate, empty until it is known."""
            from rich.text import Text

            return Text("" if not task.speed else f"{task.speed:.2f}/s")

    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(""),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=args.quiet or not console.is_terminal,
    )


class Console(Listener):
    """Tells on the terminal what a job does: notes and bars on stderr, the summary on stdout. Use it in a `with` block.

    Args: args: of a command, with those of `add_common`.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        self._args, self._bars, self._rows = args, progress(args), dict[str, Any]()

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bars.stop()

    def note(self, text: str) -> None:
        """Say it on stderr."""
        super().note(text)
        self._bars.stop()
        warn(text)

    def say(self, text: str) -> None:
        """Print it, unless --quiet."""
        self._bars.stop()
        say(self._args, text)

    def progress(self, part: str, done: int, total: int | None = None) -> None:
        """Show a bar for each part."""
        self._bars.start()
        if part not in self._rows:
            self._rows[part] = self._bars.add_task(part, total=total)
        self._bars.update(self._rows[part], completed=done, total=total)


def output_folder(path: Path, overwrite: bool, results: Sequence[str]) -> Path:
    """Make the output folder.

    Args: results: names of files that an earlier run may have left there.
    Raises: InputError when it cannot be made or holds such files and `overwrite` is not set.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {path}: cannot be made ({error.strerror}); choose another folder.") from error
    there = [name for name in results if (path / name).exists()]
    if there and not overwrite:
        raise InputError(
            f"--out {path}: holds {there[0]} from an earlier run; choose another folder or add --overwrite."
        )
    if not os.access(path, os.W_OK):
        raise InputError(f"--out {path}: cannot be written; choose another folder.")
    return path


def warn(text: str) -> None:
    """Say something aloud on stderr that the user should know although the work goes on."""
    print(f"zero2hero: note: {text}", file=sys.stderr, flush=True)
