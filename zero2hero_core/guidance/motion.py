"""The motion between the frames of a batch, closed to a circle, at every size at which a guidance needs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..checks import check_images, check_shape
from ..flow.clip import checked_flow
from ..flow.occlusion import occlusion_map, pool_occlusion
from ..flow.steady import steady_flow
from ..flow.warp import FlowFunction


@dataclass(frozen=True)
class BatchMotion:
    """The motion from each of N frames to the next, the last followed by the first.

    frames: (N, 3, h, w) in [0, 1]. forward (N, h, w, 2): where each pixel of frame i lies in frame i + 1; backward (N,
    h, w, 2): where each pixel of frame i + 1 lies in frame i; both in pixels of this size. forward_occlusion (N, h, w)
    bool: pixels of frame i that frame i + 1 does not show; backward_occlusion (N, h, w) bool: pixels of frame i + 1
    that frame i does not show.

    Source: FRESCO (arXiv 2403.12962), whose batches are circles.
    Raises: ShapeError when they do not fit each other.
    """

    frames: torch.Tensor
    forward: torch.Tensor
    backward: torch.Tensor
    forward_occlusion: torch.Tensor
    backward_occlusion: torch.Tensor

    def __post_init__(self) -> None:
        check_images("frames", self.frames)
        count, _, height, width = self.frames.shape
        for name in ("forward", "backward"):
            check_shape(name, getattr(self, name), (count, height, width, 2))
        for name in ("forward_occlusion", "backward_occlusion"):
            check_shape(name, getattr(self, name), (count, height, width))

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width that the motion is given at."""
        return int(self.frames.shape[-2]), int(self.frames.shape[-1])

    def at(self, size_hw: tuple[int, int]) -> BatchMotion:
        """The same motion on a coarser grid: flows scaled to its cells, a cell hidden if any of its pixels is.

        Raises: InputError when the grid is finer than the frames.
        """
        if size_hw == self.size_hw:
            return self
        scale = torch.tensor([size_hw[1] / self.size_hw[1], size_hw[0] / self.size_hw[0]])

        def scaled(flow: torch.Tensor) -> torch.Tensor:
            small = F.interpolate(flow.movedim(-1, 1), size=size_hw, mode="bilinear", align_corners=False)
            return small.movedim(1, -1) * scale.to(flow)

        return BatchMotion(
            F.interpolate(self.frames, size=size_hw, mode="bilinear", align_corners=False),
            scaled(self.forward),
            scaled(self.backward),
            pool_occlusion(self.forward_occlusion, size_hw),
            pool_occlusion(self.backward_occlusion, size_hw),
        )


Known = Callable[[int, int], torch.Tensor | None]


def batch_motion(
    frames: torch.Tensor | Sequence[torch.Tensor],
    *,
    flow: FlowFunction = steady_flow,
    known: Known = lambda source, target: None,
    photometric: bool = True,
) -> BatchMotion:
    """The motion between frames (N, 3, H, W) in [0, 1]; of one frame, none.

    Args: flow: (source, target) -> (H, W, 2), between pictures. known: flow between two rows by their places, where it
    was found already; else None. photometric: a pixel whose colour differs by more than a quarter of the range counts
    as hidden too.
    Raises: ShapeError; those of the flow.
    """
    frames = torch.stack(list(frames))
    check_images("frames", frames)
    count, _, height, width = frames.shape
    forward, backward = torch.zeros(2, count, height, width, 2)
    hidden = torch.zeros(2, count, height, width, dtype=torch.bool)
    for place in range(count if count > 1 else 0):
        after = (place + 1) % count
        one, other = frames[place], frames[after]
        there, back = known(place, after), known(after, place)
        forward[place] = checked_flow(flow, one, other) if there is None else there
        backward[place] = checked_flow(flow, other, one) if back is None else back
        pictures = (one, other) if photometric else None
        hidden[0, place] = occlusion_map(forward[place], backward[place], pictures=pictures)
        hidden[1, place] = occlusion_map(backward[place], forward[place], pictures=pictures and pictures[::-1])
    return BatchMotion(frames, forward, backward, hidden[0], hidden[1])
