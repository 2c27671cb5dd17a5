"""Matches of one frame with several anchors, in one: each token reads the anchor that shows it surest.

The tokens of all references stand one after another: token t of anchor a has the index a * N + t.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..checks import ShapeError
from .match import Correspondence, LevelMatches, resize_features

EQUAL = 0.02  # anchors whose confidence lies within this of the surest one are read as well


def join_matches(matches: Sequence[Correspondence]) -> Correspondence:
    """Matches of a frame with several anchors, in the order of the references.

    Where one anchor is surest, its tokens alone are read; where others are as sure, theirs too, by plain attention
    among all of them. One anchor is returned as it is.

    Returns: levels with indices (N, k * anchors), of which `counts` are to be used, the surest anchor's first;
    confidence and cycle error of the surest anchor.
    Raises: ShapeError when the grids differ.
    """
    if len(matches) == 1:
        return matches[0]
    if len({tuple(level.size_hw for level in one.levels) for one in matches}) > 1:
        raise ShapeError("matches of several anchors: expected equal grids; compute them at one frame size.")
    confidence = torch.stack([one.confidence for one in matches])
    surest = confidence.argmax(0, keepdim=True)
    levels = []
    for place in range(len(matches[0].levels)):
        levels.append(_join_level([one.levels[place] for one in matches], confidence))
    cycle = torch.stack([one.cycle for one in matches]).gather(0, surest)[0]
    return Correspondence(tuple(levels), confidence.gather(0, surest)[0], cycle)


def _join_level(levels: Sequence[LevelMatches], confidence: torch.Tensor) -> LevelMatches:
    """One grid. confidence: (anchors, h, w) on the finest one."""
    size, k = levels[0].size_hw, levels[0].indices.shape[1]
    tokens = size[0] * size[1]
    sure = resize_features(confidence, size).flatten(1)  # (anchors, N)
    order = sure.argsort(dim=0, descending=True, stable=True)
    indices = torch.stack([level.indices + place * tokens for place, level in enumerate(levels)])  # (anchors, N, k)
    scores = torch.stack([level.scores for level in levels])
    used = torch.stack(
        [torch.full_like(level.indices[:, 0], k) if level.counts is None else level.counts for level in levels]
    )
    ranked = order[..., None].expand(-1, -1, k)
    indices, scores = indices.gather(0, ranked), scores.gather(0, ranked)
    used, sure = used.gather(0, order), sure.gather(0, order)
    equal = sure >= sure[:1] - EQUAL
    wanted = (torch.arange(k, device=used.device) < used[..., None]) & equal[..., None]  # (anchors, N, k)
    flat = wanted.permute(1, 0, 2).flatten(1)
    front = flat.int().argsort(dim=1, descending=True, stable=True)  # what is to be used comes first
    joined = indices.permute(1, 0, 2).flatten(1).gather(1, front)
    return LevelMatches(
        size, joined.int(), scores.permute(1, 0, 2).flatten(1).gather(1, front), flat.sum(1, dtype=torch.int32)
    )
