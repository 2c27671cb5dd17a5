"""Fusion of the frame that is being painted with frames that are painted already, in latents and in pictures.

Latents are (B, C, h, w); masks (B, 1, h, w) or (1, 1, h, w), 1 where the other frame is to be trusted.

Source: Rerender-A-Video (arXiv 2306.07954), eq. 7 (shape-aware), 10 and 11 (pixel-aware), and its colour-aware AdaIN.
    Differs: weight, inner strength and the care at mask borders are the authors' practice, not in the paper.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..flow.occlusion import soften
from ..flow.warp import warp_backward

_EPSILON = 1e-5


def match_colour(clean: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
    """Clean latents with the mean and spread of the style's, channel by channel.

    The spread of the content is taken over all cells, that of the style over one cell less, as the authors do.
    """
    mean = clean.mean((2, 3), keepdim=True)
    spread = (clean.var((2, 3), keepdim=True, unbiased=False) + _EPSILON).sqrt()
    of_style = (style.var((2, 3), keepdim=True) + _EPSILON).sqrt()
    return (clean - mean) / spread * of_style + style.mean((2, 3), keepdim=True)


def fuse_shape(clean: torch.Tensor, other: torch.Tensor, flow: torch.Tensor, trust: torch.Tensor) -> torch.Tensor:
    """Clean latents (1, C, h, w), replaced where trusted by those of another frame, read cell by cell along the flow.

    Args: other: (1, C, h, w); flow: (h, w, 2) from this frame to the other, in cells; trust: (1, 1, h, w) in [0, 1].
    """
    warped = warp_backward(other[0], flow, mode="nearest")[None]
    return trust * warped + (1 - trust) * clean


def fuse_noise(
    latents: torch.Tensor,
    eps: torch.Tensor,
    target: torch.Tensor,
    noise: torch.Tensor,
    weight: torch.Tensor,
    alpha: torch.Tensor,
    *,
    inner_strength: float = 0.9,
    flat: torch.Tensor | None = None,
) -> torch.Tensor:
    """Noisy latents, pulled to the noisy target: w (sqrt(a) target + sqrt(1 - a) z) + (1 - w)(x - D) + rho D.

    D = sqrt(1 - a) eps is the noise that the last step left in x. rho = max(1 - w, inner_strength sqrt(1 - w^2)) makes
    up for the variance that mixing takes away: at 1 the noise keeps its full spread, at w = 0.5 and 0.9 it has 0.926 of
    it, and a plain mix 0.707.

    Args: eps: what the last step found; noise: z, fresh; weight: w; alpha: a, signal variance of x; flat: (.., 1, h, w)
        bool, where rho is used; elsewhere D is mixed as the rest. None for everywhere.
    """
    left = (1 - alpha).sqrt() * eps
    rho = torch.maximum(1 - weight, inner_strength * (1 - weight**2).clamp_min(0).sqrt())
    if flat is not None:
        rho = torch.where(flat, rho, 1 - weight)
    noisy = alpha.sqrt() * target + (1 - alpha).sqrt() * noise
    return weight * noisy + (1 - weight) * (latents - left) + rho * left


def flat_cells(trust: torch.Tensor) -> torch.Tensor:
    """Cells (.., 1, h, w) around which a mask does not change: both 3 x 3 Prewitt responses are exactly 0, the border
    repeated. Returns bool of the mask's shape."""
    ramp = torch.tensor([-1.0, 0.0, 1.0]).to(trust).expand(3, 3)
    kernels = torch.stack([ramp, ramp.T])[:, None]
    planes = F.pad(trust.reshape(-1, 1, *trust.shape[-2:]), (1, 1, 1, 1), mode="replicate")
    return (F.conv2d(planes, kernels) == 0).all(1).reshape(trust.shape)


def fuse_pictures(rough: torch.Tensor, *sources: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """A rough picture (3, H, W) with painted frames laid over it where they show the same; later ones win.

    Args: sources: a painted picture, warped to this frame (3, H, W), and its hard occlusion (H, W) bool here.
    """
    for warped, hidden in sources:
        share = soften(hidden).to(rough)
        rough = (1 - share) * warped.to(rough) + share * rough
    return rough
