"""Colours of one picture given to another that keeps its lightness.

Source: Rerender-A-Video (arXiv 2306.07954), whose inputs may be recoloured before they are taken apart; the blend mode
    "luminosity" of W3C Compositing and Blending Level 1, section 10.2.
"""

from __future__ import annotations

import numpy as np
import torch

from ..checks import check_shape

_LUMA = torch.tensor([0.3, 0.59, 0.11])  # of the blend mode


def recolour(picture: torch.Tensor, look: torch.Tensor) -> torch.Tensor:
    """A picture (3, H, W) in [0, 1] with the histograms of `look` (3, H', W') in 8-bit Lab, and its own luminosity."""
    check_shape("picture", picture, (3, "H", "W"))
    check_shape("look", look, (3, "H", "W"))
    import cv2

    ours, theirs = (cv2.cvtColor(_bytes(one), cv2.COLOR_RGB2LAB) for one in (picture, look))
    matched = np.stack([_match(ours[..., channel], theirs[..., channel]) for channel in range(3)], -1)
    coloured = torch.from_numpy(cv2.cvtColor(matched, cv2.COLOR_LAB2RGB)).movedim(-1, 0).to(picture) / 255
    return _with_luminosity(coloured, picture)


def _bytes(picture: torch.Tensor) -> np.ndarray:
    return (picture.detach().cpu().float().clamp(0, 1) * 255).round().byte().movedim(0, -1).contiguous().numpy()


def _match(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """8-bit values with the cumulative histogram of others."""
    shares, wanted = (np.cumsum(np.bincount(one.ravel(), minlength=256)) / one.size for one in (values, others))
    present = np.flatnonzero(np.bincount(others.ravel(), minlength=256))
    table = np.interp(shares, wanted[present], present)
    matched: np.ndarray = table.round().astype(np.uint8)[values]
    return matched


def _with_luminosity(colours: torch.Tensor, lightness: torch.Tensor) -> torch.Tensor:
    """Colours moved to the luminosity of another picture; where that leaves the range they pale towards it."""
    weights = _LUMA.to(colours)[:, None, None]
    level = (lightness * weights).sum(0)
    moved = colours + level - (colours * weights).sum(0)
    low, high = moved.amin(0), moved.amax(0)
    moved = torch.where(low < 0, level + (moved - level) * level / (level - low).clamp_min(1e-6), moved)
    return torch.where(high > 1, level + (moved - level) * (1 - level) / (high - level).clamp_min(1e-6), moved).clamp(
        0, 1
    )
