"""Pictures that explain a result: a labelled grid of frames, and matches as colour."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..checks import ShapeError
from .match import Correspondence


def coordinate_colours(coords_xy: torch.Tensor) -> torch.Tensor:
    """Colours (3, h, w) of places (h, w, 2) given as shares of the frame: red grows to the right, green downwards, with
    a fine chequer in blue."""
    x, y = coords_xy.unbind(-1)
    chequer = 0.35 + 0.3 * (((x * 8).floor() + (y * 8).floor()) % 2)
    return torch.stack([x, y, chequer]).clamp(0, 1)


def matches_picture(correspondence: Correspondence, anchor: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Anchor, its coordinates as colour, target, the colours that its tokens found, and the confidence, side by side.

    Args: anchor, target: frames (3, H, W) of one size.
    Returns: (3, H, 5 W).
    """
    if anchor.shape != target.shape:
        raise ShapeError(f"matches_picture: expected equal sizes, got {tuple(anchor.shape)} and {tuple(target.shape)}.")
    size = anchor.shape[-2:]
    h, w = correspondence.finest.size_hw
    y, x = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")

    def enlarge(colours: torch.Tensor) -> torch.Tensor:
        return F.interpolate(colours[None].float().cpu(), size=size, mode="nearest")[0]

    legend = enlarge(coordinate_colours(torch.stack([x, y], -1)))
    matches = enlarge(coordinate_colours(correspondence.finest.coords_xy().cpu()))
    confidence = enlarge(correspondence.confidence[None].expand(3, -1, -1))
    return torch.cat([anchor.cpu(), legend, target.cpu(), matches, confidence], 2)
