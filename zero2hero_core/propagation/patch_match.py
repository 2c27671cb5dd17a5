"""The search for the nearest-neighbour field: for every patch of a target its place in a source.

Source: the cost and the occurrence term of EbSynth (Jamriska et al., "Stylizing Video by Example", SIGGRAPH 2019;
Kaspar et al., "Self Tuning Texture Optimization", 2015), places by translation only. Differs: every pass is
synchronous, all places read the old field and its occurrence and write a new one, random numbers count from seed, pass
and pixel. So the result depends on the seed alone: not on threads, device or order. The search may start from a field
that is known roughly, such as an optical flow, and stay near it.

A field (H, W, 2) int32 holds (x, y), the source place of the patch centred on each target pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from . import patch_torch
from .patch_layout import MASK32, mix

NEAR = 5  # a random try within this many pixels is made in every pass


@dataclass(frozen=True)
class Search:
    """How to search. patch: side, odd; radii: of the random tries of each pass; uniformity: cost of a use as often as
    on the mean, in squared 8-bit levels; steps: of an 8-bit level (`patch_layout`)."""

    patch: int
    radii: tuple[tuple[int, ...], ...]
    uniformity: float
    steps: float


class Engine(Protocol):
    """The steps of a search, on packed rows (`patch_layout`)."""

    def field_errors(
        self, source: torch.Tensor, target: torch.Tensor, field: torch.Tensor, mask: torch.Tensor, patch: int
    ) -> torch.Tensor:
        """The error of the patch at each place of a field, (H, W)."""

    def occurrence_cost(self, field: torch.Tensor, unit: torch.Tensor, patch: int) -> torch.Tensor:
        """What it costs to use each source place, by how often patches cover it, (h, w)."""

    def search_pass(
        self, source: torch.Tensor, target: torch.Tensor, field: torch.Tensor, error: torch.Tensor,
        mask: torch.Tensor, cost: torch.Tensor, own: int, patch: int, reach: int, radii: Sequence[int], key: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        """One pass over all places: field and error after it."""

    def vote(
        self, style: torch.Tensor, field: torch.Tensor, weight: torch.Tensor, mask: torch.Tensor, patch: int
    ) -> torch.Tensor:
        """The picture that the patches of a field make, (H, W, 3)."""


def engine_of(device: torch.device) -> Engine:
    """Compiled loops on the CPU, torch anywhere else."""
    if device.type != "cpu":
        return patch_torch
    from . import patch_kernels  # numba takes a moment to import

    return patch_kernels


def random_field(size_hw: tuple[int, int], source_hw: tuple[int, int], seed: int) -> torch.Tensor:
    """A random source place for every target pixel, (H, W, 2) int32."""
    number = mix(torch.arange(size_hw[0] * size_hw[1]).view(size_hw) ^ stream(seed))
    x, y = ((number & 0xFFFF) * source_hw[1]) >> 16, ((number >> 16) * source_hw[0]) >> 16
    return torch.stack([x, y], -1).int()


def stream(*numbers: int) -> int:
    """A number of 32 bits for a stream of random numbers, from whole numbers in their order."""
    key = 0
    for number in numbers:
        key = mix(key ^ mix(number & MASK32) ^ mix(0x9E3779B9 + ((number >> 32) & MASK32) & MASK32))
    return key


def occurrence_unit(target_hw: tuple[int, int], source_hw: tuple[int, int], search: Search) -> torch.Tensor:
    """What one covering patch costs at each source place, (h, w) float64, so that a field that uses all places equally
    often costs `uniformity` everywhere, the border too."""
    rim = search.patch - 1
    sides = []
    for length in source_hw:
        places = torch.arange(length)
        covered = sum(
            (search.patch - abs(d)) * ((places + d >= 0) & (places + d < length)).double() for d in range(-rim, rim + 1)
        )
        sides.append(torch.as_tensor(covered))
    density = target_hw[0] * target_hw[1] / (source_hw[0] * source_hw[1])
    return search.uniformity * search.steps**2 / (density * sides[0][:, None] * sides[1])


def search_field(
    source: torch.Tensor,
    target: torch.Tensor,
    field: torch.Tensor,
    mask: torch.Tensor,
    search: Search,
    seed: int,
    engine: Engine,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A better field from a field.

    Args:
        source, target: packed rows of both sides (`patch_layout.pack`), (h + patch - 1, w + patch - 1, C) and
            (H + patch - 1, W + patch - 1, C) int16.
        field: (H, W, 2) int32, every place inside the source.
        mask: (H, W) bool; outside it nothing is searched.
    Returns: field (H, W, 2) int32 and patch errors (H, W) int32, 0 outside the mask, in steps squared.
    """
    rim = search.patch - 1
    source_hw = (source.shape[0] - rim, source.shape[1] - rim)
    unit = occurrence_unit((target.shape[0] - rim, target.shape[1] - rim), source_hw, search).to(field.device)
    own = round(float(unit.min()))
    error = engine.field_errors(source, target, field, mask, search.patch)
    for iteration, radii in enumerate(search.radii):
        cost = engine.occurrence_cost(field, unit, search.patch)
        reach = max(8 >> (iteration % 4), 1)
        field, error = engine.search_pass(
            source, target, field, error, mask, cost, own, search.patch, reach, radii, stream(seed, iteration)
        )
    return field, error


def pass_radii(radius: int, iterations: int) -> tuple[tuple[int, ...], ...]:
    """The radii of the random tries of each pass, `radius` halved again and again: 4, 2 and 1 in every pass, and one of
    the wider ones, from the widest on, so that all passes together span them.

    >>> pass_radii(32, 2)
    ((32, 4, 2, 1), (16, 4, 2, 1))
    """
    halves = [radius >> k for k in range(radius.bit_length())]
    near, wide = tuple(r for r in halves if r <= NEAR), [r for r in halves if r > NEAR]
    if not wide:
        return (near,) * iterations
    return tuple((wide[i * len(wide) // iterations], *near) for i in range(iterations))
