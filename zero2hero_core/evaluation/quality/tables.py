"""Tables with their figures: makes the tasks and the runs that are not kept yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...files.guard import Reading, Results, remove_leftovers
from ...jobs.listener import Listener
from ..dataset_tasks import make_tasks
from . import runner
from .plan import Plan, fill_table, name_of, plan, unique
from .suites import Suite, Table
from .tasks import task_requests

# what is kept in the folder of the work
_RUNS = (("runs", r"[0-9a-f]+\.json"), ("pictures", r"[0-9a-f]+\.safetensors"))


@dataclass(frozen=True)
class TableRuns:
    """plans: of the tables by their names; runs: by `name_of`; tables: with their figures, for JSON."""

    plans: dict[str, Plan]
    runs: dict[str, dict[str, Any]]
    tables: list[dict[str, Any]]


class _NotesAlone(Listener):
    """Hands on notes, and neither progress nor summary."""

    def __init__(self, listener: Listener) -> None:
        super().__init__()
        self._listener = listener

    def note(self, text: str) -> None:
        self._listener.note(text)


def run_tables(
    suite: Suite,
    tables: Sequence[Table],
    work: Path,
    jobs: int,
    listener: Listener,
    *,
    blender: str | None = None,
    amt: Path | None = None,
    readings: Sequence[Reading] = (),
) -> TableRuns:
    """Make the tasks of some tables in the folder `work`, do all runs that are not kept there.

    Args:
        jobs: runs at a time, a CPU thread each.
        blender: a Python that has Blender as a module. amt: see `learned.Networks`.
        readings: what the user named to be read, which no task may replace.
    """
    remove_leftovers(work, Results(series=_RUNS))
    for request in task_requests(suite, tables, work / "tasks", blender):
        make_tasks(request, _NotesAlone(listener), readings)
    plans = {table.name: plan(table, work / "tasks", amt) for table in tables}
    works = unique(plans)
    finished = 0

    def progress() -> None:
        nonlocal finished
        finished += 1
        listener.progress("runs", finished, len(works))

    listener.progress("runs", 0, len(works))
    results = runner.run_all(work, works, jobs, progress, amt)
    runs = {name_of(one): result for one, result in zip(works, results, strict=True)}
    return TableRuns(plans, runs, [fill_table(table, plans[table.name], runs, amt) for table in tables])
