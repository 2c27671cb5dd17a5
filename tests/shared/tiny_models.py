"""Models of random weights that several tests share; pyproject.toml puts this folder on the path of the tests."""

from __future__ import annotations

from typing import Any

import torch

from zero2hero_core.backbones.flux.dit import FLUX2, DiTBackbone, Family, TextEmbedding
from zero2hero_core.tiny.autoencoder import PatchAutoencoder
from zero2hero_core.tiny.dit import TEXT_WIDTH, as_dit_backbone

CHANNELS = 32


def random_dit(autoencoder: PatchAutoencoder | None = None, **recommended: Any) -> DiTBackbone:
    """A DiT of the tiny kind with random weights, the same at every call, one block of each kind.

    Args: autoencoder: its codec's; None for one of random weights. recommended: the advice that it gives for training.
    """
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    transformer: Any = FluxTransformer2DModel(
        in_channels=CHANNELS,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=32,
        num_attention_heads=2,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(8, 12, 12),
    )
    backbone = as_dit_backbone(transformer.eval(), autoencoder or PatchAutoencoder())
    if recommended:
        backbone.recommended = recommended
    return backbone


def random_flux(
    family: Family,
    *,
    heads: int = 2,
    double: int = 1,
    single: int = 1,
    seed: int = 5,
    dtype: torch.dtype = torch.float32,
) -> DiTBackbone:
    """FLUX.1 (or what shares its class) or FLUX.2 at tiny size, the same at every call, with a text of three tokens.

    Args: heads, double, single: of the transformer's blocks.
    """
    from diffusers import Flux2Transformer2DModel, FluxTransformer2DModel

    torch.manual_seed(seed)
    shape: dict[str, Any] = {"in_channels": 8, "num_layers": double, "num_single_layers": single}
    shape |= {"attention_head_dim": 16, "num_attention_heads": heads, "joint_attention_dim": 8, "guidance_embeds": True}
    if family is FLUX2:
        model: Any = Flux2Transformer2DModel(**shape, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4))
        return DiTBackbone(model.to(dtype), family, text=TextEmbedding(torch.randn(1, 3, 8)))
    model = FluxTransformer2DModel(**shape, pooled_projection_dim=8, axes_dims_rope=(4, 6, 6))
    return DiTBackbone(model.to(dtype), family, text=TextEmbedding(torch.randn(1, 3, 8), torch.randn(1, 8)))
