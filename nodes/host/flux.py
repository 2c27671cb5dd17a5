"""What Hero-Stage has to know of a host's FLUX model: its family, its text input, its VAE.

Everything that does not belong there is refused with one sentence that names the socket.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.ldm.flux.model
import comfy.model_base
import torch

from ...zero2hero_core.attention.conditions import pack_latents, unpack_latents
from ...zero2hero_core.backbones.flux.dit import FLUX1, FLUX2, TINY
from ...zero2hero_core.backbones.surface import Family, TextEmbedding
from ...zero2hero_core.checks import InputError
from ..convert.checks import check_vae, unused_parts

FAMILY = "zero2hero_family"  # attribute of the host's model that names a family of ours: set on the bundled tiny DiT
GUIDANCE = 3.5  # where the CONDITIONING says none: the host's own value
_EXPECTATION = "model: expected a FLUX model (FLUX.1, FLUX.2 or the bundled tiny DiT)"


def flux_family(model: Any) -> Family:
    """Which family a MODEL is of. Raises: InputError naming the socket when Hero-Stage does not know it."""
    base = model.model
    transformer = getattr(base, "diffusion_model", None)
    kind = type(getattr(base, "model_config", base)).__name__
    # Exactly this class: Chroma and others derive from it, or from its model, with other blocks.
    if not isinstance(base, comfy.model_base.Flux) or type(transformer) is not comfy.ldm.flux.model.Flux:
        unet = f"a Stable Diffusion UNet ({kind})" if type(transformer).__name__ == "UNetModel" else kind
        raise InputError(
            f"{_EXPECTATION}, got {unet}; connect the MODEL of Load Diffusion Model with a FLUX file, or hero_model of "
            "Zero-to-Hero Tiny Models."
        )
    params = transformer.params
    if getattr(params, "yak_mlp", False) or getattr(params, "txt_norm", False):
        raise InputError(f"{_EXPECTATION}, got a variant with other blocks; connect a FLUX.1 or FLUX.2 MODEL.")
    if transformer.in_channels != transformer.out_channels:
        raise InputError(
            f"{_EXPECTATION}, got an inpainting or control variant ({transformer.in_channels} input channels); "
            "connect the plain text-to-image MODEL."
        )
    if getattr(base, FAMILY, None) == TINY.name:
        return TINY
    flux2 = getattr(comfy.model_base, "Flux2", None)
    return FLUX2 if flux2 is not None and isinstance(base, flux2) else FLUX1


def host_text(model: Any, family: Family, conditioning: Any) -> tuple[TextEmbedding, float]:
    """Text of a CONDITIONING as the model reads it, and its guidance (`FluxGuidance`; 3.5 where it says none).

    Raises: InputError naming the socket: several prompts, another text encoder's, or parts Hero-Stage cannot use.
    """
    if len(conditioning) != 1:
        raise InputError(f"conditioning: expected one prompt, got {len(conditioning)}; connect one text encode node.")
    tokens, extras = conditioning[0]
    if parts := unused_parts(extras):
        raise InputError(
            f"conditioning: expected a text alone, got one with {' and '.join(parts)}, which Hero-Stage does not use; "
            "connect the plain prompt."
        )
    params = model.model.diffusion_model.params
    if tokens.ndim != 3 or tokens.shape[-1] != params.context_in_dim:
        raise InputError(
            f"conditioning: expected text of width {params.context_in_dim} for this MODEL, got {tokens.shape[-1]}; "
            "encode the prompt with the text encoders of the same model (DualCLIPLoader, type flux, for FLUX.1)."
        )
    pooled = extras.get("pooled_output")
    probe = torch.zeros(1, model.model.latent_format.latent_channels, 2, 2)
    conds = model.model.extra_conds(cross_attn=tokens[:1], pooled_output=pooled, noise=probe, device=probe.device)
    if family.has_pooled:
        vector = torch.zeros(1, params.vec_in_dim) if pooled is None else pooled[:1, : params.vec_in_dim]
        if vector.shape[-1] != params.vec_in_dim:
            raise InputError(
                f"conditioning: expected a pooled text vector of width {params.vec_in_dim}, got {vector.shape[-1]}; "
                "encode the prompt with the text encoders of the same model."
            )
    else:
        vector = None
    guidance = extras.get("guidance")
    return TextEmbedding(conds["c_crossattn"].cond, vector), GUIDANCE if guidance is None else float(guidance)


class HostCodec:
    """Pictures <-> packed latents through the host's VAE; the host loads and unloads it.

    Raises: InputError naming the socket, when the VAE is of another model.
    """

    def __init__(self, vae: Any, model: Any):
        check_vae(vae, model)
        self.vae, self.format, self.patch = vae, model.model.latent_format, model.model.diffusion_model.patch_size

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        """Model latents -> packed latents; FLUX.2's are packed already."""
        return pack_latents(latents) if self.patch == 2 else latents

    def unpack(self, packed: torch.Tensor) -> torch.Tensor:
        """Inverse of `pack`."""
        return unpack_latents(packed) if self.patch == 2 else packed

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) in [0, 1] -> packed latents (N, C, h, w), float32, on the CPU."""
        with torch.inference_mode():  # the host moves weights that are inference tensors: only in this mode
            latents = self.format.process_in(self.vae.encode(images.movedim(1, -1)).float())
            packed = self.pack(latents).cpu()
        return ordinary(packed)

    def decode(self, packed: torch.Tensor) -> torch.Tensor:
        """Packed latents -> images (N, 3, H, W) in [0, 1], float32."""
        with torch.inference_mode():
            images = self.vae.decode(self.format.process_out(self.unpack(packed.float())))
            images = images.movedim(-1, 1).float().clamp(0, 1)
        return ordinary(images)


def ordinary(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, copied where it is an inference tensor and the mode is off: autograd could not save it."""
    return tensor.clone() if tensor.is_inference() and not torch.is_inference_mode_enabled() else tensor


def recommended(family: Family) -> Mapping[str, Any]:
    """What suits the family where the user says nothing."""
    if family is not TINY:
        return {}
    from ...zero2hero_core.tiny.dit import RECOMMENDED

    return RECOMMENDED
