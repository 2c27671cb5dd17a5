"""Chained flow against motion that is known, its trust, and its state."""

from __future__ import annotations

import math

import pytest
import torch

from zero2hero_core.checks import InputError, ShapeError
from zero2hero_core.propagation.chain import FlowChain, loop_trust

SIZE = 64


def picture(dx: float, light: float = 1.0) -> torch.Tensor:
    """Waves moved by dx to the right, under a light that fades to the right as well."""
    axis = torch.arange(float(SIZE))
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    u = x - dx
    waves = [torch.sin(u / 2.7 + k) * torch.cos(y / 3.4 - k) + torch.sin((u + y) / 4.1 + 2 * k) for k in range(3)]
    return (0.5 + torch.stack(waves) / 8) * (1 - (1 - light) * x / SIZE)


def test_steps_add_up_to_the_way_to_the_key_and_are_trusted() -> None:
    chain = FlowChain(picture(0))
    for step in range(1, 5):
        flow, trust = chain.step(picture(1.5 * step))
    inner = (slice(12, -12), slice(16, -12))
    assert flow.shape == (SIZE, SIZE, 2) and trust.shape == (SIZE, SIZE)
    assert float((flow[inner] - torch.tensor([-6.0, 0.0])).norm(dim=-1).mean()) < 0.3
    assert float(trust[inner].mean()) > 0.6
    assert float(trust[:, :3].max()) < 0.2  # what came in from the left


def test_fading_light_does_not_move_the_flow() -> None:
    flow, _ = FlowChain(picture(0)).step(picture(1.5, light=0.5))
    assert float((flow[12:-12, 12:-12] - torch.tensor([-1.5, 0.0])).norm(dim=-1).mean()) < 0.3


def test_a_chain_that_was_stopped_goes_on_to_the_same_bytes() -> None:
    whole = FlowChain(picture(0))
    whole.step(picture(1))
    state = whole.state()
    other = FlowChain(picture(0))
    other.restore(state)
    for wanted, got in zip(whole.step(picture(2.5)), other.step(picture(2.5)), strict=True):
        assert torch.equal(wanted, got)
    assert torch.equal(state["frame"], picture(1))  # a state is a copy


def test_any_flow_function_is_asked_both_ways_between_neighbours() -> None:
    asked = []

    def one_to_the_right(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        asked.append((float(source.max()), float(target.max())))
        return torch.tensor([1.0, 0.0]).expand(16, 16, 2)

    frames = [torch.full((3, 16, 16), level) for level in (0.0, 0.25, 0.5)]
    chain = FlowChain(frames[0], one_to_the_right)
    chain.step(frames[1])
    flow, trust = chain.step(frames[2])
    assert asked == [(0.25, 0.0), (0.0, 0.25), (0.5, 0.25), (0.25, 0.5)]
    assert torch.equal(flow, torch.tensor([2.0, 0.0]).expand(16, 16, 2))
    gap = 4 / (16 / 256)  # there 2, back 2 in the same direction
    assert float(trust[8, 4]) == pytest.approx(1 / math.sqrt(1 + gap**2), rel=1e-4)


def test_trust_is_one_on_a_closed_loop_and_none_outside() -> None:
    right = torch.tensor([3.0, 0.0]).expand(16, 20, 2)
    trust = loop_trust(right, -right)
    assert bool((trust[:, :17] == 1).all()) and bool((trust[:, 17:] == 0).all())


def test_wrong_input_is_explained() -> None:
    chain = FlowChain(picture(0))
    with pytest.raises(ShapeError, match="frame"):
        chain.step(picture(0)[:, :-1])
    with pytest.raises(InputError, match=r"state: expected frame, back and ahead, got flow"):
        chain.restore({"flow": torch.zeros(1)})
    with pytest.raises(InputError, match="16 x 16"):
        FlowChain(torch.zeros(3, 8, 8))
