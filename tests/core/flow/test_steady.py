"""The mix of two flows, and what light does to it."""

from __future__ import annotations

import torch

from zero2hero_core.flow.steady import colour_departure, mix_flows, steady_flow

SIZE = 64


def picture(dx: float = 0.0) -> torch.Tensor:
    axis = torch.arange(float(SIZE))
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    u = x - dx
    waves = [torch.sin(u / 2.7 + k) * torch.cos(y / 3.4 - k) + torch.sin((u + y) / 4.1 + 2 * k) for k in range(3)]
    return 0.5 + torch.stack(waves) / 8


def test_of_two_flows_the_one_that_brings_the_colours_back_has_its_way() -> None:
    right, wrong = torch.tensor([-2.0, 0.0]).expand(SIZE, SIZE, 2), torch.tensor([3.0, 1.0]).expand(SIZE, SIZE, 2)
    mixed = mix_flows(picture(2.0), picture(), [wrong, right])
    assert float((mixed - right)[8:-8, 8:-8].norm(dim=-1).mean()) < 0.3
    assert torch.allclose(mix_flows(picture(), picture(), [wrong, wrong]), wrong, atol=1e-6)


def test_light_that_falls_evenly_is_no_departure() -> None:
    still = torch.zeros(SIZE, SIZE, 2)
    assert float(colour_departure(picture() + 0.2, picture(), still).max()) < 1e-9
    assert float(colour_departure(picture(2.0), picture(), still).mean()) > 1e-4


def test_the_flow_of_a_shift_is_found_although_the_light_halves() -> None:
    flow = steady_flow(0.5 * picture(1.5), picture())
    error = (flow - torch.tensor([-1.5, 0.0])).norm(dim=-1)[10:-10, 10:-10]
    assert flow.shape == (SIZE, SIZE, 2) and flow.dtype == torch.float32
    assert float(error.mean()) < 0.2


def test_a_flat_pair_gives_a_finite_flow() -> None:
    flat = torch.zeros(3, 32, 48)
    assert bool(torch.isfinite(steady_flow(flat, flat)).all())
