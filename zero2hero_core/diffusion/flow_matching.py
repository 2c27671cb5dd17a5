"""Noise levels of flow-matching sampling: sigma from 1 (noise) to 0 (picture), and the shift that FLUX applies to them.

x_sigma = (1 - sigma) x + sigma noise; the model predicts the velocity noise - x; an Euler step from sigma to the next
adds velocity * (next - sigma).
"""

from __future__ import annotations

import math

import torch

from ..checks import check_range


def flow_sigmas(num_inference_steps: int, mu: float | None = None) -> torch.Tensor:
    """`num_inference_steps` + 1 noise levels, from 1 down to 0, evenly spaced and then shifted.

    Args: mu: strength of the exponential shift e^mu / (e^mu + 1/sigma - 1), which spends more steps at high noise the
    larger the picture is; None for none.
    """
    check_range("steps", num_inference_steps, 1, 1000)
    sigmas = torch.linspace(1, 0, num_inference_steps + 1)
    if mu is None:
        return sigmas
    growth = math.exp(mu)
    return torch.where(sigmas > 0, growth / (growth + 1 / sigmas.clamp_min(1e-9) - 1), sigmas)


def flux1_mu(tokens: int, steps: int) -> float:
    """Shift of FLUX.1-dev: 0.5 at 256 noise tokens to 1.15 at 4096, on a line."""
    return 0.5 + (tokens - 256) * (1.15 - 0.5) / (4096 - 256)


def flux2_mu(tokens: int, steps: int) -> float:
    """Shift of FLUX.2: lines in the number of noise tokens at 10 and at 200 steps, and between them in the steps."""
    many = 0.00016927 * tokens + 0.45666666
    if tokens > 4300:
        return many
    few = 8.73809524e-05 * tokens + 1.89833333
    return many + (few - many) * (200 - steps) / 190


def draw_sigma(count: int, high_noise: float, generator: torch.Generator) -> torch.Tensor:
    """Noise levels (count,) of a training step: even on [0, 1), or with chance `high_noise` each 1 - u^3, near 1."""
    sigma = torch.rand(count, generator=generator)
    if not high_noise:
        return sigma
    near = torch.rand(count, generator=generator) < high_noise
    return torch.where(near, 1 - sigma**3, sigma)


def mix_noise(latents: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """x_sigma of latents (N, C, h, w) with sigma (N,)."""
    share = sigma.view(-1, 1, 1, 1).to(latents)
    return (1 - share) * latents + share * noise
