"""Two-frame training batches: aligned crops of two views of a clip, and losses that use the exact matches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .pool import VIEWS, Pool


@dataclass(frozen=True)
class PairBatch:
    """`latents` (2n, C, g, g): n anchors, then their n targets; `coords` (n, g, g, 2): where the target's cells lie in
    the anchor crop, in cells; `visible` (n, g, g)."""

    latents: torch.Tensor
    coords: torch.Tensor
    visible: torch.Tensor

    def to(self, device: torch.device) -> PairBatch:
        """The same batch on a device."""
        return PairBatch(self.latents.to(device), self.coords.to(device), self.visible.to(device))


def sample_pairs(pool: Pool, pairs: int, crop: int, generator: torch.Generator) -> PairBatch:
    """Random pairs of views; the anchor is cropped where the target's crop comes from."""
    clips, _, _, grid, _ = pool.latents.shape
    anchors, targets, coords, visible = [], [], [], []
    for _ in range(pairs):
        clip = int(torch.randint(clips, (), generator=generator))
        a, b = torch.randperm(VIEWS, generator=generator)[:2].tolist()
        y, x = torch.randint(grid - crop + 1, (2,), generator=generator).tolist()
        where = pool.coords[clip, b, a, y : y + crop, x : x + crop].float()
        seen = pool.visible[clip, b, a, y : y + crop, x : x + crop]
        centre = where[seen].median(0).values if bool(seen.any()) else where.reshape(-1, 2).mean(0)
        ax, ay = (centre - crop / 2).round().clamp(0, grid - crop).int().tolist()
        where = where - torch.tensor([ax, ay])
        inside = ((where >= 0) & (where < crop)).all(-1)
        anchors.append(pool.latents[clip, a, :, ay : ay + crop, ax : ax + crop])
        targets.append(pool.latents[clip, b, :, y : y + crop, x : x + crop])
        coords.append(where)
        visible.append(seen & inside)
    return PairBatch(torch.stack(anchors + targets).float(), torch.stack(coords), torch.stack(visible))


def coarsen(batch: PairBatch, times: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Coordinates and visibility on a grid `times` coarser (1, 2, 4): mean of the cells, visible where all are."""
    if times == 1:
        return batch.coords, batch.visible
    coords = F.avg_pool2d(batch.coords.permute(0, 3, 1, 2), times).permute(0, 2, 3, 1) / times
    return coords, F.avg_pool2d(batch.visible.float()[:, None], times)[:, 0] > 0.99


def bilinear_weights(coords: torch.Tensor) -> torch.Tensor:
    """Bilinear share of each anchor cell in each coordinate: (n, g, g, 2) cells -> (n, g*g, g*g)."""
    n, grid = coords.shape[:2]
    cells = torch.arange(grid, device=coords.device) + 0.5
    flat = coords.flatten(1, 2).clamp(0.5, grid - 0.5)
    near = (1 - (flat[..., None] - cells).abs()).clamp_min(0)  # (n, N, 2, g)
    return (near[:, :, 1, :, None] * near[:, :, 0, None, :]).flatten(2)


def contrastive_loss(
    features: torch.Tensor, batch: PairBatch, rows: torch.Tensor, temperature: float = 0.07
) -> torch.Tensor:
    """Cross-entropy of matching target cells to anchor cells by cosine similarity, against bilinear ground truth.

    Args:
        features: (2n, C, g', g'), anchors first.
        rows: (n,) bool, the pairs that count.
    """
    coords, visible = coarsen(batch, batch.coords.shape[1] // features.shape[-1])
    normal = F.normalize(features.float().flatten(2), dim=1)
    anchor, target = (half[rows] for half in normal.chunk(2))
    log_share = (target.transpose(1, 2) @ anchor / temperature).log_softmax(-1)
    truth = bilinear_weights(coords[rows])
    seen = visible[rows].flatten(1)
    return -((truth * log_share).sum(-1) * seen).sum() / seen.sum().clamp_min(1)


class PairAttention:
    """Training hook: anchors attend to themselves, targets to their matching anchor tokens, and to themselves where
    there is no match.

    The four bilinear neighbours are allowed on the finest grid, the nearest token on coarser ones: the paper's k rule
    for k = 1.
    """

    def __init__(self, batch: PairBatch):
        self._masks: dict[int, torch.Tensor] = {}
        for times in (1, 2, 4):
            coords, visible = coarsen(batch, times)
            share = bilinear_weights(coords if times == 1 else coords.floor() + 0.5)
            seen = visible.flatten(1)[..., None]
            mask = torch.cat([(share > 0) & seen, (~seen).expand_as(share)], -1)
            self._masks[share.shape[1]] = mask[:, None]

    def needs(self, layer: int) -> frozenset[str]:
        """All of query, key and value."""
        return frozenset({"query", "key", "value"})

    def __call__(
        self, layer: int, query: torch.Tensor | None, key: torch.Tensor | None, value: torch.Tensor | None
    ) -> torch.Tensor:
        """Attention output for anchors and targets (2n, heads, N, d)."""
        assert query is not None and key is not None and value is not None
        (qa, qb), (ka, kb), (va, vb) = query.chunk(2), key.chunk(2), value.chunk(2)
        own = F.scaled_dot_product_attention(qa, ka, va)
        mask = self._masks[query.shape[2]]
        cross = F.scaled_dot_product_attention(qb, torch.cat([ka, kb], 2), torch.cat([va, vb], 2), attn_mask=mask)
        return torch.cat([own, cross])
