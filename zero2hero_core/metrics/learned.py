"""Measures on learned features: LPIPS, and VBench's subject consistency and motion smoothness.

Here is the arithmetic only, on features or on a function that interpolates frames; `networks.py` makes them from
weight files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, get_args

import torch
import torch.nn.functional as F

from ..checks import InputError, ShapeError, check_shape
from .ssim import check_pair, weighted_mean

LpipsForm = Literal["standard", "authors"]
SMALLEST_SIDE = 31  # below it AlexNet's pooling has nothing left
_TINY = 1e-10


class LpipsNetwork(Protocol):
    """What LPIPS needs of a network: `features` of pictures and the weight of every channel, layer by layer."""

    weights: Sequence[torch.Tensor]

    def features(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        """(N, 3, H, W), as they are fed, -> for each layer (N, C, h, w)."""
        ...


def lpips_distance(
    features: Sequence[torch.Tensor],
    truth_features: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor],
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """LPIPS from features: sum over layers of the mean over places of sum_c weight_c (a_c - b_c)^2, where a and b are
    the features of a place, scaled to length 1 over the channels.

    By hand: one place, features (1, 0) and (0, 1), weights (2, 3) give 5.

    Source: Zhang et al. 2018, "The unreasonable effectiveness of deep features as a perceptual metric" (arXiv
    1801.03924), eq. 1; version 0.1 of its package.
    Args:
        features, truth_features: for each layer (N, C, h, w), any number of layers of their own sizes.
        weights: for each layer (C,).
        mask: (N, 1, H, W) in [0, 1]; the mean of the pixels of each of the h x w cells is that place's weight. Features
            see past the mask's edge.
    Returns: (N,); 0 where the features are equal, nan where the mask is empty.
    Raises: ShapeError when layers do not fit each other.
    """
    if not len(features) == len(truth_features) == len(weights) > 0:
        raise ShapeError(
            f"lpips_distance: expected as many layers of features, of the truth's and of weights, got {len(features)}, "
            f"{len(truth_features)} and {len(weights)}."
        )
    total = torch.zeros((), device=features[0].device)
    for ours, true, weight in zip(features, truth_features, weights, strict=True):
        check_shape("features", ours, ("N", len(weight), "h", "w"))
        check_shape("truth_features", true, ours.shape)
        squares = (_unit_channels(ours.float()) - _unit_channels(true.float())) ** 2
        difference = torch.einsum("nchw,c->nhw", squares, weight.to(squares))[:, None]
        cells = None if mask is None else F.interpolate(mask.float(), tuple(ours.shape[-2:]), mode="area")
        total = total + weighted_mean(difference, cells)
    return total


@torch.no_grad()
def lpips(
    pictures: torch.Tensor,
    truth: torch.Tensor,
    network: LpipsNetwork,
    mask: torch.Tensor | None = None,
    *,
    form: LpipsForm = "standard",
) -> torch.Tensor:
    """LPIPS of each picture and its truth, the perceptual distance of `lpips_distance` on a network's features.

    Args:
        pictures, truth: (N, 3, H, W) in [0, 1], sides from 31 up, on the device of the network.
        network: from `load_lpips`.
        mask: (N, 1, H, W) in [0, 1], see `lpips_distance`.
        form: "standard" feeds the pictures as [-1, 1], as LPIPS is defined; "authors" feeds them as [0, 1], as the
            authors of arXiv 2505.23134 do: half the contrast, lower values, not comparable with the standard.
    Returns: (N,) from 0 (equal) up, mostly below 1; nan where the mask is empty.
    Raises: ShapeError when shapes differ or a side is too short; InputError for another form.
    """
    if form not in get_args(LpipsForm):
        raise InputError(f"form: expected one of {', '.join(get_args(LpipsForm))}, got {form!r}.")
    check_pair(pictures, truth, mask)
    if min(pictures.shape[-2:]) < SMALLEST_SIDE:
        raise ShapeError(
            f"lpips: expected sides from {SMALLEST_SIDE} pixels up, got {tuple(pictures.shape[-2:])} (height, width); "
            "enlarge the pictures."
        )
    scale, shift = (2.0, -1.0) if form == "standard" else (1.0, 0.0)
    values = []
    for index in range(len(pictures)):
        one = slice(index, index + 1)
        ours, true = (network.features(clip[one].float() * scale + shift) for clip in (pictures, truth))
        values.append(lpips_distance(ours, true, network.weights, None if mask is None else mask[one]))
    return torch.cat(values)


def subject_consistency(features: torch.Tensor) -> torch.Tensor:
    """How much each frame after the first looks like the one before and like the first: half the sum of the cosines of
    their features, each at least 0. VBench's value of a clip is the mean.

    By hand: features (1, 0), (0, 1), (1, 1) give 0 and (0.7071 + 0.7071) / 2.

    Source: VBench (Huang et al. 2024, arXiv 2311.17982), with features of DINO ViT-B/16: `load_dino`.
    Args: features: (N, D) of the frames in order, N from 2 up.
    Returns: (N - 1,) in [0, 1].
    Raises: ShapeError; InputError for a single frame.
    """
    check_shape("features", features, ("N", "D"))
    if len(features) < 2:
        raise InputError(f"features: expected those of at least 2 frames, got {len(features)}.")
    unit = F.normalize(features.float(), dim=-1)
    previous, first = (unit[1:] * unit[:-1]).sum(-1), (unit[1:] * unit[:1]).sum(-1)
    return (previous.clamp(0, 1) + first.clamp(0, 1)) / 2


@torch.no_grad()
def motion_smoothness(
    pictures: torch.Tensor,
    interpolate: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """How well the frames between two others follow from them: 1 - mean absolute difference of frame 1, 3, 5 ... and
    what `interpolate` makes of its neighbours. VBench's value of a clip is the mean.

    By hand: frames of 0, 0.4 and 1 and the mean of two frames as interpolation give 1 - (127 - 102) / 255.

    Source: VBench (Huang et al. 2024, arXiv 2311.17982), with AMT-S as interpolation: `load_amt`. As there, frames are
    rounded to 8 bits and the interpolated ones cut down to 8 bits. Differs: VBench shrinks frames that do not fit the
    graphics memory.
    Args:
        pictures: (N, 3, H, W) in [0, 1], N from 3 up; a last frame that has no right neighbour does not count.
        interpolate: (before, after) -> the frame halfway, all (3, H, W) in [0, 1].
        mask: (N, 1, H, W) in [0, 1], weight of each pixel of the frame between.
    Returns: (K,) in [0, 1], K = (N - 1) // 2, for frames 1, 3, ...; nan where the mask is empty.
    Raises: ShapeError when `interpolate` gives another shape; InputError when there are too few frames.
    """
    check_pair(pictures, mask=mask, frames=3)
    values = []
    for index in range(1, len(pictures) - 1, 2):
        before, frame, after = _eight_bits(pictures[index - 1 : index + 2])
        between = interpolate(before / 255, after / 255)
        check_shape("what interpolate gives", between, frame.shape)
        difference = (frame - (between.float() * 255).clamp(0, 255).floor()).abs()[None]
        values.append(1 - weighted_mean(difference, None if mask is None else mask[index : index + 1]) / 255)
    return torch.cat(values)


def _unit_channels(features: torch.Tensor) -> torch.Tensor:
    length: torch.Tensor = features.norm(dim=1, keepdim=True)
    return features / (length + _TINY)


def _eight_bits(pictures: torch.Tensor) -> torch.Tensor:
    return pictures.float().clamp(0, 1).mul(255).round()
