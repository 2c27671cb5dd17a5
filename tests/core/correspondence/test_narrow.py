"""Narrowed matches are those that a search for fewer would have found."""

from __future__ import annotations

import pytest
import torch

from zero2hero_core.checks import InputError
from zero2hero_core.correspondence.match import Correspondence, match_features
from zero2hero_core.correspondence.narrow import narrow_matches, weak_share

SIZES = [(4, 4), (8, 8), (16, 16)]


@pytest.fixture(scope="module")
def features() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(12, 16, 16, generator=generator), torch.randn(12, 16, 16, generator=generator)


def same(a: Correspondence, b: Correspondence) -> bool:
    pairs = zip(a.levels, b.levels, strict=True)
    return all(torch.equal(x.indices, y.indices) and torch.equal(x.scores, y.scores) for x, y in pairs)


@pytest.mark.parametrize("k", [1, 3, 8])
def test_narrowed_equals_searched(features: tuple[torch.Tensor, torch.Tensor], k: int) -> None:
    wide = match_features(*features, SIZES, 8)
    narrow, searched = narrow_matches(wide, k), match_features(*features, SIZES, k)
    assert same(narrow, searched)
    assert all(level.counts is None for level in narrow.levels)
    assert torch.equal(narrow.confidence, searched.confidence)


def test_adaptive_numbers_are_those_of_an_adaptive_search(features: tuple[torch.Tensor, torch.Tensor]) -> None:
    narrow = narrow_matches(match_features(*features, SIZES, 12), "adaptive")
    searched = match_features(*features, SIZES, 8, adaptive=True)
    assert same(narrow, searched)
    for a, b in zip(narrow.levels, searched.levels, strict=True):
        assert a.counts is not None and b.counts is not None and torch.equal(a.counts, b.counts)
    few = narrow_matches(match_features(*features, SIZES, 1), "adaptive")  # no more than there are
    assert [level.indices.shape[1] for level in few.levels] == [1, 1, 4]


def test_more_than_was_kept_is_refused(features: tuple[torch.Tensor, torch.Tensor]) -> None:
    with pytest.raises(InputError, match="at most 2, .* got 3; lower k"):
        narrow_matches(match_features(*features, SIZES, 2), 3)


def test_weak_share() -> None:
    confidence = torch.tensor([[0.1, 0.49], [0.5, 0.9]])
    assert weak_share(Correspondence((), confidence, confidence)) == 0.5
