"""Measures of pictures and matches."""

from __future__ import annotations

import torch

from ..checks import ShapeError


def psnr(pictures: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Peak signal-to-noise ratio of each picture, dB: -10 log10(MSE) for values in [0, 1].

    Args:
        pictures, truth: (N, 3, H, W).
        mask: (N, 1, H, W) in [0, 1], weight of each pixel; everywhere 1 when None.
    Returns: (N,); infinite where the pictures are equal. A picture whose mask is empty gives nan.
    Raises: ShapeError when the shapes differ.
    """
    if pictures.shape != truth.shape:
        raise ShapeError(f"psnr: expected equal shapes, got {tuple(pictures.shape)} and {tuple(truth.shape)}.")
    squares = (pictures.float() - truth.float()) ** 2
    weight = torch.ones_like(squares[:, :1]) if mask is None else mask.float()
    error = (squares * weight).sum((1, 2, 3)) / (weight.sum((1, 2, 3)) * squares.shape[1])
    return -10 * torch.log10(error)


def pck(coords_xy: torch.Tensor, truth_xy: torch.Tensor, visible: torch.Tensor, threshold: float = 0.05) -> float:
    """Share of visible points whose match lies within `threshold` of the true place.

    Args: coords_xy, truth_xy: (..., 2) as shares of the frame's side; visible: (...) bool; threshold: share of the
    side.
    Returns: 0..1; nan when no point is visible.
    """
    distance = (coords_xy - truth_xy).norm(dim=-1)
    return float((distance[visible] <= threshold).float().mean())
