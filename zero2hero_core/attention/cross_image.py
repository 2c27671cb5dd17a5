"""Masked cross-image attention (Zero-to-Hero, arXiv 2505.23134, Zero-Stage) as pure functions.

Every target token attends to its k matching reference tokens only. The gather form reads just those: O(N k), never an
N x N mask. The dense form adds 100 to the scores of matching tokens, as the authors do; it is the oracle of the tests
and too large for real sizes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..checks import ShapeError

GATHER_ELEMENTS = 1 << 25  # gathered keys or values held at once (128 MiB in float32)


def blend_queries(inverted: torch.Tensor, current: torch.Tensor | None, gamma: float) -> torch.Tensor:
    """gamma * (query of the target's inversion) + (1 - gamma) * (current query); with gamma 1 the current query may be
    None."""
    if gamma == 1.0 or current is None:
        return inverted
    return gamma * inverted + (1 - gamma) * current


def _check(query: torch.Tensor, value: torch.Tensor, indices: torch.Tensor) -> None:
    if (
        query.ndim != 4
        or value.ndim != 4
        or indices.ndim != 3
        or query.shape[:1] + query.shape[2:3] != indices.shape[:2]
    ):
        raise ShapeError(
            f"masked attention: expected query (B, heads, N, d), value (B or 1, heads, M, d), indices (B, N, k), "
            f"got {tuple(query.shape)}, {tuple(value.shape)}, {tuple(indices.shape)}."
        )


def gather_rows(tokens: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Tokens (B or 1, heads, M, d) at indices (B, N, k) -> (B, heads, N, k, d)."""
    batch, heads, count, _ = tokens.shape
    if batch == 1:
        flat = indices
    else:
        flat = indices + (torch.arange(batch, device=indices.device) * count)[:, None, None]
    rows = tokens.transpose(0, 1).reshape(heads, batch * count, -1).index_select(1, flat.reshape(-1))
    return rows.view(heads, *indices.shape, -1).transpose(0, 1)


def masked_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    indices: torch.Tensor,
    *,
    counts: torch.Tensor | None = None,
    tau: float = 1.0,
) -> torch.Tensor:
    """Attention of each query to its own selection of reference tokens, gather form.

    Args:
        query: (B, heads, N, d).
        key, value: reference tokens, (B or 1, heads, M, d); one reference may serve the whole batch.
        indices: (B, N, k), distinct reference tokens of each query, best first.
        counts: (B, N), how many of the k count, at least 1; all when None.
        tau: factor on the scores.
    Returns: (B, heads, N, d).
    """
    _check(query, value, indices)
    if indices.shape[-1] == 1:
        return gather_rows(value, indices)[:, :, :, 0]
    batch, heads, tokens, width = query.shape
    step = max(1, GATHER_ELEMENTS // (batch * heads * indices.shape[-1] * width))
    scale = tau * width**-0.5
    slots = torch.arange(indices.shape[-1], device=indices.device)
    out = torch.empty(query.shape, dtype=value.dtype, device=query.device)
    for start in range(0, tokens, step):
        rows = slice(start, start + step)
        keys = gather_rows(key, indices[:, rows])
        # Scaled before the sum, in float32: large logits overflow in half precision.
        scores = torch.einsum("bhnd,bhnkd->bhnk", query[:, :, rows].float() * scale, keys.float())
        if counts is not None:
            unused = slots >= counts[:, rows, None]
            scores = scores.masked_fill(unused[:, None], float("-inf"))
        weights = scores.softmax(-1).to(value.dtype)
        out[:, :, rows] = torch.einsum("bhnk,bhnkd->bhnd", weights, gather_rows(value, indices[:, rows]))
    return out


def full_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, tau: float = 1.0, contrast: float = 1.0
) -> torch.Tensor:
    """Plain cross-image attention (k = -1): each query attends to all reference tokens. Shapes as in
    `masked_attention`.

    Args: contrast: factor beta on the distance of the attention weights from their mean, 1 / M; the weights are then
    cut to [0, 1] and not normalised again (Cross-Image Attention, arXiv 2311.03335; 1.67 there).
    """
    scale = tau * query.shape[-1] ** -0.5
    key, value = (tensor.expand(len(query), -1, -1, -1) for tensor in (key, value))
    if contrast == 1.0:
        return F.scaled_dot_product_attention(query, key, value, scale=scale)
    batch, heads, tokens, _ = query.shape
    step, mean = max(1, GATHER_ELEMENTS // (batch * heads * key.shape[2])), 1 / key.shape[2]
    out = value.new_empty(batch, heads, tokens, value.shape[-1])
    for start in range(0, tokens, step):  # rows of the N x M weights, a few at a time
        rows = slice(start, start + step)
        weights = ((query[:, :, rows].float() * scale) @ key.float().transpose(-1, -2)).softmax(-1)
        out[:, :, rows] = ((weights - mean) * contrast + mean).clamp(0, 1).to(value.dtype) @ value
    return out


def dense_mask(indices: torch.Tensor, num_keys: int, counts: torch.Tensor | None = None) -> torch.Tensor:
    """The N x N mask (B, N, M) of ones and zeros that a selection stands for. For tests."""
    weights = torch.ones(indices.shape, device=indices.device)
    if counts is not None:
        weights = (torch.arange(indices.shape[-1], device=indices.device) < counts[..., None]).float()
    mask = torch.zeros(*indices.shape[:2], num_keys, device=indices.device)
    return mask.scatter_reduce_(2, indices.long(), weights, "amax")


def dense_masked_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, *, tau: float = 1.0
) -> torch.Tensor:
    """The authors' form: softmax(tau q K^T / sqrt(d) + 100 M) V with a mask (B, N, M). The oracle of the tests."""
    scores = tau * query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    out: torch.Tensor = (scores + 100.0 * mask[:, None]).softmax(-1) @ value
    return out
