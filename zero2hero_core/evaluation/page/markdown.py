"""Words and tables of the pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def some(count: int, name: str) -> str:
    """2, "frame" -> "2 frames"."""
    return f"{count} {name}{'s' * (count > 1)}"


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [head, *lines]
    texts = ["| " + " | ".join(cells) + " |" for cells in rows]
    return "\n".join([texts[0], "|" + "---|" * len(head), *texts[1:]]) + "\n"
