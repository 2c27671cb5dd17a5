"""Flow at a working size: the same flow where pictures are small, the same motion where they are large."""

from __future__ import annotations

import math

import pytest
import torch

from zero2hero_core.checks import InputError
from zero2hero_core.flow.dis import dis_flow
from zero2hero_core.flow.scaled import scale_flow, scaled_flow, working_size


def picture(dx: float, dy: float, height: int = 200, width: int = 300) -> torch.Tensor:
    """Waves of 20 to 60 pixels, moved by (dx, dy)."""
    generator = torch.Generator().manual_seed(3)
    y, x = torch.meshgrid(torch.arange(float(height)) - dy, torch.arange(float(width)) - dx, indexing="ij")
    total = torch.zeros(height, width)
    for _ in range(12):
        angle, length, phase = torch.rand(3, generator=generator).tolist()
        wave = 2 * math.pi / (20 + 40 * length)
        total += torch.sin(wave * (x * math.cos(7 * angle) + y * math.sin(7 * angle)) + 7 * phase)
    return (0.5 + total / 12).clamp(0, 1).expand(3, -1, -1)


def test_small_pictures_go_to_the_engine_as_they_are() -> None:
    one, other = picture(0, 0, 60, 80), picture(2, 1, 60, 80)
    assert torch.equal(scaled_flow(longest_side=80)(one, other), dis_flow(one, other))
    assert not torch.equal(scaled_flow(longest_side=79)(one, other), dis_flow(one, other))


def test_the_motion_of_large_pictures_is_found_and_is_the_same_each_time() -> None:
    flow = scaled_flow(longest_side=100)
    one, other = picture(0, 0), picture(6, -4.5)
    motion = flow(one, other)
    error = (motion - torch.tensor([6.0, -4.5]))[30:-30, 30:-30].norm(dim=-1)
    assert motion.shape == (200, 300, 2) and float(error.mean()) < 0.3
    assert torch.equal(motion, flow(one, other))


def test_the_engine_sees_the_working_size_only() -> None:
    seen: list[tuple[int, ...]] = []

    def engine(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(source.shape))
        return torch.ones(*source.shape[-2:], 2)

    motion = scaled_flow(engine, longest_side=50)(torch.zeros(3, 80, 200), torch.zeros(3, 80, 200))
    assert seen == [(3, 20, 50)] and torch.allclose(motion, torch.full((80, 200, 2), 4.0))


@pytest.mark.parametrize(
    ("size", "longest", "expected"),
    [
        ((2160, 3840), 960, (540, 960)),
        ((480, 640), 960, (480, 640)),
        ((20, 2000), 100, (16, 100)),
        ((8, 2000), 100, (8, 100)),
    ],
)
def test_working_sizes(size: tuple[int, int], longest: int, expected: tuple[int, int]) -> None:
    assert working_size(size, longest) == expected


def test_a_flow_keeps_its_motion_at_another_size() -> None:
    flow = torch.tensor([3.0, -2.0]).expand(8, 12, 2)
    assert torch.allclose(scale_flow(flow, (16, 36)), torch.tensor([9.0, -4.0]).expand(16, 36, 2))
    assert torch.allclose(scale_flow(flow, (1, 2)), torch.tensor([0.5, -0.25]).expand(1, 2, 2))


def test_a_working_size_without_pixels_is_refused() -> None:
    with pytest.raises(InputError, match="longest_side: expected 16 pixels or more, got 8"):
        scaled_flow(longest_side=8)
    with pytest.raises(InputError, match="source: expected finite values"):
        scaled_flow(longest_side=50)(torch.full((3, 80, 200), math.nan), torch.zeros(3, 80, 200))
