"""The two painters of key frames: laws on a toy model, counts of passes, parts that are off."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from zero2hero_core.attention.guidance import Pass
from zero2hero_core.backbones.sd.guided import GuidedUNet
from zero2hero_core.checks import InputError, ShapeError, Zero2HeroError
from zero2hero_core.diffusion.ddim import DDIMSchedule, stable_diffusion_alphas
from zero2hero_core.guidance.features import FeatureSettings
from zero2hero_core.guidance.fresco import KeyFrameBatchPainter
from zero2hero_core.guidance.parts import Batch, CrossFramePart, FeaturePart, FlowPart, begin_parts
from zero2hero_core.guidance.pixel_target import PixelSettings
from zero2hero_core.guidance.rerender import KeyFramePainter
from zero2hero_core.guidance.settings import FrescoSettings, RerenderSettings
from zero2hero_core.guidance.steps import Sampling
from zero2hero_core.jobs.guidance import outward, paint_key_frames, token_bytes
from zero2hero_core.tiny.unet import load_tiny

PLAIN = RerenderSettings(cross_window=None, shape_window=None, pixel_window=None, colour_window=None)


class Toy:
    """A model without layers: its noise is a mild function of the latents. It counts its passes."""

    name, recommended, multiple = "toy", {}, 8
    device, dtype = torch.device("cpu"), torch.float32
    alphas_cumprod = stable_diffusion_alphas()

    def __init__(self) -> None:
        self.passes: list[Pass] = []

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(images, 8) * 2 - 1

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return (F.interpolate(latents, scale_factor=8, mode="nearest") / 2 + 0.5).clamp(0, 1)

    def guided_noise(self, latents: torch.Tensor, now: Pass, *others: Any, **more: Any) -> torch.Tensor:
        self.passes.append(now)
        return torch.tanh(latents * 0.8)


def frames(count: int, side: int = 64) -> dict[int, torch.Tensor]:
    """A picture that moves by two pixels a frame."""
    generator = torch.Generator().manual_seed(0)
    wide = F.interpolate(torch.rand(1, 3, 8, 12, generator=generator), size=(side, side + 32), mode="bicubic")[0]
    return {index: wide[..., 2 * index : 2 * index + side].clamp(0, 1) for index in range(count)}


def nowhere(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A flow out of the picture: everything is hidden."""
    return torch.full((*source.shape[-2:], 2), 1000.0)


def painted(settings: RerenderSettings, count: int = 3, **options: Any) -> dict[int, torch.Tensor]:
    painter = KeyFramePainter(Toy(), settings, **options)  # type: ignore[arg-type]
    return {key.index: key.latents for key in paint_key_frames(painter, frames(count), range(count), 0)}


def sdedit(model: Toy, frame: torch.Tensor, first: int) -> torch.Tensor:
    """DDIM from the noisy input, in a loop of its own."""
    schedule = DDIMSchedule(model.alphas_cumprod, 20)
    alphas = schedule.alphas_cumprod
    latents = Sampling(schedule, 0).noisy(model.encode(frame[None]), first)
    clean = latents
    for timestep in schedule.timesteps[first:]:
        eps = torch.tanh(latents * 0.8)
        clean = (latents - (1 - alphas[timestep]).sqrt() * eps) / alphas[timestep].sqrt()
        after = alphas[timestep - 50] if timestep >= 50 else torch.ones(())
        latents = after.sqrt() * clean + (1 - after).sqrt() * eps
    return clean


def test_without_its_parts_it_is_plain_sdedit() -> None:
    made = painted(PLAIN)
    for index, frame in frames(3).items():
        assert torch.equal(made[index], sdedit(Toy(), frame, 5))


def test_where_nothing_is_seen_fusion_changes_nothing_to_the_bit() -> None:
    fused = replace(PLAIN, pixel_window=(0.5, 0.8), shape_window=(0.0, 0.1), strength=1.0)
    hidden, plain = painted(fused, flow=nowhere), painted(replace(PLAIN, strength=1.0))
    seen = painted(fused)
    for index in range(3):
        assert torch.equal(hidden[index], plain[index])
        assert index == 0 or not torch.allclose(seen[index], plain[index], atol=1e-3)


def test_pixels_without_strength_pull_nowhere() -> None:
    weak = replace(PLAIN, pixel_window=(0.5, 0.8), pixel=PixelSettings(pixel_strength=0.0))
    assert all(
        torch.equal(one, other) for one, other in zip(painted(weak).values(), painted(PLAIN).values(), strict=True)
    )


def test_a_key_costs_less_than_two_samplings_and_skips_what_the_input_would_throw_away() -> None:
    model = Toy()
    painter = KeyFramePainter(model, RerenderSettings(cross_window=None))  # type: ignore[arg-type]
    clip = frames(3)
    painter.begin(0, clip[0])
    assert len(model.passes) == 15 == painter.steps_of_anchor  # of 20 steps five are not run
    painter.paint(1, clip[1])
    assert len(model.passes) - 15 == 15 + 9 == painter.steps_of_key  # the second sampling begins at step 11
    assert [now.step for now in model.passes[15:]] == [*range(5, 20), *range(11, 20)]
    model.passes.clear()
    KeyFramePainter(model, PLAIN).begin(0, clip[0], 1 - clip[0])  # type: ignore[arg-type]
    assert [now.step for now in model.passes] == list(range(5, 20))  # fills the banks; nothing is sampled


def test_a_second_sampling_from_the_start_gives_the_same() -> None:
    """What is not run again makes no difference: without it the painter's state at step 11 is that of the first."""
    settings = RerenderSettings(cross_window=None)
    model = Toy()
    painter = KeyFramePainter(model, settings)  # type: ignore[arg-type]
    clip = frames(2)
    anchor = painter.begin(0, clip[0])
    start = painter._start(clip[1])
    flow, hidden = painter._way(clip[1], clip[0])
    from zero2hero_core.guidance.rerender import _shape

    shape = _shape(flow, hidden, start.latents)
    rough = painter._sample(start, range(5, 20), 1, [], shape)
    target = painter._target(painter._decode(rough), [anchor], [(flow, hidden)])
    whole = painter._sample(start, range(5, 20), 1, [], shape, target)
    assert torch.equal(painter.paint(1, clip[1]).latents, whole.clean)


def test_a_change_of_clean_latents_arrives_whole_where_a_host_hook_lets_a_quarter_through() -> None:
    """Euler with noise recomputed from the changed prediction keeps d (1 - sigma' / sigma) of it: 0.24 at step 0, 0.25
    at step 16, 0.34 at step 17."""
    sampling = Sampling(DDIMSchedule(stable_diffusion_alphas(), 20), 0)
    shares = {}
    for step in (0, 16, 17):
        alpha, after = (value.double() for value in sampling.alphas(step))
        sigma, next_sigma = ((1 - alpha) / alpha).sqrt(), ((1 - after) / after).sqrt()
        x, clean, change = torch.tensor(3.0).double(), torch.tensor(0.4).double(), 1.0
        plain, changed = (
            value + (x - value) / sigma * next_sigma for value in (clean, clean + change)
        )  # the host: the noise follows the changed prediction
        shares[step] = float(changed - plain)
        eps = (x - clean) / sigma
        ours = (clean + change + next_sigma * eps) - (clean + next_sigma * eps)
        assert float(ours) == pytest.approx(1.0)
    assert shares == pytest.approx({0: 0.2392, 16: 0.2447, 17: 0.3410}, abs=1e-3)


def test_strength_nought_leaves_the_input_alone() -> None:
    settings = replace(RerenderSettings(cross_window=None), strength=0.0)
    model, clip = Toy(), frames(2)
    for key in paint_key_frames(KeyFramePainter(model, settings), clip, [0, 1], 0):  # type: ignore[arg-type]
        assert torch.equal(key.latents, model.encode(clip[key.index][None]))
    assert model.passes == []


def test_recoloured_inputs_take_the_edits_colours() -> None:
    settings = replace(PLAIN, preserve_colour=False, strength=0.1)
    clip = frames(2)
    blue = clip[0].mean(0, keepdim=True) * torch.tensor([0.2, 0.3, 1.0]).view(3, 1, 1)
    painter = KeyFramePainter(Toy(), settings)  # type: ignore[arg-type]
    painter.begin(0, clip[0], blue)
    made = painter.paint(1, clip[1]).picture.mean((1, 2))
    assert made[2] - made[0] > 0.15


def test_tokens_of_three_keys_are_told_beforehand() -> None:
    """Of 15 steps at 512 x 512 pixels in float32, all layers: three banks of 1.1 GB x 15/20 x 2."""
    painter = KeyFramePainter(Toy(), RerenderSettings(loose=False))  # type: ignore[arg-type]
    assert token_bytes(painter, (64, 64), 2) == 3 * 2 * 15 * 2 * 4 * 3 * (256 * 1280 + 1024 * 640 + 4096 * 320)
    assert token_bytes(KeyFramePainter(Toy(), PLAIN), (64, 64), 2) == 0  # type: ignore[arg-type]


def test_order_and_errors_of_the_work() -> None:
    assert outward([0, 4, 8, 12], 8) == ([12], [4, 0])
    with pytest.raises(InputError, match="anchor: expected one of the key frames, got 3"):
        outward([0, 4], 3)
    with pytest.raises(InputError, match="keys: expected each frame once, got frame 4 twice"):
        outward([0, 4, 4], 0)
    painter = KeyFramePainter(Toy(), PLAIN)  # type: ignore[arg-type]
    with pytest.raises(Zero2HeroError, match="begin first"):
        painter.paint(0, frames(1)[0])
    with pytest.raises(ShapeError, match="edit: expected shape"):
        painter.begin(0, frames(1)[0], torch.zeros(3, 32, 32))
    painter.begin(0, frames(1)[0])
    with pytest.raises(ShapeError, match="frame: expected shape"):
        painter.paint(1, torch.zeros(3, 32, 32))


@pytest.fixture(scope="module")
def tiny() -> GuidedUNet:
    return GuidedUNet(load_tiny())


def batch_of(count: int, first: int = 0, foreground: bool = False) -> Batch:
    clip = frames(count + first)
    rows = tuple(range(first, first + count))
    mask = torch.zeros(count, 1, 64, 64)
    mask[..., 20:40, 20:40] = 1
    return Batch(rows, torch.stack([clip[row] for row in rows]), mask if foreground else None)


def test_without_parts_each_frame_is_painted_as_if_alone(tiny: GuidedUNet) -> None:
    settings = FrescoSettings(steps=4)
    together = KeyFrameBatchPainter(tiny, settings, ()).paint(batch_of(3)).latents
    for row in range(3):
        alone = KeyFrameBatchPainter(tiny, settings, ()).paint(batch_of(1, row)).latents
        assert torch.allclose(together[row], alone[0], atol=1e-4)


def test_parts_that_are_off_change_nothing_to_the_bit(tiny: GuidedUNet) -> None:
    settings = FrescoSettings(steps=4)
    plain = KeyFrameBatchPainter(tiny, settings, ()).paint(batch_of(3)).latents
    off = (
        FlowPart(temporal=0, spatial=0),
        FeaturePart(FeatureSettings(temporal=0, spatial=0)),
        CrossFramePart(window=(1.0, 1.0)),
    )
    assert torch.equal(KeyFrameBatchPainter(tiny, settings, off).paint(batch_of(3)).latents, plain)
    quick = FeaturePart(FeatureSettings(iterations=2))
    for part in (FlowPart(spatial=0), FlowPart(temporal=0), quick, CrossFramePart()):
        on = KeyFrameBatchPainter(tiny, settings, (part,)).paint(batch_of(3)).latents
        assert not torch.allclose(on, plain, atol=1e-4), part


def test_an_edit_stands_in_its_row_and_later_batches_follow(tiny: GuidedUNet) -> None:
    settings, edit = FrescoSettings(steps=4), 1 - frames(1)[0]
    painter = KeyFrameBatchPainter(tiny, settings, (CrossFramePart(),))
    first = painter.paint(batch_of(3), 0, edit)
    assert torch.equal(first.pictures[0], edit)
    assert torch.equal(first.latents[0], settings.pixel.encode(tiny, edit[None])[0])
    other = KeyFrameBatchPainter(tiny, settings, (CrossFramePart(),)).paint(batch_of(3))
    assert (first.latents[1:] - other.latents[1:]).abs().mean() > 0.01
    clip = frames(4)
    rows = Batch((0, 2, 3), torch.stack([clip[row] for row in (0, 2, 3)]))
    second = painter.paint(rows, 2, edit)
    assert (second.latents[1] - first.latents[2]).abs().mean() < (second.latents[2] - first.latents[2]).abs().mean()
    with pytest.raises(InputError, match="record of step"):
        KeyFrameBatchPainter(tiny, settings, ()).paint(rows, 2, edit)


def test_aligned_pixels_and_still_backgrounds_act(tiny: GuidedUNet) -> None:
    settings = FrescoSettings(steps=10)
    plain = KeyFrameBatchPainter(tiny, settings, ()).paint(batch_of(3)).latents
    aligned = KeyFrameBatchPainter(tiny, replace(settings, pixel_window=(0.5, 0.8)), ()).paint(batch_of(3)).latents
    assert torch.equal(aligned[0], plain[0]) and not torch.allclose(aligned[1:], plain[1:], atol=1e-3)
    still = KeyFrameBatchPainter(tiny, settings, ()).paint(batch_of(3, foreground=True)).latents
    assert not torch.allclose(still[1:], plain[1:], atol=1e-3)


def test_a_part_is_there_once() -> None:
    with pytest.raises(InputError, match="cross-frame attention is there twice"):
        begin_parts([CrossFramePart(), CrossFramePart("all")], batch_of(2), range(20), 20)
    guides = begin_parts([CrossFramePart(), FlowPart()], batch_of(2), range(20), 20)
    names = [one.name for one in guides.attention]
    assert names == ["attention along the flow", "attention by the original's likeness", "cross-frame attention"]
