"""Sparse mixes of the rows of a table, and their transposes: reading along a flow, and giving back what was read.

A picture is a table here: one row for each cell, row by row of the picture, one column for each channel. Both ways are
gathers, so that the result does not depend on the order in which threads finish, on a GPU either.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..checks import InputError, check_shape


@dataclass(frozen=True)
class RowMix:
    """A matrix with few entries in each row, in compressed rows.

    places: (E,) int64, columns of the entries, row after row; weights: (E,) their values; starts: (rows + 1,) int64,
    where the entries of each row begin, and their count; columns: how many there are.
    """

    places: torch.Tensor
    weights: torch.Tensor
    starts: torch.Tensor
    columns: int

    def __call__(self, table: torch.Tensor) -> torch.Tensor:
        """The product with a table: (columns, C) -> (rows, C), in the type of the weights."""
        check_shape("table", table, (self.columns, "C"))
        mixed: torch.Tensor = F.embedding_bag(
            self.places, table, self.starts, mode="sum", per_sample_weights=self.weights, include_last_offset=True
        )
        return mixed

    def transposed(self) -> RowMix:
        """The matrix with rows and columns exchanged: the adjoint. Entries that are 0 are left out."""
        rows = len(self.starts) - 1
        of_row = torch.repeat_interleave(torch.arange(rows, device=self.starts.device), self.starts.diff())
        kept = self.weights != 0
        places, order = torch.sort(self.places[kept], stable=True)
        starts = torch.zeros(self.columns + 1, dtype=torch.int64, device=places.device)
        starts[1:] = torch.bincount(places, minlength=self.columns).cumsum(0)
        return RowMix(of_row[kept][order], self.weights[kept][order], starts, rows)


def read_along(flow: torch.Tensor) -> RowMix:
    """The bilinear reading of `flow.warp.warp_backward` as a mix: out(x) = values(x + flow(x)), border repeated.

    Args: flow: (H, W, 2) in cells, float32 or float64, which is the type of the weights.
    Raises: ShapeError; InputError when the flow is not finite.
    """
    check_shape("flow", flow, ("H", "W", 2))
    if not bool(torch.isfinite(flow).all()):
        raise InputError("flow: expected finite values, got NaN or infinity.")
    height, width = flow.shape[:2]
    x = (torch.arange(width, device=flow.device) + flow[..., 0]).clamp(0, width - 1)
    y = (torch.arange(height, device=flow.device)[:, None] + flow[..., 1]).clamp(0, height - 1)
    left, top = x.floor(), y.floor()
    to_right, to_bottom = (x - left).flatten(), (y - top).flatten()
    columns = [left.long().flatten(), (left.long() + 1).clamp_max(width - 1).flatten()]
    rows = [top.long().flatten(), (top.long() + 1).clamp_max(height - 1).flatten()]
    places = torch.stack([row * width + column for row in rows for column in columns], -1)
    weights = torch.stack([a * b for a in (1 - to_bottom, to_bottom) for b in (1 - to_right, to_right)], -1)
    starts = torch.arange(0, 4 * height * width + 1, 4, device=flow.device)
    return RowMix(places.flatten(), weights.flatten(), starts, height * width)
