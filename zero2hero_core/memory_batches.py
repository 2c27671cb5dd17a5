"""Batches that shrink when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from .checks import Zero2HeroError, setting


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that the device's or the machine's memory ran out."""
    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or any(
        text in str(error) for text in ("can't allocate memory", "out of memory")
    )


def halving(
    work: Callable[[list[int]], list[torch.Tensor]], items: Sequence[int], batch: int
) -> Iterator[tuple[int, torch.Tensor]]:
    """Results of `work` over batches of items; a batch that runs out of memory is halved and tried again.

    Raises: Zero2HeroError when even one item does not fit.
    """
    todo = list(items)
    while todo:
        now = todo[:batch]
        try:
            results = work(now)
        except (RuntimeError, MemoryError) as error:  # torch's out-of-memory errors are RuntimeErrors
            if not is_out_of_memory(error):
                raise
            if len(now) == 1:
                raise Zero2HeroError(
                    f"out of memory with a single frame: use a smaller {setting('size')}, a half-precision "
                    f"{setting('dtype')}, or close other programs."
                ) from error
            batch = len(now) // 2
            continue
        yield from zip(now, results, strict=True)
        todo = todo[len(now) :]
