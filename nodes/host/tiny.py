"""The bundled tiny UNet, its autoencoder and the empty prompt as ordinary MODEL, VAE and CONDITIONING of the host.

The weights are those of `zero2hero_core.tiny`, renamed; the classes are the host's, so that its samplers, LoRA loaders
and memory management work with them as with a real checkpoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management as model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.supported_models_base
import torch

from ...zero2hero_core.checks import InputError
from .unet import ATTACHMENT

if TYPE_CHECKING:
    from ...zero2hero_core.tiny.autoencoder import PatchAutoencoder

WIDTHS = (64, 80, 96, 96)
CHANNELS, HEADS, GROUPS, PATCH = 8, 4, 16, 8
CONTEXT = (4, 32)


class _Width(int):
    """Width of a level. The host writes widths as multiples of the first one, which 80 is not of 64: the product with
    `model_channels` is the width itself."""

    def __mul__(self, _model_channels: int) -> int:
        return int(self)

    __rmul__ = __mul__


class TinyLatents(comfy.latent_formats.LatentFormat):
    """Latents of the bundled autoencoder: 8 channels, neither shifted nor scaled; the host has no preview of them."""

    latent_channels = CHANNELS
    scale_factor = 1.0


class TinyConfig(comfy.supported_models_base.BASE):
    """The tiny UNet in the host's terms: SD 1.5's layout with other widths."""

    latent_format = TinyLatents
    unet_extra_config = {"num_heads": HEADS, "num_head_channels": -1}  # noqa: RUF012 (the host's declaration)
    supported_inference_dtypes = [torch.float32]  # noqa: RUF012
    memory_usage_factor = 1.0

    @classmethod
    def build(cls, dtype: torch.dtype) -> TinyConfig:
        """A configuration with weights in `dtype`."""
        config = cls(
            {
                "image_size": 32,
                "in_channels": CHANNELS,
                "out_channels": CHANNELS,
                "model_channels": WIDTHS[0],
                "channel_mult": (1, *(_Width(width) for width in WIDTHS[1:])),
                "num_res_blocks": [2, 2, 2, 2],
                "use_spatial_transformer": True,
                "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
                "transformer_depth_middle": 1,
                "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
                "use_linear_in_transformer": False,
                "context_dim": CONTEXT[1],
                "adm_in_channels": None,
                "use_temporal_attention": False,
                "use_temporal_resblock": False,
                "legacy": False,
            }
        )
        config.set_inference_dtype(dtype, None)
        config.custom_operations = _operations()
        return config


def _operations() -> type:
    """The host's layers, with the group count that the tiny UNet was trained with instead of 32."""

    class Operations(comfy.ops.disable_weight_init):
        class GroupNorm(comfy.ops.disable_weight_init.GroupNorm):
            def __init__(self, num_groups: int, num_channels: int, **options: Any) -> None:
                super().__init__(min(num_groups, GROUPS), num_channels, **options)

    return Operations


def _read(name: str) -> dict[str, torch.Tensor]:
    """A bundled file of weights, float32. Raises: InputError when it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from ...zero2hero_core.tiny.unet import weights_folder

    path = weights_folder() / name
    try:
        return {key: tensor.float() for key, tensor in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise InputError(f"tiny models: cannot read {path} ({error}); install the extension again.") from error


def unet_weights() -> dict[str, torch.Tensor]:
    """The bundled UNet's weights under the names of the original Stable Diffusion code, float32."""
    from ...zero2hero_core.backbones.sd.single_file import UNET_PREFIX, unet_source
    from ...zero2hero_core.tiny.unet import UNET_FILE

    tensors, cross_attention = _read(UNET_FILE), (False, True, True, True)
    return {unet_source(name, 2, cross_attention).key.removeprefix(UNET_PREFIX): tensors[name] for name in tensors}


def tiny_model() -> comfy.model_patcher.ModelPatcher:
    """MODEL: the bundled UNet."""
    from ...zero2hero_core.tiny.unet import RECOMMENDED

    offload = model_management.unet_offload_device()
    model = comfy.model_base.BaseModel(TinyConfig.build(torch.float32), device=offload)
    model.load_model_weights(unet_weights())
    model.eval()
    patcher = comfy.model_patcher.ModelPatcher(model, model_management.get_torch_device(), offload)
    patcher.set_attachments(ATTACHMENT, {"name": "tiny", "recommended": RECOMMENDED})
    return patcher


class TinyAutoencoder(torch.nn.Module):
    """The linear patch transform behind the two calls that the host's VAE makes."""

    def __init__(self, autoencoder: PatchAutoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def encode(self, images: torch.Tensor, **_: Any) -> torch.Tensor:
        """Images (N, 3, H, W) in [-1, 1] -> latents."""
        latents: torch.Tensor = self.autoencoder.encode(images).latent_dist.mode()
        return latents

    def decode(self, latents: torch.Tensor, **_: Any) -> torch.Tensor:
        """Latents -> images (N, 3, H, W) around [-1, 1]."""
        images: torch.Tensor = self.autoencoder.decode(latents).sample
        return images


def tiny_vae() -> comfy.sd.VAE:
    """VAE: the bundled autoencoder."""
    from ...zero2hero_core.tiny.autoencoder import PatchAutoencoder
    from ...zero2hero_core.tiny.unet import AUTOENCODER_FILE

    autoencoder = PatchAutoencoder(conv=comfy.ops.disable_weight_init.Conv2d)  # weights of these may stay offloaded
    autoencoder.load_state_dict(_read(AUTOENCODER_FILE))
    # The host builds a VAE from weights that it recognises; its simplest one is taken, and the model exchanged.
    vae = comfy.sd.VAE(sd={"pixel_space_vae": torch.ones(())}, dtype=torch.float32)
    vae.first_stage_model = TinyAutoencoder(autoencoder).eval().requires_grad_(False)
    vae.downscale_ratio = vae.upscale_ratio = PATCH
    vae.latent_channels = CHANNELS
    vae.memory_used_encode = lambda shape, dtype: 32 * shape[2] * shape[3] * model_management.dtype_size(dtype)
    vae.memory_used_decode = lambda shape, dtype: 32 * shape[2] * shape[3] * 64 * model_management.dtype_size(dtype)
    offload = model_management.vae_offload_device()
    vae.patcher = comfy.model_patcher.ModelPatcher(
        vae.first_stage_model, load_device=vae.device, offload_device=offload
    )
    vae.size = None  # ComfyUI 0.8.0 keeps the size of what it built
    return vae


def tiny_conditioning() -> list[list[Any]]:
    """CONDITIONING: the empty prompt, the only one that the tiny UNet knows."""
    return [[torch.zeros(1, *CONTEXT), {}]]
