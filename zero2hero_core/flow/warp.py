"""Reading pictures along a flow, and joining flows.

Pixel (x, y) has index x to the right and y down, and its centre lies on the index. A flow (H, W, 2) holds (dx, dy) in
pixels: what frame `source` shows at (x, y), frame `target` shows at (x + dx, y + dy). Between pixels all reading is
bilinear; outside the picture its border is repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F

from ..checks import InputError, check_images, check_shape

FlowFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (source, target) -> (H, W, 2)


SMALLEST_SIDE = 16  # below about 12 pixels DIS has no level to start from


def check_flow_pair(source: torch.Tensor, target: torch.Tensor) -> None:
    """Raise what the pictures of a flow function call for.

    Args: source, target: expected (3, H, W) of one size, at least 16 x 16, floating point, finite.
    Raises: ShapeError; InputError when a picture is too small or not finite.
    """
    check_flow_picture("source", source)
    check_shape("target", target, source.shape)
    check_flow_picture("target", target)
    for name, picture in (("source", source), ("target", target)):
        if not bool(torch.isfinite(picture).all()):
            raise InputError(f"{name}: expected finite values in [0, 1], got NaN or infinity.")


def warp_backward(
    values: torch.Tensor, flow: torch.Tensor, *, mode: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
) -> torch.Tensor:
    """Read `values` at the places that the flow points to: out(x) = values(x + flow(x)), border repeated.

    Args: values: (C, H, W), floating point; flow: (H, W, 2) in pixels; mode: bicubic keeps fine detail that bilinear
    reading blurs, and may leave the range of the values; nearest mixes nothing.
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
    samples = F.grid_sample(values[None].to(exact), grid, mode=mode, padding_mode="border", align_corners=False)
    return samples[0].to(values.dtype)


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


def check_flow_picture(name: str, picture: torch.Tensor) -> None:
    """Raise `ShapeError` or `InputError` unless `picture` is (3, H, W), floating point, at least 16 x 16."""
    check_shape(name, picture, (3, "H", "W"))
    check_images(name, picture[None])
    if min(picture.shape[-2:]) < SMALLEST_SIDE:
        raise InputError(
            f"{name}: expected at least {SMALLEST_SIDE} x {SMALLEST_SIDE} pixels for optical flow, "
            f"got {tuple(picture.shape[-2:])} (height, width)."
        )
