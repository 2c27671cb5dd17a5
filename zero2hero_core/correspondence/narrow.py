"""Matches that were computed once, for any choice of k: fewer tokens per query, or an adaptive number of them.

Matches are sorted best first, so the first k of them are what a search for k finds.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ..checks import InputError
from .match import ADAPTIVE_MAX, Correspondence, LevelMatches, adaptive_counts, level_k, resize_features

WEAK = 0.5  # confidence below which a match counts as weak


def narrow_matches(matches: Correspondence, k: int | str) -> Correspondence:
    """The same matches with `k` tokens per query on the middle grid, or "adaptive" numbers of up to 8.

    Raises: InputError when fewer than k tokens were kept.
    """
    adaptive = k == "adaptive"
    tokens = ADAPTIVE_MAX if adaptive else int(k)
    levels = []
    for number, level in enumerate(matches.levels):
        count, most = level.indices.shape[1], level_k(tokens, number)
        if count < most and not adaptive:
            raise InputError(
                f"k: expected at most {matches.levels[1].indices.shape[1]}, the matches that the correspondence "
                f"holds per token, got {k}; lower k or compute the correspondence with more."
            )
        levels.append(_first(level, min(count, most), matches.confidence if adaptive else None))
    return replace(matches, levels=tuple(levels))


def _first(level: LevelMatches, count: int, confidence: torch.Tensor | None) -> LevelMatches:
    counts = None
    if confidence is not None and count > 1:
        counts = adaptive_counts(resize_features(confidence[None], level.size_hw)[0], count)
    return LevelMatches(level.size_hw, level.indices[:, :count], level.scores[:, :count], counts)


def weak_share(matches: Correspondence) -> float:
    """Share of tokens whose match has a confidence below `WEAK`."""
    return float((matches.confidence < WEAK).float().mean())
