"""A small FLUX.1 transformer, its condition LoRA and its inputs from a formula (see `formula_model.py` beside this).

Parameters have the names that the authors' transformer and diffusers' `FluxTransformer2DModel` share, LoRA weights the
names of the authors' files. Latents stand before packing. Used by the tests and by whoever makes the numbers again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from formula_model import uniform

CONFIG: dict[str, Any] = {
    "in_channels": 16,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "pooled_projection_dim": 20,
    "guidance_embeds": True,
    "axes_dims_rope": (8, 12, 12),
}
WIDTH = 64
RANK, ALPHA = 4, 6.0  # a scaling of 1.5: a forgotten one would show
TEXT_TOKENS = 5
IMAGES = 2


@dataclass(frozen=True)
class Case:
    """One recorded call: grids in tokens (height, width)."""

    conditions: int
    noise_hw: tuple[int, int]
    condition_hw: tuple[int, int]
    guidance: float


CASES = {
    "two": Case(2, (4, 6), (4, 6), 3.5),
    "one": Case(1, (6, 4), (6, 4), 1.0),
    "unequal": Case(2, (6, 4), (3, 8), 3.5),  # ids of a condition: twice its rows, half its columns
    "larger": Case(2, (3, 4), (4, 8), 1.0),  # ids of a condition: three quarters of its rows, half its columns
}
SIGMA = (0.35, 0.9)  # of the two images of every case
GRADIENTS = (  # of the loss of case "two", with respect to these LoRA weights
    "transformer_blocks.0.attn.processor.k_loras.1.down.weight",
    "transformer_blocks.1.attn.processor.v_loras.0.up.weight",
    "transformer_blocks.0.attn.processor.proj_loras.0.up.weight",
    "single_transformer_blocks.0.attn.processor.q_loras.1.up.weight",
    "single_transformer_blocks.1.attn.processor.v_loras.0.down.weight",
)


def parameter(name: str, shape: Sequence[int]) -> torch.Tensor:
    """The value of one parameter, or LoRA weight, by its name."""
    noise = uniform(f"hero.{name}", shape)
    if len(shape) == 1:  # a bias, or the scale of queries and keys: two, so that attention is far from uniform
        return 2 + 0.2 * noise if name.endswith("weight") else 0.1 * noise
    return noise * math.sqrt(3.0 / shape[1])


def load_formula(model: torch.nn.Module) -> None:
    """Give every parameter its value, in place; evaluation mode, no gradients."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(parameter(name, weight.shape))
    model.eval().requires_grad_(False)


def latents(what: str, size_hw: tuple[int, int]) -> torch.Tensor:
    """Latents (2, 4, 2h, 2w) of a grid of h x w tokens; `what` is "noisy", "target", "condition_0" ..."""
    h, w = size_hw
    return uniform(f"hero.latents.{what}", (IMAGES, CONFIG["in_channels"] // 4, 2 * h, 2 * w)) * math.sqrt(3.0)


def text() -> tuple[torch.Tensor, torch.Tensor]:
    """Token embeddings (2, 5, 24) and pooled embeddings (2, 20)."""
    tokens = uniform("hero.text", (IMAGES, TEXT_TOKENS, CONFIG["joint_attention_dim"]))
    pooled = uniform("hero.pooled", (IMAGES, CONFIG["pooled_projection_dim"]))
    return tokens * math.sqrt(3.0), pooled * math.sqrt(3.0)
