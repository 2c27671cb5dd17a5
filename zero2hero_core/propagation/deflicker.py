"""Deflicker: a clip that some tool stylised frame by frame, steadied along the motion of the original clip.

Every frame becomes the weighted mean of all stylised frames within +-`window` of it, each read where the original's
motion says that the same thing is seen there. What the tool drew anew in every frame averages out; what it drew alike
stays. The motion is a chain of flows between neighbours, and each picture is read once, with bicubic weights. A place
counts as far as the chain can be trusted: the flows of each of its steps agree both ways, it stays inside the picture,
and the two originals look alike. Where nothing counts, the frame keeps its own pixel.

A mean of many frames is soft, and light that changes is late in it. The same mean of the *original* frames tells what
was lost: the original's own frame less its mean, times the local gain from original to style, is added back.

Compare FastBlend (arXiv 2311.09265), its blending: the same windowed mean, with patch matches of the originals in the
place of flow. With a window of 7 a frame of 512 x 512 takes less than a second of one CPU core here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..checks import InputError, ShapeError, check_range, setting
from ..flow.dis import dis_flow
from ..flow.occlusion import points_inside
from ..flow.warp import FlowFunction, chain_flows, check_flow_pair, warp_backward

LARGEST_WINDOW = 60
_LOOP = 1.0  # pixels by which the flows of a step may disagree before a place counts half
_LIKENESS = 0.03  # mean difference of the originals at which a place counts half
_GAIN_RADIUS = 4  # pixels
_GAIN_EVEN = 3e-4  # a variance of the original below which its detail counts for little


@dataclass(frozen=True)
class DeflickerSettings:
    """How much is steadied.

    window: frames on each side that take part, 0 to 60. strength: 0 leaves the clip as it is, 1 takes the whole mean.
    Raises: InputError.
    """

    window: int = 7
    strength: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.window, bool) or not isinstance(self.window, int):
            raise InputError(f"{setting('window')}: expected a whole number, got {self.window!r}.")
        check_range(setting("window"), self.window, 0, LARGEST_WINDOW)
        check_range(setting("strength"), self.strength, 0, 1)


@dataclass(frozen=True)
class Step:
    """From one frame to a neighbour: flow (H, W, 2) in pixels, and trust (1, H, W) in [0, 1]."""

    flow: torch.Tensor
    trust: torch.Tensor


class Deflicker:
    """The frames of a stylised clip, steadied; each is asked for by its number.

    What a frame becomes depends on the frames within the window alone, so that any order and any batches give the same
    pictures; in rising order nothing is read or computed twice. At most 2 `window` + 1 frames of both clips and their
    flows are kept: 48 bytes a pixel and frame, 190 MB for a window of 7 at 512 x 512.

    Args:
        original, stylised: number -> picture (3, H, W) in [0, 1], all of one size, at least 16 x 16.
        count: how many frames there are.
        flow: (source, target) -> (H, W, 2).
    """

    def __init__(
        self,
        original: Callable[[int], torch.Tensor],
        stylised: Callable[[int], torch.Tensor],
        count: int,
        settings: DeflickerSettings | None = None,
        *,
        flow: FlowFunction = dis_flow,
    ):
        self._original, self._stylised, self.count = original, stylised, count
        self.settings, self._flow = settings or DeflickerSettings(), flow
        self._pictures: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._steps: dict[int, tuple[Step, Step]] = {}

    def pictures(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Original and stylised frame. Raises: ShapeError when their sizes differ; InputError."""
        if number not in self._pictures:
            original, stylised = self._original(number), self._stylised(number)
            if original.shape != stylised.shape:
                raise ShapeError(
                    f"{setting('stylised')}: expected pictures of the originals' size, {tuple(original.shape)}, got "
                    f"{tuple(stylised.shape)}; resize one."
                )
            self._pictures[number] = original.float(), stylised.float()
        return self._pictures[number]

    def steps(self, number: int) -> tuple[Step, Step]:
        """The motion from frame `number` to the next one, and from the next one to it."""
        if number not in self._steps:
            here, there = self.pictures(number)[0], self.pictures(number + 1)[0]
            check_flow_pair(here, there)
            forward, backward = self._flow(here, there), self._flow(there, here)
            self._steps[number] = (
                Step(forward, step_trust(forward, backward)),
                Step(backward, step_trust(backward, forward)),
            )
        return self._steps[number]

    def frame(self, number: int) -> torch.Tensor:
        """The steadied frame (3, H, W); the stylised frame itself where window or strength is 0."""
        self.forget(number)
        original, own = self.pictures(number)
        if self.settings.strength == 0 or self.settings.window == 0:
            return own
        both = torch.cat([original, own])
        change, weights = torch.zeros_like(both), torch.ones_like(own[:1])
        for direction in (-1, 1):
            for moved, weight in self._neighbours(number, direction):
                change += weight * (moved - both)
                weights += weight
        original_mean, mean = (both + change / weights).split(3)
        steadied = mean + local_gain(original_mean, mean) * (original - original_mean)
        return torch.lerp(own, steadied, self.settings.strength).clamp(0, 1)

    def _neighbours(self, number: int, direction: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Frames on one side, outward, original and stylised (6, H, W), moved to frame `number`; weights (1, H, W)."""
        here = self.pictures(number)[0]
        last = min(max(number + direction * self.settings.window, 0), self.count - 1)
        chain, trust = torch.zeros(*here.shape[-2:], 2), torch.ones_like(here[:1])
        for other in range(number + direction, last + direction, direction):
            step = self.steps(other - 1)[0] if direction > 0 else self.steps(other)[1]
            moved = warp_backward(torch.cat([step.flow.permute(2, 0, 1), step.trust]), chain)
            chain, trust = chain + moved[:2].permute(1, 2, 0), trust * moved[2:]
            both = warp_backward(torch.cat(self.pictures(other)), chain, mode="bicubic")
            difference = _smoothed((both[:3] - here).abs().mean(0, keepdim=True))
            yield both, trust * points_inside(chain)[None] * _half_at(difference, _LIKENESS)

    def forget(self, number: int) -> None:
        """Let go of what the window around this frame does not need."""
        low, high = number - self.settings.window, number + self.settings.window
        for kept in (self._pictures, self._steps):
            for other in [other for other in kept if not low <= other <= high]:
                del kept[other]


def step_trust(flow: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
    """How far a flow can be trusted: 1 / (1 + |w + w'|^2), w' the way back from where w points, in pixels.

    Args: flow, back: (H, W, 2).
    Returns: (1, H, W), 1 where the loop closes.
    """
    return _half_at(chain_flows(flow, back).norm(dim=-1), _LOOP)[None]


def local_gain(guide: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
    """By how much a picture changes where another one changes: the slope a of picture = a guide + b, fitted in windows
    of 9 x 9 pixels and smoothed; 0 where the guide is even.

    Source: He, Sun and Tang 2010, "Guided image filtering" (ECCV), equation 5, for each channel on its own.
    Args: guide, picture: (3, H, W).
    Returns: (3, H, W).
    """
    guide_mean, picture_mean, product, square = (
        _smoothed(values, _GAIN_RADIUS) for values in (guide, picture, guide * picture, guide * guide)
    )
    gain = (product - guide_mean * picture_mean) / ((square - guide_mean**2).clamp_min(0) + _GAIN_EVEN)
    return _smoothed(gain, _GAIN_RADIUS)


def _half_at(values: torch.Tensor, half: float) -> torch.Tensor:
    return 1 / (1 + (values / half) ** 2)


def _smoothed(values: torch.Tensor, radius: int = 2) -> torch.Tensor:
    """Means of squares of 2 `radius` + 1 pixels, border repeated."""
    side = 2 * radius + 1
    padded = F.pad(values[None], (radius,) * 4, mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(padded, (1, side), stride=1), (side, 1), stride=1)[0]
