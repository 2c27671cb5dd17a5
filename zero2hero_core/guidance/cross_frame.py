"""Attention between the frames of one batch: each reads tokens of others in place of, or beside, its own.

Source: Rerender-A-Video (arXiv 2306.07954), eq. 6; FRESCO (arXiv 2403.12962), eq. 8.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, get_args

import torch
import torch.nn.functional as F

from ..attention.guidance import Guidance, Pass, Role
from ..attention.protocol import Attention
from ..checks import InputError, ShapeError, setting
from .banks import KEY_VALUE
from .motion import BatchMotion
from .steps import Window, check_window, closed_window

Mode = Literal["anchor_previous", "new_regions", "all"]


def grid_of(layer: int, latent_hw: tuple[int, int]) -> tuple[int, int]:
    """Token grid (h, w) of a decoder layer (3 to 11) for latents of a size: each level has half of the next finer one,
    rounded up, as a convolution of stride 2 with a border of 1 gives it."""
    shrink = 2 ** (3 - layer // 3)
    return -(-latent_hw[0] // shrink), -(-latent_hw[1] // shrink)


def hidden_tokens(occlusion: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    """Tokens (N, h w) bool of which most is hidden, of occlusion maps (N, H, W)."""
    small = F.interpolate(occlusion[:, None].float(), size=size_hw, mode="bilinear", align_corners=False)
    return small[:, 0].flatten(1) > 0.5


class CrossFrameAttention(Guidance):
    """Hands on keys and values of other rows of the batch.

    "anchor_previous": row i reads the tokens of row 0 and of row i - 1, not its own; row 0 reads itself.
    "new_regions": all rows read all tokens of row 0, and of every later row those that the row before it does not show;
    without motion those of row 0 only. "all": all rows read all tokens of all rows.

    Args: motion: of the rows; layers: where it acts; window, steps: when, both ends in, of how many steps.
    Raises: InputError for another mode, or a window whose ends are not in order.
    """

    name = "cross-frame attention"

    def __init__(
        self,
        mode: Mode,
        motion: BatchMotion | None = None,
        *,
        layers: Collection[int],
        steps: int,
        window: Window = (0.0, 1.0),
    ):
        if mode not in get_args(Mode):
            raise InputError(f"{setting('mode')}: expected one of {', '.join(get_args(Mode))}, got {mode!r}.")
        check_window("window", window)
        self.mode, self.motion = mode, motion
        self.layers, self.steps = frozenset(layers), closed_window(window, steps)
        self._read: dict[tuple[int, tuple[int, int]], torch.Tensor] = {}  # by rows and grid

    def role(self, layer: int, step: int) -> Role:
        """Hands on to what follows."""
        return Role.CHAIN if layer in self.layers and step in self.steps else Role.NONE

    def needs(self, layer: int, step: int) -> frozenset[str]:
        """Keys and values."""
        return KEY_VALUE

    def changes(self, layer: int, step: int) -> frozenset[str]:
        """Keys and values."""
        return KEY_VALUE

    def attend(
        self,
        now: Pass,
        layer: int,
        query: torch.Tensor | None,
        key: torch.Tensor | None,
        value: torch.Tensor | None,
        following: Attention,
    ) -> torch.Tensor:
        """Attention output (B, heads, N, head_dim). Raises: ShapeError when the rows are not those of the motion."""
        assert key is not None and value is not None
        if len(key) == 1:
            return following(layer, query, key, value)
        if self.mode == "anchor_previous":
            before = [max(0, row - 1) for row in range(len(key))]
            key, value = (torch.cat([each[:1].expand_as(each), each[before]], 2) for each in (key, value))
        else:
            read = self._tokens_read(grid_of(layer, now.size_hw), len(key))
            key, value = (_shared(each, read) for each in (key, value))
        return following(layer, query, key, value)

    def _tokens_read(self, size_hw: tuple[int, int], rows: int) -> torch.Tensor | None:
        """Which of the tokens (rows, N) are read; None for all."""
        if self.mode == "all":
            return None
        if self.motion is not None and len(self.motion) != rows:
            raise ShapeError(f"frames: expected {len(self.motion)} rows, as many as the motion has, got {rows}.")
        if (rows, size_hw) not in self._read:
            read = torch.zeros(rows, size_hw[0] * size_hw[1], dtype=torch.bool)
            read[0] = True
            if self.motion is not None:
                read[1:] = hidden_tokens(self.motion.backward_occlusion[:-1], size_hw)
            self._read[rows, size_hw] = read
        return self._read[rows, size_hw]


def _shared(tensor: torch.Tensor, read: torch.Tensor | None) -> torch.Tensor:
    """Tokens of all rows (B, heads, N, d) as one list for every row: (B, heads, M, d), in the order of the rows."""
    rows = len(tensor)
    listed = tensor.transpose(0, 1).flatten(1, 2)
    if read is not None:
        listed = listed[:, read.flatten().to(tensor.device)]
    return listed[None].expand(rows, -1, -1, -1)
