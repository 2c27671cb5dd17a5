"""The steps of a text-guided sampling: which of them a part acts in, where it begins, what noise the frames share.

Steps are counted from noise, 0 to n - 1. Windows are shares of n, as the papers give them. Below the last timestep the
picture is clean (signal variance 1).

Source: Meng et al. 2022, "SDEdit" (arXiv 2108.01073), for the start; Rerender-A-Video (arXiv 2306.07954) and FRESCO
    (arXiv 2403.12962) for windows and shared noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..checks import InputError, check_range, setting
from ..diffusion.ddim import DDIMSchedule

Window = tuple[float, float]
_ROUNDING = 1e-9  # 20 (1 - 0.8) is 3.9999999999999996


def check_window(name: str, window: Window) -> None:
    """Raise `InputError` unless a setting holds two shares of the steps, the first not beyond the second."""
    start, end = window
    if not (0 <= start <= end <= 1):
        raise InputError(f"{setting(name)}: expected 0 <= start <= end <= 1, shares of the steps, got {start}, {end}.")


def closed_window(window: Window, count: int) -> range:
    """Steps i with count * start <= i <= count * end: both ends are in, and (1, 1) holds none."""
    first = math.ceil(count * window[0] - _ROUNDING)
    return range(first, min(count, math.floor(count * window[1] + _ROUNDING) + 1))


def open_window(window: Window, count: int) -> range:
    """Steps i with count * start < i < count * end."""
    first = math.floor(count * window[0] + _ROUNDING) + 1
    return range(first, max(first, math.ceil(count * window[1] - _ROUNDING)))


def first_step(strength: float, count: int) -> int | None:
    """The step at which the noisy input takes the place of what was sampled so far; earlier ones are not run.

    Args: strength: how far the input is taken apart: 0 leaves it alone, which gives `count`; 1 begins with the noisiest
        input; more than 1 begins with noise alone, which gives None.
    """
    if strength > 1:
        return None
    return math.floor(count * (1 - strength) + _ROUNDING)


@dataclass(frozen=True)
class Sampling:
    """What all frames of a clip have in common: the timesteps and the noise.

    seed: of all noise; each step has a stream of its own, so that a step's noise is the same however many were run
    before it.
    """

    schedule: DDIMSchedule
    seed: int

    def __post_init__(self) -> None:
        check_range("seed", self.seed, 0, 2**48)

    @property
    def timesteps(self) -> list[int]:
        """From noise to picture."""
        return self.schedule.timesteps

    def alphas(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Signal variance at a step and at the next one; after the last step it is 1."""
        alphas, timestep = self.schedule.alphas_cumprod, self.timesteps[step]
        after = timestep - self.schedule.stride
        return alphas[timestep], alphas[after] if after >= 0 else torch.ones(())

    def start_noise(self, like: torch.Tensor) -> torch.Tensor:
        """Noise (1, C, h, w) that every frame begins with."""
        return self._noise(0, like)

    def step_noise(self, step: int, like: torch.Tensor) -> torch.Tensor:
        """Fresh noise (1, C, h, w) of a step, the same for every frame."""
        return self._noise(1 + step, like)

    def _noise(self, stream: int, like: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed((self.seed * 1009 + stream) % 2**63)
        return torch.randn((1, *like.shape[1:]), generator=generator).to(like)

    def noisy(self, latents: torch.Tensor, step: int) -> torch.Tensor:
        """Clean latents (B, C, h, w) at the noise of a step, with the noise that all frames begin with."""
        alpha, _ = self.alphas(step)
        return alpha.sqrt() * latents + (1 - alpha).sqrt() * self.start_noise(latents)

    def clean(self, latents: torch.Tensor, eps: torch.Tensor, step: int) -> torch.Tensor:
        """The noise-free latents that `latents` at a step stand for, given the noise in them."""
        return self.schedule.clean(latents, eps, self.timesteps[step])
