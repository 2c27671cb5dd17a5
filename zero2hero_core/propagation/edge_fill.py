"""Fields of a frame made smooth along its edges, and filled where they are not to be trusted.

A guided filter (He et al., "Guided Image Filtering", TPAMI 2013, eq. 5 to 8) with a weight for every place: around each
place the field is fitted as a linear function of the frame's colours, places of weight 0 have no say, and the fits that
cover a place are averaged. What comes into view thus takes the field of what looks like it
nearby. Differs: the fit is weighted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ..checks import check_shape


def box_mean(values: torch.Tensor, radius: int) -> torch.Tensor:
    """Mean over the (2 radius + 1)^2 pixels around each place; fewer at the border. (C, H, W) -> (C, H, W)."""
    if radius < 1:
        return values
    side = 2 * radius + 1
    rows = F.avg_pool2d(values[None], (side, 1), 1, (radius, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, side), 1, (0, radius), count_include_pad=False)[0]


def fit_along_edges(
    field: torch.Tensor, guide: torch.Tensor, weight: torch.Tensor, radius: int, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The linear functions of the guide's colours that fit a field best around each place, by weighted least squares.

    Source: He et al., TPAMI 2013, eq. 19 to 21 (colour guide).   Differs: every place has a weight.
    Args:
        field: (C, H, W), any range.
        guide: (3, H, W) in [0, 1].
        weight: (H, W), at least 0; where it is 0 all over a neighbourhood, the fit is 0.
        radius: half side of a neighbourhood, pixels.
        epsilon: variance of the guide below which it is held to be flat.
    Returns: slope (C, 3, H, W) and offset (C, H, W), for `apply_fit`.
    Raises: ShapeError.
    """
    check_shape("field", field, ("C", "H", "W"))
    check_shape("guide", guide, (3, *field.shape[1:]))
    check_shape("weight", weight, field.shape[1:])
    count = len(field)
    flat = torch.cat([weight[None], weight * guide, weight * field])
    pairs = weight * (guide[:, None] * guide[None]).flatten(0, 1)[[0, 1, 2, 4, 5, 8]]
    mixed = weight * (field[:, None] * guide[None]).flatten(0, 1)
    means = box_mean(torch.cat([flat, pairs, mixed]), radius)
    means = means / means[:1].clamp_min(1e-6)
    mean_guide, mean_field = means[1:4], means[4 : 4 + count]
    second, cross = means[4 + count : 10 + count], means[10 + count :].view(count, 3, *field.shape[1:])
    cross = cross - mean_field[:, None] * mean_guide[None]
    slope = _solve(second, mean_guide, cross, epsilon)
    offset = mean_field - (slope * mean_guide).sum(1)
    fits = torch.cat([slope.flatten(0, 1), offset])
    fits = box_mean(fits, radius)
    return fits[: 3 * count].view_as(slope), fits[3 * count :]


def apply_fit(slope: torch.Tensor, offset: torch.Tensor, guide: torch.Tensor) -> torch.Tensor:
    """slope (C, 3, H, W) times guide (3, H, W) plus offset (C, H, W)."""
    return torch.einsum("cghw,ghw->chw", slope, guide) + offset


def coarse_fit_along_edges(
    field: torch.Tensor,
    guide: torch.Tensor,
    weight: torch.Tensor,
    radius: int,
    epsilon: float,
    size_hw: tuple[int, int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same found at a smaller size, where `radius` counts, and brought back to the field's (bilinear).

    Source: He and Sun, "Fast Guided Filter", arXiv 1505.00996.   Differs: shrinking is weighted as well.
    Args and errors: those of `fit_along_edges`; size_hw: the smaller size.
    """
    coarse = F.adaptive_avg_pool2d(torch.cat([weight[None], weight * guide, weight * field])[None], size_hw)[0]
    parts = coarse[1:] / coarse[:1].clamp_min(1e-6)
    slope, offset = fit_along_edges(parts[3:], parts[:3], coarse[0], radius, epsilon)
    fits = enlarge(torch.cat([slope.flatten(0, 1), offset]), guide.shape[1:])
    count = len(offset)
    return fits[: 3 * count].view(count, 3, *guide.shape[1:]), fits[3 * count :]


def enlarge(values: torch.Tensor, size_hw: Sequence[int]) -> torch.Tensor:
    """(C, H, W) at another size, bilinear, half-pixel centres."""
    if values.shape[1:] == torch.Size(size_hw):
        return values
    return F.interpolate(values[None], tuple(size_hw), mode="bilinear", align_corners=False)[0]


def _solve(second: torch.Tensor, mean: torch.Tensor, cross: torch.Tensor, epsilon: float) -> torch.Tensor:
    """(covariance + epsilon)^-1 times cross, by cofactors. second: the six second moments; cross: (C, 3, H, W)."""
    r, g, b = mean
    rr, rg, rb = second[0] - r * r + epsilon, second[1] - r * g, second[2] - r * b
    gg, gb, bb = second[3] - g * g + epsilon, second[4] - g * b, second[5] - b * b + epsilon
    one, two, three = gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg
    four, five, six = rr * bb - rb * rb, rg * rb - rr * gb, rr * gg - rg * rg
    inverse = torch.stack([one, two, three, two, four, five, three, five, six]).view(3, 3, *mean.shape[1:])
    determinant = rr * one + rg * two + rb * three
    return torch.einsum("cghw,gkhw->ckhw", cross, inverse).div(determinant.clamp_min(0.1 * epsilon**3))
