"""Measures of a clip over time: flicker, warp error along the motion of the original, and tOF.

All of them give one value for each pair of successive frames: pair i is frame i and frame i + 1. Flows are (H, W, 2),
(dx, dy) in pixels: what frame i shows at (x, y), frame i + 1 shows at (x + dx, y + dy); pixel centres lie on whole
numbers, as in `flow/warp.py`. The default flow is OpenCV's DIS; any other
function of two pictures (3, H, W) can be passed. Values of two flow methods are not comparable with each other.
"""

from __future__ import annotations

import torch

from ..checks import ShapeError
from ..flow.clip import ClipFlows, clip_flows, forward_flows
from ..flow.dis import dis_flow
from ..flow.occlusion import visible_pixels
from ..flow.warp import FlowFunction, warp_backward
from .ssim import check_pair, weighted_mean


def warp_error(
    pictures: torch.Tensor,
    original: torch.Tensor | ClipFlows,
    mask: torch.Tensor | None = None,
    *,
    flow: FlowFunction = dis_flow,
) -> torch.Tensor:
    """How far each frame is from the next one, read along the motion of the original clip: mean squared difference over
    the channels and over the pixels that both frames show.

    E_i = sum(M_i |V_i - V_(i+1)(x + w_i(x))|^2) / (3 sum(M_i)), M_i from `visible_pixels`. By hand: without motion,
    frames of 0.5 and 0.7 give 0.04.

    Source: the warping error of Lai et al. 2018, "Learning blind video temporal consistency" (arXiv 1808.00449), with
    the mean over channels of their code; there the flow is FlowNet2's and a clip's value is the mean over its pairs.
    Differs: a pair without a visible pixel is nan, not 0.
    Args:
        pictures: the result, (N, 3, H, W) in [0, 1], N from 2 up.
        original: the clip whose motion counts, (N, 3, H, W), or its flows, found once.
        mask: (N, 1, H, W) in [0, 1], weight of each pixel of the earlier frame.
        flow: how flows are found when `original` is a clip.
    Returns: (N - 1,) from 0 (steady) to 1; nan where no pixel counts.
    Raises: ShapeError; InputError when there are too few frames, or the flow's own.
    """
    if isinstance(original, torch.Tensor):
        check_pair(pictures, original, mask, other="original", frames=2)
        original = clip_flows(original, flow=flow)
    check_pair(pictures, mask=mask, frames=2)
    _check_flows("original", original, pictures)
    values = []
    for index, (there, back) in enumerate(zip(original.forward, original.backward, strict=True)):
        weight = visible_pixels(there, back).to(pictures.device)[None, None].float()
        if mask is not None:
            weight = weight * mask[index : index + 1].float()
        warp = warp_backward(pictures[index + 1].float(), there)
        values.append(weighted_mean((pictures[index].float() - warp)[None] ** 2, weight))
    return torch.cat(values)


def tof(
    pictures: torch.Tensor,
    truth: torch.Tensor | ClipFlows,
    mask: torch.Tensor | None = None,
    *,
    flow: FlowFunction = dis_flow,
) -> torch.Tensor:
    """tOF, the difference of motion: mean distance between the flow found on the result and that on the truth, pixels.

    By hand: (3, 4) everywhere against no motion gives 5.

    Source: Chu et al. 2020, "Learning temporal coherence via self-supervision for GAN-based video generation" (TecoGAN,
    arXiv 1811.09393). The paper writes an L1 norm; its code, which made its figures, takes the Euclidean
    length of each pixel's difference and the mean over pixels, as done here. Differs: their flow is Farneback's, and
    they cut the border.
    Args:
        pictures, truth: (N, 3, H, W) in [0, 1], N from 2 up; the flows of the truth, found once, may stand for it.
        mask: (N, 1, H, W) in [0, 1], weight of each pixel of the earlier frame.
        flow: (source, target) -> (H, W, 2).
    Returns: (N - 1,) from 0 up, pixels; nan where the mask is empty.
    Raises: ShapeError; InputError when there are too few frames, or the flow's own.
    """
    if isinstance(truth, torch.Tensor):
        check_pair(pictures, truth, mask, frames=2)
        true = forward_flows(truth, flow)
    else:
        check_pair(pictures, mask=mask, frames=2)
        _check_flows("truth", truth, pictures)
        true = truth.forward
    distance = (forward_flows(pictures, flow) - true).norm(dim=-1)[:, None]
    return weighted_mean(distance, None if mask is None else mask[:-1])


def flicker_excess(pictures: torch.Tensor, other: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """How much more each pixel changes than it does in the truth or in the original clip: mean of
    max(0, |change in pictures| - |change in other|) over pixels and channels.

    What moves in both clips does not count, and a stiller place cannot make up for a flickering one. By hand: changes
    of 0.3 and 0.1 where the other clip's are 0.1 and 0.3 give 0.1. With a still `other`, 1 - the mean of it is the
    temporal flickering of VBench (Huang et al. 2024, arXiv 2311.17982).

    Args:
        pictures, other: (N, 3, H, W) in [0, 1], N from 2 up.
        mask: (N, 1, H, W) in [0, 1]; a pixel's weight is the product of both frames' masks.
    Returns: (N - 1,) in [0, 1], 0 where the clips are equal; nan where the masks share no pixel.
    Raises: ShapeError; InputError when there are too few frames.
    """
    check_pair(pictures, other, mask, other="other", frames=2)
    return weighted_mean((_changes(pictures) - _changes(other)).clamp_min(0), _both(mask))


def _changes(pictures: torch.Tensor) -> torch.Tensor:
    return (pictures[1:].float() - pictures[:-1].float()).abs()


def _both(mask: torch.Tensor | None) -> torch.Tensor | None:
    return None if mask is None else mask[1:] * mask[:-1]


def _check_flows(name: str, flows: ClipFlows, pictures: torch.Tensor) -> None:
    shape = (len(pictures) - 1, *pictures.shape[-2:], 2)
    if tuple(flows.forward.shape) != shape:
        raise ShapeError(
            f"{name}: expected flows {shape} for these pictures, got {tuple(flows.forward.shape)}; "
            "find them on frames of the same number and size."
        )
