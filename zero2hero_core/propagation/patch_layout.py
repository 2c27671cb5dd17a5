"""How pictures and guides lie in memory for the patch search: one row of small whole numbers a pixel.

A row holds every channel of style and guides, each times the root of its weight, as int16. Squared differences of rows
are then the weighted squared differences, and their sums are sums of whole numbers: the same in any order, with any
number of threads, on any machine. The border is repeated outward by half a patch, so that no patch leaves the array.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F

from ..checks import InputError

LANES = 16  # channels are filled up with zeros to a multiple of this: 32 bytes, a vector register
LEVELS = 255  # weights and costs are meant for 8-bit values
MASK32 = 0xFFFFFFFF
_LARGEST_ERROR, _LARGEST_VALUE, _FINEST_STEPS = 2**31 - 1, 16_000, 8

Number = TypeVar("Number", int, torch.Tensor)


def mix(value: Number) -> Number:
    """A hash of 32 bits of whole numbers below 2^32: of Python's, of int64 tensors, and in the compiled search.

    Source: constants "lowbias32" of Wellons, "Prospecting for Hash Functions", 2018 (public domain).
    """
    value = value ^ (value >> 16)
    value = (value * 0x7FEB352D) & MASK32
    value = value ^ (value >> 15)
    value = (value * 0x846CA68B) & MASK32
    return value ^ (value >> 16)


@dataclass(frozen=True)
class Plane:
    """One picture that patches are compared by: style or guide, (C, H, W) in [-1, 1], and the weight of all its
    channels together."""

    values: torch.Tensor
    weight: float

    @property
    def factor(self) -> float:
        """What a value is multiplied by so that a squared difference carries the weight of one channel."""
        return LEVELS * math.sqrt(self.weight / self.values.shape[0])


def steps_per_level(pairs: Sequence[tuple[Plane, Plane]], patch: int) -> float:
    """How many steps an 8-bit level is divided into: the largest power of two, up to 8, with which the error of a
    patch stays below 2^31 and a value within 16 bits.

    Args: pairs: the planes of both sides; patch: side of a patch.
    Raises: InputError when a value is NaN.
    """
    most, largest = 0.0, 0.0
    for pair in pairs:
        low = float(torch.stack([plane.values.amin() for plane in pair]).amin().clamp_min(-1))
        high = float(torch.stack([plane.values.amax() for plane in pair]).amax().clamp_max(1))
        if math.isnan(low + high):
            raise InputError("style and guides: expected values in [-1, 1], got NaN.")
        most += patch**2 * pair[0].weight * (LEVELS * (high - low)) ** 2
        largest = max(largest, pair[0].factor * max(abs(low), abs(high)))
    steps = float(_FINEST_STEPS)
    while most * steps**2 > 0.98 * _LARGEST_ERROR or largest * steps > _LARGEST_VALUE:
        steps /= 2
    return steps


def pack(planes: Sequence[Plane], steps: float, patch: int) -> torch.Tensor:
    """Rows of int16 for the search, (H + patch - 1, W + patch - 1, C): all channels of all planes in their order,
    filled up with zeros."""
    height, width = planes[0].values.shape[-2:]
    channels = sum(plane.values.shape[0] for plane in planes)
    filled = -(-channels // LANES) * LANES
    rows = torch.zeros(
        (height + patch - 1, width + patch - 1, filled), dtype=torch.int16, device=planes[0].values.device
    )
    first = 0
    for plane in planes:
        write_plane(rows, first, plane, steps, patch)
        first += plane.values.shape[0]
    return rows


def write_plane(rows: torch.Tensor, first: int, plane: Plane, steps: float, patch: int) -> None:
    """Write a plane, cut to [-1, 1], into packed rows, its channels from number `first` on."""
    half = patch // 2
    for number, channel in enumerate(plane.values, first):
        scaled = (channel.float().clamp(-1, 1) * (plane.factor * steps)).round_()
        rows[..., number] = F.pad(scaled[None, None], (half,) * 4, mode="replicate")[0, 0].to(torch.int16)


def shrink(values: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    """(C, H, W) at a smaller size, each pixel the mean of its area; the same tensor where the size is its own."""
    if values.shape[-2:] == size_hw:
        return values
    return F.interpolate(values[None].float(), size_hw, mode="area")[0]
