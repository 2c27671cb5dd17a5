"""The paper's ablations of Hero-Stage on rendered clips, where every frame's truth is known."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..checks import InputError, setting
from ..files.json_file import write_json
from ..files.lock import locked_folder
from ..jobs.listener import Listener
from .page.report import table_text
from .quality.suites import METHOD_ROWS, SUITES, TEST, VALIDATION, Table
from .quality.tables import run_tables

TABLES = {3: "pairs", 4: "initial"}  # of the paper -> of the suite "full"
BASELINES = ("Original", "Pixel swap", "Optical flow (DIS)", "Cross-image attention", "Zero-Stage")


@dataclass(frozen=True)
class AblationRequest:
    """table: of the paper, one of `TABLES`. out: folder for the table and the runs. clips: of a split, of these edits
    only; seeds: trainings per clip and variant; frames: to measure, all when empty; modes: some of the variants, all
    when empty; jobs: runs at a time."""

    table: int
    out: Path
    clips: int = 5
    split: str = "test"
    edits: tuple[str, ...] | None = None
    seeds: int = 3
    frames: tuple[int, ...] = ()
    modes: tuple[str, ...] = ()
    jobs: int = 2


def make_ablation(request: AblationRequest, listener: Listener) -> dict[str, Any]:
    """Train and measure the variants of a table, and what needs no training beside them.

    Returns: the report, which is written to out/tableN.json too.
    Raises: InputError for modes that there are not.
    """
    with locked_folder(request.out, "zero2hero ablate"):
        started = time.perf_counter()
        suite = SUITES["full"]
        tables = {table.name: table for table in suite.tables}
        trained = _choose(tables[TABLES[request.table]], request)
        baselines = {label: METHOD_ROWS[label] for label in BASELINES}
        plain = replace(trained, name="baselines", rows=baselines, base="Zero-Stage", seeds=1)
        figures, beside = run_tables(suite, [trained, plain], request.out, request.jobs, listener).tables
        report = {
            "command": "ablate",
            "table": request.table,
            "split": request.split,
            "edits": None if request.edits is None else list(request.edits),
            **figures,
            "baselines": beside["rows"],
            "seconds": {"total": round(time.perf_counter() - started, 1)},
        }
        write_json(request.out / f"table{request.table}.json", report)
        listener.say(table_text(figures))
        listener.say(table_text(beside | {"title": "Without training"}))
        return report


def _choose(table: Table, request: AblationRequest) -> Table:
    """The table as it was asked for; the row that others are compared with is always in it."""
    if unknown := [name for name in request.modes if name not in table.rows]:
        raise InputError(f"{setting('modes')}: expected some of {', '.join(table.rows)}, got {unknown[0]}.")
    labels = request.modes or tuple(table.rows)
    return replace(
        table,
        rows={label: spec for label, spec in table.rows.items() if label in labels or label == table.base},
        frames=tuple(sorted(set(request.frames))) or None,
        tasks=TEST if request.split == "test" else VALIDATION,
        edits=request.edits or (),
        clips=request.clips,
        seeds=request.seeds,
    )
