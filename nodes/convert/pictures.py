"""Between the layouts of the host and of the core.

Host: IMAGE (B, H, W, C) and MASK (B, H, W), float32 in [0, 1], on the CPU.
Core: images (N, 3, H, W), masks (N, 1, H, W), floating point in [0, 1].
"""

from __future__ import annotations

import torch

from ...zero2hero_core.checks import InputError, ShapeError


def to_core(image: torch.Tensor, socket: str = "image") -> torch.Tensor:
    """IMAGE (B, H, W, 3) -> (N, 3, H, W) float32; a fourth channel is alpha, composited over black.

    No copy where none is needed. `socket` is named in errors. Raises: ShapeError, InputError.
    """
    if image.ndim != 4 or image.shape[-1] not in (3, 4):
        raise ShapeError(f"{socket}: expected an IMAGE (frames, height, width, 3), got {tuple(image.shape)}.")
    if not image.is_floating_point() or 0 in image.shape:
        raise InputError(
            f"{socket}: expected at least one picture of floating point values in [0, 1], "
            f"got {image.dtype} {tuple(image.shape)}; connect another IMAGE."
        )
    if image.shape[-1] == 4:
        image = image[..., :3] * image[..., 3:]
    return image.float().movedim(-1, 1)


def to_host(images: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W), or one picture (3, H, W), in [0, 1] -> IMAGE (B, H, W, 3) float32 on the CPU, clamped."""
    images = images[None] if images.ndim == 3 else images
    return images.detach().float().clamp(0, 1).movedim(1, -1).contiguous().cpu()


def mask_to_core(
    mask: torch.Tensor, count: int | None = None, size_hw: tuple[int, int] | None = None, socket: str = "mask"
) -> torch.Tensor:
    """MASK (B, H, W) or (H, W) -> (N, 1, H, W) float32.

    Args: count: frames that it belongs to, one mask serves all; size_hw: (H, W) that it must have; socket: for errors.
    Raises: ShapeError when the shape, the number or the size does not fit.
    """
    mask = mask[None] if mask.ndim == 2 else mask
    if mask.ndim != 3:
        raise ShapeError(f"{socket}: expected a MASK (frames, height, width), got {tuple(mask.shape)}.")
    if count is not None and len(mask) not in (1, count):
        raise ShapeError(f"{socket}: expected 1 or {count} masks for {count} frames, got {len(mask)}.")
    if size_hw is not None and tuple(mask.shape[1:]) != tuple(size_hw):
        raise ShapeError(
            f"{socket}: expected {size_hw[1]} x {size_hw[0]} pixels like the frames, "
            f"got {mask.shape[2]} x {mask.shape[1]}; resize the mask."
        )
    return mask.float().expand(count or len(mask), -1, -1)[:, None]


def size_hw_of(images: torch.Tensor) -> tuple[int, int]:
    """Height and width of images (..., H, W)."""
    return int(images.shape[-2]), int(images.shape[-1])


def kind_of(images: torch.Tensor) -> str:
    """Number and size of images (N, 3, H, W), for a sentence."""
    return f"{len(images)} frames of {images.shape[-1]} x {images.shape[-2]}"


def mask_to_host(masks: torch.Tensor) -> torch.Tensor:
    """(N, 1, H, W) in [0, 1] -> MASK (B, H, W) float32 on the CPU, clamped."""
    return masks.detach().float().clamp(0, 1)[:, 0].contiguous().cpu()
