"""Means and spreads of a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .measures import VBENCH

Runs = list[list[dict[str, Any]]]  # one clip after the other, one seed after the other


def clip_means(runs: Runs, measure: str) -> list[list[float]]:
    """The mean of a measure over frames other than the anchor, for each clip and seed; nan where it was not taken.

    VBench's value of a clip is the mean of all.
    """
    whole = measure in VBENCH

    def mean(run: dict[str, Any]) -> float:
        known = run["values"].get(measure, {}).items()
        values = [value for frame, value in known if (whole or int(frame) != run["anchor"]) and value == value]
        return sum(values) / len(values) if values else math.nan

    return [[mean(run) for run in clip] for clip in runs]


def spread(values: Sequence[float]) -> float:
    """Standard deviation (n - 1); nan of fewer than two values."""
    if len(values) < 2:
        return math.nan
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def summary(runs: Runs, base: Runs, measures: Sequence[str]) -> dict[str, Any]:
    """For each measure: mean, spread over clips, over seeds, and the difference to the base row clip by clip."""
    found: dict[str, Any] = {}
    for measure in measures:
        values, others = clip_means(runs, measure), clip_means(base, measure)
        by_clip = [sum(row) / len(row) for row in values]
        by_base = [sum(row) / len(row) for row in others]
        by_seed = [sum(row) / len(row) for row in zip(*values, strict=True)]
        apart = [a - b for a, b in zip(by_clip, by_base, strict=True)]
        found[measure] = {
            "mean": sum(by_clip) / len(by_clip),
            "spread": spread(by_clip),
            "seeds": spread(by_seed),
            "difference": sum(apart) / len(apart),
            "difference spread": spread(apart),
            "clips": by_clip,
        }
    return found
