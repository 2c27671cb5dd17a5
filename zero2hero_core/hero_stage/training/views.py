"""Further views of the one true pair: under other lights, and moved by some pixels. Not in the paper.

Light: see `relight`. Moved: the model sees a picture through cells (16 pixels for FLUX and the tiny DiT), and the pair
shows every edge at one place within its cell only. In the other frames the edges lie elsewhere in theirs; a LoRA that
has learned the anchor's places by heart restores them less well.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from ...checks import InputError, check_range
from .relight import relight

VIEWS = 32  # of a pair, beside the pair itself
UNLIT = ("zero",)  # carries the anchor's light in every frame, and keeps it
LARGEST_SHIFT = 64


def move(picture: torch.Tensor, shift_yx: tuple[int, int]) -> torch.Tensor:
    """A picture (3, H, W) moved down and to the right by whole pixels; what comes in is mirrored."""
    reach = max(abs(shift) for shift in shift_yx)
    height, width = picture.shape[-2:]
    if reach >= min(height, width):
        raise InputError(f"shift: expected less than the sides, got {reach} for a picture of {width} x {height}.")
    wide = F.pad(picture[None], (reach,) * 4, mode="reflect")[0]
    y, x = (reach - shift for shift in shift_yx)
    return wide[:, y : y + height, x : x + width]


def pair_views(
    sources: Mapping[str, torch.Tensor],
    reference: torch.Tensor,
    count: int,
    *,
    light: float = 0.0,
    shift: int = 0,
    seed: int = 0,
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """`count` views of the conditions, (count, 3, H, W) by their kind, and of the reference.

    Args: sources: pictures (3, H, W) in [0, 1] by kind, "zero" and "frame"; light: strength of `relight`, equal for all
    pictures of a view but for "zero"; shift: pixels that a view is moved by at most, equal for all its pictures.
    """
    check_range("shift", shift, 0, LARGEST_SHIFT)
    lights = torch.Generator().manual_seed(seed)
    places = torch.Generator().manual_seed((seed * 1_000_003 + 1) % 2**63)  # moving changes no light
    views: dict[str, list[torch.Tensor]] = {kind: [] for kind in (*sources, "reference")}
    lit = [kind for kind in sources if kind not in UNLIT]
    for _ in range(count):
        pictures = {**sources, "reference": reference}
        if light:
            names = [*lit, "reference"]
            both = relight(torch.stack([pictures[name] for name in names]), lights, light)
            pictures |= dict(zip(names, both, strict=True))
        y, x = torch.randint(-shift, shift + 1, (2,), generator=places).tolist()
        for name, picture in pictures.items():
            views[name].append(move(picture, (y, x)) if (y, x) != (0, 0) else picture)
    stacks = {name: torch.stack(pictures) for name, pictures in views.items()}
    return stacks, stacks.pop("reference")
