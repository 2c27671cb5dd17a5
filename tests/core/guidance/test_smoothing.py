"""Backgrounds carried from frame to frame, by their laws and by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from zero2hero_core.checks import ShapeError
from zero2hero_core.guidance.motion import BatchMotion
from zero2hero_core.guidance.smoothing import background_of, fuse_along, smooth_features, smooth_pictures


def still(count: int, height: int, width: int) -> BatchMotion:
    flow, hidden = torch.zeros(count, height, width, 2), torch.zeros(count, height, width, dtype=torch.bool)
    return BatchMotion(torch.zeros(count, 3, height, width), flow, flow, hidden, hidden)


def moving(count: int, height: int, width: int) -> BatchMotion:
    generator = torch.Generator().manual_seed(2)
    flows = 2 * torch.randn(2, count, height, width, 2, generator=generator)
    hidden = torch.rand(2, count, height, width, generator=generator) < 0.2
    return BatchMotion(torch.zeros(count, 3, height, width), flows[0], flows[1], hidden[0], hidden[1])


def random_values(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_a_foreground_is_gathered_over_seven_pixels() -> None:
    foreground = torch.zeros(1, 1, 9, 12)
    foreground[0, 0, 4, 5], foreground[0, 0, 4, 11] = 0.25, 1.0
    background = background_of(foreground)[0, 0]
    assert background[4].tolist() == [1, 1, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0, 0, 0, 0]
    assert background[0].tolist() == [1] * 12
    assert bool((background_of(torch.full((2, 1, 9, 12), 0.5)) == 0).all())


@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_foreground_everywhere_changes_no_bit(kind: torch.dtype) -> None:
    background = background_of(torch.ones(4, 1, 24, 40))
    pictures, features = random_values(4, 3, 24, 40).to(kind), random_values(4, 5, 6, 10).to(kind)
    assert torch.equal(smooth_pictures(pictures, moving(4, 24, 40), background), pictures)
    assert torch.equal(smooth_features(features, moving(4, 24, 40), background), features)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_background_everywhere_without_motion_makes_all_frames_the_first(count: int) -> None:
    background = background_of(torch.zeros(count, 1, 24, 40))
    pictures, features = random_values(count, 3, 24, 40), random_values(count, 5, 6, 10)
    for smoothed, values in (
        (smooth_pictures(pictures, still(count, 24, 40), background), pictures),
        (smooth_features(features, still(count, 24, 40), background), features),
    ):
        assert torch.allclose(smoothed, values[:1].expand_as(values), atol=1e-5)


def test_by_hand_and_the_last_frame_reads_the_first_once_more() -> None:
    """Half background: frame 1 takes m = 1/4 of frame 0, frame 2 takes 1/4 of that, and then 1/4 of frame 0."""
    values = torch.tensor([8.0, 0.0, 0.0]).view(3, 1, 1, 1).expand(3, 2, 16, 16)
    smoothed = fuse_along(values, still(3, 16, 16), torch.full((3, 1, 16, 16), 0.5))
    assert torch.allclose(smoothed[:, 0, 5, 5], torch.tensor([8.0, 2.0, 0.5 * 0.75 + 2.0]), atol=1e-5)
    assert torch.equal(values[:, 0, 0, 0], torch.tensor([8.0, 0.0, 0.0]))


def test_reads_along_the_flow_from_the_later_frame_to_the_earlier() -> None:
    """The picture moves right by 2: the later frame reads 2 to the left; across the circle, the last reads on."""
    values = torch.zeros(2, 1, 16, 16)
    values[0, 0, 5, 6] = 1
    motion = still(2, 16, 16)
    backward, hidden = motion.backward.clone(), torch.ones(2, 16, 16, dtype=torch.bool)
    backward[0, ..., 0] = -2
    hidden[0] = False
    motion = replace(motion, backward=backward, backward_occlusion=hidden, forward_occlusion=torch.ones_like(hidden))
    smoothed = fuse_along(values, motion, torch.ones(2, 1, 16, 16))
    assert smoothed[1].sum() == pytest.approx(1, abs=1e-4)
    assert float(smoothed[1, 0, 5, 8]) == pytest.approx(1, abs=1e-4)

    forward, hidden = motion.forward.clone(), torch.ones(2, 16, 16, dtype=torch.bool)
    forward[1, ..., 0] = 3
    hidden[1] = False
    motion = replace(motion, forward=forward, forward_occlusion=hidden, backward_occlusion=torch.ones_like(hidden))
    assert float(fuse_along(values, motion, torch.ones(2, 1, 16, 16))[1, 0, 5, 3]) == pytest.approx(1, abs=1e-4)


def test_hidden_places_keep_what_they_had_and_spread_at_picture_size() -> None:
    values = torch.stack([torch.ones(3, 32, 32), torch.zeros(3, 32, 32)])
    hidden = torch.zeros(2, 32, 32, dtype=torch.bool)
    hidden[:, 16, 16] = True
    motion = replace(still(2, 32, 32), backward_occlusion=hidden, forward_occlusion=hidden)
    background = torch.ones(2, 1, 32, 32)
    thin, wide = (1 - fuse(values, motion, background)[1, 0] for fuse in (smooth_features, smooth_pictures))
    assert thin.round().sum() == 1
    assert wide.round().sum() == 13 * 13
    assert bool((wide[10:23, 10:23] == 1).all())


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(ShapeError, match="values"):
        fuse_along(torch.zeros(3, 2, 16, 16), still(2, 16, 16), torch.zeros(3, 1, 16, 16))
    with pytest.raises(ShapeError, match="background"):
        fuse_along(torch.zeros(2, 2, 16, 16), still(2, 16, 16), torch.zeros(3, 1, 16, 16))
    with pytest.raises(ShapeError, match="foreground"):
        background_of(torch.zeros(2, 16, 16))
