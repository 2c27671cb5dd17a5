"""Pieces of `straightforward.py`: attention that stores or replaces, features, masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# (layer, timestep) -> query, key, value, each (2 * heads, N, d)
Bank = dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]]


class DecoderAttention:
    """Stores or replaces the nine decoder self-attentions (layers 3 to 11) by forward hooks; a context manager."""

    def __init__(self, unet: Any) -> None:
        self.unet = unet
        self.timestep = 0
        self.store: Bank | None = None
        self.replace: Callable[[int, Any, Tensor, Tensor], Tensor] | None = None

    def __enter__(self) -> DecoderAttention:
        self.handles = []
        for layer in range(3, 12):
            attention = self.unet.up_blocks[layer // 3].attentions[layer % 3].transformer_blocks[0].attn1
            self.handles.append(attention.register_forward_hook(self._hook(layer)))
        return self

    def __exit__(self, *exc_info: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _hook(self, layer: int) -> Callable[[Any, tuple[Tensor, ...], Tensor], Tensor | None]:
        def hook(attn: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            hidden_states = inputs[0]
            if self.store is not None:
                projections = (attn.to_q, attn.to_k, attn.to_v)
                query, key, value = (attn.head_to_batch_dim(project(hidden_states)) for project in projections)
                self.store[layer, self.timestep] = (query, key, value)
            if self.replace is None:
                return None
            return self.replace(layer, attn, hidden_states, attn.head_to_batch_dim(attn.to_q(hidden_states)))

        return hook


def masked_attention(attn: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, tau: float) -> Tensor:
    """Return softmax(tau q k^T / sqrt(d) + 100 M) v after the output projection; mask (1, N, N) of 0 and 1."""
    scores = torch.baddbmm(mask, query * tau, key.transpose(-1, -2), beta=100.0, alpha=attn.scale)
    hidden_states = attn.batch_to_head_dim(torch.bmm(scores.softmax(dim=-1), value))
    out: torch.Tensor = attn.to_out[1](attn.to_out[0](hidden_states))
    return out


class _FeaturesReady(Exception):
    """Ends a feature pass after the wanted block."""


def block_features(unet: Any, latents: Tensor, timestep: int, context: Tensor, block: int) -> Tensor:
    """Return the output of up block `block`, shape (B, C, h, w); what comes after the block is not computed."""
    outputs: list[Tensor] = []

    def leave(module: Any, inputs: Any, output: Tensor) -> None:
        outputs.append(output)
        raise _FeaturesReady

    handle = unet.up_blocks[block].register_forward_hook(leave)
    try:
        unet(latents, timestep, encoder_hidden_states=context)
    except _FeaturesReady:
        pass
    finally:
        handle.remove()
    return outputs[0]


def topk_mask(target: Tensor, anchor: Tensor, k: int) -> Tensor:
    """Return the dense mask (1, N, N), made token by token: row i is 1 at the k anchor tokens most like target token i.

    Args:
        target, anchor: features, shape (1, C, h, w).
        k: tokens kept per row.
    """
    target_vectors = target.flatten(2)[0]
    anchor_vectors = F.normalize(anchor.flatten(2), dim=1)[0]
    mask = torch.zeros(1, target_vectors.shape[1], anchor_vectors.shape[1])
    for token in range(target_vectors.shape[1]):
        cosine = F.normalize(target_vectors[:, token], dim=0) @ anchor_vectors
        row = torch.zeros_like(cosine)
        row[torch.topk(cosine, k).indices] = 1
        mask[0, token] = row.cpu()
    return mask


def three_level_masks(target: Tensor, anchor: Tensor, k: int) -> list[Tensor]:
    """Return masks of the features' grid, of half and of double it: k, max(k // 4, 1), 4k tokens a row; -1 for all."""
    if k == -1:
        k = anchor.shape[2] * anchor.shape[3]
    masks = [topk_mask(target, anchor, k)]
    for scale, level_k in ((0.5, max(k // 4, 1)), (2, 4 * k)):
        size = (int(target.shape[2] * scale), int(target.shape[3] * scale))
        level = [F.interpolate(features, size=size, mode="bilinear") for features in (target, anchor)]
        masks.append(topk_mask(level[0], level[1], level_k))
    return masks
