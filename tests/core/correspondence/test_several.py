"""Matches with several anchors: the surest anchor is read, equals together."""

from __future__ import annotations

import pytest
import torch

from zero2hero_core.checks import ShapeError
from zero2hero_core.correspondence.match import Correspondence, match_features
from zero2hero_core.correspondence.several import EQUAL, join_matches

GRIDS = [(2, 3), (4, 6), (8, 12)]


def matches(seed: int, k: int = 2, adaptive: bool = False) -> Correspondence:
    generator = torch.Generator().manual_seed(seed)
    target, anchor = torch.randn(2, 5, 8, 12, generator=generator)
    return match_features(target, anchor, GRIDS, k, adaptive=adaptive)


def with_confidence(one: Correspondence, confidence: torch.Tensor) -> Correspondence:
    return Correspondence(one.levels, confidence, one.cycle)


def read(joined: Correspondence, level: int, token: int) -> list[int]:
    """The tokens that a query reads."""
    one = joined.levels[level]
    count = one.indices.shape[1] if one.counts is None else int(one.counts[token])
    return one.indices[token, :count].tolist()


def test_one_anchor_is_left_as_it_is() -> None:
    one = matches(1)
    assert join_matches([one]) is one


@pytest.mark.parametrize("adaptive", [False, True])
def test_each_token_reads_the_surest_anchor(adaptive: bool) -> None:
    parts = [matches(seed, 4, adaptive) for seed in (1, 2, 3)]
    generator = torch.Generator().manual_seed(9)
    confidence = torch.rand(3, 8, 12, generator=generator)
    parts = [with_confidence(one, values) for one, values in zip(parts, confidence, strict=True)]
    joined = join_matches(parts)
    fine = joined.levels[-1]
    assert fine.size_hw == (8, 12) and torch.equal(joined.confidence, confidence.amax(0))
    for token in range(96):
        sure = [float(values.flatten()[token]) for values in confidence]
        order = sorted(range(3), key=lambda anchor: -sure[anchor])
        expected = []
        for anchor in order:
            if sure[anchor] >= max(sure) - EQUAL:
                own = parts[anchor].levels[-1]
                count = own.indices.shape[1] if own.counts is None else int(own.counts[token])
                expected += [int(index) + anchor * 96 for index in own.indices[token, :count]]
        assert read(joined, 2, token) == expected
        best = parts[order[0]]
        assert float(joined.cycle.flatten()[token]) == float(best.cycle.flatten()[token])


def test_equals_are_read_together_on_every_grid() -> None:
    first, second = matches(1), matches(2)
    even = torch.full((8, 12), 0.5)
    joined = join_matches([with_confidence(first, even), with_confidence(second, even - EQUAL / 2)])
    for level, (h, w) in enumerate(GRIDS):
        own, other = first.levels[level].indices, second.levels[level].indices + h * w
        assert joined.levels[level].indices.tolist() == torch.cat([own, other], 1).tolist()
        assert joined.levels[level].counts.tolist() == [2 * own.shape[1]] * (h * w)


def test_other_grids_are_refused() -> None:
    generator = torch.Generator().manual_seed(0)
    target, anchor = torch.randn(2, 5, 8, 8, generator=generator)
    with pytest.raises(ShapeError, match="expected equal grids"):
        join_matches([matches(1), match_features(target, anchor, [(2, 2), (4, 4), (8, 8)], 2)])
