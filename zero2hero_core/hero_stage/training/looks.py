"""Consistent random changes of look: with one, any clip is a clip whose truth is known, without a label.

A look is a function of colour alone, the same at every place and in every frame: a smooth random map of the colour
cube. So equal things change equally throughout the clip, as an artist's recolouring of one frame would have it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ...checks import check_images, check_range

KNOTS = 4  # values of the map along an axis of the colour cube
SPREAD = 0.35  # standard deviation of what is added at a knot


class RandomLook:
    """One look, drawn from a generator; call it with pictures. strength: 1 is usual, 0 changes nothing."""

    def __init__(self, generator: torch.Generator, strength: float = 1.0):
        check_range("look", strength, 0, 10)
        order = torch.randperm(3, generator=generator)  # of the channels: hues change their places
        lattice = torch.linspace(0, 1, KNOTS)
        blue, green, red = torch.meshgrid(lattice, lattice, lattice, indexing="ij")
        identity = torch.stack([red, green, blue])
        turned = identity[order]
        share = torch.rand((), generator=generator)
        added = torch.randn(3, KNOTS, KNOTS, KNOTS, generator=generator) * SPREAD * 0.5
        added = added + torch.randn(3, 1, 1, 1, generator=generator) * SPREAD * 0.5
        target = torch.lerp(identity, turned, share) + added
        self._map = torch.lerp(identity, target, strength)[None]  # (1, 3, blue, green, red)

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pictures (N, 3, H, W) in [0, 1] in this look. Raises: ShapeError."""
        check_images("pictures", pictures)
        places = (pictures.permute(0, 2, 3, 1) * 2 - 1)[None].flatten(1, 2)[:, None]  # (1, 1, N * H, W, 3)
        changed = F.grid_sample(self._map.to(pictures), places, align_corners=True, padding_mode="border")
        n, _, h, w = pictures.shape
        return changed.view(3, n, h, w).transpose(0, 1).clamp(0, 1)
