"""Writes a Stable Diffusion checkpoint with random weights: full size, original layout, one file, half precision.

The host knows Stable Diffusion by its full widths, so a smaller one would not do. About 2 GB, some seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

POOL = 45_000_000  # random numbers; every tensor is a stretch of them, as fresh ones for each would take a minute
SD15 = {"cross_attention_dim": 768, "attention_head_dim": 8}
SD21 = {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
VAE = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4}
VAE |= {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}


class Filler:
    """Random tensors by name and shape, of a size that keeps activations in range."""

    def __init__(self, seed: int = 0) -> None:
        self._pool = torch.randn(POOL, generator=torch.Generator().manual_seed(seed)).half()
        self._place = 0

    def __call__(self, name: str, shape: torch.Size) -> torch.Tensor:
        count = shape.numel()
        self._place = (self._place + 12_347) % (POOL - count)
        values = self._pool[self._place : self._place + count].view(shape)
        if len(shape) == 1:
            return (values * 0.05 + float("norm" in name and name.endswith("weight"))).contiguous()
        return values * (count / shape[0]) ** -0.5


def checkpoint(kind: str, core: Any, text: bool) -> dict[str, torch.Tensor]:
    """All tensors.

    Args: kind: sd15 or sd21-v; core: the module `zero2hero_core.backbones.sd.single_file`, which knows the names; text:
    with the text encoder of SD 1.5.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel

    fill, tensors = Filler(), {}
    with torch.device("meta"):
        unet = UNet2DConditionModel(**(SD15 if kind == "sd15" else SD21)).state_dict()
        vae = AutoencoderKL(**VAE).state_dict()
    for name, tensor in unet.items():
        tensors[core.unet_source(name, 2, (False, True, True, True)).key] = fill(name, tensor.shape)
    for name, tensor in vae.items():
        key, shape = core.vae_source(name, 4).key, tensor.shape
        is_convolution = ".attn_1." in key and ".norm." not in key and len(shape) == 2
        tensors[key] = fill(name, torch.Size((*shape, 1, 1)) if is_convolution else shape)
    if kind == "sd21-v":  # by the spread of this bias both hosts and core tell what the model predicts
        tensors["model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"] *= 10
    return tensors | (_text(fill) if text else {})


def _text(fill: Filler) -> dict[str, torch.Tensor]:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    with torch.device("meta"):
        encoder = CLIPTextModel(config).state_dict()
    prefix = "cond_stage_model.transformer."
    return {
        f"{prefix}{name}": fill(name, tensor.shape) for name, tensor in encoder.items() if "position_ids" not in name
    }


def write(path: Path, kind: str, core: Any, text: bool = False) -> None:
    """Write the file; see `checkpoint`."""
    from safetensors.torch import save_file

    save_file({key: tensor.contiguous() for key, tensor in checkpoint(kind, core, text).items()}, path)
