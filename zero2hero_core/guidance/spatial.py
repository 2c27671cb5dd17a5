"""Attention that keeps to what looked alike in the original frames.

Source: FRESCO (arXiv 2403.12962), eq. 7, with the steps of the authors' practice.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F

from ..attention.guidance import Guidance, Pass, Role
from ..attention.protocol import Attention
from ..checks import InputError, Zero2HeroError, setting

_QUERY_KEY = frozenset({"query", "key"})


class InputAttention(Guidance):
    """Keeps queries and keys of a pass over the original frames, and changes nothing. layers: of which."""

    name = "record of the original's attention"

    def __init__(self, layers: Collection[int]):
        self.layers = frozenset(layers)
        self._kept: dict[tuple[int, bool], tuple[torch.Tensor, torch.Tensor]] = {}

    def role(self, layer: int, step: int) -> Role:
        """Looks on in its layers."""
        return Role.CHAIN if layer in self.layers else Role.NONE

    def needs(self, layer: int, step: int) -> frozenset[str]:
        """What is kept."""
        return _QUERY_KEY

    def attend(
        self,
        now: Pass,
        layer: int,
        query: torch.Tensor | None,
        key: torch.Tensor | None,
        value: torch.Tensor | None,
        following: Attention,
    ) -> torch.Tensor:
        """What follows, unchanged."""
        assert query is not None and key is not None
        self._kept[layer, now.conditional] = (query, key)
        return following(layer, query, key, value)

    def get(self, layer: int, conditional: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Query and key (B, heads, N, head_dim). Raises: Zero2HeroError when the pass was not run."""
        if (layer, conditional) not in self._kept:
            half = "with the prompt" if conditional else "with the negative prompt"
            raise Zero2HeroError(f"attention of the original frames in layer {layer}, {half}, was never kept.")
        return self._kept[layer, conditional]


class SpatialAttention(Guidance):
    """Mixes the queries of each frame by how much their places looked alike in the original.

    q' = softmax(q_r k_r^T / (factor sqrt(d))) q, with q_r and k_r of the original.

    Args: inputs: see `InputAttention`; layers, steps: where and when it acts.
    Raises: InputError unless the factor is above 0.
    """

    name = "attention by the original's likeness"

    def __init__(self, inputs: InputAttention, *, layers: Collection[int], steps: Collection[int], factor: float = 5.0):
        if not factor > 0:
            raise InputError(f"{setting('factor')}: expected more than 0, got {factor:g}.")
        self.inputs, self.layers, self.steps, self.factor = inputs, frozenset(layers), frozenset(steps), factor

    def role(self, layer: int, step: int) -> Role:
        """Hands on to what follows."""
        return Role.CHAIN if layer in self.layers and step in self.steps else Role.NONE

    def needs(self, layer: int, step: int) -> frozenset[str]:
        """The query."""
        return frozenset({"query"})

    def changes(self, layer: int, step: int) -> frozenset[str]:
        """The query."""
        return frozenset({"query"})

    def attend(
        self,
        now: Pass,
        layer: int,
        query: torch.Tensor | None,
        key: torch.Tensor | None,
        value: torch.Tensor | None,
        following: Attention,
    ) -> torch.Tensor:
        """Attention output (B, heads, N, head_dim)."""
        assert query is not None
        like, other = self.inputs.get(layer, now.conditional)
        scale = 1 / (self.factor * query.shape[-1] ** 0.5)
        mixed = F.scaled_dot_product_attention(like.to(query), other.to(query), query, scale=scale)
        return following(layer, mixed, key, value)
