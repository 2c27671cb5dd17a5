"""Adaptive instance normalisation of latents.

Source: Huang and Belongie, "Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization", eq. 8; as
    Zero-Stage uses it (arXiv 2505.23134).
"""

from __future__ import annotations

import torch

EPSILON = 1e-4


def adain(content: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
    """Content latents with the per-channel mean and (unbiased) standard deviation of the style latents.

    Args: content: (B, C, h, w); style: (B or 1, C, h', w').
    Returns: (B, C, h, w).
    """
    mean, std = content.mean((2, 3), keepdim=True), content.std((2, 3), keepdim=True)
    return (content - mean) / (std + EPSILON) * style.std((2, 3), keepdim=True) + style.mean((2, 3), keepdim=True)
