"""A labelled grid: where its pictures stand, that its labels are written, what it refuses."""

from __future__ import annotations

import pytest
import torch

from zero2hero_core.checks import ShapeError
from zero2hero_core.video.labelled_grid import GAP, LABEL, labelled_grid

SIDE = 70  # room for the names of the rows


def pictures(rows: int, columns: int, size_hw: tuple[int, int] = (20, 60)) -> list[list[torch.Tensor]]:
    values = 0.3 + 0.4 * torch.rand(rows, columns, 3, *size_hw, generator=torch.Generator().manual_seed(0))
    return [list(row) for row in values]


def test_pictures_stand_in_rows_and_columns() -> None:
    rows = pictures(2, 3)
    grid = labelled_grid(rows, ["a", "b", "c"], ["one", "two"])
    assert grid.shape == (3, LABEL + 2 * (20 + GAP), SIDE + 3 * (60 + GAP))
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            top, left = LABEL + y * (20 + GAP), SIDE + x * (60 + GAP)
            assert torch.equal(grid[:, top : top + 20, left : left + 60], picture)
            assert bool((grid[:, top + 20 : top + 20 + GAP, left : left + 60 + GAP] == 1).all())
            assert bool((grid[:, top : top + 20, left + 60 : left + 60 + GAP] == 1).all())


def test_labels_are_black_on_white_above_and_beside() -> None:
    grid = labelled_grid(pictures(1, 2), ["mm", ""], ["name"])
    assert bool((grid[:, :LABEL, :SIDE] == 1).all())  # the corner is empty
    title, empty = grid[:, :LABEL, SIDE : SIDE + 60], grid[:, :LABEL, SIDE + 60 + GAP :]
    assert float(title.min()) < 0.2 and float(empty.min()) == 1
    dark = (title[0] < 0.5).nonzero()[:, 1]
    assert abs(float(dark.min() + dark.max()) / 2 - 29.5) < 4  # in the middle
    assert float(grid[:, LABEL:, :SIDE].min()) < 0.2


@pytest.mark.parametrize(
    ("rows", "columns", "names"),
    [
        (pictures(1, 2), ["a"], ["one"]),
        (pictures(1, 1), ["a", "b"], ["one"]),
        (pictures(2, 1), ["a"], ["one"]),
        (pictures(1, 1), ["a"], ["one", "two"]),
        ([[torch.zeros(3, 8, 8), torch.zeros(3, 8, 9)]], ["a", "b"], ["one"]),
        ([], [], []),
    ],
)
def test_what_makes_no_grid_is_refused(rows: list[list[torch.Tensor]], columns: list[str], names: list[str]) -> None:
    with pytest.raises(ShapeError, match=rf"expected {len(columns)} pictures of one size in each of {len(names)} rows"):
        labelled_grid(rows, columns, names)
