"""Pairs from many clips whose truth is known: what a universal adapter learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ...backbones.surface import DiTSurface
from ...checks import InputError, ShapeError
from ...paper import MODES
from .pairs import TrainingPair
from .views import move
from .wear import simulate_wear

WORN = "worn"  # the carrier that is simulated from the truth


@dataclass(frozen=True)
class TruePicture:
    """A frame with its truth: frame, truth, carried, (3, H, W) in [0, 1]; carried is None where wear is simulated."""

    frame: torch.Tensor
    truth: torch.Tensor
    carried: torch.Tensor | None


class TrueClip(Protocol):
    """A clip whose truth is known, and what carriers made of its edit."""

    @property
    def numbers(self) -> Sequence[int]:
        """The frames that can be read."""

    def read(self, number: int, carrier: str) -> TruePicture:
        """A frame, its truth, and what this carrier made of it; of `WORN` nothing is read."""


class ClipPairs:
    """Draws a clip, a frame of it, a carrier, and a view of all three pictures: mirrored or not, moved by some pixels.

    Args: carriers: names of what carried the edit; each is drawn as often. shift: pixels that a view is moved by at
        most.
    Raises: InputError without clips or carriers, or in a mode that learns from the one clip only.
    """

    def __init__(
        self,
        backbone: DiTSurface,
        clips: Sequence[TrueClip],
        carriers: Sequence[str],
        *,
        mode: str = "explicit",
        shift: int = 0,
    ):
        if not clips or not carriers:
            raise InputError("pretraining: expected at least one clip and one carrier, got none.")
        if mode == "implicit":
            raise InputError("mode: expected explicit, zero-ref or tgt-ref for many clips, got implicit.")
        self._backbone, self._clips, self._carriers = backbone, list(clips), list(carriers)
        self._kinds, self._shift = MODES[mode], shift
        self._size: tuple[int, ...] | None = None

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> TrainingPair:
        """See `PairSource.draw`. Raises: ShapeError when a clip is of another size than the first one drawn."""

        def pick(values: Sequence[Any]) -> Any:
            return values[int(torch.randint(len(values), (), generator=generator))]

        clip, carrier = pick(self._clips), pick(self._carriers)
        picture = clip.read(pick(clip.numbers), carrier)
        carried = picture.carried
        if carried is None:
            carried = simulate_wear(picture.truth, picture.frame, generator)
        sources = {"zero": carried, "frame": picture.frame, "target": picture.truth}
        stack = torch.stack([sources[name] for name in (*self._kinds, "target")])
        if self._size not in (None, stack.shape[1:]):
            raise ShapeError(f"pretraining: expected clips of one size, got {self._size} and {tuple(stack.shape[1:])}.")
        self._size = tuple(stack.shape[1:])
        if bool(torch.rand((), generator=generator) < 0.5):
            stack = stack.flip(-1)
        y, x = torch.randint(-self._shift, self._shift + 1, (2,), generator=generator).tolist()
        if (y, x) != (0, 0):
            stack = move(stack.flatten(0, 1), (y, x)).view_as(stack)
        *conditions, target = self._backbone.encode(stack).cpu().split(1)
        return TrainingPair(tuple(conditions), target)
