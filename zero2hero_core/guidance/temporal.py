"""Attention along the ways of tokens through the frames.

Source: FRESCO (arXiv 2403.12962), eq. 9, with the steps of the authors' practice.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F

from ..attention.guidance import Guidance, Pass, Role
from ..attention.protocol import Attention
from ..checks import InputError, ShapeError, setting
from .cross_frame import grid_of
from .motion import BatchMotion
from .trajectories import Trajectories, follow_tokens


class TrajectoryAttention(Guidance):
    """Each token reads, of what comes back from inside, the tokens of all frames on its way, itself among them.

    Scores are those of its layer's query and key, divided by `factor` as well as by the root of the head's width.

    In a list it stands before guidances that change queries or keys: it needs those of the layer itself.

    Args: motion: of the rows; layers: where it acts; until: timestep down to which it acts.
    Raises: InputError unless the factor is above 0.
    """

    name = "attention along the flow"

    def __init__(self, motion: BatchMotion, *, layers: Collection[int], factor: float = 5.0, until: int = 350):
        if not factor > 0:
            raise InputError(f"{setting('factor')}: expected more than 0, got {factor:g}.")
        self.motion, self.layers, self.factor, self.until = motion, frozenset(layers), factor, until
        self._ways: dict[tuple[int, int], tuple[Trajectories, torch.Tensor]] = {}

    def role(self, layer: int, step: int) -> Role:
        """Changes what comes back."""
        return Role.CHAIN if layer in self.layers else Role.NONE

    def needs(self, layer: int, step: int) -> frozenset[str]:
        """Query and key."""
        return frozenset({"query", "key"})

    def changes(self, layer: int, step: int) -> frozenset[str]:
        """The output."""
        return frozenset({"output"})

    def attend(
        self,
        now: Pass,
        layer: int,
        query: torch.Tensor | None,
        key: torch.Tensor | None,
        value: torch.Tensor | None,
        following: Attention,
    ) -> torch.Tensor:
        """Attention output (B, heads, N, head_dim).

        Raises: ShapeError when the rows are not those of the motion, or the keys those of several frames.
        """
        out = following(layer, query, key, value)
        if now.timestep < self.until or len(out) == 1:
            return out
        assert query is not None and key is not None
        if len(out) != len(self.motion):
            raise ShapeError(f"frames: expected {len(self.motion)} rows, as many as the motion has, got {len(out)}.")
        size_hw = grid_of(layer, now.size_hw)
        if query.shape[2] != key.shape[2] or key.shape[2] != size_hw[0] * size_hw[1]:
            raise ShapeError(
                f"key: expected {size_hw[0]} x {size_hw[1]} tokens of each frame, got {key.shape[2]} for "
                f"{query.shape[2]} queries; put {self.name} before cross-frame attention."
            )
        if size_hw not in self._ways:
            ways = follow_tokens(self.motion, size_hw)
            self._ways[size_hw] = ways, ways.together[:, None]
        ways, together = self._ways[size_hw]
        queries, keys, values = (_gather(each, ways.order) for each in (query, key, out))
        scale = 1 / (self.factor * query.shape[-1] ** 0.5)
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=together.to(query.device), scale=scale)
        return _gather(mixed.permute(2, 1, 0, 3), ways.back).permute(2, 1, 0, 3).to(out.dtype)


def _gather(tensor: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Tokens (B, heads, N, d) in another order for each row (B, N): (N, heads, B, d)."""
    rows = torch.arange(len(tensor), device=tensor.device)[:, None]
    return tensor.transpose(1, 2)[rows, places.to(tensor.device)].permute(1, 2, 0, 3)
