"""The weighted guided fit against least squares written out, and its means against loops."""

from __future__ import annotations

import pytest
import torch

from zero2hero_core.checks import ShapeError
from zero2hero_core.propagation.edge_fill import (
    apply_fit,
    box_mean,
    coarse_fit_along_edges,
    enlarge,
    fit_along_edges,
)


def noise(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed))


def test_a_box_mean_counts_what_lies_inside_only() -> None:
    row = torch.tensor([1.0, 2.0, 3.0, 10.0])[None, None]
    assert box_mean(row, 1)[0, 0].tolist() == pytest.approx([1.5, 2.0, 5.0, 6.5])
    assert torch.equal(box_mean(row, 0), row)


def test_one_neighbourhood_over_all_is_weighted_least_squares() -> None:
    field, guide, weight = noise(2, 9, 9), noise(3, 9, 9, seed=1), noise(9, 9, seed=2)
    slope, offset = fit_along_edges(field, guide, weight, 9, 1e-6)
    columns = torch.cat([guide.flatten(1).T, torch.ones(81, 1)], 1).double()
    heavy = columns * weight.flatten()[:, None]
    wanted = torch.linalg.solve(columns.T @ heavy, heavy.T @ field.flatten(1).T.double()).float()
    assert torch.allclose(slope[:, :, 4, 4], wanted[:3].T, atol=2e-3)
    assert torch.allclose(offset[:, 4, 4], wanted[3], atol=2e-3)


def test_a_field_that_follows_the_guide_is_found_from_few_places() -> None:
    guide = noise(3, 24, 24)
    field = 0.5 * guide[:1] - 0.25 * guide[2:] + 0.1
    weight = (noise(24, 24, seed=3) > 0.7).float()
    fit = fit_along_edges(torch.where(weight > 0, field, 7.0), guide, weight, 6, 1e-6)
    assert float((apply_fit(*fit, guide) - field).abs().max()) < 5e-3


def test_without_weight_the_fit_is_nothing() -> None:
    slope, offset = fit_along_edges(noise(1, 8, 8), noise(3, 8, 8), torch.zeros(8, 8), 2, 1e-4)
    assert float(slope.abs().max()) == 0 and float(offset.abs().max()) == 0


def test_a_coarse_fit_keeps_a_constant_and_an_odd_size() -> None:
    slope, offset = coarse_fit_along_edges(
        torch.full((2, 21, 33), 0.3), noise(3, 21, 33), noise(21, 33, seed=1), 2, 1e-4, (11, 17)
    )
    assert slope.shape == (2, 3, 21, 33)
    assert torch.allclose(apply_fit(slope, offset, noise(3, 21, 33)), torch.full((2, 21, 33), 0.3), atol=1e-3)


def test_enlarging_reads_half_pixel_centres() -> None:
    assert enlarge(torch.tensor([[[0.0, 4.0]]]), (1, 4))[0, 0].tolist() == [0.0, 1.0, 3.0, 4.0]


def test_wrong_shapes_are_explained() -> None:
    with pytest.raises(ShapeError, match="guide"):
        fit_along_edges(noise(1, 8, 8), noise(3, 8, 9), noise(8, 8), 2, 1e-4)
