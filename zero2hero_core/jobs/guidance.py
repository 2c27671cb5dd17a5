"""Key frames painted from a prompt: the order of the work, which command and nodes share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from ..checks import InputError, setting
from ..guidance.batches import KeyBatch, plan_batches
from ..guidance.fresco import KeyFrameBatchPainter
from ..guidance.parts import Batch
from ..guidance.rerender import KeyFramePainter, PaintedKey


def outward(keys: Sequence[int], anchor: int) -> tuple[list[int], list[int]]:
    """The keys after the anchor, rising, and those before it, falling.

    Raises: InputError unless the anchor is one of the keys, and each key is named once.
    """
    if anchor not in keys:
        raise InputError(f"{setting('anchor')}: expected one of the key frames, got {anchor}; make it one of them.")
    if len(set(keys)) < len(keys):
        twice = next(key for place, key in enumerate(keys) if key in keys[:place])
        raise InputError(f"{setting('keys')}: expected each frame once, got frame {twice} twice; leave one out.")
    ordered = sorted(keys)
    place = ordered.index(anchor)
    return ordered[place + 1 :], ordered[:place][::-1]


def paint_key_frames(
    painter: KeyFramePainter,
    frames: Mapping[int, torch.Tensor],
    keys: Sequence[int],
    anchor: int,
    edit: torch.Tensor | None = None,
) -> Iterator[PaintedKey]:
    """Paint the keys of a clip one after another: the anchor, those after it, those before it.

    Args: frames: (3, H, W) in [0, 1] by their places in the clip. edit: (3, H, W), the anchor's edit.
    Raises: InputError; those of the painter.
    """
    after, before = outward(keys, anchor)
    yield painter.begin(anchor, frames[anchor], edit)
    for index in after:
        yield painter.paint(index, frames[index])
    painter.turn_back()
    for index in before:
        yield painter.paint(index, frames[index])


def rerender_steps(painter: KeyFramePainter, keys: int) -> int:
    """Steps that painting so many keys takes at most."""
    return painter.steps_of_anchor + (keys - 1) * painter.steps_of_key


def paint_key_batches(
    painter: KeyFrameBatchPainter,
    keys: Sequence[int],
    anchor: int,
    batch_of: Callable[[Sequence[int]], Batch],
    edit: torch.Tensor | None = None,
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Paint the keys of a clip batch by batch: yields place, picture (3, H, W) and clean latents (1, C, h, w).

    Args: batch_of: the frames of some keys, by their places. edit: (3, H, W), the anchor's edit.
    Raises: InputError; those of the painter.
    """
    for batch in plan(keys, anchor, painter.settings.batch):
        painted = painter.paint(batch_of(batch.frames), batch.carried, edit)
        for row in range(batch.carried, len(batch.frames)):
            yield batch.frames[row], painted.pictures[row], painted.latents[row : row + 1]


def plan(keys: Sequence[int], anchor: int, size: int) -> tuple[KeyBatch, ...]:
    """The batches of keys. Raises: InputError, see `outward`."""
    outward(keys, anchor)
    return plan_batches(sorted(keys), size, anchor=anchor)
