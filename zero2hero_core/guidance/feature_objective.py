"""How far the features of a batch are from moving with the frames and from the likenesses within each frame, with the
gradient in closed form.

Features are tables here, (N, HW, C): a row for each cell of each frame (`as_tables`), float32 or float64. The gradient
needs no autograd and no HW x HW matrix: the temporal term goes back through the transposed reading, the spatial term is
computed in blocks of rows of the Gram matrix, above its diagonal alone.

Source: FRESCO (arXiv 2403.12962), eq. 5 and 6, in the form and with the weights of the authors' practice. Differs: the
means are over the rows of one pass, where theirs are over both halves of classifier-free guidance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ..checks import InputError, ShapeError, check_shape
from .motion import BatchMotion
from .row_mix import RowMix, read_along

BLOCK = 256  # rows of a Gram matrix at a time; from 128 to 1024 the speed on a CPU is the same to 10 %
_EPSILON = 1e-12  # shortest row that is taken to unit length
_FIRST, _SECOND, _SMALL = 0.9, 0.999, 1e-8  # of Adam


def as_tables(features: torch.Tensor) -> torch.Tensor:
    """A copy of features (N, C, h, w) as tables (N, h w, C), float32 unless they are more exact."""
    check_shape("features", features, ("N", "C", "h", "w"))
    count, channels, height, width = features.shape
    exact = torch.promote_types(features.dtype, torch.float32)
    tables = torch.empty(count, height * width, channels, dtype=exact, device=features.device)
    return tables.copy_(features.flatten(2).transpose(1, 2))


def unit_rows(tables: torch.Tensor) -> torch.Tensor:
    """Tables (N, HW, C) with every row at length 1; rows of zeros stay."""
    units = torch.empty_like(tables)
    for unit, table in zip(units, tables, strict=True):  # as the objective does, so that equal features stay equal
        torch.div(table, _lengths(table), out=unit)
    return units


def _lengths(table: torch.Tensor) -> torch.Tensor:
    lengths: torch.Tensor = torch.linalg.vector_norm(table, dim=-1, keepdim=True)
    return lengths.clamp_min(_EPSILON)


@dataclass(frozen=True)
class PairReading:
    """How two frames that follow each other read one another.

    to_later, to_earlier: the earlier frame read at the places of the later one, and the other way; back_from_later,
    back_from_earlier: their transposes. seen_later, seen_earlier: (HW, 1), 1 where the cell of the later (earlier)
    frame shows what the other frame shows too, else 0.
    """

    to_later: RowMix
    to_earlier: RowMix
    back_from_later: RowMix
    back_from_earlier: RowMix
    seen_later: torch.Tensor
    seen_earlier: torch.Tensor


def read_pairs(motion: BatchMotion, like: torch.Tensor) -> tuple[PairReading, ...]:
    """The readings of all pairs of a batch at the size of the motion, of one frame none; made once for many gradients.

    Args: like: a tensor of the device and type of the tables.
    """
    pairs = []
    for place in range(len(motion) if len(motion) > 1 else 0):
        to_later, to_earlier = (read_along(flow[place].to(like)) for flow in (motion.backward, motion.forward))
        seen = (
            1 - hidden[place].to(like).reshape(-1, 1)
            for hidden in (motion.backward_occlusion, motion.forward_occlusion)
        )
        pairs.append(PairReading(to_later, to_earlier, to_later.transposed(), to_earlier.transposed(), *seen))
    return tuple(pairs)


class FeatureObjective:
    """temporal * mean(|f_(i+1) - warp(f_i)| (1 - O_b) + |f_i - warp(f_(i+1))| (1 - O_f)) over the circle of pairs
    + spatial * mean|Gram(f~) - Gram(f~_r)|, with f~ the rows of f at unit length and Gram(f~) = f~ f~^T of each frame.

    A weight of 0 leaves its term out; a single frame has no temporal term.

    Args:
        pairs: of `read_pairs`, as many as frames.
        reference: (N, HW, C), rows at unit length (`unit_rows`), needed where `spatial` is not 0.
        block: rows of a Gram matrix at a time.
    Raises: InputError when the reference is missing.
    """

    def __init__(
        self,
        pairs: Sequence[PairReading] = (),
        reference: torch.Tensor | None = None,
        *,
        temporal: float = 2.0,
        spatial: float = 100.0,
        block: int = BLOCK,
    ):
        if spatial and reference is None:
            raise InputError("reference: expected the features of the input frames for the spatial term, got none.")
        self.pairs = tuple(pairs) if temporal else ()
        self.temporal, self.spatial, self.block = temporal, spatial, block
        self._likeness = [_Likeness(unit, block) for unit in reference] if spatial and reference is not None else []

    def __bool__(self) -> bool:
        """Whether there is a term at all."""
        return bool(self.pairs or self._likeness)

    def gradients(self, tables: torch.Tensor) -> Iterator[torch.Tensor]:
        """The gradient (HW, C) of one frame after another.

        A frame of `tables` (N, HW, C) may be changed in place as soon as its gradient is out: what the frames after it
        need was read before. The gradient belongs to the caller.
        """
        self._check(tables)
        last = len(tables) - 1
        coming = torch.zeros_like(tables[0])
        if self.pairs:
            of_last = torch.zeros_like(coming)
            coming = self._add_pair(last, tables, of_last)
        for place, table in enumerate(tables):
            gradient = coming
            if not self.pairs:
                coming = torch.zeros_like(table)
            elif place < last:
                coming = self._add_pair(place, tables, gradient)
            else:
                gradient += of_last
            if self._likeness:
                self._likeness[place].add_gradient(table, self.spatial / (len(tables) * len(table) ** 2), gradient)
            yield gradient
            del gradient  # not beside the next one

    def value(self, tables: torch.Tensor) -> float:
        """The objective of tables (N, HW, C)."""
        self._check(tables)
        total = 0.0
        for place, pair in enumerate(self.pairs):
            one, other = tables[place], tables[(place + 1) % len(tables)]
            missed = ((other - pair.to_later(one)).abs() * pair.seen_later).sum(dtype=torch.float64)
            missed += ((one - pair.to_earlier(other)).abs() * pair.seen_earlier).sum(dtype=torch.float64)
            total += self.temporal * float(missed) / tables.numel()
        for likeness, table in zip(self._likeness, tables, strict=bool(self._likeness)):
            total += self.spatial * likeness.distance(table) / len(tables)
        return total

    def _add_pair(self, place: int, tables: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """Add to the gradient of frame `place` what its pair with the next frame gives, and return that frame's."""
        pair, one, other = self.pairs[place], tables[place], tables[(place + 1) % len(tables)]
        share = self.temporal / tables.numel()
        in_later = pair.to_later(one).sub_(other).sign_().mul_(pair.seen_later * -share)
        gradient -= pair.back_from_later(in_later)
        in_earlier = pair.to_earlier(other).sub_(one).sign_().mul_(pair.seen_earlier * -share)
        gradient += in_earlier
        in_later -= pair.back_from_earlier(in_earlier)
        return in_later

    def _check(self, tables: torch.Tensor) -> None:
        check_shape("tables", tables, ("N", "HW", "C"))
        for name, frames in (("pairs", len(self.pairs)), ("reference", len(self._likeness))):
            if frames not in (0, len(tables)):
                raise ShapeError(f"tables: expected {frames} frames, as many as {name}, got {len(tables)}.")


class _Likeness:
    """The likenesses that the cells of one frame should have among themselves: the Gram matrix of its reference.

    Only the part above the diagonal is ever computed. It is kept where it is no larger than the reference, which holds
    for the coarse levels; else it is computed again, block by block.
    """

    def __init__(self, unit: torch.Tensor, block: int):
        self.unit, self.block = unit, block
        cells, channels = unit.shape
        self._kept: list[torch.Tensor] | None = None
        if sum(min(block, cells - start) * (cells - start) for start in range(0, cells, block)) <= cells * channels:
            self._kept = [self._rows(unit, start) for start in range(0, cells, block)]

    def add_gradient(self, table: torch.Tensor, share: float, gradient: torch.Tensor) -> None:
        """Add share * sum|Gram - Gram_r|'s gradient.

        With u = f / |f| and S = sign(u u^T - G_r), which is symmetric: dL/du = 2 S u, dL/df = (g - (g . u) u) / |f|.
        """
        lengths = _lengths(table)
        unit = table / lengths
        slope = torch.zeros_like(unit)
        for start, signs in self._differences(unit):
            signs.sign_()
            stop = start + len(signs)
            slope[start:stop].addmm_(signs, unit[start:])
            if stop < len(unit):
                slope[stop:].addmm_(signs[:, len(signs) :].T, unit[start:stop])
        parts = zip(slope.split(self.block), unit.split(self.block), strict=True)  # no whole table of products
        along = torch.cat([(one * other).sum(1, keepdim=True) for one, other in parts])
        gradient.addcdiv_(slope.addcmul_(unit, along, value=-1), lengths, value=2 * share)

    def distance(self, table: torch.Tensor) -> float:
        """mean|Gram - Gram_r|."""
        total = 0.0
        for _, rows in self._differences(table / _lengths(table)):
            of_block = rows.abs_().sum(0, dtype=torch.float64)
            total += float(2 * of_block.sum() - of_block[: len(rows)].sum())
        return total / len(table) ** 2

    def _differences(self, unit: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """Blocks of Gram - Gram_r: the first row, and the rows from their diagonal block to the right."""
        check_shape("features", unit, self.unit.shape)
        memory, of_reference = (unit.new_empty(min(self.block, len(unit)) * len(unit)) for _ in range(2))
        for number, start in enumerate(range(0, len(unit), self.block)):
            rows = self._rows(unit, start, memory)
            yield start, rows.sub_(self._kept[number] if self._kept else self._rows(self.unit, start, of_reference))

    def _rows(self, unit: torch.Tensor, start: int, memory: torch.Tensor | None = None) -> torch.Tensor:
        """Rows of a Gram matrix, from their diagonal block to the right."""
        mine, right = unit[start : start + self.block], unit[start:]
        out = None if memory is None else memory[: len(mine) * len(right)].view(len(mine), len(right))
        return torch.mm(mine, right.T, out=out)


def descend(tables: torch.Tensor, objective: FeatureObjective, *, iterations: int, rate: float) -> bool:
    """Lower the objective of tables (N, HW, C) in place, by Adam with fresh moments.

    Returns: whether anything changed; where the gradient is 0 to begin with, nothing does.
    """
    if not objective:
        return False
    first, second = torch.zeros_like(tables), torch.zeros_like(tables)
    for turn in range(1, iterations + 1):
        mean, spread = 1 - _FIRST**turn, 1 - _SECOND**turn
        moved = turn > 1
        for place, gradient in enumerate(objective.gradients(tables)):
            moved = moved or bool(gradient.any())
            first[place].lerp_(gradient, 1 - _FIRST)
            second[place].mul_(_SECOND).addcmul_(gradient, gradient, value=1 - _SECOND)
            torch.sqrt(second[place], out=gradient).div_(spread**0.5).add_(_SMALL)
            tables[place].addcdiv_(first[place], gradient, value=-rate / mean)
            del gradient  # not beside the next one
        if not moved:
            return False
    return iterations > 0
