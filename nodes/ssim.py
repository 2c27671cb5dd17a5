"""Structural similarity of pictures."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..zero2hero_core.checks import ShapeError

WINDOW = 7


def ssim(pictures: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Structural similarity of each picture with its truth, mean over pixels and channels.

    Source: Wang et al. 2004, in the form of scikit-image's defaults, which the authors of arXiv 2505.23134 use: uniform
    7 x 7 windows that lie wholly in the picture, unbiased variances, K1 = 0.01, K2 = 0.03, values in [0, 1].

    Args: pictures, truth: (N, 3, H, W); mask: (N, 1, H, W) in [0, 1], weight of the pixel in the middle of each window.
    Returns: (N,) in [-1, 1]; 1 where the pictures are equal, nan where the mask is empty.
    Raises: ShapeError when the shapes differ or a side is below 7.
    """
    if pictures.shape != truth.shape or min(pictures.shape[-2:]) < WINDOW:
        raise ShapeError(
            f"ssim: expected equal shapes with sides from {WINDOW} up, got {tuple(pictures.shape)} and "
            f"{tuple(truth.shape)}."
        )
    x, y = pictures.double(), truth.double()  # variances are differences of nearly equal numbers
    mean_x, mean_y = _mean(x), _mean(y)
    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    var_x = unbiased * (_mean(x * x) - mean_x**2)
    var_y = unbiased * (_mean(y * y) - mean_y**2)
    covariance = unbiased * (_mean(x * y) - mean_x * mean_y)
    c1, c2 = 0.01**2, 0.03**2
    similar = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similar /= (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    half = WINDOW // 2
    weight = torch.ones_like(similar[:, :1]) if mask is None else mask.double()[..., half:-half, half:-half]
    return ((similar * weight).sum((1, 2, 3)) / (weight.sum((1, 2, 3)) * similar.shape[1])).float()


def _mean(values: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(values, WINDOW, 1)
