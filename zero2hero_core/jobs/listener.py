"""What a job tells while it works."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..checks import worded

if TYPE_CHECKING:
    import torch


class Listener:
    """Hears what a job tells, and may cancel it; this one is silent. The console and a node have their own."""

    def word(self, name: str) -> str:
        """What the user calls a setting."""
        return name

    def note(self, text: str) -> None:
        """What the user might not expect, said aloud."""

    def say(self, text: str) -> None:
        """A line of the summary."""

    def progress(self, part: str, done: int, total: int | None = None, detail: str = "") -> None:
        """How much of a part of the work is done. detail: a figure that changes on the way."""

    def preview(self, picture: torch.Tensor) -> None:
        """A picture (3, H, W) in [0, 1] of the work so far."""

    def cancelled(self) -> bool:
        """Whether to stop; a job asks between steps."""
        return False

    @contextmanager
    def whole_steps(self) -> Iterator[None]:
        """Within the block a wish to stop is told by `cancelled`, so that no step is cut in two."""
        yield


class Counter:
    """Counts steps of a part of the work for a listener."""

    def __init__(self, listener: Listener, part: str, total: int | None = None) -> None:
        self._listener, self._part, self._total, self._done = listener, part, total, 0

    def step(self) -> None:
        """One more."""
        self._done += 1
        self._listener.progress(self._part, self._done, self._total)


class Notes(list[str]):
    """The notes of one job, each told to its listener; for the report."""

    def __init__(self, listener: Listener):
        super().__init__()
        self._listener = listener

    def add(self, text: str) -> None:
        """Tell and keep a note; its settings are called what the user calls them."""
        text = worded(text, self._listener.word)
        self.append(text)
        self._listener.note(text)
