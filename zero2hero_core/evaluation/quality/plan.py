"""From tables to runs and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...checks import InputError
from ...files.json_file import finite
from ..dataset.task import find_tasks, read_info
from .learned import LEARNED, why_not
from .runner import Work
from .statistics import Runs, summary
from .suites import Table
from .tasks import own_task
from .tools import why_unavailable

Plan = dict[str, list[list[Work]]]  # row -> clip -> seed


def plan(table: Table, tasks: Path, amt: Path | None = None) -> Plan:
    """The runs that a table needs, without rows that this machine cannot run and learned measures that it cannot take.

    Args: amt: see `learned.Networks`.
    Raises: InputError when there are too few tasks of that name.
    """
    if table.videos:
        folders = [tasks / own_task(video) for video in table.videos]
    else:
        folders = [folder for folder in find_tasks(tasks) if folder.name.startswith(table.tasks)]
        folders = [folder for folder in folders if not table.edits or read_info(folder).appearance in table.edits]
    if len(folders) < table.clips:
        kind = f" with the edit {' or '.join(table.edits)}" if table.edits else ""
        raise InputError(f"{tasks}: expected {table.clips} tasks named {table.tasks}...{kind}, got {len(folders)}.")
    learned = tuple(name for name in table.measures if name in LEARNED and not why_not(name, amt))
    return {
        label: [
            [Work(folder, replace(spec, seed=seed), table.frames, learned) for seed in range(table.seeds)]
            for folder in folders[: table.clips]
        ]
        for label, spec in table.rows.items()
        if not why_unavailable(spec)
    }


def name_of(work: Work) -> str:
    """Equal for equal runs."""
    return json.dumps([str(work.task), work.spec.described(), work.frames])


def unique(plans: dict[str, Plan]) -> list[Work]:
    """All runs of some tables, each once, with the learned measures of all its tables."""
    every = [work for rows in plans.values() for clips in rows.values() for seeds in clips for work in seeds]
    by_name: dict[str, Work] = {}
    for work in every:
        twin = by_name.setdefault(name_of(work), work)
        by_name[name_of(work)] = replace(work, learned=tuple(dict.fromkeys(twin.learned + work.learned)))
    return list(by_name.values())


def fill_table(
    table: Table, rows: Plan, outcomes: dict[str, dict[str, Any]], amt: Path | None = None
) -> dict[str, Any]:
    """The table with its figures, for JSON. amt: see `learned.Networks`."""
    runs: dict[str, Runs] = {
        label: [[outcomes[name_of(work)] for work in seeds] for seeds in clips] for label, clips in rows.items()
    }
    every = [run for clips in runs.values() for seeds in clips for run in seeds]
    figures: dict[str, Any] = {
        "name": table.name,
        "title": table.title,
        "question": table.question,
        "base": table.base,
        "clips": [clip[0]["name"] for clip in next(iter(runs.values()))],
        "options": list(table.options),
        "frames": table.frames,
        "seeds": table.seeds,
        "measures": list(table.measures),
        "commits": sorted({run["commit"] for run in every}),
        "rows": {
            label: {
                "method": table.rows[label].described()[:2],
                "values": summary(clips, runs.get(table.base, clips), table.measures),
                "seconds a frame": [_seconds(clip) for clip in clips],
                "by frame": _by_frame(clips, table.measures[0]),
                "curve": _curve(clips),
            }
            for label, clips in runs.items()
        },
        "not measured": {label: why_unavailable(spec) for label, spec in table.rows.items() if label not in rows},
        "columns not measured": _unmeasured(table, every, amt),
    }
    return dict(finite(figures))


def _unmeasured(table: Table, runs: Sequence[dict[str, Any]], amt: Path | None) -> dict[str, str]:
    """Learned measures that runs lack, for they cannot be taken here, and why."""
    lacking = [name for name in table.measures if any(name not in run["values"] for run in runs)]
    return {name: why for name in lacking if name in LEARNED and (why := why_not(name, amt))}


def _seconds(seeds: list[dict[str, Any]]) -> float:
    """Mean seconds a frame of one clip."""
    each: list[float] = [run["seconds"]["total"] / len(run["key"]["frames"]) for run in seeds]
    return sum(each) / len(each)


def _by_frame(runs: Runs, measure: str) -> dict[str, float]:
    """Mean of a measure by distance from the anchor, over the clips that are long enough."""
    by_distance: dict[str, list[float]] = {}
    for run in (run for clip in runs for run in clip):
        for frame, value in run["values"].get(measure, {}).items():
            by_distance.setdefault(str(int(frame) - run["anchor"]), []).append(value)
    return {distance: sum(values) / len(values) for distance, values in by_distance.items()}


def _curve(runs: Runs) -> dict[str, float]:
    """Mean PSNR by training step, where it was taken."""
    every = [run["curve"] for clip in runs for run in clip]
    return {step: sum(sum(one[step]) / len(one[step]) for one in every) / len(every) for step in every[0]}
