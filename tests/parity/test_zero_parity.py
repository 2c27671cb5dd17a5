"""Zero-Stage against numbers that the authors' own code made on the formula model (README.md beside this file)."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from zero2hero_core.evaluation.speed import straightforward, straightforward_parts

HERE = Path(__file__).parent
FRAMES = ("frame_1", "frame_2")
RUNS = [(1, 1.0, 1.0), (10, 1.0, 1.0), (-1, 1.0, 1.0), (1, 0.5, 1.0), (10, 0.5, 1.0), (10, 1.0, 1.5)]  # k, gamma, tau
STORED_STEPS = [0, 2, 5]
TOLERANCE = 1e-4


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


fm = _load(HERE / "formula_model.py")
EXPECTED = load_file(HERE / "zero_stage_expected.safetensors")


class NoCodec:
    """Stands where only latents matter."""

    def encode(self, images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        return images

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents


# ---- adapter: the only part that knows our API ----


@cache
def our_backbone() -> Any:
    from zero2hero_core.backbones.sd.unet import UNetBackbone

    return UNetBackbone(
        fm.build_unet(),
        None,
        prediction_type="epsilon",
        alphas_cumprod=fm.alphas_cumprod(),
        empty_embedding=fm.empty_embedding(),
        scaling_factor=1.0,
        name="formula",
    )


def our_editor(k: int = 1, gamma: float = 1.0, tau: float = 1.0) -> Any:
    from zero2hero_core.zero_stage.latents import LatentEditor
    from zero2hero_core.zero_stage.settings import ZeroStageSettings

    settings = ZeroStageSettings(num_inference_steps=fm.NUM_INFERENCE_STEPS, k=k, gamma=gamma, tau=tau)
    return LatentEditor(our_backbone(), fm.image_latents("reference"), settings)


def our_inversion(latents: torch.Tensor) -> torch.Tensor:
    """Latents (B, C, h, w) after every inversion step, shape (steps, B, C, h, w)."""
    editor, states = our_editor(), []
    for timestep in reversed(editor.schedule.timesteps):
        latents = editor.invert_step(latents, timestep, {})[1]
        states.append(latents)
    return torch.stack(states)


def our_matches(target: torch.Tensor, anchor: torch.Tensor, k: int) -> Any:
    """Correspondence of feature maps (1, C, h, w)."""
    from zero2hero_core.correspondence.match import match_features

    return match_features(target[0], anchor[0], our_editor().grids, k)


def our_masks(target: torch.Tensor, anchor: torch.Tensor, k: int) -> dict[str, torch.Tensor]:
    """Anchor tokens of every target token, {"half", "full", "double"}: (N, k of that level), in any order."""
    levels = our_matches(target, anchor, k).levels
    return {name: level.indices for name, level in zip(("half", "full", "double"), levels, strict=True)}


def our_final(targets: torch.Tensor, target_features: torch.Tensor, k: int, gamma: float, tau: float) -> torch.Tensor:
    """Clean latents (B, C, h, w) that the last step predicts, for a batch of targets and their features."""
    editor = our_editor(k, gamma, tau)
    anchor = fm.dift_features("anchor")
    matches = [our_matches(features[None], anchor, k) for features in target_features]
    return editor.edit_latents(targets, editor.selections(matches))


def our_features(noisy: torch.Tensor, timestep: int, block: int) -> torch.Tensor:
    """Output of an up block, (B, C, h, w)."""
    context = fm.empty_embedding().expand(noisy.shape[0], -1, -1)
    return our_backbone().features(noisy, timestep, context, block)


# ---- helpers ----


def relative(value: torch.Tensor, expected: torch.Tensor) -> float:
    assert value.shape == expected.shape
    return float((value - expected).norm() / expected.norm())


def expected_final(frame: str, k: int, gamma: float, tau: float) -> torch.Tensor:
    return EXPECTED[f"final.{frame}.k{k}.gamma{gamma:g}.tau{tau:g}"]


def noisy_latents(timestep: int, draws: int) -> torch.Tensor:
    alpha = fm.alphas_cumprod()[timestep]
    return alpha.sqrt() * fm.image_latents("frame_1") + (1 - alpha).sqrt() * fm.dift_noise(draws)


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


# ---- the stored numbers can tell right from wrong ----


@pytest.mark.parametrize("frame", FRAMES)
def test_stored_runs_differ_far_more_than_the_tolerance(frame: str) -> None:
    finals = [expected_final(frame, *run) for run in RUNS]
    for i, one in enumerate(finals):
        for other in finals[i + 1 :]:
            assert relative(one, other) > 0.1
    last = EXPECTED["previous.frame_1.k1.gamma1.tau1"]  # x_{t-1} of the last step instead of its predicted x_0
    assert relative(last, expected_final("frame_1", 1, 1.0, 1.0)) > 10 * TOLERANCE


# ---- our Zero-Stage ----


@pytest.mark.parametrize("image", fm.IMAGES)
def test_inversion_agrees(image: str) -> None:
    states = our_inversion(fm.image_latents(image))[:, 0]
    assert len(states) == fm.NUM_INFERENCE_STEPS
    assert relative(states[STORED_STEPS], EXPECTED[f"inverted.{image}"]) < TOLERANCE


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("k", [1, 10])
def test_masks_agree_exactly(frame: str, k: int) -> None:
    for level, indices in our_masks(fm.dift_features(frame), fm.dift_features("anchor"), k).items():
        expected = EXPECTED[f"mask.{frame}.k{k}.{level}"]
        assert torch.equal(indices.sort(dim=1).values, expected.to(indices.dtype)), level


@pytest.mark.parametrize(("k", "gamma", "tau"), RUNS)
def test_final_latents_agree(k: int, gamma: float, tau: float) -> None:
    targets = torch.cat([fm.image_latents(frame) for frame in FRAMES])
    features = torch.cat([fm.dift_features(frame) for frame in FRAMES])
    finals = our_final(targets, features, k, gamma, tau)
    for i, frame in enumerate(FRAMES):
        assert relative(finals[i : i + 1], expected_final(frame, k, gamma, tau)) < TOLERANCE, frame


def test_features_agree() -> None:
    features = our_features(noisy_latents(261, 2), 261, 1).mean(0, keepdim=True)
    assert relative(features, EXPECTED["features.t261.block1"]) < TOLERANCE


# ---- the straightforward rendering that ours is timed against ----


@cache
def plain() -> Any:
    return straightforward.Straightforward(
        fm.build_unet(), NoCodec(), fm.empty_embedding(), fm.alphas_cumprod(), fm.NUM_INFERENCE_STEPS
    )


@cache
def plain_inversion(image: str) -> Any:
    return plain().invert(fm.image_latents(image))


@pytest.mark.parametrize("image", fm.IMAGES)
def test_straightforward_inversion_agrees(image: str) -> None:
    states = torch.cat(plain_inversion(image)[0])
    assert relative(states[STORED_STEPS], EXPECTED[f"inverted.{image}"]) < TOLERANCE


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize(("k", "gamma", "tau"), RUNS)
def test_straightforward_final_latents_agree(frame: str, k: int, gamma: float, tau: float) -> None:
    masks = straightforward_parts.three_level_masks(fm.dift_features(frame), fm.dift_features("anchor"), k)
    states, bank = plain_inversion(frame)
    reference_states, reference_bank = plain_inversion("reference")
    start = straightforward.adain(states[-1], reference_states[-1])
    assert relative(start, EXPECTED[f"start.{frame}"]) < TOLERANCE
    final, _ = plain().sample(start, bank, reference_bank, masks, gamma, tau)
    assert relative(final, expected_final(frame, k, gamma, tau)) < TOLERANCE


@pytest.mark.parametrize("k", [1, 10])
def test_straightforward_masks_agree_exactly(k: int) -> None:
    masks = straightforward_parts.three_level_masks(fm.dift_features("frame_2"), fm.dift_features("anchor"), k)
    for mask, level in zip(masks, ("full", "half", "double"), strict=True):
        expected = torch.zeros_like(mask[0]).scatter_(1, EXPECTED[f"mask.frame_2.k{k}.{level}"].long(), 1.0)
        assert torch.equal(mask[0], expected), level


def test_straightforward_features_agree() -> None:
    context = fm.empty_embedding().repeat(2, 1, 1)
    features = straightforward_parts.block_features(plain().unet, noisy_latents(261, 2), 261, context, 1)
    assert relative(features.mean(0, keepdim=True), EXPECTED["features.t261.block1"]) < TOLERANCE


def test_straightforward_runs_end_to_end() -> None:
    class EightfoldCodec(NoCodec):
        def encode(self, images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
            colours = torch.nn.functional.avg_pool2d(images, 8)
            return torch.cat([colours, colours.mean(1, keepdim=True)], 1)

        def decode(self, latents: torch.Tensor) -> torch.Tensor:
            return latents[:, :3].repeat_interleave(8, 2).repeat_interleave(8, 3)

    frames = (fm.uniform("frames", (2, 3, 64, 128)) + 1) / 2
    images, seconds = straightforward.run_straightforward(
        plain().unet, EightfoldCodec(), fm.empty_embedding(), fm.alphas_cumprod(), frames, 0, frames[:1].flip(1),
        straightforward.PlainSettings(num_inference_steps=2, k=1, seed=3, ensemble=2),
    )  # fmt: skip
    assert images.shape == frames.shape and bool(images.isfinite().all())
    assert float((images[0] - images[1]).abs().mean()) > 1e-3  # every frame is its own
    assert set(seconds) == {"reference inversion", "inversion", "features", "masks", "sampling"}
