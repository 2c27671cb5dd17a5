"""Means and spreads of a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .measures import PLACES, VBENCH

Runs = list[list[dict[str, Any]]]  # one clip after the other, one seed after the other


def clip_means(runs: Runs, measure: str) -> list[list[float]]:
    """The mean of a measure over frames other than the anchor, for each clip and seed; nan where it was not taken.

    VBench's value of a clip is the mean of all; `PLACES` are of single frames.
    """
    whole = measure in VBENCH

    def mean(run: dict[str, Any]) -> float:
        if measure in PLACES:
            return _at_places(run, measure)
        known = run["values"].get(measure, {}).items()
        values = [value for frame, value in known if (whole or int(frame) != run["anchor"]) and value == value]
        return sum(values) / len(values) if values else math.nan

    return [[mean(run) for run in clip] for clip in runs]


def _at_places(run: dict[str, Any], measure: str) -> float:
    """PSNR of the anchor, of the last frame, or their difference; nan where one is missing or no number."""
    by_frame = {int(frame): value for frame, value in run["values"].get("psnr", {}).items()}
    anchor, last = (by_frame.get(frame, math.nan) for frame in (run["anchor"], max(by_frame, default=0)))
    value = {"psnr anchor": anchor, "psnr last": last, "anchor - last": anchor - last}[measure]
    return value if math.isfinite(value) else math.nan


def spread(values: Sequence[float]) -> float:
    """Standard deviation (n - 1); nan of fewer than two values."""
    if len(values) < 2:
        return math.nan
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def summary(runs: Runs, base: Runs, measures: Sequence[str]) -> dict[str, Any]:
    """For each measure: mean, spread over clips, over seeds, and the difference to the base row clip by clip."""
    figures: dict[str, Any] = {}
    for measure in measures:
        values, others = clip_means(runs, measure), clip_means(base, measure)
        by_clip = [sum(row) / len(row) for row in values]
        by_base = [sum(row) / len(row) for row in others]
        by_seed = [sum(row) / len(row) for row in zip(*values, strict=True)]
        apart = [a - b for a, b in zip(by_clip, by_base, strict=True)]
        figures[measure] = {
            "mean": sum(by_clip) / len(by_clip),
            "spread": spread(by_clip),
            "seeds": spread(by_seed),
            "difference": sum(apart) / len(apart),
            "difference spread": spread(apart),
            "clips": by_clip,
        }
    return figures
