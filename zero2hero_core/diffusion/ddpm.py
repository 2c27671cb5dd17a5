"""Ancestral sampling (DDPM) between two noise levels, which need not be neighbours in training.

Source: Ho et al. 2020, "Denoising Diffusion Probabilistic Models", eq. 6 and 7.
"""

from __future__ import annotations

import torch


def ddpm_move(
    latents: torch.Tensor, clean: torch.Tensor, noise: torch.Tensor, alpha_from: torch.Tensor, alpha_to: torch.Tensor
) -> torch.Tensor:
    """One ancestral step of latents (B, C, h, w) towards the picture.

    Args: clean: the prediction of the noise-free latents; noise: fresh, of unit variance, broadcast over the batch;
        alpha_from, alpha_to: signal variances before and after; at alpha_to 1 the result is `clean`.
    Returns: (B, C, h, w).
    """
    step = alpha_from / alpha_to  # of the signal variance; 1 - step is the paper's beta of the whole stride
    of_clean = alpha_to.sqrt() * (1 - step) / (1 - alpha_from)
    of_latents = step.sqrt() * (1 - alpha_to) / (1 - alpha_from)
    spread = ((1 - alpha_to) / (1 - alpha_from) * (1 - step)).sqrt()
    return of_clean * clean + of_latents * latents + spread * noise
