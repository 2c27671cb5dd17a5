"""The motion of a clip: the flows between neighbouring frames, both ways, held all at once or one pair at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from ..checks import InputError, check_images, check_shape
from .dis import dis_flow
from .occlusion import Law, occlusion_map, soften
from .warp import FlowFunction


@dataclass(frozen=True)
class ClipFlows:
    """The motion of a clip of N frames, found once and used for many results.

    `forward` (N - 1, H, W, 2): where each pixel of frame i lies in frame i + 1; `backward` (N - 1, H, W, 2): where each
    pixel of frame i + 1 lies in frame i. Raises ShapeError when they differ in shape.
    """

    forward: torch.Tensor
    backward: torch.Tensor

    def __post_init__(self) -> None:
        check_shape("forward", self.forward, ("N - 1", "H", "W", 2))
        check_shape("backward", self.backward, self.forward.shape)


@dataclass(frozen=True)
class PairFlows:
    """The motion between frame `index` and the next one.

    forward (H, W, 2): where each pixel of frame `index` lies in the next; backward (H, W, 2): where each pixel of the
    next lies in frame `index`. forward_occlusion (H, W) bool: pixels of frame `index` that the next does not show;
    backward_occlusion (H, W) bool: pixels of the next that frame `index` does not show.
    """

    index: int
    forward: torch.Tensor
    backward: torch.Tensor
    forward_occlusion: torch.Tensor
    backward_occlusion: torch.Tensor

    @property
    def forward_soft(self) -> torch.Tensor:
        """`forward_occlusion` with a ramp around it, (H, W) in [0, 1]; see `occlusion.soften`."""
        return soften(self.forward_occlusion)

    @property
    def backward_soft(self) -> torch.Tensor:
        """`backward_occlusion` with a ramp around it, (H, W) in [0, 1]."""
        return soften(self.backward_occlusion)


def clip_flows(frames: torch.Tensor, *, flow: FlowFunction = dis_flow) -> ClipFlows:
    """The flows between all successive frames, both ways.

    Args: frames: (N, 3, H, W) in [0, 1], N from 2 up; flow: (source, target) -> (H, W, 2).
    Raises: ShapeError; InputError when there are too few frames, or the flow's own.
    """
    check_images("pictures", frames)
    if len(frames) < 2:
        raise InputError(f"pictures: expected a clip of at least 2 frames, got {len(frames)}.")
    backward = torch.stack([checked_flow(flow, frames[i + 1], frames[i]) for i in range(len(frames) - 1)])
    return ClipFlows(forward_flows(frames, flow), backward)


def forward_flows(frames: torch.Tensor, flow: FlowFunction) -> torch.Tensor:
    """Where each pixel of a frame lies in the next one: (N, 3, H, W) -> (N - 1, H, W, 2). Raises: the flow's own."""
    return torch.stack([checked_flow(flow, frames[i], frames[i + 1]) for i in range(len(frames) - 1)])


def checked_flow(flow: FlowFunction, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The flow between two pictures (3, H, W): (H, W, 2). Raises: InputError when the function gives another shape."""
    motion = flow(source, target)
    if tuple(motion.shape) != (*source.shape[-2:], 2):
        raise InputError(
            f"flow: expected a function that gives {(*source.shape[-2:], 2)} (H, W, 2), got {tuple(motion.shape)}."
        )
    return motion


def neighbour_flows(
    frames: Iterable[torch.Tensor],
    *,
    flow: FlowFunction = dis_flow,
    law: Law = "unflow",
    photometric: bool = False,
) -> Iterator[PairFlows]:
    """Yield the flows and occlusions of each pair of neighbouring frames, in order; two frames and one pair are kept.

    Args:
        frames: a frame source, a tensor (N, 3, H, W), or any frames (3, H, W) in [0, 1]; of one frame nothing comes.
        flow: (source, target) -> (H, W, 2): `dis_flow`, what `load_raft` or `scaled_flow` gives, or any other.
        law, photometric: see `occlusion_map`; photometric compares the pictures too.
    Raises: ShapeError, InputError: those of `occlusion_map` and of the flow.
    """
    before: torch.Tensor | None = None
    for index, frame in enumerate(frames):
        if before is not None:
            there, back = checked_flow(flow, before, frame), checked_flow(flow, frame, before)
            yield PairFlows(
                index - 1,
                there,
                back,
                occlusion_map(there, back, law=law, pictures=(before, frame) if photometric else None),
                occlusion_map(back, there, law=law, pictures=(frame, before) if photometric else None),
            )
        before = frame
