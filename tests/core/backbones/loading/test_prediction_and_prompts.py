"""Prediction type, schedule, and the context of prompts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file

from zero2hero_core.backbones import weights
from zero2hero_core.backbones.sd import single_file, text
from zero2hero_core.backbones.sd.folder import alphas_cumprod_of
from zero2hero_core.backbones.sd.loading import load_backbone, load_parts
from zero2hero_core.checks import InputError
from zero2hero_core.diffusion.ddim import stable_diffusion_alphas

V_BIAS = "output_blocks.11.1.transformer_blocks.0.norm1.bias"


def edit_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# -- prediction type and schedule ---------------------------------------------------------------------------------


def test_prediction_type_of_a_single_file(
    models: dict[str, Path], tmp_path: Path, refused: Callable[..., None]
) -> None:
    path = tmp_path / "x.safetensors"
    tensors = load_file(models["sd21-file"])
    cases: list[tuple[dict[str, str], float, str]] = [
        ({}, 0.05, "epsilon"),
        ({}, 0.12, "v_prediction"),
        ({"modelspec.prediction_type": "epsilon"}, 0.12, "epsilon"),
        ({"modelspec.architecture": "stable-diffusion-v2-768-v"}, 0.0, "v_prediction"),
        ({"modelspec.architecture": "stable-diffusion-v2-512"}, 0.0, "epsilon"),
    ]
    key = single_file.UNET_PREFIX + V_BIAS
    for metadata, spread, expected in cases:
        signs = torch.ones_like(tensors[key])
        signs[::2] = -1
        save_file(tensors | {key: signs * spread}, path, metadata)
        opened = weights.open_weights(path)
        assert single_file.guess_prediction_type(opened, single_file.unet_config(opened)) == expected
    assert load_parts(path, device="cpu", prediction_type="v_prediction").prediction_type == "v_prediction"
    save_file(tensors, path, {"modelspec.prediction_type": "sample"})
    refused(path, "epsilon or v", "sample")
    refused(path, "prediction_type", "'v'", prediction_type="v")


def test_a_spread_bias_does_not_make_sd15_predict_v(spoil: Callable[..., Path]) -> None:
    def spread(tensors: dict[str, torch.Tensor]) -> None:
        tensors[single_file.UNET_PREFIX + V_BIAS].copy_(torch.linspace(-1, 1, 32))

    assert load_parts(spoil(spread), device="cpu").prediction_type == "epsilon"


@pytest.mark.parametrize(
    "config",
    [
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
        {"trained_betas": torch.linspace(0.001, 0.02, 1000).tolist()},
    ],
)
def test_schedules_are_those_of_diffusers(config: dict[str, Any]) -> None:
    expected = DDIMScheduler(**config).alphas_cumprod
    torch.testing.assert_close(alphas_cumprod_of(config, "scheduler", "epsilon"), expected, rtol=1e-6, atol=0)


def test_zero_terminal_signal_is_kept_above_zero() -> None:
    config = {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "rescale_betas_zero_snr": True,
    }
    alphas = alphas_cumprod_of(config, "scheduler", "v_prediction")
    torch.testing.assert_close(alphas[:-1], DDIMScheduler(**config).alphas_cumprod[:-1], rtol=1e-4, atol=1e-7)
    assert alphas[-1] == 2.0**-24
    with pytest.raises(InputError, match="needs v prediction"):
        alphas_cumprod_of(config, "scheduler", "epsilon")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"beta_schedule": "squaredcos_cap_v2"}, "squaredcos_cap_v2"),
        ({"num_train_timesteps": 500}, "got 500"),
        ({"beta_end": 1.5}, "betas in (0, 1), got 0.00085 to 1.5"),
        ({"beta_start": None}, "got None"),
        ({"trained_betas": [0.1, 0.2]}, "got 2"),
        ({"prediction_type": "sample"}, "got sample"),
    ],
)
def test_other_schedulers_are_refused(
    folder: Path, values: dict[str, Any], words: str, refused: Callable[..., None]
) -> None:
    edit_json(folder / "scheduler" / "scheduler_config.json", **values)
    refused(folder, "scheduler_config.json", words)


def test_without_a_scheduler_the_prediction_type_has_to_be_given(folder: Path, refused: Callable[..., None]) -> None:
    shutil.rmtree(folder / "scheduler")
    refused(folder, "scheduler_config.json", "no such file")
    parts = load_parts(folder, device="cpu", prediction_type="epsilon")
    torch.testing.assert_close(parts.alphas_cumprod, stable_diffusion_alphas(), rtol=0, atol=0)


# -- prompts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "pad"), [("sd15", -1), ("sd21", 0)])
def test_the_tokenizer_and_the_rule_agree_on_the_empty_prompt(
    models: dict[str, Path], name: str, pad: int, vocabulary: list[str]
) -> None:
    encoder = load_parts(models[name], device="cpu").prompt_encoder
    last = len(vocabulary) - 1
    by_tokenizer = encoder.tokens([""])
    encoder.tokenizer = None
    assert by_tokenizer.tolist() == encoder.tokens([""]).tolist() == [[last - 1, last, *[pad % len(vocabulary)] * 14]]


def test_prompts_need_a_tokenizer(models: dict[str, Path], refused: Callable[..., None], vocabulary: list[str]) -> None:
    bare = load_parts(models["sd15-file"], device="cpu").prompt_encoder
    with pytest.raises(InputError, match="prompt 'red': .* tokenizer"):
        bare.encode("red")
    with pytest.raises(InputError, match="at least one"):
        bare.encode([])
    own = load_parts(models["sd15"], device="cpu").prompt_encoder
    given = load_parts(models["sd15-file"], device="cpu", tokenizer=models["sd15"] / "tokenizer").prompt_encoder
    contexts = own.encode(["red", ""])
    assert contexts.shape == (2, 16, 64) and not torch.equal(contexts[0], contexts[1])
    torch.testing.assert_close(given(["red", ""]), contexts)
    assert own.tokens(["red"])[0, 1] == vocabulary.index("red</w>")
    with pytest.raises(InputError, match="at most 14 tokens, got 15"):
        own.encode("red " * 15)
    refused(models["sd15-file"], "vocab.json", tokenizer=models["sd15"])


def test_a_stored_embedding_replaces_the_text_encoder(
    models: dict[str, Path], folder: Path, tmp_path: Path, refused: Callable[..., None]
) -> None:
    wanted = load_parts(models["sd15"], device="cpu", keep_text_encoder=False)
    assert wanted.prompt_encoder is None and wanted.empty_embedding is not None
    shutil.rmtree(folder / "text_encoder")
    assert load_parts(folder, device="cpu").empty_embedding is None
    with pytest.raises(InputError, match="empty_embedding"):
        load_backbone(folder, device="cpu")
    stored = tmp_path / "empty.safetensors"
    save_file({text.EMBEDDING_KEY: wanted.empty_embedding.contiguous()}, stored)
    for options in ({"empty_embedding": stored}, {}):
        parts = load_parts(folder, device="cpu", **options)
        torch.testing.assert_close(parts.empty_embedding, wanted.empty_embedding, rtol=0, atol=0)
        shutil.copy(stored, folder / "empty_embedding.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty.safetensors", "model"]
    save_file({"x": torch.zeros(1, 16, 32)}, stored)
    refused(folder, "width 64", "got 32", empty_embedding=stored)
    save_file({"x": torch.zeros(2, 16, 64)}, stored)
    refused(folder, "expected shape", empty_embedding=stored)
    save_file({"x": torch.zeros(1, 16, 64), "y": torch.zeros(1)}, stored)
    refused(folder, "one tensor", empty_embedding=stored)
    save_file({"x": torch.full((1, 16, 64), float("nan"))}, stored)
    refused(folder, "NaN", empty_embedding=stored)
