"""Errors and argument checks shared by the whole core.

Every message says what was expected, what came, and what to change. A setting in a message is marked (`setting`), so
that whoever shows the message can call it what the user calls it: `--size`, a widget, a keyword. The command line turns
`exit_status` into its exit code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


_SETTING = re.compile("\N{MATHEMATICAL LEFT ANGLE BRACKET}([a-z_]+)\N{MATHEMATICAL RIGHT ANGLE BRACKET}")


def setting(name: str) -> str:
    """A setting's name, marked as one, for the text of an error or a note."""
    return f"\N{MATHEMATICAL LEFT ANGLE BRACKET}{name}\N{MATHEMATICAL RIGHT ANGLE BRACKET}"


def worded(text: str, word: Callable[[str], str] = str) -> str:
    """The text with every marked setting called what `word` calls it; the plain name without."""
    return _SETTING.sub(lambda mark: word(mark[1]), text)


class Zero2HeroError(Exception):
    """Work failed although the input was usable (out of memory, full disk ...)."""

    exit_status = 1

    @property
    def text(self) -> str:
        """The message with its settings marked, for a longer message."""
        return super().__str__()

    def worded(self, word: Callable[[str], str]) -> str:
        """The message with every setting called what `word` calls it."""
        return worded(self.text, word)

    def __str__(self) -> str:
        return worded(self.text)


class InputError(Zero2HeroError):
    """An argument, a file or a value from the user cannot be used."""

    exit_status = 2


class Unfinished(Zero2HeroError):
    """Work ended early; what is finished is kept, and the same work with the setting `resume` goes on there.

    The message says what happened and what is kept; whoever shows it adds how to go on. exit_status: that of the error
    behind it.
    """

    def __init__(self, text: str, exit_status: int = 1):
        super().__init__(text)
        self.exit_status = exit_status

    def worded(self, word: Callable[[str], str], again: str = "do the same") -> str:
        """The message, and how to go on. again: what to do, in the words of the user."""
        return f"{super().worded(word).rstrip('.')}; to go on, {again} with {word('resume')}."

    def __str__(self) -> str:
        return self.worded(str)


class ShapeError(InputError):
    """A tensor has another shape than the function needs."""


def check_shape(name: str, tensor: torch.Tensor, expected: Sequence[int | str]) -> None:
    """Raise `ShapeError` unless `tensor` has the expected shape.

    Args:
        name: what the tensor is called in the message.
        tensor: any tensor.
        expected: one entry per dimension; an int must match, a string names a free dimension.
    """
    ok = tensor.ndim == len(expected) and all(
        isinstance(length, str) or length == size for length, size in zip(expected, tensor.shape, strict=False)
    )
    if not ok:
        shape = "(" + ", ".join(str(e) for e in expected) + ")"
        raise ShapeError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}.")


def check_images(name: str, images: torch.Tensor) -> None:
    """Raise `ShapeError` unless `images` is (N, 3, H, W), floating point, with at least one frame."""
    check_shape(name, images, ("N", 3, "H", "W"))
    if not images.is_floating_point():
        raise ShapeError(f"{name}: expected floating point values in [0, 1], got {images.dtype}; divide by 255 first.")
    if images.shape[0] == 0:
        raise InputError(f"{name}: expected at least one frame, got none.")


def check_index(name: str, index: int, length: int) -> int:
    """Return `index` if it lies in 0..length-1, else raise `InputError`."""
    if not 0 <= index < length:
        raise InputError(f"{name}: expected 0 to {length - 1} (the clip has {length} frames), got {index}.")
    return index


def check_range(name: str, value: float, low: float, high: float) -> float:
    """Return `value` if low <= value <= high, else raise `InputError`."""
    if not low <= value <= high:
        raise InputError(f"{name}: expected a value from {low:g} to {high:g}, got {value:g}.")
    return value
