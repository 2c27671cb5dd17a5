"""What Zero-Stage asks of MODEL, VAE and CONDITIONING; each refusal names the socket and what to connect."""

from __future__ import annotations

from typing import Any

import torch
from comfy.ldm.modules.attention import SpatialTransformer, SpatialVideoTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

from ...zero2hero_core.checks import InputError
from ..convert.checks import unused_parts

LAYERS = range(3, 12)  # decoder blocks with attention; the host numbers its output blocks as the paper its layers
REMEDY = "connect the MODEL of a Stable Diffusion 1.5 or 2.1 checkpoint"
TRAINED_STEPS = 1000  # of the noise schedule
_SAMPLING_REMEDY = "leave out the nodes that patch the MODEL's sampling"


def transformer_of(block: Any) -> Any:
    """The transformer of an output block of a Stable Diffusion UNet, or None."""
    transformers = [
        layer
        for layer in block
        if isinstance(layer, SpatialTransformer) and not isinstance(layer, SpatialVideoTransformer)
    ]
    return transformers[0] if len(transformers) == 1 else None


def check_model(model: Any) -> None:
    """Raise `InputError` unless MODEL is a Stable Diffusion 1.x / 2.x one, predicting noise or velocity."""
    inner = model.model
    unet: Any = getattr(inner, "diffusion_model", None)
    kind = type(inner).__name__
    fits = isinstance(unet, UNetModel) and unet.num_classes is None and len(unet.output_blocks) == 12
    if not fits or any(transformer_of(unet.output_blocks[layer]) is None for layer in LAYERS):
        raise InputError(f"model: expected a Stable Diffusion 1.5 or 2.1 model, got {kind}; {REMEDY}.")
    channels = inner.latent_format.latent_channels
    if unet.in_channels != channels:
        raise InputError(
            f"model: expected {channels} input channels, got {unet.in_channels} "
            f"(an inpainting, depth or editing model); {REMEDY} for plain generation."
        )
    _check_sampling(model.get_model_object("model_sampling"))


def _check_sampling(sampling: Any) -> None:
    """Raise `InputError` unless noise is added as Stable Diffusion was trained with: diffusion in 1000 steps."""
    if not hasattr(sampling, "log_sigmas"):  # schedules of flow matching have none
        kind = type(sampling).__bases__[0].__name__  # the host makes a class of a schedule and a kind of prediction
        raise InputError(f"model: expected the noise schedule of a diffusion model, got {kind}; {_SAMPLING_REMEDY}.")
    steps = len(sampling.sigmas)
    if steps != TRAINED_STEPS:
        raise InputError(f"model: expected a noise schedule of {TRAINED_STEPS} steps, got {steps}; {_SAMPLING_REMEDY}.")


def read_context(conditioning: Any, model: Any, socket: str = "conditioning") -> torch.Tensor:
    """The text embedding (1, L, D) of a CONDITIONING's first entry. Raises: InputError when it is of another family."""
    if not conditioning:
        raise InputError(f"{socket}: expected one entry, got none; connect CLIP Text Encode.")
    context = conditioning[0][0]
    blocks = model.model.diffusion_model.output_blocks
    width = transformer_of(blocks[3]).transformer_blocks[0].attn2.to_k.in_features
    if context.ndim != 3 or context.shape[-1] != width:
        raise InputError(
            f"{socket}: expected a text embedding {width} wide for this MODEL, got {tuple(context.shape)}; "
            "connect CLIP Text Encode with the CLIP of the same checkpoint."
        )
    first: torch.Tensor = context[:1].float()
    return first


def check_sides(socket: str, images: torch.Tensor, multiple: int) -> None:
    """Raise `InputError` unless the sides of images (N, 3, H, W) are multiples of `multiple`."""
    height, width = images.shape[-2:]
    if height % multiple or width % multiple:
        raise InputError(
            f"{socket}: expected sides that are multiples of {multiple} for this model, got {width} x {height}; "
            "resize them."
        )


def ignored_parts(conditioning: Any) -> list[str]:
    """What stands in a CONDITIONING and has no effect on Zero-Stage: further entries, and what is in the first."""
    return ([] if len(conditioning) == 1 else ["entries after the first"]) + unused_parts(conditioning[0][1])
