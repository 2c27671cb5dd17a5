"""The one hook type of attention: `(layer, query, key, value) -> output`, and the slot that holds it during a pass."""

from __future__ import annotations

from typing import Protocol

import torch

ALL = frozenset({"query", "key", "value"})


class Attention(Protocol):
    """What an attention layer does with query, key and value."""

    def __call__(
        self, layer: int, query: torch.Tensor | None, key: torch.Tensor | None, value: torch.Tensor | None, /
    ) -> torch.Tensor:
        """Attention output (B, heads, N, head_dim) of tensors (B, heads, N, head_dim)."""
        ...


class AttentionHook(Attention, Protocol):
    """Decides what an attention layer returns.

    `needs(layer)` names the tensors that the hook reads ("query", "key", "value"); the others are not computed and
    arrive as None. A call gets tensors (B, heads, N, head_dim) and returns one of the query's shape.
    """

    def needs(self, layer: int) -> frozenset[str]:
        """Names of the tensors that this hook reads in a layer."""
        ...


class HookSlot:
    """Holds the hook of the pass that is running; one per UNet."""

    hook: AttentionHook | None = None
