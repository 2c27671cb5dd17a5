"""How much memory the tokens of a frame will take, before anything is run."""

from __future__ import annotations

from collections.abc import Collection

import torch

from .cross_frame import grid_of

_WIDTH = 320  # of the finest level of Stable Diffusion 1 and 2; each coarser one has twice as much


def bank_bytes(
    latent_hw: tuple[int, int],
    steps: int,
    *,
    layers: Collection[int],
    dtype: torch.dtype = torch.float16,
    halves: int = 2,
    width: int = _WIDTH,
) -> int:
    """Bytes that a `TokenBank` takes for one frame.

    By hand: at 512 x 512 pixels a pass has 3 (256 x 1280 + 1024 x 640 + 4096 x 320) values in its nine layers; keys and
    values of both halves of the guidance in 20 steps and half precision are 1.1 GB, 0.94 GB without the coarsest level.

    Args: latent_hw: size of the latents; steps: that are run; layers: decoder layers (3 to 11) that are kept; halves: 2
        with guidance, 1 without; width: channels of the finest level.
    """
    values = 0
    for layer in layers:
        height, across = grid_of(layer, latent_hw)
        values += height * across * width * 2 ** (3 - layer // 3)
    return 2 * values * halves * steps * dtype.itemsize
