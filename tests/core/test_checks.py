"""Argument checks: what they let through, what they refuse, and what their messages say."""

from __future__ import annotations

import math

import pytest
import torch

from zero2hero_core.checks import (
    InputError,
    ShapeError,
    Zero2HeroError,
    check_images,
    check_index,
    check_range,
    check_shape,
)


def test_errors_carry_the_exit_status_of_the_command_line():
    assert (Zero2HeroError.exit_status, InputError.exit_status, ShapeError.exit_status) == (1, 2, 2)
    assert issubclass(ShapeError, InputError) and issubclass(InputError, Zero2HeroError)


@pytest.mark.parametrize("expected", [(2, 3, 4), ("N", 3, "W"), ("B", "N", "D")])
def test_check_shape_passes(expected):
    check_shape("query", torch.zeros(2, 3, 4), expected)


@pytest.mark.parametrize("expected", [(2, 3), (2, 3, 4, 1), (2, 3, 5), ("N", 4, "W"), ()])
def test_check_shape_refuses_and_says_what_came(expected):
    with pytest.raises(ShapeError) as caught:
        check_shape("query", torch.zeros(2, 3, 4), expected)
    wanted = ", ".join(str(entry) for entry in expected)
    assert str(caught.value) == f"query: expected shape ({wanted}), got (2, 3, 4)."


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_check_images_passes_every_floating_type(dtype):
    check_images("frames", torch.zeros(1, 3, 8, 8, dtype=dtype))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 4, 8, 8), (1, 8, 8, 3)])
def test_check_images_refuses_other_shapes(shape):
    with pytest.raises(ShapeError, match=r"^frames: expected shape \(N, 3, H, W\), got \("):
        check_images("frames", torch.zeros(shape))


def test_check_images_refuses_bytes_and_says_the_remedy():
    with pytest.raises(ShapeError, match=r"floating point values in \[0, 1\], got torch.uint8; divide by 255 first"):
        check_images("frames", torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


def test_check_images_refuses_no_frames():
    with pytest.raises(InputError, match="at least one frame, got none"):
        check_images("frames", torch.zeros(0, 3, 8, 8))


@pytest.mark.parametrize("index", [0, 3, 4])
def test_check_index_returns_the_index(index):
    assert check_index("--anchor", index, 5) == index


@pytest.mark.parametrize("index", [-1, 5, 500])
def test_check_index_refuses_what_lies_outside(index):
    with pytest.raises(InputError, match=rf"^--anchor: expected 0 to 4 \(the clip has 5 frames\), got {index}\.$"):
        check_index("--anchor", index, 5)


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_check_range_returns_the_value_ends_included(value):
    assert check_range("gamma", value, 0.0, 1.0) == value


@pytest.mark.parametrize("value", [-0.001, 1.001, math.inf, -math.inf, math.nan])
def test_check_range_refuses_what_lies_outside(value):
    with pytest.raises(InputError, match=r"^gamma: expected a value from 0 to 1, got "):
        check_range("gamma", value, 0.0, 1.0)
