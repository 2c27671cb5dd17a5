"""What the change of a colour is, learned from the places of a frame that are trusted, for those that are not.

A kernel regression over colours, on a grid of them (as the bilateral grid of Chen et al., "Real-time edge-aware image
processing with the bilateral grid", SIGGRAPH 2007, without its places): what moved into view, or was mistaken for what
moved away, takes the change of what looks like it anywhere in the frame. Where one colour changes in several ways (grey
that is to get colours), the variance says so.
"""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F

from ..checks import check_shape

BINS = 16  # of each channel
_FAINT = 1e-2  # say of colours three bins away, where there is none nearer
_ENOUGH = 2.0  # trusted pixels of a colour from which it is known by half


def colour_regression(
    field: torch.Tensor, frame: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The mean of a field over places of nearly one colour, for every place.

    Args: field: (C, H, W), any range; frame: (3, H, W) in [0, 1]; weight: (H, W), from 0 up.
    Returns: mean (C, H, W); variance, summed over the channels, (H, W); how well the colour is known (H, W) in [0, 1].
    Raises: ShapeError.
    """
    check_shape("field", field, ("C", *weight.shape))
    check_shape("frame", frame, (3, *weight.shape))
    values = torch.cat([weight[None], weight * field, weight * field.square().sum(0, keepdim=True)]).flatten(1)
    corners = _corners(frame)
    grid = values.new_zeros(len(values), BINS**3)
    for places, share in corners:
        grid.index_add_(1, places, values * share)
    grid = _spread(grid.view(1, len(values), BINS, BINS, BINS)).view(len(values), -1)
    sums = torch.stack([grid[:, places] * share for places, share in corners]).sum(0)
    mean = sums[1:-1] / sums[0].clamp_min(1e-6)
    variance = (sums[-1] / sums[0].clamp_min(1e-6) - mean.square().sum(0)).clamp_min(0)
    known = sums[0] / (sums[0] + _ENOUGH)
    return mean.view_as(field), variance.view_as(weight), known.view_as(weight)


def _corners(frame: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The eight grid places around each pixel's colour, and their shares of it, (H * W) each."""
    place = frame.flatten(1).clamp(0, 1) * (BINS - 1)
    low = place.floor().clamp_max(BINS - 2)
    part, whole = place - low, low.long()
    corners = []
    for offsets in product((0, 1), repeat=3):
        share = torch.ones_like(part[0])
        index = torch.zeros_like(whole[0])
        for channel, offset in enumerate(offsets):
            share = share * (part[channel] if offset else 1 - part[channel])
            index = index * BINS + whole[channel] + offset
        corners.append((index, share))
    return corners


def _spread(grid: torch.Tensor) -> torch.Tensor:
    """A grid smoothed over neighbouring colours, and faintly over those farther away."""
    near = _blur(grid)
    return near + _FAINT * _blur(_blur(_blur(near)))


def _blur(grid: torch.Tensor) -> torch.Tensor:
    """(1, 2, 1) / 4 along each colour."""
    for axis in (2, 3, 4):
        padding = [0] * 6
        padding[2 * (4 - axis) : 2 * (4 - axis) + 2] = (1, 1)
        wide, count = F.pad(grid, padding), grid.shape[axis]
        sides = wide.narrow(axis, 0, count) + wide.narrow(axis, 2, count)
        grid = 0.25 * sides + 0.5 * grid
    return grid
