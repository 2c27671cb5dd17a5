"""Optical-flow propagation of the reference, a baseline: every frame gets the reference, moved along the flow from that
frame to the anchor.

The flow is any function (source, target) -> flow; `flow_raft.py` has RAFT. The one taken by default needs no model:
OpenCV's dense inverse search (DIS; Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016, arXiv
1603.03590) with its preset MEDIUM: patches of 8 pixels at a stride of 3, 25 descent steps, and 5 rounds of variational
refinement on every level from the coarsest down to half resolution. It needs the package opencv-python-headless (the
extra `bench`), compares brightness only, and runs on the CPU.

Pixel (x, y) has index x to the right and y down, and its centre lies on the index. A flow (H, W, 2) holds (dx, dy) in
pixels: what frame `source` shows at (x, y), frame `target` shows at (x + dx, y + dy). Between pixels all reading is
bilinear; outside the picture its border is repeated. Nothing here knows about occlusion: where a frame shows what the
anchor does not, the result is whatever the flow points at.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from ..checks import InputError, ShapeError, check_images, check_index, check_shape

if TYPE_CHECKING:
    from ..video.source import FrameSource

FlowFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (source, target) -> (H, W, 2)

SMALLEST_SIDE = 16  # below about 12 pixels DIS has no level to start from
_LUMA = (0.299, 0.587, 0.114)


def dis_flow(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Where each pixel of `source` lies in `target`: DIS flow, preset MEDIUM, between their 8-bit luma.

    Source: arXiv 1603.03590, as OpenCV has it.
    Args: source, target: pictures (3, H, W) of one size, at least 16 x 16, in [0, 1] (clipped to it).
    Returns: (H, W, 2), (dx, dy) in pixels, float32, on the CPU.
    Raises: ShapeError; InputError when a picture is too small or not finite, or OpenCV is missing.
    """
    cv2 = _opencv()
    check_flow_pair(source, target)
    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # it keeps buffers: a new one for every pair
    return torch.from_numpy(method.calc(_luma(source), _luma(target), None))


def check_flow_pair(source: torch.Tensor, target: torch.Tensor) -> None:
    """Raise what the pictures of a flow function call for.

    Args: source, target: expected (3, H, W) of one size, at least 16 x 16, floating point, finite.
    Raises: ShapeError; InputError when a picture is too small or not finite.
    """
    _check_picture("source", source)
    check_shape("target", target, source.shape)
    _check_picture("target", target)
    for name, picture in (("source", source), ("target", target)):
        if not bool(torch.isfinite(picture).all()):
            raise InputError(f"{name}: expected finite values in [0, 1], got NaN or infinity.")


def warp_backward(values: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """Read `values` at the places that the flow points to: out(x) = values(x + flow(x)), bilinear, border repeated.

    Args: values: (C, H, W), floating point; flow: (H, W, 2) in pixels.
    Returns: (C, H, W), on the device of `values`.
    Raises: ShapeError when the sizes differ.
    """
    check_shape("values", values, ("C", "H", "W"))
    height, width = values.shape[-2:]
    check_shape("flow", flow, (height, width, 2))
    exact = torch.promote_types(
        values.dtype, torch.float32
    )  # half precision cannot tell places in a wide picture apart
    flow = flow.to(values.device, exact)
    x = torch.arange(width, device=values.device) + flow[..., 0]
    y = torch.arange(height, device=values.device)[:, None] + flow[..., 1]
    # grid_sample counts from -1 to 1 over the outer edges of the border pixels (align_corners=False).
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)[None]
    moved = F.grid_sample(values[None].to(exact), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved[0].to(values.dtype)


def chain_flows(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The flow a -> c from the flows a -> b and b -> c: first(x) + second(x + first(x)).

    Where `first` leaves the picture, the motion at the border of `second` goes on.

    Args: first, second: (H, W, 2) in pixels.
    Returns: (H, W, 2).
    Raises: ShapeError when the sizes differ.
    """
    check_shape("first", first, ("H", "W", 2))
    check_shape("second", second, first.shape)
    return first + warp_backward(second.permute(2, 0, 1), first).permute(1, 2, 0)


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
        _opencv()
    _check_picture("reference", reference)
    anchor_frame = frames[anchor]
    if anchor_frame.shape != reference.shape:
        raise ShapeError(
            f"reference: expected the size of the frames, {tuple(anchor_frame.shape)}, got {tuple(reference.shape)}; "
            "resize it first."
        )
    sides = (range(anchor + 1, len(frames)), range(anchor - 1, -1, -1))
    moved = (_one_side(frames, reference, anchor_frame, side, chained, flow) for side in sides)
    return itertools.chain([(anchor, reference.clone())], *moved)


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
        flow: (source, target) -> (H, W, 2), (dx, dy) in pixels; `dis_flow`, or what `flow_raft.load_raft` gives.
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


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise InputError(
            f"Optical flow needs OpenCV, which cannot be imported here ({error}): pip install zero2hero[bench]"
        ) from error
    return cv2


def _check_picture(name: str, picture: torch.Tensor) -> None:
    check_shape(name, picture, (3, "H", "W"))
    check_images(name, picture[None])
    if min(picture.shape[-2:]) < SMALLEST_SIDE:
        raise InputError(
            f"{name}: expected at least {SMALLEST_SIDE} x {SMALLEST_SIDE} pixels for optical flow, "
            f"got {tuple(picture.shape[-2:])} (height, width)."
        )


def _luma(picture: torch.Tensor) -> Any:
    """(3, H, W) -> array (H, W) uint8."""
    grey = torch.einsum("chw,c->hw", picture.detach().to("cpu", torch.float32).clamp(0, 1), torch.tensor(_LUMA))
    return grey.mul(255).round().to(torch.uint8).contiguous().numpy()
