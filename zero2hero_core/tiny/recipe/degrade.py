"""Reference tokens for the training of the tiny DiT: views of the wanted picture, worn down in ways that editing
results usually are. No result of Zero-Stage is among them: how that one degrades is left to Hero-Stage."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .pool import VIEWS, Pool


@dataclass(frozen=True)
class RestoreBatch:
    """Latents (n, C, g, g) each: `wanted`; `worn`, the same look degraded; `structure`, the same frame in the clip's
    other look."""

    wanted: torch.Tensor
    worn: torch.Tensor
    structure: torch.Tensor


def smooth_field(shape: tuple[int, int, int, int], cells: int, generator: torch.Generator) -> torch.Tensor:
    """Standard normal field (n, C, g, g), smooth over `cells` cells."""
    n, channels, grid, _ = shape
    coarse = max(2, grid // cells)
    field = torch.randn(n, channels, coarse, coarse, generator=generator)
    return F.interpolate(field, size=(grid, grid), mode="bicubic", align_corners=False)


def _uniform(n: int, low: float, high: float, generator: torch.Generator, chance: float = 1.0) -> torch.Tensor:
    """(n, 1, 1, 1) from [low, high]; 0 with probability 1 - chance."""
    values = low + (high - low) * torch.rand(n, 1, 1, 1, generator=generator)
    return values * (torch.rand(n, 1, 1, 1, generator=generator) < chance)


def moved(source: torch.Tensor, coords: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """`source` (n, C, G, G) carried along matches (n, G, G, 2) that are off by a few cells."""
    n, _, grid, _ = source.shape
    smooth = smooth_field((n, 2, grid, grid), 8, generator) * _uniform(n, 0.0, 2.0, generator, 0.7)
    rough = torch.randn(n, 2, grid, grid, generator=generator) * _uniform(n, 0.0, 1.0, generator, 0.6)
    places = coords + (smooth + rough).permute(0, 2, 3, 1)
    return F.grid_sample(source, places * (2 / grid) - 1, padding_mode="border", align_corners=False)


def _blur(latents: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Gaussian of width sigma (n, 1, 1, 1) cells, each picture its own."""
    n, channels, grid, _ = latents.shape
    steps = torch.arange(-4, 5)
    kernel = torch.exp(-0.5 * (steps / sigma.view(n, 1).clamp_min(1e-3)) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    flat = F.pad(latents.reshape(1, n * channels, grid, grid), (4, 4, 4, 4), mode="replicate")
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=n * channels)
    return F.conv2d(flat, kernel[:, None, :, None], groups=n * channels).view_as(latents)


def worn(picture: torch.Tensor, other: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Remains of the `other` look, blur, too much or too little contrast, false colours, noise: each with a chance
    and a strength of its own."""
    n, channels, grid, _ = picture.shape
    share = (smooth_field((n, 1, grid, grid), 8, generator) * 0.5 + 0.5).clamp(0, 1)
    picture = picture + (other - picture) * share * _uniform(n, 0.0, 0.6, generator, 0.6)
    picture = _blur(picture, _uniform(n, 0.3, 2.0, generator, 0.75))
    mean = picture.mean((2, 3), keepdim=True)
    gain = 1 + _uniform(n, -0.2, 0.5, generator, 0.7) * (0.7 + 0.6 * torch.rand(n, channels, 1, 1, generator=generator))
    picture = mean + (picture - mean) * gain
    picture = picture + smooth_field((n, channels, grid, grid), 16, generator) * _uniform(n, 0.0, 0.3, generator, 0.6)
    return picture + torch.randn(picture.shape, generator=generator) * _uniform(n, 0.0, 0.4, generator, 0.5)


def sample_restore(
    pool: Pool, partners: torch.Tensor, count: int, crop: int, generator: torch.Generator
) -> RestoreBatch:
    """Random crops of training clips. Args: partners: the pool's latents in the clips' other looks."""
    clips, _, _, grid, _ = pool.latents.shape
    wanted, source, structure, coords = [], [], [], []
    for _ in range(count):
        clip = int(torch.randint(clips, (), generator=generator))
        a, b = torch.randint(VIEWS, (2,), generator=generator).tolist()
        look, other = (pool.latents, partners)
        if torch.rand((), generator=generator) < 0.5:
            look, other = other, look
        wanted.append(look[clip, b])
        source.append(look[clip, a])
        structure.append(other[clip, b])
        coords.append(pool.coords[clip, b, a])
    target, frame = torch.stack(wanted).float(), torch.stack(structure).float()
    carried = moved(torch.stack(source).float(), torch.stack(coords).float(), generator)
    corners = torch.randint(grid - crop + 1, (count, 2), generator=generator).tolist()

    def cut(latents: torch.Tensor) -> torch.Tensor:
        parts = [row[:, y : y + crop, x : x + crop] for row, (y, x) in zip(latents, corners, strict=True)]
        return torch.stack(parts)

    target, frame, carried = cut(target), cut(frame), cut(carried)
    return RestoreBatch(target, worn(carried, frame, generator), frame)
