"""Frame numbers as the user writes them: "0,12,31". Imports nothing heavy, for the command line."""

from __future__ import annotations

from collections.abc import Iterable

from ..checks import InputError, setting


def read_frame_numbers(name: str, text: str) -> tuple[int, ...]:
    """The numbers in a text, in its order and as often as they are named; none for an empty text.

    Args: name: the setting that holds the text, for errors.
    Raises: InputError for anything but whole numbers from 0 up with commas, spaces or line ends between them.
    """
    parts = text.replace(",", " ").replace(";", " ").split()
    for part in parts:
        if not part.isdecimal():
            raise InputError(f"{setting(name)}: expected frame numbers like 0,12,31, got '{part}'.")
    return tuple(int(part) for part in parts)


def frame_numbers_text(numbers: Iterable[int]) -> str:
    """The text of frame numbers: "0,12,31"."""
    return ",".join(str(number) for number in numbers)
