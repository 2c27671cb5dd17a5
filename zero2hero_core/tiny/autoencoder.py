"""A linear autoencoder with the call surface of diffusers' `AutoencoderKL`.

Encoding projects each patch on the principal components of the training scenes. Decoding is the least-squares map
from 3 x 3 latent cells to the patch, so that neighbouring cells correct each other and block edges vanish. Both are
solved in closed form: no training.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class LatentPoint:
    """A posterior without spread: `mode` and `sample` are the same latents (N, C, h, w)."""

    latents: torch.Tensor

    def mode(self) -> torch.Tensor:
        """The latents."""
        return self.latents

    def sample(self, generator: torch.Generator | None = None) -> torch.Tensor:
        """The latents; there is nothing random in a linear projection."""
        return self.latents


class PatchAutoencoder(nn.Module):
    """Linear patch transform: images (N, 3, H, W) in [-1, 1] <-> latents (N, C, H/factor, W/factor).

    Args: conv: class of the two layers, for a host that manages the memory of its own layers.
    """

    def __init__(self, factor: int = 8, latent_channels: int = 8, conv: type[nn.Conv2d] = nn.Conv2d):
        super().__init__()
        patch = 3 * factor * factor
        self.config = SimpleNamespace(factor=factor, latent_channels=latent_channels, scaling_factor=1.0)
        self.encoder = conv(3, latent_channels, factor, stride=factor)
        self.decoder = conv(latent_channels, patch, 3, padding=1, padding_mode="replicate")

    @property
    def dtype(self) -> torch.dtype:
        """Floating point type of the weights."""
        return self.encoder.weight.dtype

    def encode(self, images: torch.Tensor) -> SimpleNamespace:
        """Images in [-1, 1], sides a multiple of the factor -> object with `latent_dist`."""
        return SimpleNamespace(latent_dist=LatentPoint(self.encoder(images)))

    def decode(self, latents: torch.Tensor) -> SimpleNamespace:
        """Latents -> object with `sample`, images (N, 3, H, W) around [-1, 1]."""
        return SimpleNamespace(sample=F.pixel_shuffle(self.decoder(latents), self.config.factor))


@torch.no_grad()
def fit_patch_autoencoder(images: torch.Tensor, factor: int = 8, latent_channels: int = 8) -> PatchAutoencoder:
    """Closed-form fit on training pictures.

    Each latent channel is divided by the square root of its standard deviation, then all by one number so that the
    mean variance is 1: colour still dominates, as in natural latents, yet shape is not drowned by noise.

    Args: images: (N, 3, H, W) in [-1, 1], some hundred of them.
    """
    model = PatchAutoencoder(factor, latent_channels)
    patches = F.pixel_unshuffle(images, factor).permute(0, 2, 3, 1).reshape(-1, 3 * factor * factor)
    mean = patches.mean(0)
    _, spread, basis = torch.linalg.svd(patches - mean, full_matrices=False)
    basis = (
        basis[:latent_channels] * basis[:latent_channels].sum(1, keepdim=True).sign()
    )  # a fixed sign: SVD leaves it open
    std = spread[:latent_channels] / len(patches) ** 0.5
    scale = std**-0.5 / std.mean() ** 0.5
    weight = basis * scale[:, None]
    model.encoder.weight.copy_(weight.view(latent_channels, 3, factor, factor))
    assert model.encoder.bias is not None and model.decoder.bias is not None
    model.encoder.bias.copy_(-(weight @ mean))
    latents = F.pad(model.encode(images).latent_dist.mode(), (1, 1, 1, 1), mode="replicate")
    cells = F.unfold(latents, 3).transpose(1, 2).reshape(len(patches), -1)
    design = torch.cat([cells, torch.ones(len(cells), 1)], 1).double()
    gram = design.T @ design
    gram += 1e-6 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    solution = torch.linalg.solve(gram, design.T @ patches.double()).float()
    model.decoder.weight.copy_(solution[:-1].T.reshape(model.decoder.weight.shape))
    model.decoder.bias.copy_(solution[-1])
    return model
