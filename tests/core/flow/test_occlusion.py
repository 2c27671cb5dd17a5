"""Occlusion by its laws, by hand and on motion that the renderer knows exactly."""

from __future__ import annotations

import pytest
import torch

from zero2hero_core.checks import InputError, ShapeError
from zero2hero_core.flow.occlusion import (
    Law,
    agreement,
    occlusion_map,
    points_inside,
    pool_occlusion,
    soften,
    visible_pixels,
)

LAWS: tuple[Law, ...] = ("unflow", "sundaram")


def shift(dx: float, dy: float, height: int = 6, width: int = 9) -> torch.Tensor:
    return torch.tensor([dx, dy], dtype=torch.float32).expand(height, width, 2).clone()


def waves(seed: int, height: int = 24, width: int = 30) -> torch.Tensor:
    """Smooth motion of some pixels."""
    coarse = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0].permute(1, 2, 0)


@pytest.mark.parametrize("law", LAWS)
def test_no_motion_hides_nothing(law: Law) -> None:
    assert not bool(occlusion_map(shift(0, 0), shift(0, 0), law=law).any())


@pytest.mark.parametrize("law", LAWS)
def test_a_shift_hides_exactly_the_border_that_it_uncovers(law: Law) -> None:
    right, down = shift(3, 0), shift(0, 2)
    assert occlusion_map(right, -right, law=law).tolist() == [[False] * 6 + [True] * 3] * 6
    assert occlusion_map(-right, right, law=law).tolist() == [[True] * 3 + [False] * 6] * 6
    assert occlusion_map(down, -down, law=law).tolist() == [[False] * 9] * 4 + [[True] * 9] * 2


def test_the_laws_draw_their_line_at_a_loop_error_by_hand() -> None:
    """Lengths 4 and 4 + miss allow 0.5 + 0.01 (8 + miss) pixels; squared, e^2 <= 0.01 (16 + (4 + miss)^2) + 0.5."""
    flow = shift(0, 4, height=20)
    for miss, hidden in ((0.57, False), (0.60, True)):
        assert bool(occlusion_map(flow, shift(0, -4 - miss, height=20))[2, 2]) is hidden
    for miss, hidden in ((0.92, False), (0.96, True)):
        assert bool(occlusion_map(flow, shift(0, -4 - miss, height=20), law="sundaram")[2, 2]) is hidden


def test_the_length_back_is_read_at_the_pixel_itself() -> None:
    """At row 0 the flow back is 40 px long but is not what the loop reads: it only widens the tolerance, to 0.94."""
    flow, back = shift(0, 4, height=20), shift(0, -4.8, height=20)
    assert bool(occlusion_map(flow, back)[0, 2])
    back[0] = torch.tensor([40.0, 0.0])
    assert not bool(occlusion_map(flow, back)[0, 2])


def test_sundaram_is_what_is_not_visible_and_hides_motion_boundaries() -> None:
    flow = shift(0, 0)
    flow[:, 4:] = torch.tensor([0.0, 0.3])
    assert torch.equal(occlusion_map(flow, -flow, law="sundaram"), ~visible_pixels(flow, -flow))
    assert bool(occlusion_map(flow, -flow, law="sundaram")[2, 3]) and not bool(occlusion_map(flow, -flow)[2, 3])


@pytest.mark.parametrize("seed", range(3))
def test_hard_is_at_most_soft_and_soft_at_most_1(seed: int) -> None:
    hard = occlusion_map(waves(seed), -waves(seed) + 0.3 * waves(seed + 9))
    assert 0.05 < float(hard.float().mean()) < 0.95
    soft = soften(hard)
    assert soft.shape == hard.shape and bool((soft >= hard.float()).all()) and float(soft.max()) == 1.0


def test_a_soft_map_has_a_ramp_of_eight_pixels() -> None:
    hard = torch.zeros(33, 33, dtype=torch.bool)
    hard[16, 16] = True
    row = soften(hard)[16]
    assert float(row[16]) == 1.0 and float(row[24]) > 0 and float(row[25]) == 0.0
    # 9 x 9 pixels around the point are 1 before the blur, which is nearly a mean: at a distance of 4, 5 of 9 columns.
    assert abs(float(row[20]) - 5 / 9) < 0.02 and abs(float(row[24]) - 1 / 9) < 0.02
    assert torch.equal(soften(torch.ones(5, 5)), torch.ones(5, 5))
    assert torch.equal(soften(torch.zeros(2, 5, 7)), torch.zeros(2, 5, 7))


def test_a_cell_is_hidden_when_any_of_its_pixels_is() -> None:
    hard = torch.zeros(8, 12, dtype=torch.bool)
    hard[5, 11] = True
    assert pool_occlusion(hard, (2, 3)).tolist() == [[False] * 3, [False, False, True]]
    soft = hard.float() * 0.25
    assert pool_occlusion(soft[None], (2, 3))[0].tolist() == [[0.0] * 3, [0.0, 0.0, 0.25]]
    with pytest.raises(InputError, match=r"size_hw: expected a grid of at most \(8, 12\), got \(9, 3\)"):
        pool_occlusion(hard, (9, 3))


def test_colours_that_differ_count_as_hidden() -> None:
    still, grey = shift(0, 0), torch.full((3, 6, 9), 0.5)
    other = grey.clone()
    other[:, 0, 0], other[:, 0, 1] = 0.74, 0.76
    hidden = occlusion_map(still, still, pictures=(grey, other))
    assert hidden[0].tolist() == [False, True] + [False] * 7 and not bool(hidden[1:].any())
    moved = shift(1, 0)
    assert occlusion_map(moved, -moved, pictures=(grey, other))[0].tolist() == [True] + [False] * 7 + [True]


def test_agreement_is_1_where_the_loop_closes_and_a_half_where_the_law_draws_its_line() -> None:
    flow = shift(0, 4, height=20)
    closed = agreement(flow, -flow)
    assert closed[:16].eq(1).all() and closed[16:].eq(0).all()
    limit = 0.58 / 0.99  # e = 0.5 + 0.01 (8 + e)
    assert abs(float(agreement(flow, shift(0, -4 - limit, height=20))[2, 2]) - 0.5) < 1e-3
    values = [float(agreement(flow, shift(0, -4 - miss, height=20))[2, 2]) for miss in (0.0, 0.1, 0.4, 1.0, 3.0)]
    assert values == sorted(values, reverse=True) and values[-1] < 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_agreement_and_the_law_say_the_same(seed: int) -> None:
    flow, back = waves(seed), -waves(seed) + 0.3 * waves(seed + 9)
    assert torch.equal(agreement(flow, back) < 0.5, occlusion_map(flow, back))


def test_the_outer_half_of_a_border_pixel_is_inside() -> None:
    assert points_inside(shift(0.5, -0.5)).tolist() == [[True] * 9] * 6
    assert points_inside(shift(0.6, 0)).tolist() == [[True] * 8 + [False]] * 6


def test_wrong_input_is_explained() -> None:
    with pytest.raises(InputError, match="law: expected one of unflow, sundaram, got 'brox'"):
        occlusion_map(shift(0, 0), shift(0, 0), law="brox")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="back: expected"):
        occlusion_map(shift(0, 0), shift(0, 0, height=5))
    with pytest.raises(ShapeError, match="back: expected"):
        agreement(shift(0, 0), shift(0, 0, height=5))
    with pytest.raises(ShapeError, match=r"pictures: expected shape \(3, 6, 9\)"):
        occlusion_map(shift(0, 0), shift(0, 0), pictures=(torch.zeros(3, 6, 8), torch.zeros(3, 6, 9)))
