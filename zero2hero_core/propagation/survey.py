"""One look at a clip, frame by frame: how much neighbours differ, where it cuts, and its motion at a small size.

What stays of a frame of 16 : 9 is 0.23 MB at the usual size of 128 pixels on the shorter side. Long clips are looked at
smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..checks import InputError, ShapeError
from ..flow.clip import ClipFlows, checked_flow
from ..flow.dis import dis_flow
from ..flow.scaled import scale_flow
from ..flow.warp import SMALLEST_SIDE, FlowFunction, check_flow_picture
from ..video.resize import resize_frames, target_size
from .cuts import CutFinder, shots_of

SHORT_SIDE = 128  # of the frames that motion is found on
DIFFERENCE_SIDE = 512  # of the frames that are compared as they are
_LEAST_SIDE = 64
_MOST_BYTES = 400_000_000  # of all flows that are kept, as far as the least side allows
_BLUR_SIDE, _BLUR_SIGMA = 9, 1.7


def uncounted() -> None:
    """For steps that nobody counts."""


@dataclass(frozen=True)
class Survey:
    """What one look at a clip of N frames leaves.

    differences: mean squared difference of each frame to the one before, 0 for frame 0 (see `frame_difference`).
    unexplained: share of each frame that the one before does not explain, 0 for frame 0 (see `cuts`). cuts: the first
    frame of every shot but the first. size_hw: (h, w) that motion was found at. forward, backward: the flows between
    neighbours, N - 1 of (h, w, 2) in pixels of that size, half precision.
    """

    differences: tuple[float, ...]
    unexplained: tuple[float, ...]
    cuts: tuple[int, ...]
    size_hw: tuple[int, int]
    forward: tuple[torch.Tensor, ...]
    backward: tuple[torch.Tensor, ...]

    def __len__(self) -> int:
        return len(self.differences)

    @property
    def shots(self) -> list[range]:
        """The frames of each shot."""
        return shots_of(self.cuts, len(self))


def survey_clip(
    frames: Iterable[torch.Tensor],
    count: int,
    *,
    flow: FlowFunction = dis_flow,
    flows: ClipFlows | None = None,
    step: Callable[[], object] = uncounted,
) -> Survey:
    """Look at each frame of a clip once.

    Args:
        frames: (3, H, W) in [0, 1] each, of one size, at least 16 x 16: a frame source, a tensor (N, 3, H, W), or any.
        count: how many will come; it decides how small they are looked at.
        flow: (source, target) -> (h, w, 2), at the small size.
        flows: the flows of the clip where they are known already, at any size; `flow` is not asked, then, and frames on
            both sides of a flash are compared after a shift of the whole picture only.
        step: called after each frame.
    Raises: ShapeError, InputError: those of the flow; when there is no frame, or `flows` are of another clip.
    """
    finder = CutFinder(flow if flows is None else _no_motion)
    differences: list[float] = []
    forward: list[torch.Tensor] = []
    backward: list[torch.Tensor] = []
    small_before = smooth_before = None
    size_hw = (0, 0)
    for number, frame in enumerate(frames):
        if number == 0:
            check_flow_picture("frames", frame)
            size_hw = small_size((frame.shape[-2], frame.shape[-1]), count)
            if flows is not None:
                _check_flows(flows, count)
        sized = resize_frames(frame[None].float(), target_size((frame.shape[-2], frame.shape[-1]), DIFFERENCE_SIDE, 1))
        small, smooth = resize_frames(sized, size_hw)[0], _smoothed(sized[0])
        if smooth_before is None or small_before is None:
            differences.append(0.0)
            finder.add(small)
        else:
            differences.append(frame_difference(smooth_before, smooth))
            if flows is None:
                there, back = checked_flow(flow, small_before, small), checked_flow(flow, small, small_before)
            else:
                there, back = (
                    scale_flow(ways[number - 1].float(), size_hw) for ways in (flows.forward, flows.backward)
                )
            forward.append(there.half())
            backward.append(back.half())
            finder.add(small, there, back)
        small_before, smooth_before = small, smooth
        step()
    if not differences:
        raise InputError("frames: expected at least one frame, got none.")
    unexplained = tuple(finder.unexplained)
    return Survey(tuple(differences), unexplained, finder.cuts(), size_hw, tuple(forward), tuple(backward))


def find_cuts(
    frames: Iterable[torch.Tensor], *, flow: FlowFunction = dis_flow, step: Callable[[], object] = bool
) -> tuple[int, ...]:
    """The first frame of every shot of a clip but the first, of frames (3, H, W) that go by once; nothing else is kept.

    Args: flow, step: as for `survey_clip`.
    """
    finder, before = CutFinder(flow), None
    for frame in frames:
        small = resize_frames(frame[None].float(), small_size((frame.shape[-2], frame.shape[-1]), 1))[0]
        pair = () if before is None else (checked_flow(flow, before, small), checked_flow(flow, small, before))
        finder.add(small, *pair)
        before = small
        step()
    return finder.cuts()


def frame_difference(smooth: torch.Tensor, other: torch.Tensor) -> float:
    """Mean squared difference of two smoothed frames (3, h, w) in [0, 1], on the scale of [-1, 1] as in FRESCO."""
    return float(4 * (smooth - other).square().mean())


def small_size(size_hw: tuple[int, int], count: int) -> tuple[int, int]:
    """(h, w) that motion is found at: 128 pixels on the shorter side, never more than the frames have; less, down to
    64, where the flows of `count` frames would take too much memory."""
    side = min(SHORT_SIDE, min(size_hw))
    ratio = max(size_hw) / min(size_hw)
    fitting = (_MOST_BYTES / (8 * ratio * max(count, 1))) ** 0.5  # two flows of two halves for each pixel
    side = min(side, max(int(fitting), _LEAST_SIDE, SMALLEST_SIDE))
    height, width = (max(SMALLEST_SIDE, round(length * side / min(size_hw))) for length in size_hw)
    return height, width


def _smoothed(sized: torch.Tensor) -> torch.Tensor:
    """A frame (3, h, w) at a short side of 512, blurred by a Gaussian of 9 x 9 pixels, sigma 1.7.

    Source: the key-frame selection of FRESCO (arXiv 2403.12962).
    """
    places = torch.arange(_BLUR_SIDE) - _BLUR_SIDE // 2
    weights = torch.exp(-(places**2) / (2 * _BLUR_SIGMA**2))
    for dim in (-2, -1):
        sized = _blurred(sized, (weights / weights.sum()).tolist(), dim)
    return sized


def _blurred(picture: torch.Tensor, weights: list[float], dim: int) -> torch.Tensor:
    """A weighted mean along one side, the border reflected; many times faster than a convolution on the CPU."""
    reach, length = len(weights) // 2, picture.shape[dim]
    padding = (reach, reach, 0, 0) if dim == -1 else (0, 0, reach, reach)
    wide = F.pad(picture, padding, mode="reflect")
    total = torch.zeros_like(picture)
    for place, weight in enumerate(weights):
        total.add_(wide.narrow(dim, place, length), alpha=weight)
    return total


def _no_motion(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return torch.zeros(*source.shape[-2:], 2)


def _check_flows(flows: ClipFlows, count: int) -> None:
    if len(flows.forward) != count - 1:
        raise ShapeError(
            f"flows: expected those of {count} frames ({count - 1} pairs), got {len(flows.forward)} pairs; find them "
            "on the same frames."
        )
