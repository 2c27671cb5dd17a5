"""Key frames painted from a prompt: the order of the work, which command and nodes share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from ..backbones.surface import GuidedDenoiser, LatentCodec
from ..checks import InputError, setting
from ..guidance.bank_size import bank_bytes
from ..guidance.batches import KeyBatch, plan_batches
from ..guidance.features import FeatureSettings
from ..guidance.fidelity import encode_faithfully
from ..guidance.fresco import KeyFrameBatchPainter
from ..guidance.parts import Batch, CrossFramePart, FeaturePart, FlowPart, Part
from ..guidance.rerender import KeyFramePainter, PaintedKey
from ..guidance.settings import FrescoSettings, RerenderSettings


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


class RerenderWork:
    """Rerender-A-Video on frames that are at hand: what the sampler node asks for.

    Args: on_step: called after each step of a sampling.
    """

    def __init__(self, denoiser: GuidedDenoiser, settings: RerenderSettings, on_step: Callable[[], None]):
        self.painter = KeyFramePainter(denoiser, settings, on_step=on_step)

    def steps(self, keys: int) -> int:
        """Steps that so many keys take at most."""
        return rerender_steps(self.painter, keys)

    def token_bytes(self, latent_hw: tuple[int, int], halves: int) -> int:
        """Main memory that the tokens of earlier keys take at most; see `token_bytes`."""
        return token_bytes(self.painter, latent_hw, halves)

    def paint(
        self, frames: Mapping[int, torch.Tensor], keys: Sequence[int], anchor: int, edit: torch.Tensor | None
    ) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """Yields place, picture (3, H, W) and clean latents (1, C, h, w). Args: see `paint_key_frames`."""
        for key in paint_key_frames(self.painter, frames, keys, anchor, edit):
            yield key.index, key.picture, key.latents


class FrescoWork:
    """FRESCO on frames that are at hand. Args: parts: of the guidance; on_step: called after each step."""

    def __init__(
        self, denoiser: GuidedDenoiser, settings: FrescoSettings, parts: Sequence[Part], on_step: Callable[[], None]
    ):
        self.painter = KeyFrameBatchPainter(denoiser, settings, parts, on_step=on_step)

    def steps(self, keys: Sequence[int], anchor: int) -> int:
        """Steps that keys take at most. Raises: InputError, see `outward`."""
        return len(plan(keys, anchor, self.painter.settings.batch)) * self.painter.steps_of_batch

    def paint(
        self, keys: Sequence[int], anchor: int, batch_of: Callable[[Sequence[int]], Batch], edit: torch.Tensor | None
    ) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """Yields place, picture (3, H, W) and clean latents (1, C, h, w). Args: see `paint_key_batches`."""
        return paint_key_batches(self.painter, keys, anchor, batch_of, edit)


def guidance_part(name: str, **values: Any) -> Part:
    """A part of FRESCO's guidance: "cross" (see `CrossFramePart`), "flow" (`FlowPart`) or "features" (`FeaturePart`,
    whose settings are given one by one). Raises: InputError."""
    if name == "features":
        return FeaturePart(FeatureSettings(**values))
    kinds: dict[str, Callable[..., Part]] = {"cross": CrossFramePart, "flow": FlowPart}
    return kinds[name](**values)


def encode_picture(model: LatentCodec, picture: torch.Tensor, compensation: float, threshold: float) -> torch.Tensor:
    """Latents (1, C, h, w) of a picture (3, H, W) with what a round would lose; see `guidance.fidelity`."""
    return encode_faithfully(model, picture[None], compensation=compensation, threshold=threshold)


def token_bytes(painter: KeyFramePainter, latent_hw: tuple[int, int], halves: int) -> int:
    """Main memory that the tokens of earlier keys take at most: of the anchor, the key before, and the one in work.

    Args: latent_hw: size of the latents; halves: 2 with classifier-free guidance, 1 without.
    """
    if painter.settings.cross_window is None:
        return 0
    dtype = painter.denoiser.dtype
    return 3 * bank_bytes(latent_hw, len(painter.steps), layers=painter.layers, dtype=dtype, halves=halves)


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
