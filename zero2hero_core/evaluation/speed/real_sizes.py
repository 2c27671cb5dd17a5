"""Models to time and to count on: the bundled tiny ones, and random weights of the real sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...backbones.flux.dit import FLUX1, FLUX2, DiTBackbone, LatentCodec, PlainCodec, TextEmbedding
from ...backbones.flux.precision import store_linear, store_weights, stored_linears
from ...backbones.sd.unet import UNetBackbone
from ...hero_stage.memory.model_size import FLUX1_DEV, FLUX2_KLEIN_4B, ModelSize

DIT_SIZES: dict[str, ModelSize | None] = {"tiny": None, "flux1": FLUX1_DEV, "klein": FLUX2_KLEIN_4B}


def load_zero_model(model: str, device: str, seed: int = 0) -> UNetBackbone:
    """The bundled tiny models ("tiny"), or Stable Diffusion 1.5 ("sd15") with random weights and a random stand-in for
    the empty prompt's embedding."""
    if model == "tiny":
        from ...tiny.unet import load_tiny

        return load_tiny(device=device)
    torch.manual_seed(seed)
    unet, vae = build_sd15()
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, device=device) ** 2
    return UNetBackbone(
        unet.to(device),
        vae.to(device),
        prediction_type="epsilon",
        alphas_cumprod=torch.cumprod(1 - betas, 0),
        empty_embedding=torch.randn(1, 77, 768).to(device),
        scaling_factor=vae.config.scaling_factor,
        name="sd15, random weights",
    )


def build_sd15() -> tuple[Any, Any]:
    """A UNet2DConditionModel and an AutoencoderKL with the sizes of Stable Diffusion 1.5 and random weights."""
    from diffusers import UNet2DConditionModel

    unet: Any = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    return unet.eval().requires_grad_(False), build_vae(4)


def build_vae(channels: int) -> Any:
    """An AutoencoderKL of the size that Stable Diffusion and FLUX have, with random weights."""
    from diffusers import AutoencoderKL

    vae: Any = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=channels,
        sample_size=512,
    )
    return vae.eval().requires_grad_(False)


def load_hero_model(
    model: str, device: str, dtype: str = "float32", seed: int = 0, blocks: tuple[int, int] | None = None
) -> tuple[DiTBackbone, LatentCodec]:
    """The bundled tiny models, or random weights of a real size with an autoencoder of that size.

    Args: blocks: fewer double and single blocks than the real ones.
    """
    size = _dit_size(model, blocks)
    if size is None:
        from ...tiny.dit import load_tiny_dit

        backbone = load_tiny_dit(device=device)
        return backbone, backbone
    torch.manual_seed(seed)
    backbone = random_backbone(size, "bf16", device)
    kind = getattr(torch, dtype)
    backbone.transformer.to(kind)
    return backbone, PlainCodec(build_vae(size.in_channels // 4).to(device, kind), scaling_factor=1.0)


def _dit_size(model: str, blocks: tuple[int, int] | None) -> ModelSize | None:
    """Of a real model, with so many double and single blocks; None for the tiny one."""
    size = DIT_SIZES[model]
    return replace(size, double_blocks=blocks[0], single_blocks=blocks[1]) if size and blocks else size


def empty_backbone(model: str, blocks: tuple[int, int] | None = None) -> DiTBackbone:
    """A model of the real size, or with fewer double and single blocks, on the meta device."""
    size = _dit_size(model, blocks)
    if size is None:
        from ...tiny.dit import as_dit_backbone, build_dit

        with torch.device("meta"):
            tiny = build_dit()
        return as_dit_backbone(tiny.requires_grad_(False))
    with torch.device("meta"):
        transformer = build_dit_of(size)
    return as_backbone(size, transformer, "meta")


def build_dit_of(size: ModelSize) -> Any:
    """The diffusers transformer of a size, in bfloat16, with what tensors the surrounding mode or device gives."""
    import diffusers

    head = size.width // size.heads
    config: dict[str, Any] = {
        "in_channels": size.in_channels,
        "num_layers": size.double_blocks,
        "num_single_layers": size.single_blocks,
        "num_attention_heads": size.heads,
        "attention_head_dim": head,
        "joint_attention_dim": size.text_width,
        "guidance_embeds": size.guidance,
    }
    if size.fused:
        config |= {"mlp_ratio": size.mlp / size.width, "axes_dims_rope": (head // 4,) * 4}
    else:
        rest = head // 16 * 7
        config |= {"pooled_projection_dim": size.pooled_width, "axes_dims_rope": (head - 2 * rest, rest, rest)}
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        kind: Any = diffusers.Flux2Transformer2DModel if size.fused else diffusers.FluxTransformer2DModel
        return kind(**config).requires_grad_(False)
    finally:
        torch.set_default_dtype(before)


def as_backbone(size: ModelSize, transformer: Any, device: str) -> DiTBackbone:
    """A backbone with a random prompt."""
    pooled = None if size.fused else torch.randn(1, size.pooled_width, device=device)
    text = TextEmbedding(torch.randn(1, size.text_tokens, size.text_width, device=device), pooled)
    return DiTBackbone(transformer, FLUX2 if size.fused else FLUX1, text=text, name=size.name)


def random_backbone(size: ModelSize, weights: str, device: str) -> DiTBackbone:
    """Random weights of the real size on a device, layer by layer into their stored form."""
    place = torch.device(device)
    with torch.device("meta"):
        transformer = build_dit_of(size)
    small = stored_linears(transformer) if weights != "bf16" else {}
    for name, module in transformer.named_modules():
        for kind, parameter in list(module.named_parameters(recurse=False)):
            shape, norm = parameter.shape, "norm_" in name.rpartition(".")[2]
            filled = torch.ones(shape) if norm else torch.randn(shape, device=place, dtype=torch.bfloat16) * 0.02
            setattr(module, kind, torch.nn.Parameter(filled.to(place, torch.bfloat16), requires_grad=False))
        if name in small:
            store_linear(transformer, name, weights, place)
    store_weights(transformer, weights, place)
    return as_backbone(size, transformer, device)


def smooth_frames(count: int, size: int, seed: int) -> Tensor:
    """Frames (N, 3, size, size) of one smooth picture that moves a little, in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 12, 12, generator=generator)
    picture = torch.nn.functional.interpolate(coarse, size=2 * size, mode="bicubic")
    steps = [8 * i % size for i in range(count)]
    return torch.cat([picture[..., s : s + size, s : s + size] for s in steps]).clamp(0, 1)
