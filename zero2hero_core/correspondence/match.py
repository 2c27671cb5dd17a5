"""Correspondence anchor -> frame from diffusion features (DIFT): cosine top-k per token, never N x N in memory.

Source: Zero-to-Hero (arXiv 2505.23134), Zero-Stage; DIFT (arXiv 2306.03881). A token is a cell of a grid over the
    frame, numbered row by row; cell (x, y)
has its centre at ((x + 0.5) / w, (y + 0.5) / h) of the frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..checks import InputError, ShapeError

ROWS = 1024  # target tokens compared with all anchor tokens at once
Around = Callable[[torch.Tensor, int], torch.Tensor]
CYCLE_SCALE = 0.05  # return error (share of the frame's side) at which confidence has fallen to 1/e


@dataclass(frozen=True)
class LevelMatches:
    """Matches on one token grid.

    size_hw: grid (h, w) of target and anchor; indices: (N, k) int32, anchor tokens of each target token, best first;
    scores: (N, k) cosine similarity; counts: (N,) int32, how many of the k are to be used, or None for all.
    """

    size_hw: tuple[int, int]
    indices: torch.Tensor
    scores: torch.Tensor
    counts: torch.Tensor | None = None

    def coords_xy(self) -> torch.Tensor:
        """Centre of the best match of each target token, as a share of the frame's sides, (h, w, 2)."""
        h, w = self.size_hw
        best = self.indices[:, 0].long()
        coords = torch.stack([(best % w + 0.5) / w, (best // w + 0.5) / h], -1)
        return coords.view(h, w, 2)


@dataclass(frozen=True)
class Correspondence:
    """Matches of one target frame on each attention grid, coarse to fine.

    levels: matches by grid; confidence: (h, w) in [0, 1] on the finest grid; cycle: (h, w) forward-backward error
    there, share of the side.
    """

    levels: tuple[LevelMatches, ...]
    confidence: torch.Tensor
    cycle: torch.Tensor

    def level(self, size_hw: tuple[int, int]) -> LevelMatches:
        """Matches on a grid.

        Raises: ShapeError when the correspondence was computed for frames of another size.
        """
        for level in self.levels:
            if level.size_hw == size_hw:
                return level
        have = ", ".join(str(level.size_hw) for level in self.levels)
        raise ShapeError(
            f"correspondence: expected matches on a {size_hw} grid, got {have}; compute it again at this frame size."
        )

    def cpu(self) -> Correspondence:
        """The same in the machine's memory."""
        levels = [
            LevelMatches(
                one.size_hw, one.indices.cpu(), one.scores.cpu(), None if one.counts is None else one.counts.cpu()
            )
            for one in self.levels
        ]
        return Correspondence(tuple(levels), self.confidence.cpu(), self.cycle.cpu())

    @property
    def finest(self) -> LevelMatches:
        """The level with the most tokens."""
        return self.levels[-1]


def resize_features(features: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    """Features (C, h, w) on another grid: bilinear, by halves where the grid shrinks more than twofold so that no cell
    is skipped."""
    while features.shape[-2] >= 4 * size_hw[0] and features.shape[-1] >= 4 * size_hw[1]:
        features = F.avg_pool2d(features[None], 2)[0]
    if tuple(features.shape[-2:]) == size_hw:
        return features
    return F.interpolate(features[None], size=size_hw, mode="bilinear", align_corners=False)[0]


def unit_tokens(features: torch.Tensor) -> torch.Tensor:
    """Features (C, h, w) as unit vectors (h*w, C), float32."""
    return F.normalize(features.float().flatten(1), dim=0).T.contiguous()


def level_k(k: int, level: int) -> int:
    """Tokens to take on level 0 (coarse), 1 (middle), 2 (fine): max(k // 4, 1), k, 4 k; -1 (all) stays -1."""
    return k if k == -1 else (max(k // 4, 1), k, 4 * k)[level]


def most_tokens(grids: Sequence[tuple[int, int]]) -> int:
    """The largest k that the three grids (h, w), coarse to fine, allow: `level_k` of it fits into each of them."""
    coarse, middle, fine = (h * w for h, w in grids)
    return min(4 * coarse + 3, middle, fine // 4)


def _window(rows: torch.Tensor, size_hw: tuple[int, int], radius: float) -> torch.Tensor:
    """Anchor tokens farther than `radius` (share of the longer side) from each of the target tokens `rows`: (R, N)
    bool."""
    h, w = size_hw
    tokens = torch.arange(h * w, device=rows.device)
    reach = radius * max(h, w)
    far_x = ((rows % w)[:, None] - (tokens % w)[None]).abs() > reach
    return far_x | (((rows // w)[:, None] - (tokens // w)[None]).abs() > reach)


def top_k_matches(
    target: torch.Tensor,
    anchor: torch.Tensor,
    k: int,
    size_hw: tuple[int, int],
    radius: float | None = None,
    around: Around | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k most similar anchor tokens of each target token, in chunks of rows.

    Args:
        target, anchor: unit vectors (N, C) on the same grid `size_hw`.
        k: 1..N; -1 gives the best one only (plain attention to all tokens needs no selection).
        radius: look no farther than this share of the longer side, or None for everywhere.
        around: (similarity (R, N), first row) -> what decides the order in its place.
    Returns: indices (N, k) int32 and cosine similarities (N, k), best first.
    Raises: InputError when k is out of range or the neighbourhood holds fewer than k tokens.
    """
    count = len(anchor)
    width = 1 if k == -1 else k
    if not 1 <= width <= count:
        raise InputError(
            f"k: expected 1 to {count} tokens on the {size_hw[0]} x {size_hw[1]} grid (or -1 for all), got {k}."
        )
    reach = count if radius is None else int(radius * max(size_hw)) + 1
    if min(reach, size_hw[0]) * min(reach, size_hw[1]) < width:
        raise InputError(
            f"neighbourhood: {radius:g} of the side holds fewer than {width} tokens in a corner; widen it or lower k."
        )
    indices = torch.empty(len(target), width, dtype=torch.int32, device=target.device)
    scores = torch.empty(len(target), width, device=target.device)
    for start in range(0, len(target), ROWS):
        similarity = target[start : start + ROWS] @ anchor.T
        if radius is not None:
            rows = torch.arange(start, start + len(similarity), device=target.device)
            similarity = similarity.masked_fill_(_window(rows, size_hw, radius), float("-inf"))
        ranking = similarity if around is None else around(similarity, start)
        best = ranking.topk(width, dim=1).indices
        indices[start : start + ROWS] = best.int()
        scores[start : start + ROWS] = similarity.gather(1, best)
    return indices, scores


def cycle_error(forward: torch.Tensor, backward: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    """Distance between each target token and the target token that its match points back to, share of the longer side,
    (h, w).

    Args: forward: (N,) anchor token of each target token; backward: (N,) target token of each anchor token.
    """
    h, w = size_hw
    start = torch.arange(h * w, device=forward.device)
    back = backward.long()[forward.long()]
    distance = torch.hypot((back % w - start % w).float(), (back // w - start // w).float())
    return (distance / max(h, w)).view(h, w)


def match_confidence(similarity: torch.Tensor, cycle: torch.Tensor) -> torch.Tensor:
    """Trust in a match, 0..1: its cosine similarity (negative counts as 0) times exp(-(cycle error / 0.05)^2)."""
    return similarity.clamp(0, 1) * torch.exp(-((cycle / CYCLE_SCALE) ** 2))


def adaptive_counts(confidence: torch.Tensor, k_max: int) -> torch.Tensor:
    """Tokens to use per target token: k_max ** (1 - confidence), rounded; 1 where the match is sure, k_max where it is
    not.

    Source: our own rule for the paper's "adaptive k", whose text gives the interface only.
    """
    return (k_max ** (1 - confidence.flatten())).round().clamp(1, k_max).int()


def match_features(
    target: torch.Tensor,
    anchor: torch.Tensor,
    sizes_hw: list[tuple[int, int]],
    k: int,
    *,
    adaptive: bool = False,
    radius: float | None = None,
    near: Callable[[tuple[int, int]], Around] | None = None,
) -> Correspondence:
    """Correspondence of one frame with the anchor.

    Args:
        target, anchor: features (C, h, w).
        sizes_hw: the three attention grids, coarse to fine.
        k: tokens on the middle grid (1.., or -1 for all); with `adaptive` the largest number used there.
        adaptive: choose the number per token from similarity and cycle error.
        radius: spatial neighbourhood, share of the longer side, or None.
        near: grid -> `around` of `top_k_matches`, where tokens are followed from frame to frame.
    """
    tokens = [
        (unit_tokens(resize_features(target, size)), unit_tokens(resize_features(anchor, size))) for size in sizes_hw
    ]
    matches = [
        top_k_matches(a, b, level_k(k, level), size, radius, near and near(size))
        for level, ((a, b), size) in enumerate(zip(tokens, sizes_hw, strict=True))
    ]
    fine = sizes_hw[-1]
    backward, _ = top_k_matches(tokens[-1][1], tokens[-1][0], 1, fine, radius)
    cycle = cycle_error(matches[-1][0][:, 0], backward[:, 0], fine)
    confidence = match_confidence(matches[-1][1][:, 0].view(fine), cycle)
    levels = []
    for size, (indices, scores) in zip(sizes_hw, matches, strict=True):
        counts = None
        if adaptive and indices.shape[1] > 1:
            counts = adaptive_counts(resize_features(confidence[None], size)[0], indices.shape[1])
        levels.append(LevelMatches(size, indices, scores, counts))
    return Correspondence(tuple(levels), confidence, cycle)


ADAPTIVE_MAX = 8  # most tokens a query reads on the middle grid with k = "adaptive"
