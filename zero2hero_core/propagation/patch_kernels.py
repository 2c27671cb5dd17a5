"""The four steps of the patch search as compiled loops on the CPU: an `Engine` of `propagation.patch_match`.

Importing this module imports numba, so `patch_match` does it when the first picture comes. Bands of rows run in threads
of Python's own (the loops hold no lock; numba's schedulers wait busily, or end the process when two callers meet), as
many as torch is set to. A loop writes its own row only, and the sums are of whole numbers, or of float64 in one order:
the number of threads changes nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import numpy as np
import torch
from llvmlite import ir
from numba import int64, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .patch_layout import LANES, MASK32, mix

F = TypeVar("F", bound=Callable[..., Any])
Array = Any  # of numpy; numba reads the type from the argument


def compiled(function: F) -> F:
    """The function, compiled on its first call and kept on disk."""
    return cast(F, njit(cache=True, nogil=True)(function))


def in_bands(rows: int, work: Callable[..., None], *values: Any) -> None:
    """Call work(*values, first row, row after the last) for bands that together are all rows, in torch's number of
    threads."""
    threads = torch.get_num_threads()
    bands = 1 if threads == 1 else min(4 * threads, rows)  # a mask may make some bands quick
    ends = [rows * band // bands for band in range(bands + 1)]
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, *values, first, last) for first, last in itertools.pairwise(ends)]:
            done.result()


hash32 = compiled(mix)


def _squared_difference(typing: Any, first: Any, start: Any, second: Any, other: Any, blocks: Any) -> Any:
    """Sum of (first[start + i] - second[other + i])^2 over i < blocks * LANES; int16 arrays, sum in int32.

    Written in LLVM's vectors because the loop in Python's words is not vectorised with one sum over the row.
    """

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        narrow, wide = (ir.VectorType(ir.IntType(bits), LANES) for bits in (16, 32))
        first_row, second_row = (
            builder.gep(context.make_array(kind)(context, builder, array).data, [place])
            for kind, array, place in ((first, *values[:2]), (second, *values[2:4]))
        )
        total = cast(Any, cgutils).alloca_once_value(builder, ir.Constant(wide, [0] * LANES))
        with cgutils.for_range(builder, values[4]) as loop:
            offset = builder.mul(loop.index, ir.Constant(loop.index.type, LANES))
            x, y = (
                builder.load(builder.bitcast(builder.gep(row, [offset]), narrow.as_pointer()), align=2)
                for row in (first_row, second_row)
            )
            difference = builder.sext(builder.sub(x, y), wide)
            builder.store(builder.add(builder.load(total), builder.mul(difference, difference)), total)
        result, lanes = builder.load(total), LANES
        while lanes > 1:  # add the upper half to the lower one
            lanes //= 2
            halves = [
                builder.shuffle_vector(
                    result,
                    ir.Constant(result.type, ir.Undefined),
                    ir.Constant(ir.VectorType(ir.IntType(32), lanes), list(range(low, low + lanes))),
                )
                for low in (0, lanes)
            ]
            result = builder.add(*halves)
        return builder.extract_element(result, ir.Constant(ir.IntType(32), 0))

    return types.int32(first, types.intp, second, types.intp, types.intp), code


squared_difference = cast(Callable[..., int], intrinsic(_squared_difference))


@compiled
def patch_error(
    source: Array, source_width: int, target: Array, target_width: int,
    patch: int, blocks: int, x: int, y: int, at_x: int, at_y: int, bound: int,
) -> int:  # fmt: skip
    """Squared difference of the target's patch at (x, y) and the source's at (at_x, at_y); any value above `bound` as
    soon as a row of the patch takes it there."""
    total = 0
    channels = blocks * LANES
    for row in range(patch):
        first = ((y + row) * target_width + x) * channels
        second = ((at_y + row) * source_width + at_x) * channels
        total += squared_difference(target, first, source, second, patch * blocks)
        if total > bound:
            break
    return total


@compiled
def _field_errors(
    source: Array, target: Array, field: Array, mask: Array, patch: int, error: Array, first: int, last: int
) -> None:
    """Write the patch error of every place of the field into `error`; 0 outside the mask."""
    height, width = error.shape
    blocks = source.shape[2] // LANES
    flat_source, flat_target = source.ravel(), target.ravel()
    for y in range(first, last):
        for x in range(width):
            error[y, x] = 0
            if mask[y, x]:
                error[y, x] = patch_error(
                    flat_source, source.shape[1], flat_target, target.shape[1],
                    patch, blocks, x, y, field[y, x, 0], field[y, x, 1], 2**31,
                )  # fmt: skip


@compiled
def _count_hits(field: Array, rim: int, hits: Array) -> None:
    """Add to `hits`, which has `rim` more rows above and below the source, how many patches lie at each place."""
    for line in field:
        for place in line:
            hits[place[1] + rim, place[0]] += 1


@compiled
def _occurrence_cost(hits: Array, unit: Array, patch: int, cost: Array, first: int, last: int) -> None:
    """Write into `cost` (h, w) how much it costs to use each source place again: unit * (covering patches, summed over
    the patch there)."""
    width = cost.shape[1]
    rim = patch - 1
    for y in range(first, last):
        column = np.zeros(width + 2 * rim, np.int64)
        for dy in range(-rim, rim + 1):
            weight = patch - abs(dy)
            for x in range(width):
                column[rim + x] += weight * hits[rim + y + dy, x]
        for x in range(width):
            total: Any = 0
            for dx in range(-rim, rim + 1):
                total += (patch - abs(dx)) * column[rim + x + dx]
            cost[y, x] = int64(total * unit[y, x] + 0.5)


@compiled
def _search_pass(
    source: Array, target: Array, field: Array, error: Array, mask: Array, cost: Array, own: int,
    patch: int, reach: int, radii: Array, key: int, new_field: Array, new_error: Array,
    first: int, last: int,
) -> None:  # fmt: skip
    """One synchronous pass: every place tries what its four neighbours at distance `reach` have, then one random place
    within each of `radii`, and takes what costs least; all read the old field and write the new one."""
    height, width = error.shape
    source_height, source_width = cost.shape
    blocks = source.shape[2] // LANES
    area = patch * patch
    flat_source, flat_target = source.ravel(), target.ravel()
    for y in range(first, last):
        for x in range(width):
            old_x, old_y = int64(field[y, x, 0]), int64(field[y, x, 1])
            best_x, best_y, best_error = old_x, old_y, int64(error[y, x])
            if mask[y, x]:
                best = best_error + cost[old_y, old_x]
                number = hash32(key ^ hash32(y * width + x))
                for k in range(4 + len(radii)):
                    if k < 4:
                        dx, dy = reach * ((k == 0) - (k == 1)), reach * ((k == 2) - (k == 3))
                        if not (0 <= x + dx < width and 0 <= y + dy < height):
                            continue
                        to_x, to_y = field[y + dy, x + dx, 0] - dx, field[y + dy, x + dx, 1] - dy
                        if not (0 <= to_x < source_width and 0 <= to_y < source_height):
                            continue
                    else:
                        radius = radii[k - 4]
                        number = hash32((number + 0x9E3779B9) & MASK32)
                        low_x, high_x = max(best_x - radius, 0), min(best_x + radius, source_width - 1)
                        low_y, high_y = max(best_y - radius, 0), min(best_y + radius, source_height - 1)
                        to_x = low_x + (((number & 0xFFFF) * (high_x - low_x + 1)) >> 16)
                        to_y = low_y + (((number >> 16) * (high_y - low_y + 1)) >> 16)
                    if to_x == best_x and to_y == best_y:
                        continue
                    overlap = max(patch - abs(to_x - old_x), 0) * max(patch - abs(to_y - old_y), 0)
                    again = cost[to_y, to_x] + own * (area - overlap)  # this place's own patch moves along
                    if again >= best:
                        continue
                    new = patch_error(
                        flat_source, source.shape[1], flat_target, target.shape[1],
                        patch, blocks, x, y, to_x, to_y, best - again,
                    )  # fmt: skip
                    if new + again < best:
                        best_x, best_y, best_error, best = to_x, to_y, new, new + again
            new_field[y, x, 0], new_field[y, x, 1], new_error[y, x] = best_x, best_y, best_error


@compiled
def pixel_vote(
    style: Array, field: Array, weight: Array, mask: Array, half: int, x: int, y: int
) -> tuple[float, float, float]:
    """Weighted mean of what the patches over pixel (x, y) hold of `style` there."""
    height, width = mask.shape
    weights, red, green, blue = 0.0, 0.0, 0.0, 0.0
    for dy in range(max(-half, -y), min(half, height - 1 - y) + 1):
        for dx in range(max(-half, -x), min(half, width - 1 - x) + 1):
            at_x, at_y = field[y + dy, x + dx, 0] - dx, field[y + dy, x + dx, 1] - dy
            if 0 <= at_x < style.shape[1] and 0 <= at_y < style.shape[0] and mask[y + dy, x + dx]:
                share = weight[y + dy, x + dx]
                weights += share
                red += share * style[at_y, at_x, 0]
                green += share * style[at_y, at_x, 1]
                blue += share * style[at_y, at_x, 2]
    return red / weights, green / weights, blue / weights


@compiled
def _vote(
    style: Array, field: Array, weight: Array, mask: Array, patch: int, picture: Array, first: int, last: int
) -> None:
    """Write into `picture` (H, W, 3) what the patches vote for; the pixel that the field names where the mask is 0."""
    width = mask.shape[1]
    for y in range(first, last):
        for x in range(width):
            if mask[y, x]:
                colour = pixel_vote(style, field, weight, mask, patch // 2, x, y)
                picture[y, x, 0], picture[y, x, 1], picture[y, x, 2] = colour
            else:
                picture[y, x] = style[field[y, x, 1], field[y, x, 0]]


def field_errors(
    source: torch.Tensor, target: torch.Tensor, field: torch.Tensor, mask: torch.Tensor, patch: int
) -> torch.Tensor:
    """The patch error of every place of the field, (H, W) int32; 0 outside the mask."""
    error = torch.empty(mask.shape, dtype=torch.int32)
    arrays = source.numpy(), target.numpy(), field.numpy(), mask.numpy()
    in_bands(mask.shape[0], _field_errors, *arrays, patch, error.numpy())
    return error


def occurrence_cost(field: torch.Tensor, unit: torch.Tensor, patch: int) -> torch.Tensor:
    """How much it costs to use each source place again, (h, w) int64."""
    cost = torch.empty(unit.shape, dtype=torch.int64)
    hits = np.zeros((unit.shape[0] + 2 * (patch - 1), unit.shape[1]), np.int32)
    _count_hits(field.numpy(), patch - 1, hits)
    in_bands(unit.shape[0], _occurrence_cost, hits, unit.numpy(), patch, cost.numpy())
    return cost


def search_pass(
    source: torch.Tensor, target: torch.Tensor, field: torch.Tensor, error: torch.Tensor, mask: torch.Tensor,
    cost: torch.Tensor, own: int, patch: int, reach: int, radii: Sequence[int], key: int,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """One synchronous pass: field and error after it."""
    new_field, new_error = torch.empty_like(field), torch.empty_like(error)
    arrays = source.numpy(), target.numpy(), field.numpy(), error.numpy(), mask.numpy(), cost.numpy()
    numbers = own, patch, reach, np.array(radii, np.int64), key
    in_bands(mask.shape[0], _search_pass, *arrays, *numbers, new_field.numpy(), new_error.numpy())
    return new_field, new_error


def vote(
    style: torch.Tensor, field: torch.Tensor, weight: torch.Tensor, mask: torch.Tensor, patch: int
) -> torch.Tensor:
    """The picture (H, W, C) that the field's patches vote for."""
    picture = torch.empty((*mask.shape, style.shape[2]), dtype=torch.float32)
    arrays = style.numpy(), field.numpy(), weight.numpy(), mask.numpy()
    in_bands(mask.shape[0], _vote, *arrays, patch, picture.numpy())
    return picture
