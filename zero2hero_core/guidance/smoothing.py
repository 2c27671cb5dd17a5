"""Still backgrounds: what frames show behind their foreground, taken over from frame to frame along the flow.

Source: FRESCO (arXiv 2403.12962), its background smoothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..checks import check_images, check_shape
from ..flow.warp import warp_backward
from .motion import BatchMotion

_REACH = 7  # cells of the window in which a foreground is gathered
PICTURE_DILATION = 13  # pixels of the window in which an occlusion spreads at picture size


def background_of(foreground: torch.Tensor) -> torch.Tensor:
    """How much each pixel belongs to the background: 1 - min(1, sum of the foreground over 7 x 7 pixels).

    Args: foreground: (N, 1, H, W) in [0, 1].
    Returns: (N, 1, H, W) in [0, 1].
    """
    check_shape("foreground", foreground, ("N", 1, "H", "W"))
    near = F.avg_pool2d(foreground.float(), _REACH, 1, _REACH // 2, divisor_override=1)
    return 1 - near.clamp(0, 1)


def smooth_features(features: torch.Tensor, motion: BatchMotion, background: torch.Tensor) -> torch.Tensor:
    """Features (N, C, h, w) with the background of the earlier frames, see `fuse_along`.

    Args: motion: of the N frames, at any size from (h, w) up; background: (N, 1, H, W) of `background_of`.
    """
    size_hw = (features.shape[-2], features.shape[-1])
    return fuse_along(features, motion.at(size_hw), _resized(background, size_hw))


def smooth_pictures(pictures: torch.Tensor, motion: BatchMotion, background: torch.Tensor) -> torch.Tensor:
    """Pictures (N, 3, H, W) with the background of the earlier frames, see `fuse_along`; occlusions are taken 6 pixels
    wider on every side.

    Args: motion: of the N frames, at any size from (H, W) up; background: (N, 1, H', W') of `background_of`.
    """
    check_images("pictures", pictures)
    size_hw = (pictures.shape[-2], pictures.shape[-1])
    motion = motion.at(size_hw)
    wide = BatchMotion(
        motion.frames,
        motion.forward,
        motion.backward,
        _wider(motion.forward_occlusion),
        _wider(motion.backward_occlusion),
    )
    return fuse_along(pictures, wide, _resized(background, size_hw))


def fuse_along(values: torch.Tensor, motion: BatchMotion, background: torch.Tensor) -> torch.Tensor:
    """Values of frames, each mixed with those of the frame before it where both show background.

    For i = 0 .. N - 2: m = (1 - O_b) b_(i+1) warp(b_i); g_(i+1) <- (1 - m) g_(i+1) + m warp(g_i), with the g_i that is
    mixed already. At last the last frame is mixed with frame 0 along their own pair. A single frame stays as it is.

    Args:
        values: (N, C, h, w).
        motion: of the N frames, at (h, w).
        background: (N, 1, h, w) in [0, 1].
    Returns: (N, C, h, w), in the type of `values`; where m is 0, exactly what came.
    Raises: ShapeError.
    """
    count, channels, height, width = values.shape
    check_shape("values", values, (len(motion), channels, *motion.size_hw))
    check_shape("background", background, (count, 1, height, width))
    mixed = values.to(torch.promote_types(values.dtype, torch.float32), copy=True)
    shares = background.to(mixed)
    for place in range(count - 1):
        _mix_in(mixed, shares, place, place + 1, motion.backward[place], motion.backward_occlusion[place])
    if count > 1:
        _mix_in(mixed, shares, 0, count - 1, motion.forward[-1], motion.forward_occlusion[-1])
    return mixed.to(values.dtype)


def _mix_in(
    mixed: torch.Tensor, shares: torch.Tensor, source: int, target: int, flow: torch.Tensor, hidden: torch.Tensor
) -> None:
    """Mix frame `source` into frame `target`, in place; the flow (h, w, 2) goes from the target to the source."""
    both = warp_backward(torch.cat([mixed[source], shares[source]]), flow)
    share = both[-1] * shares[target, 0] * ~hidden.to(both.device)
    mixed[target].lerp_(both[:-1], share)


def _resized(background: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    """(N, 1, H, W) -> (N, 1, h, w); a cell is the mean of its pixels."""
    if (background.shape[-2], background.shape[-1]) == size_hw:
        return background
    return F.interpolate(background, size=size_hw, mode="area")


def _wider(hidden: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(hidden[:, None].float(), PICTURE_DILATION, 1, PICTURE_DILATION // 2)[:, 0] > 0
