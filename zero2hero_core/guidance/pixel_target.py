"""What pixel-aware fusion pulls noisy latents to.

Source: Rerender-A-Video (arXiv 2306.07954), eq. 10 and 11; weight and the care at mask borders as the authors practise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..backbones.surface import LatentCodec
from ..checks import check_range, setting
from ..flow.occlusion import pool_occlusion, soften
from .fidelity import BAD_ERROR, encode_faithfully
from .fusion import flat_cells, fuse_noise


@dataclass(frozen=True)
class PixelTarget:
    """Clean latents (B, C, h, w), the weight of each cell (B, 1, h, w), and the cells whose noise is made up for."""

    latents: torch.Tensor
    weight: torch.Tensor
    flat: torch.Tensor | None
    inner_strength: float

    def pull(self, latents: torch.Tensor, eps: torch.Tensor, noise: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        """Noisy latents, pulled to the target; see `fusion.fuse_noise`. Cells without weight stay as they are, to the
        bit."""
        pulled = fuse_noise(
            latents,
            eps,
            self.latents,
            noise,
            self.weight,
            alpha,
            inner_strength=self.inner_strength,
            flat=self.flat,
        )
        return torch.where(self.weight > 0, pulled, latents)


@dataclass(frozen=True)
class PixelSettings:
    """How pictures are encoded and how strongly they pull.

    pixel_strength: weight of the target. inner_strength, smooth_boundary: see `fusion.fuse_noise`; smooth_boundary
    makes up for lost noise only away from the borders of masks. compensation, threshold: see `fidelity`.

    Raises: InputError.
    """

    pixel_strength: float = 0.5
    inner_strength: float = 0.9
    smooth_boundary: bool = True
    compensation: float = 1.0
    threshold: float = BAD_ERROR

    def __post_init__(self) -> None:
        for name, high in (("pixel_strength", 1), ("inner_strength", 1), ("compensation", 1.5), ("threshold", 2)):
            check_range(setting(name), getattr(self, name), 0, high)

    def encode(self, model: LatentCodec, pictures: torch.Tensor) -> torch.Tensor:
        """Latents (B, C, h, w) of pictures (B, 3, H, W) in [0, 1]."""
        return encode_faithfully(model, pictures, compensation=self.compensation, threshold=self.threshold)


def pixel_target(
    model: LatentCodec, pictures: torch.Tensor, hidden: torch.Tensor, settings: PixelSettings
) -> PixelTarget:
    """The target of fused pictures (B, 3, H, W) in [0, 1].

    Args: hidden: (B, H, W) bool, what no painted frame shows; there the target has no weight.
    """
    latents = settings.encode(model, pictures.clamp(0, 1))
    size_hw = (int(latents.shape[-2]), int(latents.shape[-1]))
    trust = (1 - pool_occlusion(soften(hidden), size_hw))[:, None].to(latents)
    flat = flat_cells(trust) if settings.smooth_boundary else None
    return PixelTarget(latents * trust, trust * settings.pixel_strength, flat, settings.inner_strength)
