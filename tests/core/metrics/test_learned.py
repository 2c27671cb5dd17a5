"""LPIPS, subject consistency and motion smoothness on hand-made features, and against loops over frames and places."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from zero2hero_core.checks import InputError, ShapeError
from zero2hero_core.metrics.learned import (
    lpips,
    lpips_distance,
    motion_smoothness,
    subject_consistency,
)
from zero2hero_core.tiny.scenes.scene import Scene
from zero2hero_core.video.source import open_frames


class Colours:
    """A network with two layers: what it is fed, with one channel more, at full size and at half size."""

    weights = (torch.tensor([1.0, 2.0, 3.0, 0.5]), torch.tensor([0.5, 0.5, 0.5, 4.0]))

    def features(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        layer = torch.cat([pictures, torch.full_like(pictures[:, :1], 0.5)], 1)
        return [layer, torch.nn.functional.avg_pool2d(layer, 2)]


def random_pair(size: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, size, size, generator=generator), torch.rand(2, 3, size, size, generator=generator)


def numpy_lpips(fed: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Of one picture (3, H, W), on the features of `Colours`, place by place."""
    total = 0.0
    for layer, weights in enumerate(Colours.weights):
        above = below = 0.0
        side = 2**layer
        for y in range(0, fed.shape[1], side):
            for x in range(0, fed.shape[2], side):
                cell = (..., slice(y, y + side), slice(x, x + side))
                a, b = (np.append(clip[cell].mean((1, 2)), 0.5) for clip in (fed, truth))
                difference = (a / np.linalg.norm(a) - b / np.linalg.norm(b)) ** 2
                above += mask[cell].mean() * float(difference @ weights.double().numpy())
                below += mask[cell].mean()
        total += above / below
    return total


# LPIPS


def test_lpips_distance_by_hand() -> None:
    one, other = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1), torch.tensor([0.0, 7.0]).view(1, 2, 1, 1)
    weights = torch.tensor([2.0, 3.0])
    assert lpips_distance([one], [other], [weights]).tolist() == pytest.approx([5])
    assert lpips_distance([one, one], [other, one], [weights, weights]).tolist() == pytest.approx([5])
    assert lpips_distance([one, one], [other, other], [weights, 2 * weights]).tolist() == pytest.approx([15])
    # Two places, different and equal: half of it; lengths do not count; the mask chooses.
    pair, true = torch.cat([one, 3 * other], -1), torch.cat([other, other], -1)
    assert lpips_distance([pair], [true], [weights]).tolist() == pytest.approx([2.5])
    mask = torch.tensor([[[[1.0, 1.0, 0.0, 0.5], [1.0, 1.0, 0.0, 0.5]]]])  # places get 1 and 0.25
    assert lpips_distance([pair], [true], [weights], mask).tolist() == pytest.approx([5 / 1.25])
    assert bool(lpips_distance([pair], [true], [weights], 0 * mask).isnan())


@pytest.mark.parametrize("form", ["standard", "authors"])
def test_lpips_equals_a_loop_over_places(form: str) -> None:
    random, scene = random_pair(), Scene(2_000_003, 2, 32)
    mask = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(3))
    for pictures, truth in (random, (scene.frames(1), scene.frames(0))):
        scale, shift = (2, -1) if form == "standard" else (1, 0)
        fed, true = ((clip.double().numpy() * scale + shift) for clip in (pictures, truth))
        for weight in (torch.ones_like(mask), mask):
            expected = [numpy_lpips(a, b, m) for a, b, m in zip(fed, true, weight.double().numpy(), strict=True)]
            assert lpips(pictures, truth, Colours(), weight, form=form).tolist() == pytest.approx(expected, abs=1e-5)
        whole = lpips(pictures, truth, Colours(), form=form)
        assert torch.allclose(whole, lpips(pictures, truth, Colours(), torch.ones_like(mask), form=form))
        assert torch.allclose(whole, lpips(truth, pictures, Colours(), form=form))
        assert lpips(truth, truth, Colours(), form=form).tolist() == [0, 0]


# Subject consistency


def test_subject_consistency_by_hand() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 5.0], [2.0, 2.0], [-1.0, 0.0]])
    half = 1 / math.sqrt(2)
    # Cosines to the previous frame 0, 0.707, -0.707 and to the first 0, 0.707, -1; what is negative counts as 0.
    assert subject_consistency(features).tolist() == pytest.approx([0, half, 0])
    mixed = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6]])  # previous 0.6, 0.96; first 0.6, 0.8
    assert subject_consistency(mixed).tolist() == pytest.approx([0.6, 0.88])
    assert subject_consistency(mixed[:1].expand(3, 2)).tolist() == pytest.approx([1, 1])


def test_subject_consistency_equals_a_loop_over_frames() -> None:
    features = torch.randn(7, 20, generator=torch.Generator().manual_seed(0)) + 0.3
    array, expected = features.double().numpy(), []
    for i in range(1, 7):
        cosines = [array[i] @ array[j] / np.linalg.norm(array[i]) / np.linalg.norm(array[j]) for j in (i - 1, 0)]
        expected.append(sum(max(0.0, cosine) for cosine in cosines) / 2)
    assert subject_consistency(features).tolist() == pytest.approx(expected, abs=1e-6)
    assert min(expected) < 0.1 < max(expected)


# Motion smoothness


def mean_of_two(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    return (before + after) / 2


def numpy_smoothness(clip: torch.Tensor, mask: torch.Tensor) -> list[float]:
    """Frames of 8 bits; the mean of the even ones, cut down to 8 bits, against the odd ones."""
    frames, values = (clip.permute(0, 2, 3, 1) * 255).round().int().numpy(), []
    for i in range(1, len(frames) - 1, 2):
        made = (frames[i - 1] + frames[i + 1]) // 2
        weight = mask[i, 0].double().numpy()
        values.append(1 - (np.abs(made - frames[i]).mean(-1) * weight).sum() / weight.sum() / 255)
    return values


def test_motion_smoothness_by_hand() -> None:
    clip = torch.stack([torch.full((3, 2, 2), value) for value in (0.0, 0.4, 1.0, 1.0, 1.0, 0.3)])
    # Frames 0, 102, 255: 127.5 becomes 127 -> 1 - 25 / 255. Frames 255, 255, 255 -> 1. Frame 5 has no right neighbour.
    assert motion_smoothness(clip, mean_of_two).tolist() == pytest.approx([1 - 25 / 255, 1])
    clip[1, :, 0, 0] = 127 / 255
    assert motion_smoothness(clip[:3], mean_of_two).tolist() == pytest.approx([1 - 25 * 3 / 4 / 255])
    mask = torch.zeros(3, 1, 2, 2)
    mask[1, :, 0, 0] = 1
    assert motion_smoothness(clip[:3], mean_of_two, mask).tolist() == pytest.approx([1])
    assert bool(motion_smoothness(clip[:3], mean_of_two, 0 * mask).isnan())


def check_smoothness(clip: torch.Tensor) -> None:
    everywhere = torch.ones_like(clip[:, :1])
    weights = torch.rand(everywhere.shape, generator=torch.Generator().manual_seed(1))
    expected = numpy_smoothness(clip, everywhere)
    assert motion_smoothness(clip, mean_of_two).tolist() == pytest.approx(expected, abs=1e-4)
    assert motion_smoothness(clip, mean_of_two, everywhere).tolist() == pytest.approx(expected, abs=1e-4)
    expected = numpy_smoothness(clip, weights)
    assert motion_smoothness(clip, mean_of_two, weights).tolist() == pytest.approx(expected, abs=1e-4)


def test_motion_smoothness_equals_numpy() -> None:
    for count in (3, 4, 5):
        check_smoothness(torch.rand(count, 3, 20, 24, generator=torch.Generator().manual_seed(count)))
    check_smoothness(Scene(2_000_003, 5, 48).frames())


def test_motion_smoothness_equals_numpy_on_real_clips(shared_data: Path) -> None:
    with open_frames(shared_data / "wolf.mp4", size=128) as source:
        check_smoothness(source.frames([0, 1, 2, 3, 4]))


# Errors


def test_wrong_input_is_explained() -> None:
    pictures, truth = random_pair()
    features = Colours().features(pictures)
    with pytest.raises(ShapeError, match="as many layers.*got 2, 1 and 2"):
        lpips_distance(features, features[:1], Colours.weights)
    with pytest.raises(ShapeError, match=r"features: expected shape \(N, 3, h, w\), got \(2, 4, 32, 32\)"):
        lpips_distance(features[:1], features[:1], [torch.ones(3)])
    with pytest.raises(ShapeError, match=r"truth_features: expected shape \(2, 4, 32, 32\)"):
        lpips_distance(features[:1], features[1:], Colours.weights[:1])
    with pytest.raises(InputError, match="expected one of standard, authors, got '01'"):
        lpips(pictures, truth, Colours(), form="01")
    with pytest.raises(ShapeError, match=r"sides from 31 pixels up, got \(32, 30\).*enlarge"):
        lpips(pictures[..., :30], truth[..., :30], Colours())
    with pytest.raises(ShapeError, match="truth: expected equal shapes"):
        lpips(pictures, truth[:1], Colours())
    with pytest.raises(InputError, match="at least 2 frames, got 1"):
        subject_consistency(torch.ones(1, 4))
    with pytest.raises(ShapeError, match=r"features: expected shape \(N, D\)"):
        subject_consistency(torch.ones(2, 4, 4))
    with pytest.raises(InputError, match="at least 3 frames, got 2"):
        motion_smoothness(pictures, mean_of_two)
    with pytest.raises(ShapeError, match=r"what interpolate gives: expected shape \(3, 32, 32\), got \(3, 32, 16\)"):
        motion_smoothness(torch.cat([pictures, truth]), lambda before, after: before[..., :16])
