"""Condition passes against numbers that the authors' own transformer made (README.md beside this file)."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from zero2hero_core.attention.conditions import pack_latents, unpack_latents
from zero2hero_core.backbones.flux.dit import FLUX1, DiTBackbone, TextEmbedding
from zero2hero_core.evaluation.speed.hero_concatenated import concatenated_velocity, peft_condition_lora

HERE = Path(__file__).parent
TOLERANCE = 1e-5


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


_load(HERE / "formula_model.py")  # the next one reads it
hf = _load(HERE / "hero_formula.py")
EXPECTED = load_file(HERE / "hero_expected.safetensors")
SIGMA = torch.tensor(hf.SIGMA)


# ---- their LoRA in ours ----


def their_lora(layer: str, condition: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Down (rank, C) and up (C, rank) of their file for one of our layer names."""
    block, name = layer.split(".attn.")
    part = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj"}[name]
    key = f"{block}.attn.processor.{part}_loras.{condition}"
    shapes = {"down": (hf.RANK, hf.WIDTH), "up": (hf.WIDTH, hf.RANK)}
    down, up = (hf.parameter(f"{key}.{side}.weight", shape) for side, shape in shapes.items())
    return down, up


def add_their_adapters(transformer: Any, conditions: int) -> None:
    """Their LoRA as peft adapters.

    Theirs of the output projection y = W x + b reads y, a standard one reads x: y + B A y = y + B (A W) x + B A b, so A
    becomes A W and the up weight gets a bias B A b.
    """
    from peft import LoraConfig, inject_adapter_in_model

    layers = r"transformer_blocks\.\d+\.attn\.(to_q|to_k|to_v|to_out\.0)"
    config = LoraConfig(r=hf.RANK, lora_alpha=hf.ALPHA, target_modules=rf"(single_)?{layers}", lora_bias=True)
    for condition in range(conditions):
        adapter = f"condition_{condition}"
        inject_adapter_in_model(config, transformer, adapter_name=adapter)
        for layer, module in transformer.named_modules():
            if not hasattr(module, "lora_A"):
                continue
            down, up = their_lora(layer, condition)
            bias = torch.zeros(hf.WIDTH)
            if layer.endswith("to_out.0"):
                base = module.base_layer
                down, bias = down @ base.weight, up @ (down @ base.bias)
            with torch.no_grad():
                module.lora_A[adapter].weight.copy_(down)
                module.lora_B[adapter].weight.copy_(up)
                module.lora_B[adapter].bias.copy_(bias)


@contextmanager
def switched(transformer: Any, condition: int | None) -> Iterator[None]:
    """The adapter of one condition on, or none; all of them may learn afterwards."""
    layers = [module for module in transformer.modules() if hasattr(module, "lora_A")]
    for layer in layers:
        layer.enable_adapters(condition is not None)
        if condition is not None:
            layer.set_adapter(f"condition_{condition}")
    yield
    for layer in layers:
        layer.lora_A.requires_grad_(True)
        layer.lora_B.requires_grad_(True)


# ---- the same on every processor ----


def rounded_timestep_embedding(
    timesteps: torch.Tensor,
    embedding_dim: int,
    flip_sin_to_cos: bool = False,
    downscale_freq_shift: float = 1,
    scale: float = 1,
    max_period: int = 10000,
) -> torch.Tensor:
    """Diffusers' embedding with its exp, sin and cos rounded correctly.

    Their last bit differs from processor to processor, and with timesteps of up to 1000 a bit of a frequency changes
    the velocity by up to 2e-5. Rounded correctly, what the authors' code gave is met to 3e-6 on any.
    """
    half = embedding_dim // 2
    exponents = -math.log(max_period) * torch.arange(half, dtype=torch.float32) / (half - downscale_freq_shift)
    frequencies = exponents.double().exp().float()
    angles = (scale * timesteps.float()[:, None] * frequencies).double()
    parts = [angles.cos(), angles.sin()] if flip_sin_to_cos else [angles.sin(), angles.cos()]
    return torch.cat(parts, -1).float()


@pytest.fixture(autouse=True)
def same_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffusers.models.embeddings.get_timestep_embedding", rounded_timestep_embedding)


# ---- adapter: the only part that knows our API ----


@cache
def our_backbone(conditions: int) -> DiTBackbone:
    from diffusers import FluxTransformer2DModel

    transformer: Any = FluxTransformer2DModel(**hf.CONFIG)
    hf.load_formula(transformer)
    add_their_adapters(transformer, conditions)
    return DiTBackbone(transformer, FLUX1, text=TextEmbedding(*hf.text()))


def our_inputs(case: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Packed noisy latents, and the packed conditions."""
    noisy = pack_latents(hf.latents("noisy", case.noise_hw))
    return noisy, [pack_latents(hf.latents(f"condition_{i}", case.condition_hw)) for i in range(case.conditions)]


def our_velocity(case: Any) -> torch.Tensor:
    """Velocity (2, 4, 2h, 2w) by condition passes."""
    backbone, (noisy, inputs) = our_backbone(case.conditions), our_inputs(case)
    conditions = []
    for index, packed in enumerate(inputs):
        with switched(backbone.transformer, index):
            conditions.append(backbone.condition(packed, index, case.noise_hw, guidance=case.guidance))
    with switched(backbone.transformer, None):
        return unpack_latents(backbone.velocity(noisy, SIGMA, conditions, guidance=case.guidance))


# ---- tests ----


def relative(value: torch.Tensor, expected: torch.Tensor) -> float:
    assert value.shape == expected.shape
    return float((value - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", hf.CASES)
def test_velocities_agree(name: str) -> None:
    with torch.no_grad():
        assert relative(our_velocity(hf.CASES[name]), EXPECTED[f"velocity.{name}"]) < TOLERANCE


@pytest.mark.parametrize("name", hf.CASES)
def test_the_masked_concatenation_agrees(name: str) -> None:
    case = hf.CASES[name]
    backbone, (noisy, inputs) = our_backbone(case.conditions), our_inputs(case)
    lora = peft_condition_lora(backbone.transformer, [f"condition_{i}" for i in range(case.conditions)])
    with torch.no_grad():
        velocity = concatenated_velocity(backbone, noisy, SIGMA, inputs, guidance=case.guidance, lora=lora)
    assert relative(unpack_latents(velocity), EXPECTED[f"velocity.{name}"]) < TOLERANCE


def test_stored_velocities_depend_on_conditions_and_lora() -> None:
    """Left out or mixed up, they change the result far more than the tolerance."""
    case = hf.CASES["two"]
    backbone, (noisy, inputs) = our_backbone(2), our_inputs(case)
    lora = peft_condition_lora(backbone.transformer)
    given: dict[str, Any] = {"guidance": case.guidance}
    with torch.no_grad():
        others = {
            "no conditions": concatenated_velocity(backbone, noisy, SIGMA, [], **given),
            "no LoRA": concatenated_velocity(backbone, noisy, SIGMA, inputs, **given),
            "LoRA of the other": concatenated_velocity(backbone, noisy, SIGMA, inputs[::-1], lora=lora, **given),
        }
    for name, velocity in others.items():
        assert relative(unpack_latents(velocity), EXPECTED["velocity.two"]) > 0.05, name


def test_loss_and_gradients_agree() -> None:
    case = hf.CASES["two"]
    transformer = our_backbone(2).transformer
    with switched(transformer, None):
        pass  # all adapters learn
    transformer.zero_grad()
    loss = (our_velocity(case) - hf.latents("target", case.noise_hw)).square().mean()
    loss.backward()
    assert abs(float(loss.detach() / EXPECTED["loss.two"]) - 1) < TOLERANCE
    for key in hf.GRADIENTS:
        block, name = key.split(".attn.processor.")
        part, condition, side, _ = name.split(".")
        layer = {"q_loras": "to_q", "k_loras": "to_k", "v_loras": "to_v", "proj_loras": "to_out.0"}[part]
        module = transformer.get_submodule(f"{block}.attn.{layer}")
        weights = {"down": module.lora_A, "up": module.lora_B}[side][f"condition_{condition}"]
        gradient = weights.weight.grad
        if part == "proj_loras":  # the up weight B also stands in the bias B A b
            down, _ = their_lora(f"{block}.attn.{layer}", int(condition))
            gradient = gradient + torch.outer(weights.bias.grad, down @ module.base_layer.bias)
        assert relative(gradient, EXPECTED[f"gradient.{key}"]) < 10 * TOLERANCE, key
