"""Guidances beside cross-image attention, on the bundled tiny models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from zero2hero_core.attention.guidance import Guidance, Pass, Role
from zero2hero_core.attention.protocol import ALL, Attention
from zero2hero_core.backbones.sd.unet import UNetBackbone
from zero2hero_core.checks import InputError
from zero2hero_core.tiny.unet import load_tiny
from zero2hero_core.zero_stage.stage import ZeroStage, ZeroStageSettings

SIZE = (64, 128)
FAST = ZeroStageSettings(num_inference_steps=3, ensemble=2, seed=4, layers=(3, 4, 5, 9))
Part = torch.Tensor | None


class Watch(Guidance):
    """Sees everything of some layers and steps, and changes nothing."""

    name = "watch"

    def __init__(self, layers: Sequence[int] = range(3, 12), steps: Sequence[int] = range(3)):
        self.layers, self.steps = layers, steps
        self.seen: list[tuple[int, Pass]] = []

    def role(self, layer: int, step: int) -> Role:
        return Role.CHAIN if layer in self.layers and step in self.steps else Role.NONE

    def needs(self, layer: int, step: int) -> frozenset[str]:
        return ALL

    def attend(self, now: Pass, layer: int, query: Part, key: Part, value: Part, following: Attention) -> torch.Tensor:
        assert query is not None and key is not None and value is not None
        assert len(query) == len(now.frames)
        self.seen.append((layer, now))
        return following(layer, query, key, value)


class FirstFrame(Watch):
    """Every frame of the window attends to the window's first frame (cross-frame attention in its simplest form)."""

    name = "first frame"

    def changes(self, layer: int, step: int) -> frozenset[str]:
        return frozenset({"key", "value"})

    def attend(self, now: Pass, layer: int, query: Part, key: Part, value: Part, following: Attention) -> torch.Tensor:
        assert key is not None and value is not None
        first = now.frames.index(min(now.frames))
        return following(layer, query, key[first].expand_as(key), value[first].expand_as(value))


@pytest.fixture(scope="module")
def backbone() -> UNetBackbone:
    return load_tiny()


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    coarse = torch.rand(6, 3, 16, 32, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(coarse, size=SIZE, mode="bilinear").clamp(0, 1)


def edited(
    backbone: UNetBackbone,
    frames: torch.Tensor,
    guidances: Sequence[Guidance] = (),
    *,
    indices: Sequence[int] = (1, 2, 3),
    settings: ZeroStageSettings = FAST,
) -> torch.Tensor:
    stage = ZeroStage(backbone, frames[0], frames[5], 0, settings, guidances=guidances)
    return stage.edit_latents(frames[list(indices)], indices)


@pytest.mark.parametrize("k", [1, 4, -1])
@pytest.mark.parametrize("gamma", [1.0, 0.7])
def test_a_guidance_that_changes_nothing_changes_no_bit(
    backbone: UNetBackbone, frames: torch.Tensor, k: int, gamma: float
) -> None:
    settings = replace(FAST, k=k, gamma=gamma)
    plain = edited(backbone, frames, settings=settings)
    assert torch.equal(plain, edited(backbone, frames, [Watch()], settings=settings))
    assert torch.equal(plain, edited(backbone, frames, [Watch(), Guidance(), Watch((9,))], settings=settings))


def test_a_guidance_costs_no_pass_and_the_inversions_have_none(backbone: UNetBackbone, frames: torch.Tensor) -> None:
    calls: list[int] = []
    handle = backbone.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        edited(backbone, frames)
        plain = len(calls)
        watch = Watch()
        edited(backbone, frames, [watch])
    finally:
        handle.remove()
    assert len(calls) == 2 * plain
    assert len(watch.seen) == 3 * 9  # steps x layers, once each


def test_a_guidance_knows_step_timestep_frames_and_size(backbone: UNetBackbone, frames: torch.Tensor) -> None:
    watch = Watch((7,))
    stage = ZeroStage(backbone, frames[0], frames[5], 0, FAST, guidances=[watch])
    stage.edit_latents(frames[[3, 1]], (3, 1))
    timesteps = stage.editor.schedule.timesteps
    size = (SIZE[0] // backbone.factor, SIZE[1] // backbone.factor)
    assert [now for _, now in watch.seen] == [Pass(i, timesteps[i], (3, 1), size) for i in range(3)]


def test_a_window_of_three_frames_equals_three_single_frames(backbone: UNetBackbone, frames: torch.Tensor) -> None:
    window = edited(backbone, frames, [Watch()])
    single = torch.cat([edited(backbone, frames, [Watch()], indices=(i,)) for i in (1, 2, 3)])
    assert float((window - single).abs().max()) < 1e-4


def test_frames_of_a_window_can_share_keys_and_values(backbone: UNetBackbone, frames: torch.Tensor) -> None:
    free = (6, 7, 8, 10, 11)
    plain, shared = edited(backbone, frames), edited(backbone, frames, [FirstFrame(free)])
    assert float((shared[0] - plain[0]).abs().max()) < 1e-5  # the first frame attends to itself
    assert float((shared[1:] - plain[1:]).abs().amax((1, 2, 3)).min()) > 1e-3
    other_order = edited(backbone, frames, [FirstFrame(free)], indices=(3, 2, 1)).flip(0)
    assert float((shared - other_order).abs().max()) < 1e-4


def test_fewer_steps_or_layers_give_another_result(backbone: UNetBackbone, frames: torch.Tensor) -> None:
    free = (6, 7, 8, 10, 11)
    full = edited(backbone, frames, [FirstFrame(free)])
    late, few = edited(backbone, frames, [FirstFrame(free, (2,))]), edited(backbone, frames, [FirstFrame((6,))])
    assert float((full - late).abs().max()) > 1e-4 and float((full - few).abs().max()) > 1e-4
    assert torch.equal(edited(backbone, frames), edited(backbone, frames, [FirstFrame(free, ())]))


def test_both_passes_of_guidance_are_told_apart(backbone: UNetBackbone, frames: torch.Tensor) -> None:
    prompted = UNetBackbone(
        backbone.unet, backbone.vae, prediction_type="epsilon", alphas_cumprod=backbone.alphas_cumprod,
        empty_embedding=backbone.empty_embedding, scaling_factor=1.0, prompt_encoder=lambda _: torch.ones(1, 4, 32),
    )  # fmt: skip
    watch = Watch((7,))
    edited(prompted, frames, [watch], settings=replace(FAST, prompt="red", guidance_scale=2.0, k=-1))
    assert [(now.step, now.conditional) for _, now in watch.seen] == [(i, c) for i in range(3) for c in (True, False)]


def test_conflicts_are_refused_when_the_stage_is_made(backbone: UNetBackbone, frames: torch.Tensor) -> None:
    class Maker(Watch):
        name = "maker"

        def role(self, layer: int, step: int) -> Role:
            return Role.OUTPUT if layer in self.layers and step in self.steps else Role.NONE

    with pytest.raises(InputError, match="maker and cross-image attention both make .* in layer 9 at step 2 of 3"):
        edited(backbone, frames, [Maker((8, 9), (1,))])
    with pytest.raises(InputError, match="first frame changes key and value in layer 3 .* cross-image attention does"):
        edited(backbone, frames, [FirstFrame((3,))])
