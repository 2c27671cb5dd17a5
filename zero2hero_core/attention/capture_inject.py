"""Capture attention in one pass, inject it in another: the two hooks that Zero-Stage puts on decoder self-attention.

A hook is called as `(layer, query, key, value) -> output` with tensors (B, heads, N, d); `needs(layer)` names what it
reads, so that projections nobody reads are not computed.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from .cross_image import blend_queries, full_attention, masked_attention

ALL = frozenset({"query", "key", "value"})
Captured = dict[int, dict[str, torch.Tensor]]  # layer -> name -> tensor


class CaptureHook:
    """Plain self-attention that keeps what later passes will read.

    Args: keep: layer -> names ("query", "key", "value") to keep of it.
    """

    def __init__(self, keep: Mapping[int, frozenset[str]]):
        self.keep = keep
        self.captured: Captured = {}

    def needs(self, layer: int) -> frozenset[str]:
        """Everything: the pass itself must stay as it is."""
        return ALL

    def __call__(
        self, layer: int, query: torch.Tensor | None, key: torch.Tensor | None, value: torch.Tensor | None
    ) -> torch.Tensor:
        """Self-attention output (B, heads, N, d)."""
        assert query is not None and key is not None and value is not None
        given = {"query": query, "key": key, "value": value}
        self.captured[layer] = {name: given[name] for name in self.keep.get(layer, frozenset())}
        return F.scaled_dot_product_attention(query, key, value)


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


class InjectHook:
    """Cross-image attention to the reference, for one step.

    Args:
        selections: layer -> what to read; layers left out keep their own self-attention.
        reference: what was captured of the reference's inversion at this step (batch 1).
        target: what was captured of the targets' inversion at this step (batch B).
        gamma: share of the inversion's query against the current one. tau: factor on the scores. contrast: see
            `full_attention`; where all tokens are read.
    """

    def __init__(
        self,
        selections: Mapping[int, Selection],
        reference: Captured,
        target: Captured,
        *,
        gamma: float,
        tau: float,
        contrast: float = 1.0,
    ):
        self.selections, self.reference, self.target = selections, reference, target
        self.gamma, self.tau, self.contrast = gamma, tau, contrast

    def needs(self, layer: int) -> frozenset[str]:
        """The current query where it is blended in; everything in layers that are left alone."""
        selection = self.selections.get(layer)
        if selection is None:
            return ALL
        blends = self.gamma != 1.0 and (selection.inside is not None or not selection.is_gather)
        return frozenset({"query"}) if blends else frozenset()

    def __call__(
        self, layer: int, query: torch.Tensor | None, key: torch.Tensor | None, value: torch.Tensor | None
    ) -> torch.Tensor:
        """Attention output (B, heads, N, d)."""
        selection = self.selections.get(layer)
        if selection is None:
            assert query is not None and key is not None and value is not None
            return F.scaled_dot_product_attention(query, key, value)
        own, reference = self.target.get(layer, {}), self.reference[layer]
        blended = blend_queries(own["query"], query, self.gamma) if "query" in own else None
        out = self._cross(selection, blended, reference)
        if selection.inside is None:
            return out
        assert blended is not None
        inside = selection.inside[:, None, :, None].to(out.dtype)
        return out * inside + full_attention(blended, own["key"], own["value"]) * (1 - inside)

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
