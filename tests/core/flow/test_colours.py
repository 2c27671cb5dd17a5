"""The colours of a flow, by hand."""

from __future__ import annotations

import pytest
import torch

from zero2hero_core.checks import ShapeError
from zero2hero_core.flow.colours import flow_colours, longest_of


def colour(dx: float, dy: float) -> list[float]:
    flow = torch.tensor([dx, dy], dtype=torch.float32).expand(2, 3, 2)
    picture = flow_colours(flow, 4.0)
    assert picture.shape == (3, 2, 3) and bool((picture == picture[:, :1, :1]).all())
    return [round(float(value), 3) for value in picture[:, 0, 0]]


def test_directions_and_lengths_by_hand() -> None:
    assert colour(0, 0) == [1, 1, 1]
    assert colour(4, 0) == [1, 0, 0] and colour(-4, 0) == [0, 1, 1]
    assert colour(0, 4) == [0.5, 1, 0] and colour(0, -4) == [0.5, 0, 1]
    assert colour(2, 0) == [1, 0.5, 0.5] and colour(400, 0) == [1, 0, 0]


def test_full_colour_is_at_the_flows_own_length() -> None:
    flow = torch.zeros(10, 100, 2)
    flow[:, :50, 0] = 8.0
    flow[0, 0, 0] = 500.0
    assert longest_of(flow) == 8.0 and longest_of(torch.zeros(4, 4, 2)) == 1.0
    assert flow_colours(flow)[:, 5, 5].tolist() == pytest.approx([1, 0, 0], abs=1e-5)
    with pytest.raises(ShapeError, match="flow: expected"):
        flow_colours(torch.zeros(2, 4, 4))
