"""The project's figures of quality: the tables of a suite, and the page that shows them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..checks import InputError, setting
from ..files.guard import Reading
from ..files.lock import locked_folder
from ..jobs.listener import Listener
from .page.report import join_rows, table_text, unmeasured, write_results
from .quality.learned import why_not
from .quality.shots import draw_shots
from .quality.suites import SUITES, Suite, Table
from .quality.tables import TableRuns, run_tables
from .quality.tasks import OWN, blender_clips, own_clips

COMMAND, PICTURES = "bench quality", "pictures"


@dataclass(frozen=True)
class QualityRequest:
    """What to measure, and where results go.

    work: folder of what is kept; out: of the page and its figures. suite: of `SUITES`. own_clips: videos for a further
    table; blender: a Python that has Blender as a module, for another. tables, rows: some of them, all when empty; with
    `rows` nothing is written, unless they `join` the tables that `out` holds. clips, seeds: at most so many. jobs: runs
    at a time. amt: see `learned.Networks`.
    """

    work: Path
    out: Path
    suite: str = "small"
    own_clips: tuple[str, ...] = ()
    blender: str | None = None
    tables: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    clips: int | None = None
    seeds: int | None = None
    jobs: int = 2
    amt: Path | None = None
    join: bool = False

    def __post_init__(self) -> None:
        if self.join and not self.rows:
            raise InputError(f"{setting('join')}: puts single rows into tables; give {setting('rows')}.")


def make_quality(request: QualityRequest, listener: Listener, readings: Sequence[Reading] = ()) -> dict[str, Any]:
    """Run a suite, write its tables.

    Args: readings: what the request reads, which no task may replace.
    Returns: the report.
    Raises: InputError for tables or rows that there are not.
    """
    command = f"zero2hero {COMMAND}"
    with locked_folder(request.out, command), locked_folder(request.work, command):
        started = time.perf_counter()
        suite = _suite(request)
        tables = _choose(suite, request)
        _check_amt(tables, request.amt)
        runs = run_tables(
            suite,
            tables,
            request.work,
            request.jobs,
            listener,
            blender=request.blender,
            amt=request.amt,
            readings=readings,
        )
        report: dict[str, Any] = {
            "command": COMMAND,
            "suite": suite.name,
            "tables": runs.tables,
            "seconds": {"total": round(time.perf_counter() - started, 1)},
        }
        for table in runs.tables:
            listener.say(table_text(table))
        if text := unmeasured(runs.tables):
            listener.say(f"\n{text}")
        if request.join:
            order = {table.name: list(table.rows) for table in suite.tables}
            for name in join_rows(request.out, report, order):
                listener.note(
                    f"table {name}: {request.out} holds none of the same clips and frames; nothing was joined"
                )
        elif not request.rows:
            _write(request, tables, runs, report, listener)
        return report


def _suite(request: QualityRequest) -> Suite:
    suite = SUITES[request.suite]
    if request.own_clips:
        suite = replace(suite, tables=(*suite.tables, own_clips(request.own_clips)))
    if request.blender:
        suite = replace(suite, tables=(*suite.tables, blender_clips(suite)))
    return suite


def _choose(suite: Suite, request: QualityRequest) -> list[Table]:
    """Tables and rows that were asked for; the row that others are compared with is always among them."""
    by_name = {table.name: table for table in suite.tables}
    if unknown := [name for name in request.tables if name not in by_name]:
        raise InputError(f"{setting('tables')}: expected some of {', '.join(by_name)}, got {unknown[0]}.")
    tables = [
        replace(
            by_name[name],
            clips=min(by_name[name].clips, request.clips or by_name[name].clips),
            seeds=min(by_name[name].seeds, request.seeds or by_name[name].seeds),
        )
        for name in request.tables or by_name
    ]
    if not request.rows:
        return tables
    labels = {row for table in tables for row in table.rows}
    if unknown := [name for name in request.rows if name not in labels]:
        raise InputError(f"{setting('rows')}: expected some of {', '.join(sorted(labels))}, got {unknown[0]}.")

    def chosen(table: Table, row: str) -> bool:
        return row in request.rows or (row == table.base and not request.join)

    return [
        replace(table, rows={row: spec for row, spec in table.rows.items() if chosen(table, row)})
        for table in tables
        if set(table.rows) & set(request.rows)
    ]


def _check_amt(tables: Sequence[Table], amt: Path | None) -> None:
    """Who names a checkout wants motion smoothness: say at once why it cannot be had."""
    measure = "motion smoothness"
    if amt is not None and any(measure in table.measures for table in tables) and (why := why_not(measure, amt)):
        raise InputError(f"{setting('amt')}: {why}")


def _write(
    request: QualityRequest, tables: Sequence[Table], runs: TableRuns, report: dict[str, Any], listener: Listener
) -> None:
    """Pictures, tables and the page."""
    for table, figures in zip(tables, runs.tables, strict=True):
        own = table.name == OWN  # somebody's footage stays where it is
        place = (request.work if own else request.out) / PICTURES / report["suite"]
        names = draw_shots(place, request.work, table, runs.plans[table.name], runs.runs)
        figures["pictures"] = [] if own else [f"{PICTURES}/{report['suite']}/{name}" for name in names]
    for name in write_results(request.out, report):
        listener.note(f"table {name}: {request.out} holds one of more clips or seeds, which stays")
