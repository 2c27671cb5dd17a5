"""Pictures of a table: what the methods made of its clips, and where one is better than ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...video.labelled_grid import labelled_grid
from ...video.writer import write_image
from .clips import TaskClip, clip_at
from .measures import PER_FRAME
from .plan import Plan, name_of
from .runner import Bench
from .suites import Table

ERROR_GAIN = 4  # errors are shown brighter by this
SIDE = 160


def draw_shots(folder: Path, work: Path, table: Table, rows: Plan, runs: dict[str, dict[str, Any]]) -> list[str]:
    """Where whole clips are compared: write a comparison of all rows on the first clip, and of the row that beats the
    base row in a measure against the truth, if there is one; returns the files' names."""
    if table.frames is not None:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    bench, names = Bench(work), [f"{table.name}.png"]
    write_image(folder / names[0], _comparison(bench, rows), overwrite=True)
    gaps = (_widest_gap(table, rows, runs, measure) for measure in table.measures if measure in PER_FRAME)
    if gap := next(filter(None, gaps), None):
        names.append(f"{table.name}_lost.png")
        write_image(folder / names[1], _lost(bench, rows, table.base, *gap), overwrite=True)
    return names


def _pictures_of(bench: Bench, rows: Plan, label: str, place: int) -> tuple[TaskClip, list[int], torch.Tensor]:
    work = rows[label][place][0]
    clip = clip_at(work.task)
    frames = list(range(len(clip.frames)) if work.frames is None else work.frames)
    return clip, frames, bench.pictures(clip, work.spec, frames)


def _comparison(bench: Bench, rows: Plan) -> torch.Tensor:
    """Frames down, rows of the table across."""
    labels = [label for label in rows if rows[label][0][0].spec.method != "identity"]
    pictures = {label: _pictures_of(bench, rows, label, 0) for label in labels}
    clip, frames, _ = pictures[labels[0]]
    indices = [frames[round(share * (len(frames) - 1))] for share in (0, 0.33, 0.67, 1)]
    columns = ["original", *(["truth"] if len(clip.truth) > 1 else ["reference"]), *labels]
    lines = [
        [clip.frames[index], clip.truth.get(index, clip.reference), *(pictures[label][2][index] for label in labels)]
        for index in indices
    ]
    return labelled_grid(
        [[_small(picture) for picture in line] for line in lines], columns, [f"frame {index}" for index in indices]
    )


def _small(picture: torch.Tensor) -> torch.Tensor:
    """At most `SIDE` pixels high: a page of results need not weigh more than the models."""
    height, width = picture.shape[-2:]
    share = min(1.0, SIDE / height)
    size = (round(height * share), round(width * share))
    return torch.nn.functional.interpolate(picture[None], size, mode="bilinear", antialias=True, align_corners=False)[0]


def _widest_gap(table: Table, rows: Plan, runs: dict[str, dict[str, Any]], measure: str) -> tuple[str, int, int] | None:
    """The row that beats the base row by most on average: its label, and the clip and frame of its widest lead."""

    def values(label: str, place: int) -> dict[str, float]:
        known = runs[name_of(rows[label][place][0])]["values"].get(measure, {})
        anchor = clip_at(rows[label][place][0].task).anchor
        return {frame: value for frame, value in known.items() if int(frame) != anchor and value == value}

    leads = {}
    for label in rows:
        pairs = [
            (value - values(table.base, place)[frame], place, int(frame))
            for place in range(len(rows[label]))
            for frame, value in values(label, place).items()
        ]
        if label != table.base and pairs and sum(pair[0] for pair in pairs) > 0:
            leads[label] = (sum(pair[0] for pair in pairs), max(pairs))
    if not leads:
        return None
    label = max(leads, key=lambda one: leads[one][0])
    _, place, frame = leads[label][1]
    return label, place, frame


def _lost(bench: Bench, rows: Plan, base: str, label: str, place: int, frame: int) -> torch.Tensor:
    """Original, truth, both results, both errors."""
    clip, frames, ours = _pictures_of(bench, rows, base, place)
    theirs = _pictures_of(bench, rows, label, place)[2]
    truth, at = clip.truth[frame], frames.index(frame)
    pictures = [clip.frames[frame], truth, ours[at], theirs[at]]
    errors = [((picture - truth).abs() * ERROR_GAIN).clamp(0, 1) for picture in pictures[2:]]
    columns = ["original", "truth", base, label, f"error x {ERROR_GAIN}", f"error x {ERROR_GAIN}"]
    return labelled_grid([[*pictures, *errors]], columns, [f"frame {frame}"])
