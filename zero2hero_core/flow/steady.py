"""Optical flow that stands changes of light: DIS twice, on luma and on luma free of light, mixed place by place.

The first is better where light is constant, the second where it is not; which of them is right shows in the colours
that it brings back, which DIS itself does not see. Needs OpenCV; what a flow is: `flow.warp`. The constants were chosen
on rendered validation clips and looked at on real ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ..luma import luma_of
from .dis import opencv
from .warp import check_flow_pair, warp_backward

_SCALE = 32  # light is what changes over more than this share of the short side
_FINEST = 256  # short side, about, at which the flow is refined; more costs four times as much for every doubling
_CONTRAST = 0.02  # below this deviation of luma, of 1, a place is held to be flat
_SURE = 1e-4  # mean squared departure of colours below which two flows are equally good
_SHARPNESS = 3  # power of the departures' ratio by which flows are weighted


def steady_flow(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Where each pixel of `source` lies in `target`, whatever the light does between them.

    Source: arXiv 1603.03590 (DIS), as OpenCV has it. Differs from `dis_flow`: a finer resolution, gradients weigh more
    than brightness, and a second flow between pictures of equal local mean and deviation.
    Args: source, target: pictures (3, H, W) of one size, at least 16 x 16, in [0, 1] (clipped to it).
    Returns: (H, W, 2), (dx, dy) in pixels, float32, on the CPU.
    Raises: ShapeError; InputError when a picture is too small or not finite, or OpenCV is missing.
    """
    cv2 = opencv()
    check_flow_pair(source, target)
    lumas = [_luma(picture) for picture in (source, target)]
    plain = [(luma * 255 + 0.5).astype("uint8") for luma in lumas]
    without_light = [_normalised(cv2, luma) for luma in lumas]
    flows = [_fine_dis(cv2, *pair) for pair in (plain, without_light)]
    return mix_flows(source, target, flows)


def mix_flows(source: torch.Tensor, target: torch.Tensor, flows: Sequence[torch.Tensor]) -> torch.Tensor:
    """The mean of flows, each weighted, place by place, by how well it brings the source's colours back.

    Args: source, target: (3, H, W) in [0, 1]; flows: (H, W, 2) in pixels, each from source to target.
    Returns: (H, W, 2); equal flows are given back up to rounding.
    """
    costs = torch.stack([colour_departure(source, target, flow) for flow in flows])
    weight = (costs.amin(0) + _SURE).div(costs + _SURE) ** _SHARPNESS
    return (weight[..., None] * torch.stack(list(flows))).sum(0) / weight.sum(0)[..., None]


def colour_departure(source: torch.Tensor, target: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """Mean squared difference, around each place, between `source` and `target` read along a flow, after the mean
    difference of a wider neighbourhood, which is light, is taken off.

    Args: source, target: (3, H, W) in [0, 1]; flow: (H, W, 2) in pixels.
    Returns: (H, W), float32, on the CPU.
    """
    cv2 = opencv()
    difference = (source.float() - warp_backward(target.float(), flow)).permute(1, 2, 0).cpu().contiguous().numpy()
    short = min(difference.shape[:2])
    wide, narrow = 2 * max(short // _SCALE, 2) + 1, 2 * max(short // 85, 1) + 1
    detail = difference - cv2.blur(difference, (wide, wide), borderType=cv2.BORDER_REFLECT)
    squares = (detail * detail).mean(-1)
    return torch.from_numpy(cv2.blur(squares, (narrow, narrow), borderType=cv2.BORDER_REFLECT))


def _fine_dis(cv2: Any, source: Any, target: Any) -> torch.Tensor:
    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    method.setFinestScale(max(0, round(math.log2(min(source.shape) / _FINEST))))
    method.setVariationalRefinementGamma(15.0)
    method.setVariationalRefinementDelta(2.0)
    return torch.from_numpy(method.calc(source, target, None))


def _luma(picture: torch.Tensor) -> Any:
    """(3, H, W) -> array (H, W) float32 in [0, 1]."""
    return luma_of(picture.detach().to("cpu", torch.float32).clamp(0, 1)).contiguous().numpy()


def _normalised(cv2: Any, luma: Any) -> Any:
    """Luma (H, W) with equal local mean and deviation everywhere, uint8."""
    sigma = max(min(luma.shape) / _SCALE, 2.0)
    centred = luma - cv2.GaussianBlur(luma, (0, 0), sigma)
    deviation = cv2.sqrt(cv2.GaussianBlur(centred * centred, (0, 0), sigma) + _CONTRAST**2)
    return (128 + 50 * centred / deviation).clip(0, 255).round().astype("uint8")
