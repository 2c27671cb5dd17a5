"""How a job tells what it does: notes, lines of a summary, progress; and how it is asked to stop."""

from __future__ import annotations


class Listener:
    """What a job tells while it works; this one is silent. Subclasses: the console, a node.

    notes: what was said aloud so far, for the report.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Say aloud what the user should know although the work goes on, and keep it."""
        self.notes.append(text)

    def say(self, text: str) -> None:
        """Tell a line of the summary."""

    def progress(self, part: str, done: int, total: int | None = None) -> None:
        """Tell how much of a part of the work is done."""

    def cancelled(self) -> bool:
        """Whether the work is to stop."""
        return False
