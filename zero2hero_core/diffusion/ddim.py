"""DDIM with the discretisation of Stable Diffusion: inversion and sampling as plain functions of (latents, eps,
timestep).

Source: Song et al., "Denoising Diffusion Implicit Models", eq. 12 with eta = 0; step convention of Zero-to-Hero
    (arXiv 2505.23134).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..checks import InputError, check_range


def stable_diffusion_alphas(num_train_timesteps: int = 1000) -> torch.Tensor:
    """Cumulative alphas (T,) of the "scaled linear" schedule of SD 1.x and 2.x (beta 0.00085 to 0.012)."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, num_train_timesteps, dtype=torch.float32) ** 2
    return torch.cumprod(1 - betas, 0)


def ddim_move(
    latents: torch.Tensor, eps: torch.Tensor, alpha_from: torch.Tensor, alpha_to: torch.Tensor
) -> torch.Tensor:
    """Deterministic DDIM move of latents between two noise levels, given the noise in them."""
    clean = (latents - (1 - alpha_from).sqrt() * eps) / alpha_from.sqrt()
    return alpha_to.sqrt() * clean + (1 - alpha_to).sqrt() * eps


@dataclass(frozen=True)
class DDIMSchedule:
    """The timesteps of a run over a training schedule (T,).

    Raises: InputError unless 1 <= num_inference_steps < T.
    """

    alphas_cumprod: torch.Tensor
    num_inference_steps: int

    def __post_init__(self) -> None:
        check_range("steps", self.num_inference_steps, 1, len(self.alphas_cumprod) - 1)
        if self.alphas_cumprod.ndim != 1:
            raise InputError(f"alphas_cumprod: expected one dimension, got shape {tuple(self.alphas_cumprod.shape)}.")

    @property
    def stride(self) -> int:
        """Training steps between two timesteps of the run."""
        return len(self.alphas_cumprod) // self.num_inference_steps

    @property
    def timesteps(self) -> list[int]:
        """Sampling order, from noise to image: 951, 901, ..., 1 for twenty steps ("leading" spacing, offset 1)."""
        last = len(self.alphas_cumprod) - 1
        return [min(i * self.stride + 1, last) for i in reversed(range(self.num_inference_steps))]

    def invert_step(self, latents: torch.Tensor, eps: torch.Tensor, timestep: int) -> torch.Tensor:
        """One step towards noise, to `timestep`.

        `eps` is the model's answer at this (destination) timestep for the latents of the step before: the authors'
        convention.
        """
        before = max(0, timestep - self.stride)
        return ddim_move(latents, eps, self.alphas_cumprod[before], self.alphas_cumprod[timestep])

    def clean(self, latents: torch.Tensor, eps: torch.Tensor, timestep: int) -> torch.Tensor:
        """Noise-free latents that `latents` at a timestep stand for, given the noise in them."""
        alpha = self.alphas_cumprod[timestep]
        return (latents - (1 - alpha).sqrt() * eps) / alpha.sqrt()

    def sample_step(self, latents: torch.Tensor, eps: torch.Tensor, timestep: int) -> torch.Tensor:
        """One step towards the image, from `timestep`; below 0 the schedule's first alpha is used, as SD does."""
        after = max(0, timestep - self.stride)
        return ddim_move(latents, eps, self.alphas_cumprod[timestep], self.alphas_cumprod[after])
