"""Optical flow found at a smaller size and scaled up: for large frames, where a flow at full size is slow and takes
much memory, and for coarser grids."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..checks import InputError, check_shape
from .clip import checked_flow
from .dis import dis_flow
from .warp import SMALLEST_SIDE, FlowFunction, check_flow_pair

LONGEST_SIDE = 960


def scaled_flow(engine: FlowFunction = dis_flow, *, longest_side: int = LONGEST_SIDE) -> FlowFunction:
    """A flow function that works at a smaller size where pictures are larger than that, and as `engine` where they are
    not.

    Pictures are scaled down by area until their longer side is `longest_side`, no side below 16; the flow that the
    engine finds there is scaled up, bilinear, its lengths with it. Nothing is kept between two calls.

    Args: engine: (source, target) -> (H, W, 2); longest_side: in pixels, from 16 up.
    Returns: (source, target) -> (H, W, 2) for pictures (3, H, W); it raises what the engine raises.
    Raises: InputError when `longest_side` is below 16.
    """
    if longest_side < SMALLEST_SIDE:
        raise InputError(f"longest_side: expected {SMALLEST_SIDE} pixels or more, got {longest_side}.")

    def flow(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        size_hw = source.shape[-2], source.shape[-1]
        working = working_size(size_hw, longest_side)
        if working == size_hw:
            return engine(source, target)
        check_flow_pair(source, target)
        small = (F.interpolate(picture[None].float(), working, mode="area")[0] for picture in (source, target))
        return scale_flow(checked_flow(engine, *small), size_hw)

    return flow


def working_size(size_hw: tuple[int, int], longest_side: int) -> tuple[int, int]:
    """(h, w) of pictures of (H, W) whose longer side is brought down to `longest_side`; no side falls below 16, none
    grows."""
    scale = min(1.0, longest_side / max(size_hw))
    height, width = (min(side, max(SMALLEST_SIDE, round(side * scale))) for side in size_hw)
    return height, width


def scale_flow(flow: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    """A flow for the same pictures at another size: bilinear, half-pixel centres, its lengths multiplied by the scale.

    Args: flow: (H, W, 2) in pixels; size_hw: (h, w).
    Returns: (h, w, 2) in pixels of the new size.
    Raises: ShapeError.
    """
    check_shape("flow", flow, ("H", "W", 2))
    height, width = flow.shape[:2]
    planes = F.interpolate(flow.permute(2, 0, 1)[None], size_hw, mode="bilinear", align_corners=False)[0]
    return planes.permute(1, 2, 0) * flow.new_tensor([size_hw[1] / width, size_hw[0] / height])
