"""The four steps of the patch search in plain torch, on any device: `engine` of `propagation.patch_match`.

The same whole numbers as `patch_kernels` to the last bit. A candidate gathers only the rows that it needs, one offset
of the patch at a time; nothing is unfolded.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .patch_layout import MASK32, mix


def patch_errors(
    source: torch.Tensor, target: torch.Tensor, x: torch.Tensor, y: torch.Tensor, patch: int
) -> torch.Tensor:
    """Squared difference of every target patch and the source patch at (x, y), both (H, W) -> (H, W) int64."""
    height, width = x.shape
    start = y * source.shape[1] + x
    rows = source.reshape(-1, source.shape[2])
    total = torch.zeros_like(start)
    for dy in range(patch):
        for dx in range(patch):
            there = rows.index_select(0, (start + (dy * source.shape[1] + dx)).flatten()).view(height, width, -1)
            difference = (there - target[dy : dy + height, dx : dx + width]).int()
            total += difference.square_().sum(-1)
    return total


def field_errors(
    source: torch.Tensor, target: torch.Tensor, field: torch.Tensor, mask: torch.Tensor, patch: int
) -> torch.Tensor:
    """The patch error of every place of the field, (H, W) int32; 0 outside the mask."""
    x, y = field.long().unbind(-1)
    return (patch_errors(source, target, x, y, patch) * mask).int()


def occurrence_cost(field: torch.Tensor, unit: torch.Tensor, patch: int) -> torch.Tensor:
    """How much it costs to use each source place again, (h, w) int64: unit * (covering patches, summed over the patch
    there)."""
    height, width = unit.shape
    x, y = field.long().unbind(-1)
    hits = torch.bincount((y * width + x).flatten(), minlength=height * width).view(height, width)
    rim = patch - 1
    padded = F.pad(hits, (rim,) * 4)
    weights = [patch - abs(d) for d in range(-rim, rim + 1)]
    columns = torch.zeros_like(padded[:height])
    for d, weight in enumerate(weights):
        columns += weight * padded[d : d + height]
    total = torch.zeros_like(columns[:, :width])
    for d, weight in enumerate(weights):
        total += weight * columns[:, d : d + width]
    return (total * unit + 0.5).long()


def search_pass(
    source: torch.Tensor, target: torch.Tensor, field: torch.Tensor, error: torch.Tensor, mask: torch.Tensor,
    cost: torch.Tensor, own: int, patch: int, reach: int, radii: Sequence[int], key: int,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """One synchronous pass, see `patch_kernels.search_pass`: field and error after it."""
    height, width = error.shape
    source_height, source_width = cost.shape
    old_x, old_y = field.long().unbind(-1)
    best_x, best_y, best_error = old_x, old_y, error.long()
    best = best_error + cost[old_y, old_x]
    y = torch.arange(height, device=field.device)[:, None]
    x = torch.arange(width, device=field.device)
    number = mix(key ^ mix(y * width + x))

    def try_place(to_x: torch.Tensor, to_y: torch.Tensor, allowed: torch.Tensor) -> None:
        nonlocal best_x, best_y, best_error, best
        to_x, to_y = torch.where(allowed, to_x, best_x), torch.where(allowed, to_y, best_y)
        overlap = (patch - (to_x - old_x).abs()).clamp_min_(0) * (patch - (to_y - old_y).abs()).clamp_min_(0)
        again = cost[to_y, to_x] + own * (patch * patch - overlap)
        new = patch_errors(source, target, to_x, to_y, patch)
        better = allowed & mask & ((to_x != best_x) | (to_y != best_y)) & (new + again < best)
        best_x, best_y = torch.where(better, to_x, best_x), torch.where(better, to_y, best_y)
        best_error, best = torch.where(better, new, best_error), torch.where(better, new + again, best)

    for dx, dy in ((reach, 0), (-reach, 0), (0, reach), (0, -reach)):
        inside = (x + dx >= 0) & (x + dx < width) & (y + dy >= 0) & (y + dy < height)
        there = field.long()[(y + dy).clamp(0, height - 1), (x + dx).clamp(0, width - 1)]
        to_x, to_y = there[..., 0] - dx, there[..., 1] - dy
        try_place(to_x, to_y, inside & (to_x >= 0) & (to_x < source_width) & (to_y >= 0) & (to_y < source_height))
    for radius in radii:
        number = mix((number + 0x9E3779B9) & MASK32)
        low_x, high_x = (best_x - radius).clamp_min(0), (best_x + radius).clamp_max(source_width - 1)
        low_y, high_y = (best_y - radius).clamp_min(0), (best_y + radius).clamp_max(source_height - 1)
        to_x = low_x + (((number & 0xFFFF) * (high_x - low_x + 1)) >> 16)
        to_y = low_y + (((number >> 16) * (high_y - low_y + 1)) >> 16)
        try_place(to_x, to_y, mask)
    return torch.stack([best_x, best_y], -1).int(), best_error.int()


def vote(
    style: torch.Tensor, field: torch.Tensor, weight: torch.Tensor, mask: torch.Tensor, patch: int
) -> torch.Tensor:
    """The picture (H, W, C) that the field's patches vote for, see `patch_kernels.vote`."""
    height, width = mask.shape
    source_height, source_width, channels = style.shape
    pixels = style.reshape(-1, channels)
    x, y = field.long().unbind(-1)
    half = patch // 2
    total = torch.zeros((height, width, channels), dtype=torch.float64, device=style.device)
    weights = torch.zeros((height, width, 1), dtype=torch.float64, device=style.device)
    for dy in range(-half, half + 1):
        for dx in range(-half, half + 1):
            here = (slice(max(0, -dy), height - max(0, dy)), slice(max(0, -dx), width - max(0, dx)))
            there = (slice(max(0, dy), height + min(0, dy)), slice(max(0, dx), width + min(0, dx)))
            at_x, at_y = x[there] - dx, y[there] - dy
            valid = (at_x >= 0) & (at_x < source_width) & (at_y >= 0) & (at_y < source_height) & mask[there]
            share = (weight[there] * valid)[..., None]
            place = at_y.clamp(0, source_height - 1) * source_width + at_x.clamp(0, source_width - 1)
            weights[here] += share
            total[here] += share * pixels[place].double()
    alone = pixels[y * source_width + x]
    return torch.where(mask[..., None], (total / weights).float(), alone)
