"""Which pixels of a frame another frame does not show, read from the flows between the two.

All maps lie in the frame that `flow` starts from: `flow` goes from it to the other frame, `back` from the other frame
to it. A place that the flow moves out of the picture is hidden under every law.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F

from ..checks import InputError, check_shape
from .warp import warp_backward

Law = Literal["unflow", "sundaram"]
PHOTOMETRIC = 0.25  # mean difference over RGB, as a share of the full range, from which a pixel counts as hidden
_SOFT_SIDE, _SOFT_SIGMA = 9, 18.0


def visible_pixels(flow: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
    """Pixels of a frame that the other frame shows too, by the forward-backward check.

    A pixel counts when its flow w and the flow w' that is read where w points close the loop,
    |w + w'|^2 <= 0.01 (|w|^2 + |w'|^2) + 0.5; when w does not jump to the next pixel to the right or below (a motion
    boundary), |grad u|^2 + |grad v|^2 <= 0.01 |w|^2 + 0.002; and when w points inside the picture.

    Source: Sundaram et al. 2010; Ruder et al. 2016, "Artistic style transfer for videos" (arXiv 1604.08610), which Lai
    et al. 2018 use. Differs: their code keeps pixels whose flow leaves the picture if the loop closes at the border.
    Args: flow, back: (H, W, 2) in pixels, from the frame to the other one and from there to the frame.
    Returns: (H, W) bool.
    Raises: ShapeError.
    """
    way_back = _way_back(flow, back)
    length = _square(flow)
    closed = _square(flow + way_back) <= 0.01 * (length + _square(way_back)) + 0.5
    right = F.pad(_square(flow[:, 1:] - flow[:, :-1]), (0, 1))
    below = F.pad(_square(flow[1:] - flow[:-1]), (0, 0, 0, 1))
    smooth = right + below <= 0.01 * length + 0.002
    return closed & smooth & points_inside(flow)


def occlusion_map(
    flow: torch.Tensor,
    back: torch.Tensor,
    *,
    law: Law = "unflow",
    pictures: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Pixels of a frame that the other frame does not show.

    "unflow": the loop of w and the w' that is read where w points stays open, |w + w'| > 0.01 (|w| + |b|) + 0.5, with
    lengths that are not squared and b the flow back at the pixel itself; or w points out of the picture. "sundaram":
    what `visible_pixels` leaves out, which counts motion boundaries as hidden too.

    By hand: a shift to the right by 3 hides the last three columns of the earlier frame.

    Source: Meister et al. 2018, "UnFlow" (arXiv 1711.07837), with lengths for squared lengths as Rerender-A-Video and
    FRESCO take them. Differs: places outside the picture count as hidden by themselves.
    Args:
        flow, back: (H, W, 2) in pixels, from the frame to the other one and from there to the frame.
        law: "unflow" or "sundaram".
        pictures: the frame and the other one, (3, H, W) in [0, 1]; with them a pixel is hidden too where the mean over
            RGB of |frame - other frame, read along the flow| exceeds a quarter of the range.
    Returns: (H, W) bool.
    Raises: ShapeError; InputError for an unknown law.
    """
    if law not in get_args(Law):
        raise InputError(f"law: expected one of {', '.join(get_args(Law))}, got {law!r}.")
    if law == "sundaram":
        hidden = ~visible_pixels(flow, back)
    else:
        hidden = (_loop_error(flow, back) > _tolerance(flow, back)) | ~points_inside(flow)
    if pictures is None:
        return hidden
    frame, other = pictures
    check_shape("pictures", frame, (3, *flow.shape[:2]))
    check_shape("pictures", other, frame.shape)
    difference = (frame.float() - warp_backward(other.float(), flow.to(other.device))).abs().mean(0)
    return hidden | (difference > PHOTOMETRIC).to(hidden.device)


def agreement(flow: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
    """How far a flow and the flow back agree at each pixel: 1 where the loop closes, falling with the error e relative
    to the tolerance t of the law "unflow", 2^-(e / t)^2; 0 where the flow points out of the picture.

    Meant for chains of flows between a key frame and another frame, whose errors add up. 0.5 is where `occlusion_map`
    draws its line: a pixel is hidden exactly where the agreement is less.

    Args: flow, back: (H, W, 2) in pixels, from the frame to the other one and from there to the frame.
    Returns: (H, W) in [0, 1], floating point.
    Raises: ShapeError.
    """
    ratio = _loop_error(flow, back) / _tolerance(flow, back)
    return torch.exp2(-(ratio**2)) * points_inside(flow)


def points_inside(flow: torch.Tensor) -> torch.Tensor:
    """Pixels whose flow (H, W, 2) points into the picture, the outer half of the border pixels included: (H, W) bool.

    Raises: ShapeError.
    """
    check_shape("flow", flow, ("H", "W", 2))
    height, width = flow.shape[:2]
    x = torch.arange(width, device=flow.device) + flow[..., 0]
    y = torch.arange(height, device=flow.device)[:, None] + flow[..., 1]
    return (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)


def soften(occlusion: torch.Tensor) -> torch.Tensor:
    """An occlusion map with a ramp of about 8 pixels around it: min(1, O + blur(maxpool(O))), both over 9 x 9 pixels,
    the blur with a sigma of 18, which is nearly a plain mean. Every hidden pixel stays 1. The border is repeated.

    Source: the mask that Rerender-A-Video fuses with (arXiv 2306.07954).
    Args: occlusion: (..., H, W), bool or in [0, 1].
    Returns: (..., H, W) in [0, 1], float32 where it was bool.
    Raises: ShapeError.
    """
    hard = _planes(occlusion)
    reach = _SOFT_SIDE // 2
    wide = F.max_pool2d(hard, _SOFT_SIDE, 1, reach)
    places = torch.arange(-reach, reach + 1, dtype=hard.dtype, device=hard.device)
    weights = torch.exp(-(places**2) / (2 * _SOFT_SIGMA**2))
    weights = weights / weights.sum()
    blurred = F.conv2d(F.pad(wide, (reach,) * 4, mode="replicate"), weights[None, None, :, None])
    blurred = F.conv2d(blurred, weights[None, None, None, :])
    return (blurred + hard).clamp_max(1).reshape(occlusion.shape)


def pool_occlusion(occlusion: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    """An occlusion map on a coarser grid: a cell is hidden as far as the most hidden of its pixels is.

    Args: occlusion: (..., H, W), bool or in [0, 1]; size_hw: (h, w) of the grid, at most H and W; where they do not
        divide, cells share pixels.
    Returns: (..., h, w), bool where it was bool.
    Raises: ShapeError; InputError when the grid is finer than the map.
    """
    pixels = _planes(occlusion)
    if not (1 <= size_hw[0] <= pixels.shape[-2] and 1 <= size_hw[1] <= pixels.shape[-1]):
        raise InputError(f"size_hw: expected a grid of at most {tuple(pixels.shape[-2:])}, got {tuple(size_hw)}.")
    cells = F.adaptive_max_pool2d(pixels, size_hw).reshape(*occlusion.shape[:-2], *size_hw)
    return cells > 0 if occlusion.dtype == torch.bool else cells


def _planes(occlusion: torch.Tensor) -> torch.Tensor:
    """(..., H, W) -> (N, 1, H, W), floating point."""
    if occlusion.ndim < 2:
        check_shape("occlusion", occlusion, ("...", "H", "W"))
    values = occlusion if occlusion.is_floating_point() else occlusion.float()
    return values.reshape(-1, 1, *occlusion.shape[-2:])


def _way_back(flow: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
    """The flow back, read where the flow points."""
    check_shape("flow", flow, ("H", "W", 2))
    check_shape("back", back, flow.shape)
    return warp_backward(back.permute(2, 0, 1), flow).permute(1, 2, 0)


def _loop_error(flow: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
    """How far from its start a pixel ends that goes there and back, (H, W) in pixels."""
    error: torch.Tensor = torch.linalg.vector_norm(flow + _way_back(flow, back), dim=-1)
    return error


def _tolerance(flow: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
    """The loop error that the law "unflow" allows, (H, W) in pixels."""
    lengths = (torch.linalg.vector_norm(way, dim=-1) for way in (flow, back))
    return 0.01 * torch.add(*lengths) + 0.5


def _square(vectors: torch.Tensor) -> torch.Tensor:
    return (vectors**2).sum(-1)
