"""Resize frames.

Coordinates: pixel (0, 0) is the top left square; its centre lies at (0.5, 0.5) (half-pixel centres). A resize from W to
W' samples the input at x = (x' + 0.5) * W / W'. Resizing is antialiased bicubic (torch), clamped to [0, 1].
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch

from ..checks import InputError, check_shape

Policy = Literal["resize", "crop", "pad"]


def target_size(size_hw: tuple[int, int], size: int | tuple[int, int] | None, multiple: int = 8) -> tuple[int, int]:
    """Return the (H, W) that frames of `size_hw` get.

    Args:
        size_hw: the size that the frames have.
        size: None keeps it, an int is the short side (the long side follows the aspect ratio), or (H, W).
        multiple: both sides are rounded to the nearest multiple of this (at least one).
    Returns: (H, W) in pixels.
    Raises: InputError when `size` is not positive or `multiple` is below 1.
    """
    if isinstance(multiple, bool) or not isinstance(multiple, int) or multiple < 1:
        raise InputError(f"multiple: expected a whole number from 1 up, got {multiple!r}.")
    is_pair = isinstance(size, (tuple, list))
    parts: tuple[Any, ...] = () if size is None else tuple(size) if is_pair else (size,)  # type: ignore[arg-type]
    good = all(isinstance(part, int) and not isinstance(part, bool) and part >= 1 for part in parts)
    if not good or (is_pair and len(parts) != 2):
        raise InputError(f"size: expected nothing, a short side or (height, width) in pixels from 1 up, got {size!r}.")
    wanted = parts or size_hw
    if len(parts) == 1:
        short = max(1, round(parts[0] / multiple)) * multiple
        wanted = tuple(side * short / min(size_hw) for side in size_hw)
    height, width = (max(1, int(side / multiple + 0.5)) * multiple for side in wanted)
    return height, width


def resize_frames(frames: torch.Tensor, size_hw: tuple[int, int], policy: Policy = "resize") -> torch.Tensor:
    """Return `frames` at `size_hw`, antialiased bicubic, half-pixel centres.

    Args:
        frames: (N, C, H, W), floating point, [0, 1].
        size_hw: wanted (H, W) in pixels, each at least 1.
        policy: "resize" stretches; "crop" scales until the target is covered and cuts the centre; "pad" scales until
            the frame fits and repeats its edge pixels on both sides (an odd remainder goes right and down).
    Returns: (N, C, H', W') in [0, 1]; `frames` itself when nothing changes.
    Raises: ShapeError, InputError.
    """
    check_shape("frames", frames, ("N", "C", "H", "W"))
    check_policy(policy)
    if not frames.is_floating_point() or min(frames.shape) < 1 or min(size_hw) < 1:
        raise InputError(
            f"frames: expected floating point (N, C, H, W) and a size of at least 1 x 1 pixels, got {frames.dtype}, "
            f"{tuple(frames.shape)} and {tuple(size_hw)}."
        )
    height, width = frames.shape[-2:]
    goal_h, goal_w = size_hw
    if (height, width) == (goal_h, goal_w):
        return frames
    if policy == "resize":
        return _scale(frames, goal_h, goal_w)
    if policy == "crop":
        scale = max(goal_h / height, goal_w / width)
        frames = _scale(frames, max(goal_h, round(height * scale)), max(goal_w, round(width * scale)))
        top, left = (frames.shape[-2] - goal_h) // 2, (frames.shape[-1] - goal_w) // 2
        return frames[..., top : top + goal_h, left : left + goal_w]
    scale = min(goal_h / height, goal_w / width)
    inner_h, inner_w = (max(1, min(goal_h, round(height * scale))), max(1, min(goal_w, round(width * scale))))
    top, left = (goal_h - inner_h) // 2, (goal_w - inner_w) // 2
    around = (left, goal_w - inner_w - left, top, goal_h - inner_h - top)
    return torch.nn.functional.pad(_scale(frames, inner_h, inner_w), around, mode="replicate")


def check_policy(policy: str) -> None:
    """Raise `InputError` unless `policy` is one of "resize", "crop", "pad"."""
    if policy not in get_args(Policy):
        raise InputError(f"policy: expected one of {', '.join(get_args(Policy))}, got {policy!r}.")


def _scale(frames: torch.Tensor, height: int, width: int) -> torch.Tensor:
    if frames.shape[-2:] == (height, width):
        return frames
    size = (height, width)
    scaled = torch.nn.functional.interpolate(frames, size, mode="bicubic", antialias=True, align_corners=False)
    return scaled.clamp_(0, 1)  # bicubic overshoots at edges
