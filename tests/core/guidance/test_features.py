"""The guidance that makes features move with the frames, and the capture of its references."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from zero2hero_core.attention.features import guide_features
from zero2hero_core.attention.guidance import Pass
from zero2hero_core.checks import InputError, ShapeError
from zero2hero_core.flow.warp import warp_backward
from zero2hero_core.guidance.features import CorrespondenceFeatures, FeatureCapture, FeatureSettings
from zero2hero_core.guidance.motion import BatchMotion
from zero2hero_core.guidance.smoothing import background_of, smooth_features

NOW = Pass(step=3, timestep=801, frames=(0, 1, 2), size_hw=(16, 16))


def random_features(seed: int = 0, *, count: int = 3, side: int = 8) -> torch.Tensor:
    return torch.randn(count, 6, side, side, generator=torch.Generator().manual_seed(seed))


def random_motion(count: int = 3, side: int = 32) -> BatchMotion:
    """Flows of some pixels on frames four times as large as the features."""
    generator = torch.Generator().manual_seed(5)
    flows = 4 * torch.randn(2, count, side, side, 2, generator=generator)
    hidden = torch.rand(2, count, side, side, generator=generator) < 0.01
    return BatchMotion(torch.rand(count, 3, side, side, generator=generator), flows[0], flows[1], hidden[0], hidden[1])


def no_motion(count: int = 3, side: int = 32) -> BatchMotion:
    flow, hidden = torch.zeros(count, side, side, 2), torch.zeros(count, side, side, dtype=torch.bool)
    return BatchMotion(torch.rand(count, 3, side, side), flow, flow, hidden, hidden)


def captured(*features: torch.Tensor, level: int = 1) -> FeatureCapture:
    """A reference with the given features, for the prompt and, if given, for the empty prompt."""
    capture = FeatureCapture()
    for values, conditional in zip(features, (True, False), strict=False):
        capture.guide(replace(NOW, conditional=conditional), level, values)
    return capture


def slowly(features: torch.Tensor, motion: BatchMotion, reference: torch.Tensor) -> torch.Tensor:
    """20 steps of torch's Adam on the formulas, and mean and spread given back."""
    motion = motion.at((features.shape[-2], features.shape[-1]))
    wanted = F.normalize(reference.flatten(2), dim=1)
    leaf = features.clone().requires_grad_()
    adam = torch.optim.Adam([leaf], lr=0.2)
    for _ in range(20):
        missed = []
        for place in range(len(features)):
            one, other = leaf[place], leaf[(place + 1) % len(features)]
            missed.append(
                (other - warp_backward(one, motion.backward[place])).abs() * ~motion.backward_occlusion[place]
            )
            missed.append((one - warp_backward(other, motion.forward[place])).abs() * ~motion.forward_occlusion[place])
        units = F.normalize(leaf.flatten(2), dim=1)
        loss = 2 * 2 * torch.stack(missed).mean() + 100 * (units.mT @ units - wanted.mT @ wanted).abs().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    changed = leaf.detach()
    mean, spread = changed.mean((2, 3), keepdim=True), (changed.var((2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
    old = (features.var((2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
    return (changed - mean) / spread * old + features.mean((2, 3), keepdim=True)


def test_is_what_the_formulas_and_adam_give() -> None:
    """In double precision: in single precision a sign may fall the other way, and Adam makes much of it."""
    features, reference, motion = random_features().double(), random_features(1).double(), random_motion()
    motion = replace(motion, forward=motion.forward.double(), backward=motion.backward.double())
    guided = CorrespondenceFeatures(motion, captured(reference), steps=20).guide(NOW, 1, features)
    assert torch.allclose(guided, slowly(features, motion, reference), atol=1e-9)
    assert float((guided - features).abs().mean()) > 0.1


def test_mean_and_spread_of_every_frame_and_channel_stay() -> None:
    features = random_features() * torch.arange(1, 7).view(1, 6, 1, 1) + 3
    guided = CorrespondenceFeatures(random_motion(), captured(random_features(1)), steps=20).guide(NOW, 1, features)
    assert not torch.allclose(guided, features, atol=0.1)
    assert torch.allclose(guided.mean((2, 3)), features.mean((2, 3)), atol=1e-4)
    assert torch.allclose(guided.std((2, 3)), features.std((2, 3)), rtol=1e-3)


@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_consistent_features_stay_bit_for_bit(kind: torch.dtype) -> None:
    features = random_features(count=1).expand(3, -1, -1, -1).to(kind)
    guidance = CorrespondenceFeatures(no_motion(), captured(features), steps=20)
    assert torch.equal(guidance.guide(NOW, 1, features), features)


def test_weights_of_0_leave_features_bit_for_bit() -> None:
    features = random_features()
    settings = FeatureSettings(temporal=0, spatial=0)
    assert torch.equal(
        CorrespondenceFeatures(random_motion(), None, settings, steps=20).guide(NOW, 1, features), features
    )
    alone = CorrespondenceFeatures(random_motion(1), None, FeatureSettings(spatial=0), steps=20)
    assert torch.equal(alone.guide(NOW, 1, features[:1]), features[:1])
    none = CorrespondenceFeatures(random_motion(), captured(features), FeatureSettings(iterations=0), steps=20)
    assert torch.equal(none.guide(NOW, 1, features), features)


def test_the_frames_come_nearer_to_each_other() -> None:
    features = random_features()
    guidance = CorrespondenceFeatures(no_motion(), None, FeatureSettings(spatial=0), steps=20)
    before, after = (
        float((values - values.roll(-1, 0)).abs().mean()) for values in (features, guidance.guide(NOW, 1, features))
    )
    assert after < 0.5 * before


def test_each_half_of_the_guidance_has_its_own_reference() -> None:
    features, prompted, empty = random_features(), random_features(1), random_features(2)
    both = CorrespondenceFeatures(random_motion(), captured(prompted, empty), steps=20)
    for conditional, reference in ((True, prompted), (False, empty)):
        alone = captured(*((reference,) if conditional else (prompted, reference)))
        wanted = CorrespondenceFeatures(random_motion(), alone, steps=20)
        now = replace(NOW, conditional=conditional)
        assert torch.equal(both.guide(now, 1, features), wanted.guide(now, 1, features))
    assert not torch.equal(both.guide(NOW, 1, features), both.guide(replace(NOW, conditional=False), 1, features))


def test_a_second_call_begins_anew() -> None:
    features = random_features()
    guidance = CorrespondenceFeatures(random_motion(), captured(random_features(1)), steps=20)
    first = guidance.guide(NOW, 1, features)
    assert torch.equal(guidance.guide(NOW, 1, features), first)
    assert torch.equal(features, random_features())


def test_works_where_autograd_is_shut_off_and_in_half_precision() -> None:
    guidance = CorrespondenceFeatures(random_motion(), captured(random_features(1)), steps=20)
    with torch.inference_mode():
        guided = guidance.guide(NOW, 1, random_features().half())
    assert guided.dtype == torch.float16
    assert bool(torch.isfinite(guided).all())


def test_acts_in_the_first_steps_and_at_its_levels() -> None:
    def acting(settings: FeatureSettings, steps: int, level: int = 0) -> list[int]:
        guidance = CorrespondenceFeatures(no_motion(), captured(random_features()), settings, steps=steps)
        return [step for step in range(steps) if guidance.acts(level, step)]

    assert acting(FeatureSettings(), 20) == list(range(15))
    assert acting(FeatureSettings(), 4) == [0, 1, 2]
    assert acting(FeatureSettings(until=0.6), 5) == [0, 1, 2]
    assert acting(FeatureSettings(until=1), 3) == [0, 1, 2]
    assert acting(FeatureSettings(until=0), 20) == []
    assert acting(FeatureSettings(levels=(1, 3)), 20, level=2) == []
    assert acting(FeatureSettings(levels=(1, 3)), 20, level=3) == list(range(15))


def test_a_foreground_lets_the_background_be_carried_on_right_after() -> None:
    features, motion = random_features(), random_motion()
    reference = captured(random_features(1))
    plain = CorrespondenceFeatures(motion, reference, steps=20).guide(NOW, 1, features)
    foreground = torch.zeros(3, 1, 32, 32)
    foreground[:, :, 8:20, 10:16] = 0.7
    smoothed = CorrespondenceFeatures(motion, reference, steps=20, foreground=foreground).guide(NOW, 1, features)
    assert torch.equal(smoothed, smooth_features(plain, motion, background_of(foreground)))
    assert not torch.equal(smoothed, plain)
    everywhere = CorrespondenceFeatures(motion, reference, steps=20, foreground=torch.ones(3, 1, 32, 32))
    assert torch.equal(everywhere.guide(NOW, 1, features), plain)


def test_a_capture_changes_nothing_and_keeps_a_copy_of_unit_length() -> None:
    features = random_features()
    capture = FeatureCapture((1, 2))
    assert guide_features([capture], NOW, 1, features) is features
    assert torch.equal(features, random_features())
    kept = capture.units(1, conditional=True)
    assert kept.shape == (3, 64, 6)
    assert torch.allclose(kept[1, 9], F.normalize(features[1, :, 1, 1], dim=0))
    features.zero_()
    assert bool(kept.any())
    assert [capture.acts(level, 0) for level in range(4)] == [False, True, True, False]


def test_says_in_a_sentence_what_is_missing() -> None:
    with pytest.raises(InputError, match="reference: expected the features of a pass"):
        CorrespondenceFeatures(no_motion(), None, steps=20)
    guidance = CorrespondenceFeatures(no_motion(), captured(random_features(), level=1), steps=20)
    with pytest.raises(InputError, match="decoder level 2, with the prompt"):
        guidance.guide(NOW, 2, random_features())
    with pytest.raises(InputError, match="decoder level 1, with the empty prompt"):
        guidance.guide(replace(NOW, conditional=False), 1, random_features())
    with pytest.raises(ShapeError, match="each of 3 frames of the motion, got 2"):
        guidance.guide(NOW, 1, random_features(count=2))
    with pytest.raises(ShapeError, match="each of 3 frames, got 2"):
        CorrespondenceFeatures(no_motion(), captured(random_features()), steps=20, foreground=torch.ones(2, 1, 8, 8))


@pytest.mark.parametrize(
    "wrong",
    [
        {"iterations": -1},
        {"rate": -0.1},
        {"temporal": -1},
        {"spatial": float("nan")},
        {"until": 1.1},
        {"levels": (4,)},
    ],
)
def test_settings_check_themselves(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        FeatureSettings(**wrong)  # type: ignore[arg-type]
