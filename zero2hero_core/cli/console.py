"""What the commands share: common options, progress bars, reports, output folders."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..checks import InputError
from ..jobs.listener import Listener

if TYPE_CHECKING:
    from types import FrameType, TracebackType

Request = TypeVar("Request")

# Options that are called otherwise than the settings that they stand for.
OPTIONS = {"num_inference_steps": "--steps", "guidance_scale": "--guidance", "adain_start": "--adain"}


def option_of(name: str) -> str:
    """The option of a setting."""
    return OPTIONS.get(name, f"--{name.replace('_', '-')}")


def request_of(kind: type[Request], args: argparse.Namespace, **changes: Any) -> Request:
    """The request that the arguments make; lists become tuples. changes: values in place of those of the arguments."""
    from ..jobs.request import make_request

    values = {name: tuple(value) if isinstance(value, list) else value for name, value in vars(args).items()}
    return make_request(kind, values | changes)


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


class ConsoleListener(Listener):
    """Prints notes and summary, shows bars on stderr, and takes Ctrl-C between steps.

    Args: args: with `quiet`. A context: the bars end with it.
    """

    def __init__(self, args: argparse.Namespace):
        self._args = args
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}
        self._notes: set[str] = set()
        self._interrupted = False

    def __enter__(self) -> ConsoleListener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._tasks = None, {}

    def word(self, name: str) -> str:
        """The option of a setting."""
        return option_of(name)

    def note(self, text: str) -> None:
        """A line on stderr; the parts of an edit have notes in common, which are printed once."""
        if text not in self._notes:
            self._notes.add(text)
            warn(text)

    def say(self, text: str) -> None:
        """A line on stdout, unless --quiet."""
        say(self._args, text)

    def progress(self, part: str, done: int, total: int | None = None, detail: str = "") -> None:
        """A bar for each part of the work; bars end with the part that is done."""
        if self._bar is None:
            self._bar = progress(self._args)
            self._bar.start()
        if part not in self._tasks:
            self._tasks[part] = self._bar.add_task(part, total=total)
        self._bar.update(self._tasks[part], completed=done, description=f"{part}, {detail}" if detail else part)
        if done == total:
            self._close()

    def cancelled(self) -> bool:
        """Whether Ctrl-C was pressed within `whole_steps`."""
        return self._interrupted

    @contextmanager
    def whole_steps(self) -> Iterator[None]:
        """Within the block, Ctrl-C is told by `cancelled`, so that no update is cut in two; a second one ends at
        once."""

        def ask(number: int, frame: FrameType | None) -> None:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True

        self._interrupted = False
        try:
            before = signal.signal(signal.SIGINT, ask)
        except ValueError:  # not the main thread: whoever runs us has other means
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


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
