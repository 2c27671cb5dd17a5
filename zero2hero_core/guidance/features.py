"""Features of the decoder that move with the frames: a guidance that optimises them where they enter a level.

Source: FRESCO (arXiv 2403.12962), section 3.3, with the weights, rate and levels of the authors' practice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..attention.features import LEVELS
from ..attention.guidance import Pass
from ..checks import InputError, ShapeError, check_range, setting
from .feature_objective import FeatureObjective, PairReading, as_tables, descend, read_pairs, unit_rows
from .motion import BatchMotion
from .smoothing import background_of, smooth_features

_EPSILON = 1e-5  # under the root of a spread


@dataclass(frozen=True)
class FeatureSettings:
    """How features are optimised.

    iterations, rate: of Adam. temporal, spatial: weights of moving with the frames and of the likenesses within a
    frame; 0 leaves a term out. until: share of the steps, from noise, in which it is done: 0.75 of 20 are the first 15.
    levels: of the decoder, coarse (0) to fine (3).

    Raises: InputError.
    """

    iterations: int = 20
    rate: float = 0.2
    temporal: float = 2.0
    spatial: float = 100.0
    until: float = 0.75
    levels: tuple[int, ...] = LEVELS

    def __post_init__(self) -> None:
        check_range(setting("iterations"), self.iterations, 0, 1000)
        check_range(setting("rate"), self.rate, 0, 10)
        check_range(setting("temporal"), self.temporal, 0, 1e6)
        check_range(setting("spatial"), self.spatial, 0, 1e6)
        check_range(setting("until"), self.until, 0, 1)
        for level in self.levels:
            if level not in LEVELS:
                raise InputError(f"{setting('levels')}: expected levels of the decoder, 0 to 3, got {level}.")


class FeatureCapture:
    """A feature guidance that keeps what enters the levels of one pass over the input frames, and changes nothing.

    It keeps rows at unit length (`unit_rows`), which is all that the objective asks of a reference.
    """

    name = "feature capture"

    def __init__(self, levels: Sequence[int] = LEVELS):
        self.levels = tuple(levels)
        self._units: dict[tuple[int, bool], torch.Tensor] = {}

    def acts(self, level: int, step: int) -> bool:
        """See `FeatureGuidance`."""
        return level in self.levels

    def guide(self, now: Pass, level: int, features: torch.Tensor) -> torch.Tensor:
        """See `FeatureGuidance`; features that are kept for the level already are replaced."""
        self._units[level, now.conditional] = unit_rows(as_tables(features))
        return features

    def units(self, level: int, conditional: bool) -> torch.Tensor:
        """What was kept: (N, h w, C). Raises: InputError when the level was not seen."""
        if (level, conditional) not in self._units:
            half = "with the prompt" if conditional else "with the empty prompt"
            raise InputError(
                f"reference features: expected those of decoder level {level}, {half}, from a pass over the input "
                f"frames, got none; run that pass first, or set {setting('spatial')} to 0."
            )
        return self._units[level, conditional]


class CorrespondenceFeatures:
    """A feature guidance: features of a batch, made to move with its frames and to keep the input's likenesses.

    Each call minimises `FeatureObjective` anew, gives mean and spread of every frame and channel back, and, with a
    foreground, carries the background from frame to frame (`smoothing`). What has nothing to gain stays bit for bit.

    Args:
        motion: of the frames of the batch, in the order of its rows, at their full size.
        reference: what a pass over the input frames left in a `FeatureCapture`; None if `spatial` is 0.
        steps: how many the sampling has.
        foreground: (N, 1, H, W) in [0, 1]; None carries no background.
    """

    name = "correspondence features"

    def __init__(
        self,
        motion: BatchMotion,
        reference: FeatureCapture | None,
        settings: FeatureSettings = FeatureSettings(),  # frozen
        *,
        steps: int,
        foreground: torch.Tensor | None = None,
    ):
        if settings.spatial and reference is None:
            raise InputError(
                f"reference: expected the features of a pass over the input frames, got none; set {setting('spatial')} "
                "to 0 to do without."
            )
        if foreground is not None and len(foreground) != len(motion):
            raise ShapeError(f"foreground: expected a mask for each of {len(motion)} frames, got {len(foreground)}.")
        self.motion, self.reference, self.settings = motion, reference, settings
        self._last = math.floor(settings.until * steps + 1e-9)
        self._background = None if foreground is None else background_of(foreground)
        self._sizes: dict[tuple[int, int], tuple[BatchMotion, tuple[PairReading, ...]]] = {}

    def acts(self, level: int, step: int) -> bool:
        """See `FeatureGuidance`."""
        return level in self.settings.levels and step < self._last

    @torch.no_grad()
    def guide(self, now: Pass, level: int, features: torch.Tensor) -> torch.Tensor:
        """See `FeatureGuidance`. Raises: ShapeError when the rows are not the frames of the motion; InputError."""
        if len(features) != len(self.motion):
            raise ShapeError(
                f"features: expected a row for each of {len(self.motion)} frames of the motion, got {len(features)}."
            )
        size_hw = (features.shape[-2], features.shape[-1])
        tables = as_tables(features)
        if size_hw not in self._sizes:
            motion = self.motion.at(size_hw)
            self._sizes[size_hw] = motion, read_pairs(motion, tables)
        motion, pairs = self._sizes[size_hw]
        settings = self.settings
        units = None
        if settings.spatial and self.reference is not None:
            units = self.reference.units(level, now.conditional).to(tables)
        objective = FeatureObjective(pairs, units, temporal=settings.temporal, spatial=settings.spatial)
        if descend(tables, objective, iterations=settings.iterations, rate=settings.rate):
            features = _with_spread_of(features, tables)
        if self._background is not None:
            features = smooth_features(features, motion, self._background)
        return features


def _with_spread_of(features: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    """Tables (N, h w, C) as features (N, C, h, w), with mean and spread of each frame and channel of `features`."""
    changed = torch.empty(features.shape, dtype=tables.dtype, device=tables.device)
    for frame, table, out in zip(features, tables, changed, strict=True):
        spread, mean = torch.var_mean(frame.to(table).flatten(1), 1, correction=0)
        of_table, middle = torch.var_mean(table, 0, correction=0)
        scale = ((spread + _EPSILON) / (of_table + _EPSILON)).sqrt()
        out.flatten(1).copy_(((table - middle) * scale + mean).T)
    return changed.to(features.dtype)
