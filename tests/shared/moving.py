"""Clips whose motion is known: a window that moves over a wide texture."""

from __future__ import annotations

import torch
import torch.nn.functional as F

HEIGHT, WIDTH = 64, 96


def texture(seed: int, height: int, width: int) -> torch.Tensor:
    """(3, H, W) in [0, 1]: squares of 2, 4, 8 and 16 pixels on top of each other, other ones for every seed."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(1, 3, height, width)
    for side in (2, 4, 8, 16):
        coarse = torch.rand(1, 3, -(-height // side), -(-width // side), generator=generator)
        total += side * F.interpolate(coarse, scale_factor=side, mode="nearest")[..., :height, :width]
    return total[0] / 30


def pan(seed: int, frames: int, speed: int) -> torch.Tensor:
    """(N, 3, 64, 96): the camera moves to the right by `speed` pixels a frame."""
    wide = texture(seed, HEIGHT, WIDTH + speed * frames)
    return torch.stack([wide[..., speed * i : speed * i + WIDTH] for i in range(frames)])


def pan_flow(speed: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The flows of a pan, from a frame to the next one and back."""
    there = torch.tensor([-speed, 0.0]).expand(HEIGHT, WIDTH, 2)
    return there, -there


def drift(index: int, height: int = 48, width: int = 64) -> torch.Tensor:
    """Frame `index` (3, H, W) of a soft pattern that moves to the right by a pixel a frame at a width of 64."""
    y, x = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    place = x - index / 64
    waves = (torch.sin(6 * place), torch.cos(7 * y + 5 * place), torch.sin(4 * y - 3 * place))
    return torch.stack([0.5 + 0.4 * wave for wave in waves])
