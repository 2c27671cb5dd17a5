"""Where a clip cuts from one shot to another, told apart from fast motion and from flashes.

Two frames belong to one shot as long as one of them, moved along the optical flow, still explains the other. What fast
motion leaves unexplained is tried again after the whole picture was shifted by the best match of both. A flash, or any
disturbance of a few frames, is no cut: the frames on its two sides explain each other. A slow dissolve is none either.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import pairwise

import torch
import torch.nn.functional as F

from ..flow.occlusion import agreement
from ..flow.warp import SMALLEST_SIDE, FlowFunction, warp_backward
from ..luma import luma_of

UNEXPLAINED = (
    0.55  # of a frame's detail; neighbours in footage stay below 0.15, first frames of another shot above 0.65
)
_OPEN = 0.85  # share of pixels whose flow and flow back disagree, at a cut
_ABOVE = 0.2  # what the neighbours leave unexplained is so much less, at a cut: not so in noise or confetti
_AROUND = 5  # neighbours on each side that count for this
_DISTURBANCE = 3  # frames that a flash may last
_WINDOW = 9  # pixels, of the windows that detail is compared in
_FLAT = 1e-4  # variance of brightness below which there is no detail
_OVERLAP = 0.3  # share of the picture that a shift must leave


def unexplained(frame: torch.Tensor, other: torch.Tensor, flow: torch.Tensor) -> float:
    """Share of a frame's detail that the other one does not show at the places that the flow points to: 1 - the mean
    correlation of their brightness in windows of 9 x 9 pixels, weighted by the frame's contrast. Does not depend on
    gain and offset, so a change of light counts little.

    Args: frame, other: (3, H, W) in [0, 1]; flow: (H, W, 2) from the frame to the other one.
    Returns: 0 (all explained) to 2.
    """
    there, here = warp_backward(luma_of(other)[None], flow)[0], luma_of(frame)
    values = torch.stack([here, there, here * here, there * there, here * there])[:, None]
    side = min(_WINDOW, *frame.shape[-2:])
    mean, other_mean, square, other_square, product = F.avg_pool2d(values, side, max(1, side // 2))[:, 0]
    variance, other_variance = (square - mean**2).clamp_min(0), (other_square - other_mean**2).clamp_min(0)
    shared = product - mean * other_mean
    alike = (shared + _FLAT) / ((variance + _FLAT) * (other_variance + _FLAT)).sqrt()
    weight = (variance + _FLAT).sqrt()
    return 1 - float((alike * weight).sum() / weight.sum())


def pair_unexplained(frame: torch.Tensor, other: torch.Tensor, there: torch.Tensor, back: torch.Tensor) -> float:
    """`unexplained` in the mean of both ways. Args: there, back: (H, W, 2), the flows from frame to other, and back."""
    return (unexplained(frame, other, there) + unexplained(other, frame, back)) / 2


class CutFinder:
    """Finds cuts while the frames go by; some small frames are kept.

    Args: flow: for pairs that are not neighbours, at the size of the frames.
    """

    def __init__(self, flow: FlowFunction) -> None:
        self._flow = flow
        self._recent: deque[torch.Tensor] = deque(maxlen=_DISTURBANCE + 1)
        self._open: list[int] = []
        self._candidates: list[int] = []
        self.unexplained: list[float] = []  # of each frame by the one before; 0 for frame 0

    def add(self, frame: torch.Tensor, there: torch.Tensor | None = None, back: torch.Tensor | None = None) -> None:
        """The next frame (3, h, w), and the flows (h, w, 2) from the one before to it and back; none for the first."""
        number = len(self.unexplained)
        value = 0.0
        if there is not None and back is not None:
            before = self._recent[-1]
            value = pair_unexplained(before, frame, there, back)
            if value > UNEXPLAINED and _disagreement(there, back) > _OPEN:
                value = min(value, self._after_shift(before, frame))
                if value > UNEXPLAINED:
                    self._open.append(number)
        self.unexplained.append(value)
        self._settle(frame, number)
        self._recent.append(frame)

    def _settle(self, frame: torch.Tensor, number: int) -> None:
        """Drop open candidates that this frame reaches across, confirm those that no later frame can."""
        for first in list(self._open):
            oldest = number - len(self._recent)
            reach = range(max(oldest, 0), first - (number == first))  # not the pair that is suspected
            if any(self._explain(self._recent[place - oldest], frame) for place in reach):
                self._open.remove(first)
            elif number - first >= _DISTURBANCE:
                self._open.remove(first)
                self._candidates.append(first)

    def _explain(self, frame: torch.Tensor, other: torch.Tensor) -> bool:
        there, back = self._flow(frame, other), self._flow(other, frame)
        if pair_unexplained(frame, other, there, back) <= UNEXPLAINED:
            return True
        return self._after_shift(frame, other) <= UNEXPLAINED

    def _after_shift(self, frame: torch.Tensor, other: torch.Tensor) -> float:
        """What is unexplained where both overlap after one is shifted by their best match; 2 where they hardly do."""
        dx, dy = best_shift(frame, other)
        height, width = frame.shape[-2:]
        rows, columns = height - abs(dy), width - abs(dx)
        if rows * columns < _OVERLAP * height * width or min(rows, columns) < SMALLEST_SIDE:
            return 2.0
        one = frame[:, max(0, -dy) : height - max(0, dy), max(0, -dx) : width - max(0, dx)].contiguous()
        two = other[:, max(0, dy) : height - max(0, -dy), max(0, dx) : width - max(0, -dx)].contiguous()
        return pair_unexplained(one, two, self._flow(one, two), self._flow(two, one))

    def cuts(self) -> tuple[int, ...]:
        """The first frame of every shot but the first, by what came so far."""
        return tuple(number for number in sorted(self._candidates + self._open) if self._stands_out(number))

    def _stands_out(self, number: int) -> bool:
        sides = (range(number - _AROUND, number), range(number + 1, number + _AROUND + 1))
        around = [self.unexplained[i] for side in sides for i in side if 1 <= i < len(self.unexplained)]
        return not around or self.unexplained[number] > _median(around) + _ABOVE


def best_shift(frame: torch.Tensor, other: torch.Tensor) -> tuple[int, int]:
    """(dx, dy) in whole pixels: what the frame shows at (x, y), the other one shows at (x + dx, y + dy), if the whole
    picture moves. By phase correlation of their brightness (Kuglin and Hines 1975). Args: (3, H, W) twice."""
    height, width = frame.shape[-2:]
    window = torch.hann_window(height)[:, None] * torch.hann_window(width)
    one, two = (torch.fft.rfft2((luma - luma.mean()) * window) for luma in (luma_of(frame), luma_of(other)))
    cross = two * one.conj()
    peak = int(torch.fft.irfft2(cross / cross.abs().clamp_min(1e-9), (height, width)).argmax())
    dy, dx = divmod(peak, width)
    return dx - width * (dx > width // 2), dy - height * (dy > height // 2)


def shots_of(cuts: Iterable[int], count: int) -> list[range]:
    """The frames of each shot of a clip of `count` frames; `cuts` are the first frames of all shots but the first."""
    edges = [0, *sorted(cuts), count]
    return [range(start, stop) for start, stop in pairwise(edges)]


def _disagreement(there: torch.Tensor, back: torch.Tensor) -> float:
    agree = (agreement(there, back) >= 0.5).float().mean() + (agreement(back, there) >= 0.5).float().mean()
    return 1 - float(agree) / 2


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
