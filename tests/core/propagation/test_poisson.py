"""The screened Poisson problem by a cosine transform against dense least squares."""

from __future__ import annotations

import pytest
import torch

from zero2hero_core.checks import InputError, ShapeError
from zero2hero_core.propagation.poisson import gradients, screened_poisson


def fields(height: int, width: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(height * 100 + width)
    return [torch.randn(3, height, width, generator=generator, dtype=dtype) for _ in range(3)]


def dense(picture: torch.Tensor, across: torch.Tensor, down: torch.Tensor, weights: list[float]) -> torch.Tensor:
    """The same minimum by least squares over all pixels of a channel."""
    _, height, width = picture.shape
    rows = []
    for channel, weight in enumerate(weights):
        equations, values = [torch.eye(height * width, dtype=picture.dtype)], [picture[channel].flatten()]
        for gradient, shift, h, w in ((across, 1, height, width - 1), (down, width, height - 1, width)):
            for y in range(h):
                for x in range(w):
                    row = torch.zeros(1, height * width, dtype=picture.dtype)
                    row[0, y * width + x], row[0, y * width + x + shift] = -weight, weight
                    equations.append(row)
                    values.append(weight * gradient[channel, y, x].reshape(1))
        rows.append(torch.linalg.lstsq(torch.cat(equations), torch.cat(values)).solution.view(height, width))
    return torch.stack(rows)


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 1), (6, 8), (7, 5)])
def test_it_is_the_least_squares_minimum(size: tuple[int, int]) -> None:
    weights = [2.5, 0.5, 1.0]
    expected = dense(*fields(*size), weights)
    assert (screened_poisson(*fields(*size), torch.tensor(weights)) - expected).abs().max() < 1e-10
    single = screened_poisson(*fields(*size, torch.float32), torch.tensor(weights))
    expected = dense(*(field.double() for field in fields(*size, torch.float32)), weights)
    assert (single - expected).abs().max() < 1e-5


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.5, 100.0])
def test_own_gradients_change_nothing(weight: float) -> None:
    picture = fields(33, 20)[0]
    assert (screened_poisson(picture, *gradients(picture), weight) - picture).abs().max() < 1e-9


def test_weight_0_changes_nothing() -> None:
    picture, across, down = fields(12, 9)
    assert (screened_poisson(picture, across, down, 0) - picture).abs().max() < 1e-12


def test_the_mean_stays_and_gradients_follow() -> None:
    picture, other = fields(20, 30)[:2]
    result = screened_poisson(picture, *gradients(other), 1000.0)
    assert torch.allclose(result.mean((1, 2)), picture.mean((1, 2)))
    assert (gradients(result)[0] - gradients(other)[0]).abs().max() < 1e-3


def test_gradients_by_hand() -> None:
    across, down = gradients(torch.tensor([[[1.0, 4.0], [2.0, 2.0]]]))
    assert across.tolist() == [[[3.0, 0.0], [0.0, 0.0]]] and down.tolist() == [[[1.0, -2.0], [0.0, 0.0]]]


def test_refusals() -> None:
    picture, across, down = fields(4, 4)
    with pytest.raises(ShapeError, match="down"):
        screened_poisson(picture, across, down[:, :3], 1.0)
    with pytest.raises(InputError, match="weight: expected a number from 0 up, or 3 of them"):
        screened_poisson(picture, across, down, -1.0)
    with pytest.raises(InputError, match="weight"):
        screened_poisson(picture, across, down, torch.ones(2))
