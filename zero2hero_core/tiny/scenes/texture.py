"""Band-limited solid textures: a few random plane waves mix a small palette.

Hard random stripes would cost a small autoencoder most of its capacity, so all waves stay longer than about three
latent cells.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace

import torch

FIELDS = 4  # palette entries
WAVES = 10  # plane waves a field


@dataclass(frozen=True)
class Appearance:
    """What a surface looks like: wave vectors (D, F*W), phases (F*W,), palette (F, 3) in [0, 1], `sharpness` of the
    palette mix, `gloss` 0..1."""

    waves: torch.Tensor
    phases: torch.Tensor
    palette: torch.Tensor
    sharpness: float
    gloss: float


def uniform(generator: torch.Generator, low: float, high: float) -> float:
    """One uniform random number from `generator`."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def random_palette(
    generator: torch.Generator, saturation: tuple[float, float], value: tuple[float, float]
) -> torch.Tensor:
    """`FIELDS` colours (F, 3) in [0, 1] around one or two hues."""
    hue = uniform(generator, 0, 1)
    spread = uniform(generator, 0.03, 0.35)
    colours = [
        colorsys.hsv_to_rgb(
            (hue + spread * uniform(generator, -1, 1)) % 1.0,
            uniform(generator, *saturation),
            uniform(generator, *value),
        )
        for _ in range(FIELDS)
    ]
    return torch.tensor(colours)


def random_waves(generator: torch.Generator, dims: int, frequency: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Wave vectors (dims, F*W) of radian frequency up to about 2 x `frequency` per unit, and their phases (F*W,)."""
    waves = torch.randn((dims, FIELDS * WAVES), generator=generator)
    length = waves.norm(dim=0, keepdim=True).clamp_min(1e-3)
    waves = waves / length * length.clamp_max(2.0) * frequency
    return waves, torch.rand((FIELDS * WAVES,), generator=generator) * (2 * torch.pi)


def random_appearance(
    generator: torch.Generator,
    dims: int,
    frequency: tuple[float, float],
    saturation: tuple[float, float] = (0.25, 0.95),
    value: tuple[float, float] = (0.25, 0.95),
) -> Appearance:
    """A random surface for `dims`-dimensional texture coordinates; `frequency` in radians per unit."""
    waves, phases = random_waves(generator, dims, uniform(generator, *frequency))
    palette = random_palette(generator, saturation, value)
    return Appearance(waves, phases, palette, uniform(generator, 1.5, 3.0), uniform(generator, 0.0, 0.35))


def edit_appearance(
    generator: torch.Generator, old: Appearance, kind: str, frequency: tuple[float, float]
) -> Appearance:
    """A second look of the same surface.

    Args:
        kind: "tint" (hues turned by a mild angle), "recolour" (new palette on the same pattern), "retexture" (new
            pattern and palette), "style" (new palette, hard palette mix, other gloss).
    """
    if kind == "tint":
        turn = uniform(generator, 0.12, 0.3) * (1 if uniform(generator, 0, 1) < 0.5 else -1)
        hsv = [colorsys.rgb_to_hsv(*colour) for colour in old.palette.tolist()]
        palette = torch.tensor([colorsys.hsv_to_rgb((h + turn) % 1.0, s, v) for h, s, v in hsv])
        return replace(old, palette=palette)
    new = random_appearance(generator, old.waves.shape[0], frequency)
    if kind == "recolour":
        return replace(old, palette=new.palette)
    if kind == "retexture":
        return new
    if kind == "style":
        return replace(old, palette=new.palette, sharpness=4.0, gloss=0.45 - old.gloss)
    raise ValueError(f"unknown edit {kind!r}")


def shade_texture(appearance: Appearance, points: torch.Tensor) -> torch.Tensor:
    """Colour (N, 3) in [0, 1] of texture coordinates (N, D)."""
    waves = torch.sin(points @ appearance.waves + appearance.phases)
    fields = waves.view(-1, FIELDS, WAVES).sum(-1) / WAVES**0.5
    colours: torch.Tensor = (fields * appearance.sharpness).softmax(-1) @ appearance.palette
    return colours
