"""Example-based synthesis: a picture made of patches of a style, so that guides agree.

Source: EbSynth (Jamriska et al., "Stylizing Video by Example", SIGGRAPH 2019) as its public-domain program does it:
coarse to fine, search and vote in turn. Differs: a search that starts from a known field stays near it and needs few
levels; guides are shrunk by area; see also `patch_match`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..checks import InputError, check_images, check_range, check_shape
from .guides import Guide
from .patch_level import Level
from .patch_match import Engine, Search, engine_of, pass_radii, random_field, search_field, stream

NEAR_LEVELS = 2  # of a search that starts from a known field


@dataclass(frozen=True)
class PatchSettings:
    """How to synthesise; the costs are EbSynth's.

    patch: side of a patch, odd. levels: of the pyramid, each half the size of the one before; None takes 2 from a given
    field, else all that a patch fits into. votes: how often the patches vote on every level; searches: passes before
    each vote. radius: how far random tries look around the place that is best so far, in pixels of a level; None looks
    everywhere. uniformity: what it costs to use a place as often as on the mean, against washing out, in squared 8-bit
    levels. style_weight: of the picture that is being made, beside the guides' weights. weighted_vote: patches that fit
    worse count less, as 1 / (1 + E / (p^2 c)), E their error and c the channels of the style.
    """

    patch: int = 5
    levels: int | None = None
    votes: int = 3
    searches: int = 4
    radius: int | None = None
    uniformity: float = 3500.0
    style_weight: float = 1.0
    weighted_vote: bool = True

    def __post_init__(self) -> None:
        check_range("patch", self.patch, 3, 15)
        if self.patch % 2 == 0:
            raise InputError(f"patch: expected an odd side, got {self.patch}; take {self.patch + 1}.")
        if self.levels is not None:
            check_range("levels", self.levels, 1, 16)
        check_range("votes", self.votes, 1, 100)
        check_range("searches", self.searches, 1, 100)
        if self.radius is not None:
            check_range("radius", self.radius, 1, 32767)
        check_range("uniformity", self.uniformity, 0, 1e5)
        check_range("style_weight", self.style_weight, 0, 100)


@dataclass(frozen=True)
class Synthesis:
    """picture: (3, H, W) in the range of the style; field: (H, W, 2) int32, (x, y) of each patch in the style; error:
    (H, W), weighted squared difference of the whole patch in squared 8-bit levels, 0 where nothing was synthesised."""

    picture: torch.Tensor
    field: torch.Tensor
    error: torch.Tensor


def synthesize(
    style: torch.Tensor,
    guides: Sequence[Guide],
    settings: PatchSettings | None = None,
    *,
    field: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    seed: int = 0,
    engine: Engine | None = None,
) -> Synthesis:
    """A picture of patches of `style` where the guides' targets are like their keys.

    Args:
        style: (3, h, w) in [0, 1].
        guides: at least one; keys (C, h, w), targets (C, H, W), in [-1, 1].
        field: (H, W, 2), where the search starts: (x, y) in the style, whole or not, for every target pixel; random
            when None.
        mask: (H, W); only where it is above 0 anything is synthesised, elsewhere the picture shows the style's pixel
            that `field` names. Everywhere when None.
        seed: of the random tries; the result depends on nothing else, threads and device included.
        engine: who searches; compiled loops on the CPU and torch elsewhere when None.
    Raises: ShapeError; InputError when there is no guide, or a picture is smaller than 2 * patch + 1.
    """
    settings = settings or PatchSettings()
    size_hw, source_hw = _check(style, guides, field, mask, settings)
    near = field is not None
    engine = engine or engine_of(style.device)
    result: Synthesis | None = None
    for number in reversed(range(_level_count(min(*size_hw, *source_hw), settings, near))):
        small_hw = (size_hw[0] >> number, size_hw[1] >> number)
        level = Level(style, guides, mask, small_hw, source_hw, number, settings.patch, settings.style_weight)
        starts = [level.field_at(field)] if field is not None else []
        if result is not None:
            starts.append(level.grown(result.field))
        if not starts:
            starts.append(random_field(level.size_hw, level.source_hw, stream(seed, number)).to(style.device))
        radii = pass_radii(settings.radius or max(level.source_hw), settings.searches)
        search = Search(settings.patch, radii, settings.uniformity, level.steps)
        result = _search_and_vote(level, starts, search, settings, stream(seed, number), engine)
    assert result is not None
    return result


def _search_and_vote(
    level: Level, starts: Sequence[torch.Tensor], search: Search, settings: PatchSettings, seed: int, engine: Engine
) -> Synthesis:
    """Search and vote in turn, from the field among `starts` that fits best at each place."""
    field, patch = starts[0], settings.patch
    equal = torch.ones(level.size_hw, dtype=torch.float64, device=field.device)
    picture = engine.vote(level.style, field, equal, level.mask, patch)
    for other in starts[1:]:
        level.show(picture)
        errors = [engine.field_errors(level.source, level.target, one, level.mask, patch) for one in (field, other)]
        field = torch.where((errors[1] < errors[0])[..., None], other, field)
        picture = engine.vote(level.style, field, equal, level.mask, patch)
    for vote in range(settings.votes):
        level.show(picture)
        field, error = search_field(level.source, level.target, field, level.mask, search, stream(seed, vote), engine)
        weight = equal
        if settings.weighted_vote:
            weight = 1 / (1 + error.double() / (patch**2 * level.style.shape[2] * level.steps**2))
        picture = engine.vote(level.style, field, weight, level.mask, patch)
    return Synthesis(picture.permute(2, 0, 1).contiguous(), field, error.float() / level.steps**2)


def _level_count(shortest: int, settings: PatchSettings, near: bool) -> int:
    """Levels whose shortest side holds two patches and one pixel, as many as the settings ask for."""
    most = 1
    while shortest >> most >= 2 * settings.patch + 1:
        most += 1
    wanted = settings.levels or (NEAR_LEVELS if near else most)
    return min(wanted, most)


def _check(
    style: torch.Tensor,
    guides: Sequence[Guide],
    field: torch.Tensor | None,
    mask: torch.Tensor | None,
    settings: PatchSettings,
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Sizes (height, width) of target and style. Raises: see `synthesize`."""
    check_shape("style", style, (3, "h", "w"))
    check_images("style", style[None])
    if not guides:
        raise InputError("guides: expected at least one guide, got none.")
    height, width = (int(side) for side in guides[0].target.shape[-2:])
    source_hw = (int(style.shape[-2]), int(style.shape[-1]))
    for number, guide in enumerate(guides):
        check_shape(f"guide {number}, key", guide.key, ("C", *source_hw))
        check_shape(f"guide {number}, target", guide.target, (guide.key.shape[0], height, width))
    if field is not None:
        check_shape("field", field, (height, width, 2))
        if not bool(torch.isfinite(field).all()):
            raise InputError("field: expected finite places, got NaN or infinity; look at the flow that it comes from.")
    if mask is not None:
        check_shape("mask", mask, (height, width))
    if min(height, width, *source_hw) < 2 * settings.patch + 1:
        raise InputError(
            f"style: expected sides of at least {2 * settings.patch + 1} pixels for patches of {settings.patch}, got "
            f"{source_hw} and {(height, width)} (height, width) of style and target; make the patch smaller."
        )
    return (height, width), source_hw
