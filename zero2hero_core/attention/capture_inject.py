"""Capture attention in one pass, inject it in another: the two guidances of Zero-Stage on decoder self-attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from .cross_image import blend_queries, full_attention, masked_attention
from .guidance import NOTHING, Guidance, Pass, Role
from .protocol import ALL, Attention

Captured = dict[int, dict[str, torch.Tensor]]  # layer -> name -> tensor


class Capture(Guidance):
    """Keeps what later passes will read and changes nothing.

    Args: keep: layer -> names ("query", "key", "value") to keep of it.
    """

    name = "capture"

    def __init__(self, keep: Mapping[int, frozenset[str]]):
        self.keep = keep
        self.tensors: Captured = {}

    def role(self, layer: int, step: int) -> Role:
        """Looks on where something is kept."""
        return Role.CHAIN if self.keep.get(layer) else Role.NONE

    def needs(self, layer: int, step: int) -> frozenset[str]:
        """What is kept."""
        return self.keep.get(layer, NOTHING)

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
        tensors = {"query": query, "key": key, "value": value}
        self.tensors[layer] = {
            name: tensor for name, tensor in tensors.items() if tensor is not None and name in self.keep[layer]
        }
        return following(layer, query, key, value)


class Selection:
    """Which reference tokens each target token of a layer may read.

    indices: (B, N, k), or None for all tokens (plain cross-image attention); counts: (B, N) or None; inside: (B, N)
    share of cross-image attention against self-attention as in the target's inversion, or None for cross-image
    attention everywhere.
    """

    def __init__(
        self, indices: torch.Tensor | None, counts: torch.Tensor | None = None, inside: torch.Tensor | None = None
    ):
        self.indices, self.counts, self.inside = indices, counts, inside

    @property
    def is_gather(self) -> bool:
        """True where one token is read per query: the softmax is 1, so neither query nor key matter."""
        return self.indices is not None and self.indices.shape[-1] == 1

    def reference_needs(self) -> frozenset[str]:
        """What must be kept of the reference's inversion."""
        return frozenset({"value"}) if self.is_gather else frozenset({"key", "value"})

    def target_needs(self) -> frozenset[str]:
        """What must be kept of the target's inversion."""
        if self.inside is not None:
            return ALL
        return frozenset() if self.is_gather else frozenset({"query"})


class CrossImage(Guidance):
    """Cross-image attention to the reference; it makes the output of its layers at every step.

    Args:
        selections: layer -> what to read; layers left out are left alone.
        references: by step, what was captured of the reference's inversion (batch 1).
        targets: by step, what was captured of the targets' inversion (batch B).
        gamma: share of the inversion's query against the current one. tau: factor on the scores. contrast: see
            `full_attention`; where all tokens are read.
    """

    name = "cross-image attention"

    def __init__(
        self,
        selections: Mapping[int, Selection],
        references: Sequence[Captured],
        targets: list[Captured],
        *,
        gamma: float,
        tau: float,
        contrast: float = 1.0,
    ):
        self.selections, self.references, self.targets = selections, references, targets
        self.gamma, self.tau, self.contrast = gamma, tau, contrast

    def role(self, layer: int, step: int) -> Role:
        """Makes the output of its layers."""
        return Role.OUTPUT if layer in self.selections else Role.NONE

    def needs(self, layer: int, step: int) -> frozenset[str]:
        """The current query where it is blended in."""
        selection = self.selections[layer]
        blends = self.gamma != 1.0 and (selection.inside is not None or not selection.is_gather)
        return frozenset({"query"}) if blends else NOTHING

    def release(self, step: int) -> None:
        """Let go of what was captured of the targets for a step that is done."""
        self.targets[step] = {}

    def attend(
        self,
        now: Pass,
        layer: int,
        query: torch.Tensor | None,
        key: torch.Tensor | None,
        value: torch.Tensor | None,
        following: Attention,
    ) -> torch.Tensor:
        """Attention output (B, heads, N, d)."""
        selection = self.selections[layer]
        own, reference = self.targets[now.step].get(layer, {}), self.references[now.step][layer]
        mixture = blend_queries(own["query"], query, self.gamma) if "query" in own else None
        out = self._cross(selection, mixture, reference)
        if selection.inside is None:
            return out
        assert mixture is not None
        inside = selection.inside[:, None, :, None].to(out.dtype)
        return out * inside + full_attention(mixture, own["key"], own["value"]) * (1 - inside)

    def _cross(
        self, selection: Selection, query: torch.Tensor | None, reference: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        value = reference["value"]
        if selection.indices is None:
            assert query is not None
            return full_attention(query, reference["key"], value, tau=self.tau, contrast=self.contrast)
        if selection.is_gather:  # neither query nor key is read: any tensor of the query's shape will do
            shape = (len(selection.indices), *value.shape[1:])
            return masked_attention(value.expand(shape), value, value, selection.indices)
        assert query is not None
        return masked_attention(
            query, reference["key"], value, selection.indices, counts=selection.counts, tau=self.tau
        )
