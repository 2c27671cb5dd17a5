"""The picture that explains matches: which place has which colour, and what stands beside what."""

from __future__ import annotations

import pytest
import torch

from zero2hero_core.checks import ShapeError
from zero2hero_core.correspondence.match import Correspondence, LevelMatches
from zero2hero_core.correspondence.pictures import coordinate_colours, matches_picture


def correspondence(indices: list[int], size_hw: tuple[int, int], confidence: torch.Tensor) -> Correspondence:
    tokens = torch.tensor(indices, dtype=torch.int32)[:, None]
    level = LevelMatches(size_hw, tokens, torch.ones_like(tokens, dtype=torch.float32))
    return Correspondence((level,), confidence, torch.zeros(size_hw))


def test_colours_are_the_place_and_a_chequer_of_eighths() -> None:
    places = torch.tensor([[[0.0, 0.0], [0.5, 0.25], [0.13, 0.0], [0.13, 0.13], [0.24, 0.99]]])
    colours = coordinate_colours(places)
    assert colours.shape == (3, 1, 5)
    assert colours[0, 0].tolist() == pytest.approx([0, 0.5, 0.13, 0.13, 0.24])
    assert colours[1, 0].tolist() == pytest.approx([0, 0.25, 0, 0.13, 0.99])
    assert colours[2, 0].tolist() == pytest.approx([0.35, 0.35, 0.65, 0.35, 0.35])


def test_colours_stay_within_0_and_1() -> None:
    colours = coordinate_colours(torch.tensor([[[-0.5, 1.5]]]))
    assert colours[:2, 0, 0].tolist() == [0, 1]


def test_anchor_legend_target_matches_confidence_stand_side_by_side() -> None:
    anchor, target = torch.rand(2, 3, 4, 12, generator=torch.Generator().manual_seed(0))
    confidence = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    shown = matches_picture(correspondence([0, 5, 2, 2, 1, 3], (2, 3), confidence), anchor, target)
    assert shown.shape == (3, 4, 60)
    first, legend, third, found, trust = shown.split(12, 2)
    assert torch.equal(first, anchor) and torch.equal(third, target)
    # Each token fills a block of 2 x 4 pixels with the colour of its centre.
    centres = torch.tensor([[(x + 0.5) / 3, (y + 0.5) / 2] for y in range(2) for x in range(3)])
    blocks = legend.unfold(1, 2, 2).unfold(2, 4, 4)
    assert torch.equal(blocks.amax((-1, -2)), blocks.amin((-1, -2)))
    assert torch.allclose(blocks[:2, ..., 0, 0].flatten(1).T, centres)
    matched = found[:2, ::2, ::4].flatten(1).T
    assert torch.allclose(matched, centres[[0, 5, 2, 2, 1, 3]])
    assert all(torch.equal(channel, confidence) for channel in trust[:, ::2, ::4])


def test_pictures_of_two_sizes_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"expected equal sizes, got \(3, 4, 4\) and \(3, 4, 8\)"):
        matches_picture(correspondence([0], (1, 1), torch.ones(1, 1)), torch.zeros(3, 4, 4), torch.zeros(3, 4, 8))
