"""The bundled tiny DiT as an ordinary MODEL: the host's FLUX class in a small size, its weights under the host's names.

Position ids of conditions lie at later times, as the tiny DiT was trained with (`backbones.dit.TINY`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import comfy.ldm.flux.model
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import torch

from ...zero2hero_core.backbones.flux.dit import TINY
from ...zero2hero_core.backbones.flux.single_file import original_pieces
from .flux import FAMILY
from .tiny import TinyLatents


class TinyFlux(comfy.supported_models.Flux):
    """Configuration of the host's FLUX class for the tiny DiT. It was trained without a shift of the noise levels."""

    latent_format = TinyLatents
    sampling_settings = {"shift": 0.0}  # noqa: RUF012 (the host copies it)


def to_original(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of a diffusers FLUX transformer under the names of the original layout, which are the host's."""
    pieces: dict[str, dict[int, torch.Tensor]] = {}
    for name, tensor in state.items():
        sources = original_pieces(name)
        for source, part in zip(sources, tensor.chunk(len(sources)), strict=True):
            pieces.setdefault(source.key, {})[source.part] = part
    return {key: torch.cat([parts[i] for i in sorted(parts)]) for key, parts in pieces.items()}


def tiny_settings(config: Any) -> dict[str, Any]:
    """Arguments of the host's FLUX class for a diffusers configuration of the tiny DiT; they differ between hosts."""
    settings = {
        "in_channels": config.in_channels // 4,
        "out_channels": config.in_channels // 4,
        "vec_in_dim": config.pooled_projection_dim,
        "context_in_dim": config.joint_attention_dim,
        "hidden_size": config.num_attention_heads * config.attention_head_dim,
        "mlp_ratio": 4.0,
        "num_heads": config.num_attention_heads,
        "depth": config.num_layers,
        "depth_single_blocks": config.num_single_layers,
        "axes_dim": list(config.axes_dims_rope),
        "theta": 10000,
        "patch_size": 2,
        "qkv_bias": True,
        "guidance_embed": config.guidance_embeds,
        "txt_ids_dims": [],
    }
    names = {field.name for field in fields(comfy.ldm.flux.model.FluxParams)}
    return {"image_model": "flux"} | {name: value for name, value in settings.items() if name in names}


def as_host_model(transformer: Any) -> Any:
    """MODEL of a diffusers transformer in the tiny DiT's layout, float32; the weights are copied."""
    config = TinyFlux(tiny_settings(transformer.config))
    config.set_inference_dtype(torch.float32, None)
    offload = comfy.model_management.unet_offload_device()
    base = config.get_model({}, "").to(offload)
    setattr(base, FAMILY, TINY.name)
    base.load_model_weights(to_original(transformer.state_dict()), "")
    return comfy.model_patcher.ModelPatcher(
        base, load_device=comfy.model_management.get_torch_device(), offload_device=offload
    )


def load_tiny_dit_model() -> tuple[Any, Any]:
    """The bundled tiny DiT: MODEL, and its empty prompt as CONDITIONING.

    Raises: InputError when the weights are missing or damaged.
    """
    from ...zero2hero_core.tiny.dit import load_tiny_dit

    backbone = load_tiny_dit()
    text = backbone.text
    assert text.pooled is not None  # the tiny family has it
    conditioning = [[text.tokens.clone(), {"pooled_output": text.pooled.clone()}]]
    return as_host_model(backbone.transformer), conditioning
