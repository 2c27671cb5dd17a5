"""Readings along a flow as sparse mixes of rows, and their transposes."""

from __future__ import annotations

import pytest
import torch

from zero2hero_core.checks import InputError, ShapeError
from zero2hero_core.flow.warp import warp_backward
from zero2hero_core.guidance.row_mix import RowMix, read_along


def random_flow(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """A flow with places between cells, on cells and far outside."""
    flow = 3 * torch.randn(height, width, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    flow[0], flow[1, 0] = torch.tensor([2.0, -1.0]), torch.tensor([-50.0, 80.0])
    return flow


def dense(mix: RowMix) -> torch.Tensor:
    """The matrix, entry by entry."""
    rows = len(mix.starts) - 1
    matrix = torch.zeros(rows, mix.columns, dtype=mix.weights.dtype)
    for row in range(rows):
        for entry in range(int(mix.starts[row]), int(mix.starts[row + 1])):
            matrix[row, mix.places[entry]] += mix.weights[entry]
    return matrix


def test_reads_as_the_warp_does() -> None:
    values = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    flow = random_flow(5, 7)
    table = values.flatten(1).T.contiguous()
    read = read_along(flow)(table)
    assert torch.allclose(read, warp_backward(values, flow).flatten(1).T, atol=1e-12)


def test_half_a_cell_to_the_right_by_hand() -> None:
    flow = torch.zeros(1, 3, 2)
    flow[..., 0] = 0.5
    read = read_along(flow)(torch.tensor([[0.0], [1.0], [4.0]]))
    assert read.flatten().tolist() == [0.5, 2.5, 4.0]  # the border is repeated


def test_no_flow_reads_every_bit_as_it_is() -> None:
    table = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(read_along(torch.zeros(3, 4, 2))(table), table)


def test_transposed_is_the_transposed_matrix() -> None:
    mix = read_along(random_flow(5, 7))
    assert torch.allclose(dense(mix.transposed()), dense(mix).T, atol=1e-15)


def test_transposed_product_is_that_of_the_matrix_and_the_same_every_time() -> None:
    flow = random_flow(5, 7)
    back = read_along(flow).transposed()
    table = torch.randn(35, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    product = back(table)
    assert torch.allclose(product, dense(read_along(flow)).T @ table, atol=1e-12)
    assert all(torch.equal(back(table), product) for _ in range(5))


def test_cells_that_nobody_reads_get_nothing_back() -> None:
    flow = torch.full((2, 3, 2), -10.0)  # everything reads the first cell
    back = read_along(flow).transposed()(torch.ones(6, 1))
    assert back.flatten().tolist() == [6, 0, 0, 0, 0, 0]


def test_refuses_what_it_cannot_read_along() -> None:
    with pytest.raises(InputError, match="finite"):
        read_along(torch.full((2, 2, 2), float("nan")))
    with pytest.raises(ShapeError, match="flow"):
        read_along(torch.zeros(2, 2))
    with pytest.raises(ShapeError, match="table"):
        read_along(torch.zeros(2, 2, 2))(torch.zeros(5, 1))
