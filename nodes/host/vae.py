"""The host's VAE by itself, as `backbones.surface.LatentCodec`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ...zero2hero_core.backbones.surface import LatentCodec
from ...zero2hero_core.checks import InputError
from .services import check_cancel


class HostVAE:
    """A VAE for pictures; latents are as the host's LATENT holds them. Raises: InputError for one of sound or video."""

    def __init__(self, vae: Any) -> None:
        if getattr(vae, "latent_dim", 2) != 2:
            raise InputError("vae: expected a VAE for pictures; connect that of a checkpoint for pictures.")
        self.vae = vae

    @property
    def multiple(self) -> int:
        """Sides of pictures must be multiples of this."""
        return int(self.vae.spacial_compression_encode())

    @torch.no_grad()
    def encode(self, images: torch.Tensor, /) -> torch.Tensor:
        """Latents (N, C, h, w), float32, of images (N, 3, H, W) in [0, 1]."""
        check_cancel()
        latents: torch.Tensor = self.vae.encode(images.movedim(1, -1)).float().cpu()
        return latents

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, /) -> torch.Tensor:
        """Images (N, 3, H, W) in [0, 1], float32, of latents."""
        check_cancel()
        images: torch.Tensor = self.vae.decode(latents).movedim(-1, 1).float().cpu()
        return images


if TYPE_CHECKING:
    _codec: type[LatentCodec] = HostVAE
