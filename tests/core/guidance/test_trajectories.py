"""The ways of tokens through a batch: permutations that lead back, equal to a loop over the tokens, and far faster."""

from __future__ import annotations

import time

import pytest
import torch
import torch.nn.functional as F
from frame_attention import motion_of, naive_hidden, naive_mates, naive_pair, naive_ways

from zero2hero_core.guidance.motion import BatchMotion
from zero2hero_core.guidance.trajectories import follow_tokens


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size_hw", [(8, 8), (4, 4), (16, 8)])
def test_trajectories_equal_the_loop_and_lead_back(seed: int, size_hw: tuple[int, int]) -> None:
    motion = motion_of(4, seed)
    ways, (order, linked) = follow_tokens(motion, size_hw), naive_ways(motion, size_hw)
    assert ways.order.tolist() == order and ways.linked.tolist() == linked
    every = torch.arange(size_hw[0] * size_hw[1])
    for there, back in zip(ways.order, ways.back, strict=True):
        assert torch.equal(there[back], every) and torch.equal(there.sort().values, every)
    assert 0 < ways.linked.float().mean() < 1


def test_still_frames_have_straight_ways() -> None:
    frames = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).expand(3, -1, -1, -1)
    still = BatchMotion(frames, *torch.zeros(2, 3, 32, 32, 2), *torch.zeros(2, 3, 32, 32, dtype=torch.bool))
    ways = follow_tokens(still, (8, 8))
    assert torch.equal(ways.order, torch.arange(64).expand(3, -1)) and ways.linked.all() and ways.together.all()


def by_hand(flow: list[float], colours: list[float], hidden: list[bool]) -> BatchMotion:
    """Two frames of one line; the earlier one is black, flows go along the line."""
    width = len(flow)
    frames = torch.zeros(2, 3, 1, width)
    frames[1] = torch.tensor(colours)
    flows, occlusions = torch.zeros(2, 2, 1, width, 2), torch.zeros(2, 2, 1, width, dtype=torch.bool)
    flows[1, 0, 0, :, 0], occlusions[1, 0, 0] = torch.tensor(flow), torch.tensor(hidden)
    return BatchMotion(frames, *flows, *occlusions)


@pytest.mark.parametrize(
    ("flow", "colours", "hidden", "following", "led"),
    [
        # Places 1 and 2 both come from 1: the nearer colour keeps it; place 1 is left for 2, across a cut.
        ([0, 0, -1, 0], [0.0, 0.5, 0.2, 0.0], [False] * 4, [0, 2, 1, 3], [True, True, False, True]),
        # As near: the earlier one keeps it.
        ([0, 0, -1, 0], [0.0, 0.2, 0.2, 0.0], [False] * 4, [0, 1, 2, 3], [True, True, False, True]),
        # A shift to the left: the last place shows what no place showed, and place 0 of the earlier frame is gone.
        ([1, 1, 1, 1], [0.0] * 4, [False] * 4, [3, 0, 1, 2], [False, True, True, True]),
        # All hidden: paired in their order, all cut.
        ([1, 1, 1, 1], [0.0] * 4, [True] * 4, [0, 1, 2, 3], [False] * 4),
        # Left-overs 0 and 3 go to 2 and 3 in their order.
        ([1, 1, 0, 0], [0.0] * 4, [False, False, True, True], [2, 0, 1, 3], [False, True, True, False]),
    ],
)
def test_pairs_by_hand(
    flow: list[float], colours: list[float], hidden: list[bool], following: list[int], led: list[bool]
) -> None:
    ways = follow_tokens(by_hand(flow, colours, hidden), (1, 4))
    assert ways.order.tolist() == [[0, 1, 2, 3], following] and ways.linked.tolist() == [led]


def test_stretches_end_at_cuts() -> None:
    ways = follow_tokens(motion_of(5, hidden=0.2), (8, 8))
    linked, lengths = ways.linked.tolist(), set()
    for way in range(64):
        for frame in range(5):
            mates = ways.together[way, frame].nonzero().flatten().tolist()
            assert mates == naive_mates(linked, way, frame)
            lengths.add(len(mates))
    assert {1, 2, 3} <= lengths


def test_following_all_tokens_at_once_is_far_faster_than_one_by_one() -> None:
    """A pair at 64 x 64 tokens, equal to the loop; judged by a ratio within one run."""
    generator = torch.Generator().manual_seed(0)
    flows = F.interpolate(torch.randn(4, 2, 8, 8, generator=generator) * 2, size=(64, 64), mode="bicubic")
    hidden = (torch.rand(4, 1, 8, 8, generator=generator) < 0.2).float()
    hidden = F.interpolate(hidden, size=(64, 64), mode="nearest")[:, 0].bool()
    pair = BatchMotion(
        torch.rand(2, 3, 64, 64, generator=generator),
        *flows.movedim(1, -1).reshape(2, 2, 64, 64, 2),
        *hidden.reshape(2, 2, 64, 64),
    )
    flat = naive_hidden(pair.backward_occlusion[0], (64, 64))
    begun = time.perf_counter()
    following, led = naive_pair(pair.backward[0], *pair.frames, flat)
    slow, quick = time.perf_counter() - begun, []
    for _ in range(5):
        begun = time.perf_counter()
        ways = follow_tokens(pair, (64, 64))
        quick.append(time.perf_counter() - begun)
    assert ways.order[1].tolist() == following and ways.linked[0].tolist() == led
    assert slow > 20 * min(quick)
