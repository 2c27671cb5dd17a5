"""JSON files, written whole or not at all."""

from __future__ import annotations

import json
import math
import os
import stat
import sys
from pathlib import Path
from typing import Any, TextIO

from ..checks import InputError
from .names import temporary_name
from .whole import write_text


def finite(value: Any) -> Any:
    """The same with null for infinities and nan, for which JSON has no words."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write a report where the user says: "-" and the standard streams are printed to, pipes and devices written to; of
    a link the file that it leads to is replaced, whole or not at all.

    A pipe waits for its reader. Raises: as `write_json`.
    """
    text = _text(report)
    try:
        if (stream := _standard_stream(path)) is not None:
            stream.write(text)
            stream.flush()
        elif path.exists() and not path.is_file():
            with path.open("w", encoding="utf-8") as file:
                file.write(text)
        else:
            place = Path(os.path.realpath(path))
            place.parent.mkdir(parents=True, exist_ok=True)
            write_json(place, report)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place.") from error


def check_report_place(option: str, path: Path) -> None:
    """Raise `InputError` unless `write_report` can write there; nothing is left, no pipe is opened."""

    def refuse(problem: str, remedy: str = "choose another place") -> InputError:
        return InputError(f"{option} {path}: expected a file that can be written, but {problem}; {remedy}.")

    if _standard_stream(path) is not None:
        return
    try:
        mode = os.stat(path).st_mode
    except OSError:
        mode = 0
    if stat.S_ISDIR(mode):
        raise refuse("it is a folder", "give the name of a file in it")
    if stat.S_ISBLK(mode) or stat.S_ISSOCK(mode):
        raise refuse("it is a disk" if stat.S_ISBLK(mode) else "it is a socket")
    if mode and not os.access(path, os.W_OK):
        raise refuse("it is write-protected")
    if mode and not stat.S_ISREG(mode):
        return
    place = Path(os.path.realpath(path))
    folder = next(parent for parent in place.parents if os.path.lexists(parent))
    if not folder.is_dir():
        raise refuse(f"{folder} is no folder")
    probe = temporary_name(folder / place.name)
    try:  # to ask for permissions is not enough: root has them all, and some file systems have none
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise refuse(f"{folder} cannot be written to ({error.strerror})") from error


def _standard_stream(path: Path) -> TextIO | None:
    """The open stream that a path names: "-", or /dev/stdout and the like, wherever they lead to."""
    if str(path) == "-":
        return sys.stdout
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            if os.path.samestat(os.stat(path), os.fstat(number)) and not os.path.samefile(path, os.devnull):
                return stream
        except OSError:
            continue
    return None


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Write a report through a temporary file; infinities and nan become null.

    Raises: InputError when the place cannot be written, Zero2HeroError when the disk is full.
    """
    write_text(path, _text(report))


def _text(report: dict[str, Any]) -> str:
    return json.dumps(finite(report), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
