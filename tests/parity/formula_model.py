"""A small Stable-Diffusion-layout UNet whose weights, latents and features come from a formula, not from a generator.

The stored numbers of this folder stay valid only while every number here is the same on every machine and with every
version of torch, so each value is splitmix64(crc32(name) * 2**32 + position), in exact integer arithmetic, mapped to
[-1, 1). Used by the tests and by whoever makes the numbers again. Follows the UNet layout of Stable Diffusion 1.5 / 2.1
(four levels, no attention at the lowest); the widths are tiny.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

LATENT_SIZE = (16, 24)  # not square: a swapped height and width would show
FEATURE_SIZE = (8, 12)  # grid of up block 1's output; the attention grids are 4x6, 8x12, 16x24 (up blocks 1, 2, 3)
FEATURE_CHANNELS = 16
NUM_INFERENCE_STEPS = 6
CONTEXT_SHAPE = (1, 7, 16)
IMAGES = ("reference", "frame_1", "frame_2")
# Of 120 numbers tried, the one whose top-k margins are widest (1.9e-5 at the closest): no near ties in the masks.
_FEATURES = "features.110"

UNET_CONFIG: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (16, 32, 32, 32),
    "layers_per_block": 2,
    "norm_num_groups": 8,
    "attention_head_dim": 2,  # diffusers reads this as the number of heads: 2 heads of 8 or 16 channels
    "cross_attention_dim": 16,
}
SCHEDULER_CONFIG: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
    "prediction_type": "epsilon",
}


def uniform(name: str, shape: Sequence[int]) -> torch.Tensor:
    """Return float32 values in [-1, 1) that depend on the name and the position only, shape `shape`."""
    count = math.prod(shape)
    with np.errstate(over="ignore"):
        x = np.arange(1, count + 1, dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()) << 32)
        x *= np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    unit = (x >> np.uint64(11)).astype(np.float64) / 2.0**53
    return torch.from_numpy((2 * unit - 1).astype(np.float32)).reshape(tuple(shape))


def _gain(name: str) -> float:
    """Return the weight's gain over a variance-preserving one.

    Chosen so that attention is far from uniform (it looks at a quarter to a half of the tokens) and matters in the
    result, while float32 rounding grows to 3e-6 over all steps and no more: with gains a third higher it grows to 1e-3,
    and no tolerance would mean anything.
    """
    if name.endswith(("attn1.to_q.weight", "attn1.to_k.weight")):
        return 1.4
    if name.endswith(("attn1.to_v.weight", "attn1.to_out.0.weight")):
        return 2.0
    return 0.5 if name == "conv_out.weight" else 1.0


def parameter(name: str, shape: Sequence[int]) -> torch.Tensor:
    """Return the value of one parameter of the model by its name in the state dict."""
    noise = uniform(name, shape)
    if len(shape) == 1:  # a bias, or the scale of a norm
        is_scale = "norm" in name and name.endswith("weight")
        return 1 + 0.1 * noise if is_scale else 0.1 * noise
    return noise * (_gain(name) * math.sqrt(3.0 / math.prod(shape[1:])))


def load_formula(model: torch.nn.Module) -> None:
    """Give every parameter of a model its value by the formula, in place; the model is put into evaluation mode."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(parameter(name, weight.shape))
    model.eval().requires_grad_(False)


def build_unet() -> Any:
    """Return the UNet2DConditionModel (diffusers) of this folder, float32, on the CPU."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(**UNET_CONFIG)
    load_formula(unet)
    return unet


def build_scheduler() -> Any:
    """Return a DDIMScheduler (diffusers) with Stable Diffusion's settings."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(**SCHEDULER_CONFIG)


def alphas_cumprod() -> torch.Tensor:
    """Return the cumulative signal share, shape (1000,), float32: what the scheduler above holds."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float32) ** 2
    return torch.cumprod(1.0 - betas, dim=0)


def empty_embedding() -> torch.Tensor:
    """Return the stand-in for the embedding of the empty prompt, shape (1, 7, 16)."""
    return uniform("empty_embedding", CONTEXT_SHAPE) * math.sqrt(3.0)


def image_latents(image: str) -> torch.Tensor:
    """Return the clean latents of one image of `IMAGES`, shape (1, 4, 16, 24); a mean and spread per channel."""
    noise = uniform(f"latents.{image}", (1, 4, *LATENT_SIZE)) * math.sqrt(3.0)
    shift = uniform(f"shift.{image}", (1, 4, 1, 1))
    scale = 0.8 + 0.4 * uniform(f"scale.{image}", (1, 4, 1, 1))
    return noise * scale + shift


def dift_features(image: str) -> torch.Tensor:
    """Return made-up features of "anchor", "frame_1" or "frame_2", shape (1, 16, 8, 12).

    A frame's are the anchor's, moved by a few cells, plus a change of their own.
    """
    anchor = uniform(f"{_FEATURES}.anchor", (1, FEATURE_CHANNELS, *FEATURE_SIZE))
    if image == "anchor":
        return anchor
    moved = torch.roll(anchor, shifts=(1, 2) if image == "frame_1" else (-2, 3), dims=(2, 3))
    return moved + 0.7 * uniform(f"{_FEATURES}.{image}", anchor.shape)


def dift_noise(draws: int) -> torch.Tensor:
    """Return the noise draws used for the stored features of the UNet, shape (draws, 4, 16, 24)."""
    return uniform("dift_noise", (draws, 4, *LATENT_SIZE)) * math.sqrt(3.0)
