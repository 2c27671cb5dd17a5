"""What Hero-Stage trains on: the modes and their pairs (paper, Table 1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch

from ...checks import InputError
from ...paper import MODES


@dataclass(frozen=True)
class TrainingPair:
    """One example: packed latents (1, C, h, w) of the conditions, in the mode's order, and of the target."""

    conditions: tuple[torch.Tensor, ...]
    target: torch.Tensor


@runtime_checkable
class PairSource(Protocol):
    """Pairs without end, for a training over many clips."""

    def draw(self, generator: torch.Generator) -> TrainingPair:
        """A pair; all that is drawn comes from the generator. All pairs have one size."""


@dataclass(frozen=True)
class PairViews:
    """Further views of a pair (`training.views`): packed latents (M, C, h, w) of the conditions, by what they show
    ("zero", "frame"), and of the target."""

    pictures: dict[str, torch.Tensor]
    target: torch.Tensor


@dataclass(frozen=True)
class ClipLatents:
    """Packed latents (1, C, h, w) that the modes draw their pairs from (paper, Table 1).

    references: anchor index -> its edit. zero: frame index -> I_ref(k). frames: index -> original frame. zero_target:
    frame index -> I_anc(k), Zero-Stage with the anchor itself as the reference (implicit mode only). views:
    anchor index -> further views of its pair.
    """

    references: dict[int, torch.Tensor]
    zero: dict[int, torch.Tensor]
    frames: dict[int, torch.Tensor]
    zero_target: dict[int, torch.Tensor]
    views: dict[int, PairViews] = field(default_factory=dict)


def training_pairs(mode: str, clip: ClipLatents) -> list[TrainingPair]:
    """The training set of a mode: pair b for "explicit", a and c for "implicit", a for "zero-ref", anchor -> reference
    for "tgt-ref"; with several anchors, one pair for each. In "implicit" the references are repeated so that they are
    drawn as often as all other frames together.

    Raises: InputError when a picture that the mode needs is missing.
    """

    def need(what: str, pictures: dict[int, torch.Tensor], index: int) -> torch.Tensor:
        if index not in pictures:
            raise InputError(f"mode {mode}: expected {what} of frame {index}, got none; add it to the training set.")
        return pictures[index]

    pairs = []
    for index, reference in sorted(clip.references.items()):
        sources = {"zero": ("the Zero-Stage result", clip.zero), "frame": ("the original", clip.frames)}
        conditions = tuple(need(*sources[kind], index) for kind in MODES[mode])
        pairs.append(TrainingPair(conditions, reference))
        if views := clip.views.get(index):
            parts = [views.pictures[kind] for kind in MODES[mode]]
            for *inputs, edit in zip(*parts, views.target, strict=True):
                pairs.append(TrainingPair(tuple(one[None] for one in inputs), edit[None]))
    if mode == "implicit":
        if not clip.zero_target:
            raise InputError(
                "mode implicit: expected Zero-Stage results with the anchor itself as the reference, got none."
            )
        pairs *= max(1, round(len(clip.zero_target) / len(pairs))) if pairs else 1
        for index, worn in sorted(clip.zero_target.items()):
            pairs.append(TrainingPair((worn,), need("the original", clip.frames, index)))
    if not pairs:
        raise InputError(f"mode {mode}: expected at least one reference, got none.")
    return pairs
