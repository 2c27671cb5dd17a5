"""The reference carried along the optical flow, a baseline: every frame gets the reference, moved along the flow from
that frame to the anchor.

Nothing here knows about occlusion: where a frame shows what the anchor does not, the result is whatever the flow points
at.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch

from ..checks import ShapeError, check_images, check_index
from ..flow.dis import dis_flow, opencv
from ..flow.warp import FlowFunction, chain_flows, check_flow_picture, warp_backward

if TYPE_CHECKING:
    from ..video.source import FrameSource


def propagate_frames(
    frames: FrameSource | torch.Tensor,
    reference: torch.Tensor,
    anchor: int,
    *,
    chained: bool,
    flow: FlowFunction = dis_flow,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield (index, the reference moved to frame `index`), the anchor first, then outward: up to the last frame, then
    down to frame 0. From one frame to the next only the anchor, the neighbour and one flow are kept.

    Args and errors: those of `propagate_reference`; arguments are checked before the first frame is asked for.
    """
    check_index("anchor", anchor, len(frames))
    if isinstance(frames, torch.Tensor):
        check_images("frames", frames)
    if flow is dis_flow:
        opencv()
    check_flow_picture("reference", reference)
    anchor_frame = frames[anchor]
    if anchor_frame.shape != reference.shape:
        raise ShapeError(
            f"reference: expected the size of the frames, {tuple(anchor_frame.shape)}, got {tuple(reference.shape)}; "
            "resize it first."
        )
    sides = (range(anchor + 1, len(frames)), range(anchor - 1, -1, -1))
    parts = (_one_side(frames, reference, anchor_frame, side, chained, flow) for side in sides)
    return itertools.chain([(anchor, reference.clone())], *parts)


def propagate_reference(
    frames: FrameSource | torch.Tensor,
    reference: torch.Tensor,
    anchor: int,
    *,
    chained: bool,
    flow: FlowFunction = dis_flow,
) -> torch.Tensor:
    """Every frame as the reference, moved along the flow from the frame to the anchor; the anchor gets the reference
    itself.

    Args:
        frames: the original clip, (N, 3, H, W) in [0, 1] or a frame source, at least 16 x 16 pixels.
        reference: the edited anchor, (3, H, W) in [0, 1].
        anchor: index of the frame that was edited, from 0.
        chained: False takes the flow between the frame and the anchor; True adds up the flows between neighbouring
            frames, outward from the anchor on both sides, which follows motion that is too large to be found at once
            but gathers small errors.
        flow: (source, target) -> (H, W, 2), (dx, dy) in pixels; `dis_flow`, or what `flow.raft.load_raft` gives.
    Returns: (N, 3, H, W), type and device of `reference`. Nothing else grows with N; `propagate_frames` gives the same
    one by one.
    Raises: ShapeError; InputError when the anchor is outside the clip, frames are too small, or OpenCV is missing,
    which only `dis_flow` needs; and the flow's own.
    """
    pictures = propagate_frames(frames, reference, anchor, chained=chained, flow=flow)
    result = reference.new_empty((len(frames), *reference.shape))
    for index, picture in pictures:
        result[index] = picture
    return result


def _one_side(
    frames: FrameSource | torch.Tensor,
    reference: torch.Tensor,
    anchor_frame: torch.Tensor,
    indices: Iterable[int],
    chained: bool,
    flow: FlowFunction,
) -> Iterator[tuple[int, torch.Tensor]]:
    previous, total = anchor_frame, None
    for index in indices:
        frame = frames[index]
        step = flow(frame, previous if chained else anchor_frame)
        total = chain_flows(step, total) if chained and total is not None else step
        previous = frame
        yield index, warp_backward(reference, total)
