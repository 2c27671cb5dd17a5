"""The flows of a clip: all at once, and pair by pair."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from zero2hero_core.checks import InputError
from zero2hero_core.flow.clip import ClipFlows, PairFlows, clip_flows, neighbour_flows
from zero2hero_core.video.source import open_frames


def levels(*values: float) -> torch.Tensor:
    return torch.stack([torch.full((3, 4, 6), value) for value in values])


def level_flow(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """To the right by eight times what the target is brighter."""
    return torch.tensor([8.0, 0.0]).expand(4, 6, 2) * float(target[0, 0, 0] - source[0, 0, 0])


def test_pairs_are_what_the_whole_clip_has() -> None:
    frames = levels(0.0, 0.25, 1.0)
    whole, pairs = clip_flows(frames, flow=level_flow), list(neighbour_flows(frames, flow=level_flow))
    assert [pair.index for pair in pairs] == [0, 1]
    assert torch.equal(torch.stack([pair.forward for pair in pairs]), whole.forward)
    assert torch.equal(torch.stack([pair.backward for pair in pairs]), whole.backward)
    assert whole.forward[:, 0, 0, 0].tolist() == [2.0, 6.0] and whole.backward[:, 0, 0, 0].tolist() == [-2.0, -6.0]


def test_each_map_lies_in_the_frame_that_its_flow_starts_from() -> None:
    (pair,) = neighbour_flows(levels(0.0, 0.25), flow=level_flow)
    assert pair.forward_occlusion.tolist() == [[False] * 4 + [True] * 2] * 4
    assert pair.backward_occlusion.tolist() == [[True] * 2 + [False] * 4] * 4
    assert bool((pair.forward_soft >= pair.forward_occlusion).all()) and float(pair.backward_soft[0, 3]) > 0


def test_exchanged_frames_exchange_the_maps() -> None:
    coarse = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    coarse[1] = 0.7 * coarse[0] + 0.3 * coarse[1]
    frames = torch.nn.functional.interpolate(coarse, (32, 40), mode="bilinear")
    (one,), (other,) = (list(neighbour_flows(clip)) for clip in (frames, frames.flip(0)))
    assert 0 < float(one.forward_occlusion.float().mean()) < 1
    assert not torch.equal(one.forward_occlusion, one.backward_occlusion)
    assert torch.equal(one.forward_occlusion, other.backward_occlusion)
    assert torch.equal(one.backward_occlusion, other.forward_occlusion)
    assert torch.equal(one.forward, other.backward)


def test_the_photometric_test_is_an_option_for_both_ways() -> None:
    frames = levels(0.5, 0.5)
    frames[1, :, 0, 0] = 0.9

    def still(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.zeros(4, 6, 2)

    (plain,), (strict,) = (list(neighbour_flows(frames, flow=still, photometric=option)) for option in (False, True))
    assert not bool(plain.forward_occlusion.any())
    for hidden in (strict.forward_occlusion, strict.backward_occlusion):
        assert bool(hidden[0, 0]) and int(hidden.sum()) == 1


def test_no_more_than_two_frames_are_asked_for_ahead() -> None:
    asked: list[int] = []

    def frames() -> Iterator[torch.Tensor]:
        for index, value in enumerate((0.0, 0.1, 0.2, 0.3)):
            asked.append(index)
            yield levels(value)[0]

    pairs = neighbour_flows(frames(), flow=level_flow)
    assert isinstance(next(pairs), PairFlows) and asked == [0, 1]
    next(pairs)
    assert asked == [0, 1, 2]


def test_a_frame_source_serves_and_one_frame_has_no_pair() -> None:
    frames = levels(0.0, 0.25, 1.0)
    with open_frames(frames, multiple=1) as source:
        assert [pair.forward[0, 0, 0].item() for pair in neighbour_flows(source, flow=level_flow)] == [2.0, 6.0]
    assert list(neighbour_flows(frames[:1], flow=level_flow)) == []


def test_a_function_that_gives_another_shape_is_named() -> None:
    with pytest.raises(InputError, match=r"flow: expected a function that gives \(4, 6, 2\)"):
        next(neighbour_flows(levels(0.0, 1.0), flow=lambda source, target: torch.zeros(2, 4, 6)))
    with pytest.raises(InputError, match="expected a clip of at least 2 frames, got 1"):
        clip_flows(levels(0.5), flow=level_flow)
    with pytest.raises(InputError, match="backward: expected"):
        ClipFlows(torch.zeros(1, 4, 6, 2), torch.zeros(2, 4, 6, 2))
