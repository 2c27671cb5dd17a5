"""The motion of a clip in memory, by a flow that is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from moving import pan

from zero2hero_core.checks import InputError
from zero2hero_core.flow.clip import clip_flows
from zero2hero_core.flow.raft import raft_function
from zero2hero_core.jobs.flow import FlowSettings, clip_motion, flow_function

FULL = {"longest_side": 0}


def to_the_left(source: torch.Tensor, target: torch.Tensor) -> list[torch.Tensor]:
    """In the place of RAFT: by 8 pixels to the left where the target is the later frame of the pan, else back."""
    forward = (source[..., 8:] - target[..., :-8]).abs().mean() < (source[..., :-8] - target[..., 8:]).abs().mean()
    flow = torch.zeros(1, 2, *source.shape[-2:])
    flow[:, 0] = -8.0 if forward else 8.0
    return [torch.full_like(flow, 99.0), flow]


def test_motion_of_a_pan() -> None:
    seen: list[tuple[int, ...]] = []
    frames = pan(0, 3, 8)
    motion = clip_motion(frames, FlowSettings(), network=to_the_left, on_pair=lambda one: seen.append(tuple(one.shape)))
    assert motion.flows.forward.shape == (2, 64, 96, 2) and motion.flows.forward.unique().tolist() == [-8.0, 0.0]
    assert motion.hidden_next[:, 0, 0, :9].tolist() == [[1.0] * 8 + [0.0]] * 2 + [[0.0] * 9]
    assert motion.hidden_previous[:, 0, 0, -9:].tolist() == [[0.0] * 9] + [[0.0] + [1.0] * 8] * 2
    assert seen == [(3, 64, 96)] * 2
    pictures = motion.pictures(frames, 8)
    assert pictures.shape == (2, 3, 64, 192) and torch.equal(pictures[1, ..., :96], frames[1])
    assert pictures[0, :, 5, 150].tolist() == pytest.approx([0, 1, 1], abs=1e-5)


def test_soft_maps_have_a_ramp() -> None:
    hard, soft = (
        clip_motion(pan(0, 2, 8), FlowSettings(soft=option), network=to_the_left).hidden_next
        for option in (False, True)
    )
    assert float(hard[0, 0, 30, 12]) == 0 < float(soft[0, 0, 30, 12]) < 1
    assert bool((soft >= hard).all())


def test_dis_is_the_engine_without_a_network() -> None:
    frames = pan(0, 2, 2)
    motion = clip_motion(frames, FlowSettings(**FULL))
    assert torch.equal(motion.flows.forward, clip_flows(frames).forward)
    small = clip_motion(frames, FlowSettings(longest_side=48)).flows.forward
    assert not torch.equal(small, motion.flows.forward) and float((small + torch.tensor([2.0, 0])).abs().mean()) < 0.5


def test_a_network_is_called_as_raft_is() -> None:
    """In [-1, 1], padded to multiples of 8 from 128 up, half on each side; the last of its flows counts."""
    seen: list[tuple[int, ...]] = []

    def network(source: torch.Tensor, target: torch.Tensor) -> list[torch.Tensor]:
        seen.append(tuple(source.shape))
        assert float(source.min()) == -1 and float(source.max()) == 1
        columns = torch.arange(source.shape[-1]).expand(1, 2, *source.shape[-2:]).float()
        return [-columns, columns]

    picture = torch.zeros(3, 130, 133)
    picture[0] = 1.0
    flow = raft_function(network)(picture, picture)
    assert seen == [(1, 3, 136, 136)] and flow.shape == (130, 133, 2)
    assert flow[7, :, 1].tolist() == list(range(1, 134))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"engine": "flownet"}, "engine: expected one of dis, raft, got 'flownet'"),
        ({"law": "brox"}, "law: expected one of unflow, sundaram, got 'brox'"),
        ({"longest_side": 8}, r"longest_side: expected 0 \(full size\) or 16 pixels or more, got 8"),
    ],
)
def test_settings_that_make_no_sense(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FlowSettings(**values)


def test_one_frame_has_no_motion() -> None:
    with pytest.raises(InputError, match="frames: expected at least 2 frames"):
        clip_motion(pan(0, 1, 0), FlowSettings())
    assert flow_function(FlowSettings(), to_the_left)(pan(0, 2, 8)[0], pan(0, 2, 8)[1])[0, 0].tolist() == [-8.0, 0.0]
