"""The picture of coverage shows what it was given."""

from __future__ import annotations

import pytest
import torch

from zero2hero_core.checks import ShapeError
from zero2hero_core.propagation.coverage_picture import PLOT_HEIGHT, WIDTH, coverage_picture

AREA = (198, 219, 239)
RED, GREEN, BLUE = (203, 24, 29), (35, 139, 69), (8, 48, 107)


def count(picture: torch.Tensor, colour: tuple[int, int, int]) -> int:
    wanted = torch.tensor(colour).view(3, 1, 1) / 255
    return int(((picture - wanted).abs() < 0.5 / 255).all(0).sum())


def test_more_coverage_fills_more() -> None:
    empty, half, full = (coverage_picture([share] * 9, []) for share in (0.0, 0.5, 1.0))
    assert empty.shape == (3, PLOT_HEIGHT, WIDTH) and count(empty, AREA) < 1000
    assert 1.9 < count(full, AREA) / count(half, AREA) < 2.1


def test_keys_cuts_and_the_next_frame_have_their_colours() -> None:
    plain, marked = coverage_picture([0.5] * 9, []), coverage_picture([0.5] * 9, [2], [5], advised=7)
    assert [count(plain, colour) for colour in (RED, GREEN)] == [0, 0]
    assert min(count(marked, colour) for colour in (RED, GREEN, BLUE)) > 50
    half = int(52 + (WIDTH - 52 - 16) * 4.5 / 8)
    assert count(marked[..., 30:, half - 3 : half + 4], RED) > 50  # a cut lies between two frames


def test_frames_are_shown_small_and_no_more_than_two_rows() -> None:
    red = torch.zeros(3, 30, 40)
    red[0] = 1.0
    picture = coverage_picture([0.5] * 40, [], pictures={3: red, 9: red})
    assert picture.shape[1] > PLOT_HEIGHT + 100 and count(picture, (255, 0, 0)) > 2 * 100 * 140
    many = coverage_picture([0.5] * 40, [], pictures=dict.fromkeys(range(40), red))
    assert many.shape[1] - PLOT_HEIGHT == 2 * (picture.shape[1] - PLOT_HEIGHT)


def test_one_frame_has_a_picture_and_none_has_not() -> None:
    assert count(coverage_picture([1.0], [0]), AREA) > 10_000
    with pytest.raises(ShapeError, match=r"numbers: expected 2 \(one a frame, at least one\), got 1"):
        coverage_picture([1.0, 1.0], [], numbers=[4])
    with pytest.raises(ShapeError, match="at least one"):
        coverage_picture([], [])
