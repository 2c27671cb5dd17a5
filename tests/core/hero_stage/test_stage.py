"""Restoring with conditions: strength 0 is the base model, batches change nothing, noise is the clip's, bad input."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from tiny_models import random_dit
from zero2hero_core.backbones.flux.dit import DiTBackbone
from zero2hero_core.checks import InputError, ShapeError
from zero2hero_core.diffusion.flow_matching import flow_sigmas
from zero2hero_core.hero_stage.lora.adapters import HeroLoRA, LoRASpec
from zero2hero_core.hero_stage.sampling import restore_latents
from zero2hero_core.hero_stage.stage import HeroStage, RestoreSettings

KINDS = ("zero", "frame")
SHORT = RestoreSettings(num_inference_steps=2)


@pytest.fixture(scope="module")
def backbone() -> DiTBackbone:
    return random_dit()


@pytest.fixture(scope="module")
def lora(backbone: DiTBackbone) -> HeroLoRA:
    """Adapters for both conditions, of a visible size."""
    made = HeroLoRA(backbone, 2, LoRASpec(4))
    generator = torch.Generator().manual_seed(1)
    made.load_state_dict({k: 0.3 * torch.randn(t.shape, generator=generator) for k, t in made.state_dict().items()})
    return made


def pictures(count: int, seed: int, size_hw: tuple[int, int] = (64, 64)) -> torch.Tensor:
    return torch.rand(count, 3, *size_hw, generator=torch.Generator().manual_seed(seed))


def base_model(backbone: DiTBackbone, noise: torch.Tensor, settings: RestoreSettings) -> torch.Tensor:
    """Euler steps with no condition, written out."""
    x = noise
    for sigma, following in pairwise(flow_sigmas(settings.num_inference_steps)):
        velocity = backbone.velocity(x, sigma.expand(len(x)), guidance=settings.guidance_scale)
        x = x + velocity * float(following - sigma)
    return backbone.decode(x)


@torch.no_grad()
def test_strength_zero_of_both_conditions_is_the_base_model(backbone, lora):
    zero, frames = pictures(2, 1), pictures(2, 2)
    off = HeroStage(backbone, lora, KINDS, RestoreSettings(3, strengths=(0.0,)))
    expected = base_model(backbone, off.noise([0, 1], (4, 4)), off.settings)
    assert torch.equal(off.restore(zero, frames, [0, 1]), expected)
    assert not torch.allclose(HeroStage(backbone, lora, KINDS, SHORT).restore(zero, frames, [0, 1]), expected)


@torch.no_grad()
def test_strength_zero_of_one_condition_leaves_the_other_alone(backbone, lora):
    zero, frames = pictures(1, 1), pictures(1, 2)
    stage = HeroStage(backbone, lora, KINDS, RestoreSettings(2, strengths=(1.0, 0.0)))
    alone = restore_latents(backbone, lora, ["zero"], [backbone.encode(zero)], stage.noise([0], (4, 4)), SHORT)
    assert torch.equal(stage.restore(zero, frames, [0]), backbone.decode(alone))
    for strengths in ((0.5, 1.0), (1.0, 0.5), (1.0,)):
        other = HeroStage(backbone, lora, KINDS, RestoreSettings(2, strengths=strengths))
        assert not torch.allclose(other.restore(zero, frames, [0]), backbone.decode(alone), atol=1e-4), strengths


@pytest.mark.parametrize("same_noise", [True, False])
def test_the_batch_size_changes_nothing(backbone, lora, same_noise):
    zero, frames = pictures(3, 1), pictures(3, 2)
    stage = HeroStage(backbone, lora, KINDS, SHORT, same_noise=same_noise)
    together = stage.restore(zero, frames, [4, 7, 9])
    single = [stage.restore(zero[n : n + 1], frames[n : n + 1], [i]) for n, i in enumerate([4, 7, 9])]
    torch.testing.assert_close(together, torch.cat(single), atol=1e-5, rtol=0)


def test_all_frames_start_from_the_same_noise(backbone, lora):
    stage = HeroStage(backbone, lora, KINDS, SHORT)
    noise = stage.noise([0, 8, 3], (4, 4))
    assert noise.shape == (3, 32, 4, 4) and torch.equal(noise[:1].expand_as(noise), noise)
    other = HeroStage(backbone, lora, KINDS, RestoreSettings(2, seed=1)).noise([0], (4, 4))
    assert not torch.allclose(other, noise[:1], atol=0.1)
    zero, frames = pictures(1, 1), pictures(1, 2)
    assert torch.equal(stage.restore(zero, frames, [0]), stage.restore(zero, frames, [8]))


def test_new_noise_for_every_frame_depends_on_its_index_only(backbone, lora):
    stage = HeroStage(backbone, lora, KINDS, SHORT, same_noise=False)
    noise = stage.noise([0, 8, 3], (4, 4))
    assert torch.equal(noise[1:2], stage.noise([8], (4, 4)))
    correlations = noise.flatten(1).corrcoef() - torch.eye(3)
    assert float(correlations.abs().max()) < 0.2  # independent draws of 512 values
    zero, frames = pictures(1, 1), pictures(1, 2)
    assert not torch.allclose(stage.restore(zero, frames, [0]), stage.restore(zero, frames, [8]), atol=1e-3)


def test_samples_come_in_pairs_of_opposite_noise_and_are_averaged(backbone, lora):
    single = HeroStage(backbone, lora, KINDS, SHORT).noise([0, 1], (4, 4))
    for samples in (2, 3):
        stage = HeroStage(backbone, lora, KINDS, replace(SHORT, samples=samples))
        rows = stage.noise([0, 1], (4, 4)).unflatten(0, (2, samples))
        assert torch.equal(rows[:, 0], single) and torch.equal(rows[:, 1], -single)
        assert samples == 2 or not torch.allclose(rows[:, 2].abs(), single.abs(), atol=0.1)
        zero, frames = pictures(1, 1), pictures(1, 2)
        inputs = [backbone.encode(zero), backbone.encode(frames)]
        each = [restore_latents(backbone, lora, KINDS, inputs, rows[:1, i], SHORT) for i in range(samples)]
        torch.testing.assert_close(
            stage.restore(zero, frames, [0]), backbone.decode(sum(each) / samples), atol=1e-5, rtol=0
        )


def test_noise_is_standard_normal_and_of_the_seed(backbone, lora):
    noise = HeroStage(backbone, lora, KINDS, RestoreSettings(seed=2**64 - 1)).noise([0], (32, 32))
    assert float(noise.mean()) == pytest.approx(0, abs=0.02) and float(noise.std()) == pytest.approx(1, abs=0.02)


def test_frames_that_are_not_square(backbone, lora):
    zero, frames = pictures(2, 1, (48, 96)), pictures(2, 2, (48, 96))
    stage = HeroStage(backbone, lora, KINDS, SHORT)
    restored = stage.restore(zero, frames, [0, 1])
    assert restored.shape == (2, 3, 48, 96) and restored.dtype == torch.float32
    assert float(restored.min()) >= 0 and float(restored.max()) <= 1
    assert not torch.allclose(restored[0], restored[1], atol=1e-4)
    # What stands where matters: a picture turned upside down is another condition.
    turned = stage.restore(zero.flip(-2), frames.flip(-2), [0, 1])
    assert not torch.allclose(turned, restored, atol=1e-4)


def test_conditions_run_once_whatever_the_number_of_steps(backbone, lora, monkeypatch):
    calls, condition = [], backbone.condition

    def counted(packed: torch.Tensor, index: int, *args: Any, **named: Any) -> Any:
        calls.append((index, lora.current))
        return condition(packed, index, *args, **named)

    monkeypatch.setattr(backbone, "condition", counted)
    HeroStage(backbone, lora, KINDS, RestoreSettings(4)).restore(pictures(2, 1), pictures(2, 2), [0, 1])
    assert calls == [(0, 0), (1, 1)]  # each with its own adapter on
    assert lora.current is None


def test_progress_is_told_after_every_step(backbone, lora):
    steps: list[int] = []
    packed = backbone.encode(pictures(1, 1))
    restore_latents(
        backbone, lora, ["zero"], [packed], torch.zeros_like(packed), RestoreSettings(3), progress=steps.append
    )
    assert steps == [1, 2, 3]


def test_a_condition_that_shows_the_frame_only_needs_no_zero_stage_result(backbone):
    stage = HeroStage(backbone, None, ("frame",), SHORT)
    assert stage.restore(None, pictures(1, 2), [0]).shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    ("zero", "frames", "error", "message"),
    [
        (None, (2, 64, 64), InputError, "expected pictures for the condition 'zero', got none"),
        ((2, 64, 64), None, InputError, "expected pictures for the condition 'frame', got none"),
        ((1, 64, 64), (2, 64, 64), ShapeError, "zero: expected 2 pictures, got 1"),
        ((2, 64, 64), (3, 64, 64), ShapeError, "frame: expected 2 pictures, got 3"),
        ((2, 64, 64), (2, 64, 32), ShapeError, "conditions: expected one size"),
        ((2, 64, 72), (2, 64, 72), ShapeError, "zero: expected sides that are multiples of 16, got 72 x 64"),
    ],
)
def test_pictures_that_do_not_go_together_are_refused(backbone, lora, zero, frames, error, message):
    given = [None if shape is None else torch.rand(shape[0], 3, *shape[1:]) for shape in (zero, frames)]
    with pytest.raises(error, match=message):
        HeroStage(backbone, lora, KINDS, SHORT).restore(*given, [0, 1])


def test_pictures_of_another_kind_are_refused(backbone, lora):
    stage = HeroStage(backbone, lora, KINDS, SHORT)
    with pytest.raises(ShapeError, match="zero: expected floating point"):
        stage.restore(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), pictures(1, 2), [0])
    with pytest.raises(ShapeError, match="zero: expected shape"):
        stage.restore(torch.zeros(1, 1, 64, 64), pictures(1, 2), [0])
    with pytest.raises(InputError, match="expected at least one frame"):
        stage.restore(torch.zeros(0, 3, 64, 64), torch.zeros(0, 3, 64, 64), [])


@pytest.mark.parametrize(
    ("kinds", "settings", "message"),
    [
        (("zero",), SHORT, r"LoRA: expected one for 1 conditions \(zero\), got 2"),
        ((), SHORT, "expected some of zero, frame, got none"),
        (("zero", "depth"), SHORT, "expected some of zero, frame, got zero, depth"),
        (KINDS, RestoreSettings(2, strengths=(1.0, 1.0, 1.0)), r"strengths: expected 1 or 2 .*, got 3"),
        (KINDS, RestoreSettings(2, strengths=()), r"strengths: expected 1 or 2 .*, got 0"),
    ],
)
def test_a_stage_that_cannot_work_is_refused_at_once(backbone, lora, kinds, settings, message):
    with pytest.raises(InputError, match=message):
        HeroStage(backbone, lora, kinds, settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_inference_steps": 0}, "steps: expected a value from 1"),
        ({"guidance_scale": -1.0}, "guidance: expected a value from 0"),
        ({"guidance_scale": float("nan")}, "guidance: expected a value from 0"),
        ({"seed": -1}, "seed: expected a value from 0"),
        ({"strengths": (1.0, -0.5)}, "strength: expected a value from 0"),
        ({"strengths": (float("nan"),)}, "strength: expected a value from 0"),
    ],
)
def test_settings_outside_their_range_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        RestoreSettings(**settings)
