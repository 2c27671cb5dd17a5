"""Which key frames are sampled together, and the latents that later batches take over from earlier ones.

Source: FRESCO (arXiv 2403.12962), whose batches share their first frame and hand on their last. Differs: the first
frame may lie anywhere in the clip; no batch is left without a new frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..checks import InputError, check_shape, setting
from ..files.tensor_file import write_tensors

_FEW = 3  # new frames of a last batch, below which it borrows


@dataclass(frozen=True)
class KeyBatch:
    """Key frames that are sampled together.

    frames: places in the clip, in the order of the rows. carried: how many of the first rows follow what earlier
    batches recorded (`CarriedLatents`); they were produced there, and the rows after them are new.
    """

    frames: tuple[int, ...]
    carried: int

    @property
    def new(self) -> tuple[int, ...]:
        """Places of the frames that the batch produces."""
        return self.frames[self.carried :]


def plan_batches(keys: Sequence[int], size: int, *, anchor: int | None = None) -> tuple[KeyBatch, ...]:
    """Batches in which every key frame is produced exactly once.

    The anchor is the first row of every batch. The keys after it follow in ascending order: the first batch holds the
    anchor and up to size - 1 of them, each later one the anchor, the last frame of the batch before it, and up to
    size - 2 new. Then come the keys before the anchor, in descending order, in the same way; their first batch takes
    over the anchor alone. A last batch with fewer than 3 new frames borrows from the one before, as long as that one
    keeps as many. With size 2 later batches hold the anchor and one new frame.

    By hand: 5 keys, size 3: (0, 1, 2), (0, 2, 3), (0, 3, 4), of which all rows, the last and the last are new.

    Args: keys: places in the clip, ascending; size: frames of a batch, from 2 up; anchor: one of the keys, None for the
        first.
    Raises: InputError.
    """
    if size < 2:
        raise InputError(f"{setting('batch_size')}: expected at least 2 key frames in a batch, got {size}.")
    if not keys or list(keys) != sorted(set(keys)):
        raise InputError(f"keys: expected ascending places of at least one key frame, got {list(keys)}.")
    anchor = keys[0] if anchor is None else anchor
    if anchor not in keys:
        raise InputError(f"anchor: expected one of the key frames {list(keys)}, got {anchor}; make it a key frame.")
    after = [key for key in keys if key > anchor]
    before = [key for key in reversed(keys) if key < anchor]
    batches: list[KeyBatch] = []
    for side in (after, before):
        last: tuple[int, ...] = ()
        for new in _shared_out(side, size):
            first = (anchor, *last)
            batches.append(KeyBatch((*first, *new), len(first) if batches else 0))
            last = (new[-1],) if size > 2 else ()
    return tuple(batches) or (KeyBatch((anchor,), 0),)


def _shared_out(keys: Sequence[int], size: int) -> list[list[int]]:
    """New keys of each batch on one side of the anchor."""
    room = max(1, size - 2)
    parts = [list(keys[: size - 1])] if keys else []
    parts += [list(keys[start : start + room]) for start in range(size - 1, len(keys), room)]
    if len(parts) > 1:
        while len(parts[-1]) < min(_FEW, room) and len(parts[-2]) - len(parts[-1]) >= 2:
            parts[-1].insert(0, parts[-2].pop())
    return parts


class CarriedLatents:
    """The latents of the first and the last row of a batch at every step, which the next batch follows."""

    def __init__(self) -> None:
        self._rows: dict[int, torch.Tensor] = {}

    def exchange(self, step: int, latents: torch.Tensor, carried: int) -> torch.Tensor:
        """The latents (B, C, h, w) of a batch at a step, before the model sees them, with what was recorded at that
        step in their first `carried` rows (0 to 2); then their own first and last rows are the record.

        Raises: InputError when the step was not recorded or the batch has too few rows; ShapeError.
        """
        check_shape("latents", latents, ("B", "C", "h", "w"))
        if not 0 <= carried <= min(2, len(latents)):
            raise InputError(f"carried: expected 0 to {min(2, len(latents))} rows to take over, got {carried}.")
        if carried:
            if step not in self._rows:
                raise InputError(f"carried latents: expected a record of step {step} from the batch before, got none.")
            rows = self._rows[step].to(latents)
            check_shape("carried latents", rows, (2, *latents.shape[1:]))
            latents = torch.cat([rows[:carried], latents[carried:]])
        self._rows[step] = torch.stack([latents[0], latents[-1]])
        return latents

    def save(self, path: Path) -> None:
        """Write the record to a file, whole or not at all. Raises: as `write_tensors`."""
        write_tensors(path, {str(step): rows.cpu().contiguous() for step, rows in self._rows.items()}, {})

    @classmethod
    def load(cls, path: Path) -> CarriedLatents:
        """The record of a file. Raises: InputError when it is missing, damaged or something else."""
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise InputError(f"carried latents: {path} cannot be read: {error}.") from error
        record = cls()
        for step, rows in tensors.items():
            if not step.isdecimal() or rows.ndim != 4 or len(rows) != 2:
                raise InputError(f"carried latents: {path} holds no latents by step, but {step} {tuple(rows.shape)}.")
            record._rows[int(step)] = rows
        return record
