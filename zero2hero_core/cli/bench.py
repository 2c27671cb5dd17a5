"""`zero2hero bench quality`: the project's figures, made by one command."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checks import InputError
from . import bench_speed as cli_bench_speed
from . import console as cli_shared
from . import dataset as cli_dataset
from .options import Parser, whole

if TYPE_CHECKING:
    from ..evaluation.quality.plan import Plan
    from ..evaluation.quality.suites import Suite, Table

RESULTS, PICTURES = "RESULTS.md", "pictures"
EXAMPLES = """\
Tasks, pictures and figures of single runs are kept in --work: what is there is not done again, so an interrupted run
goes on. Tables and plots go to --out.

examples:
  zero2hero bench quality --work runs/bench --out benchmarks
  zero2hero bench quality --work runs/bench --out benchmarks --tables k features
  zero2hero bench quality --suite full --work runs/bench --out benchmarks --jobs 8
"""


def add_parser(subparsers: Any) -> None:
    """Register the commands."""
    parser = subparsers.add_parser(
        "bench",
        help="make the project's tables and plots again",
        description="Quality on tasks with a known answer, speed, and memory of training; together they make one page.",
        epilog=EXAMPLES,
    )
    commands = parser.add_subparsers(dest="bench_command", required=True, metavar="quality|speed|memory")
    quality = commands.add_parser("quality", help="methods and ablations against the truth", epilog=EXAMPLES)
    quality.add_argument("--suite", choices=("small", "full"), default="small", help="how much (default: small)")
    quality.add_argument("--work", type=Path, required=True, metavar="DIR", help="folder of what is kept")
    quality.add_argument("--out", type=Path, required=True, metavar="DIR", help=f"folder for {RESULTS} and its figures")
    quality.add_argument(
        "--own-clips",
        nargs="+",
        metavar="V",
        help="videos to turn grey and back to colour, as a further table; their pictures stay in --work",
    )
    quality.add_argument(
        "--blender",
        metavar="PYTHON",
        help="a Python that has bpy, Blender as a module: objects that it renders, as a further table",
    )
    quality.add_argument("--tables", nargs="+", metavar="T", help="some of the tables (default: all)")
    quality.add_argument("--clips", type=whole(1), metavar="N", help="at most so many clips a table (default: all)")
    quality.add_argument("--seeds", type=whole(1), metavar="N", help="at most so many seeds (default: all)")
    quality.add_argument("--rows", nargs="+", metavar="R", help="some of their rows (default: all), only printed")
    quality.add_argument(
        "--jobs", type=whole(1), default=2, metavar="N", help="runs at a time, a thread each (default: 2)"
    )
    quality.add_argument(
        "--amt",
        type=Path,
        metavar="DIR",
        help="checkout of github.com/MCG-NKU/AMT (not for commercial use), to measure motion smoothness",
    )
    cli_shared.add_common(quality)
    quality.set_defaults(func=run_quality)
    cli_bench_speed.add_parsers(commands)


def run_quality(args: argparse.Namespace) -> dict[str, Any]:
    """Run a suite, write its tables; returns the report."""
    from ..files.lock import locked_folder

    with locked_folder(args.out, "zero2hero bench quality"), locked_folder(args.work, "zero2hero bench quality"):
        return _run_quality(args)


def _run_quality(args: argparse.Namespace) -> dict[str, Any]:
    from ..evaluation.page.report import table_text, unmeasured
    from ..evaluation.quality.suites import SUITES
    from ..evaluation.quality.tasks import blender_clips, own_clips

    started = time.perf_counter()
    cli_shared.output_folder(args.out, True, ())
    suite = SUITES[args.suite]
    if args.own_clips:
        suite = replace(suite, tables=(*suite.tables, own_clips(args.own_clips)))
    if args.blender:
        suite = replace(suite, tables=(*suite.tables, blender_clips(suite)))
    tables = _chosen(suite, args)
    _check_amt(tables, args.amt)
    plans, found, shown = run_tables(args, suite, tables, args.work, blender=args.blender, amt=args.amt)
    report: dict[str, Any] = {
        "command": "bench quality",
        "suite": suite.name,
        "tables": shown,
        "seconds": {"total": round(time.perf_counter() - started, 1)},
    }
    for table in report["tables"]:
        cli_shared.say(args, table_text(table))
    if said := unmeasured(report["tables"]):
        cli_shared.say(args, f"\n{said}")
    if not args.rows:
        _write(args, tables, plans, found, report)
    return report


def run_tables(
    args: argparse.Namespace,
    suite: Suite,
    tables: Sequence[Table],
    work: Path,
    *,
    blender: str | None = None,
    amt: Path | None = None,
) -> tuple[dict[str, Plan], dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """Make the clips of some tables in the folder `work`, do all runs that are not kept there, args.jobs at a time.

    Args: blender, amt: see the options.
    Returns: the tables' plans by their names, all runs by `name_of`, and the tables with their figures.
    """
    from ..evaluation.quality.plan import filled, name_of, plan, unique
    from ..evaluation.quality.runner import run_all
    from ..evaluation.quality.tasks import task_commands
    from ..files.guard import Results, remove_leftovers

    kept = (("runs", r"[0-9a-f]+\.json"), ("pictures", r"[0-9a-f]+\.safetensors"))
    remove_leftovers(work, Results(series=kept))
    _make_tasks(task_commands(suite, tables, work / "tasks", blender), work / "tasks")
    plans = {table.name: plan(table, work / "tasks", amt) for table in tables}
    wanted = unique(plans)
    with cli_shared.progress(args) as bar:
        task = bar.add_task("runs", total=len(wanted))
        done = run_all(work, wanted, args.jobs, lambda: bar.advance(task), amt)
    found = {name_of(one): result for one, result in zip(wanted, done, strict=True)}
    return plans, found, [filled(table, plans[table.name], found, amt) for table in tables]


def _write(
    args: argparse.Namespace,
    tables: Sequence[Table],
    plans: Mapping[str, Plan],
    found: dict[str, dict[str, Any]],
    report: dict[str, Any],
) -> None:
    """Pictures, tables and the page."""
    from ..evaluation.page.report import write_results
    from ..evaluation.quality.shots import draw_shots
    from ..evaluation.quality.tasks import OWN

    for one, shown in zip(tables, report["tables"], strict=True):
        own = one.name == OWN  # somebody's footage stays where it is
        place = (args.work if own else args.out) / PICTURES / report["suite"]
        names = draw_shots(place, args.work, one, plans[one.name], found)
        shown["pictures"] = [] if own else [f"{PICTURES}/{report['suite']}/{name}" for name in names]
    for name in write_results(args.out, report):
        cli_shared.warn(f"table {name}: {args.out} holds one of more clips or seeds, which stays")


def _chosen(suite: Suite, args: argparse.Namespace) -> list[Table]:
    """Tables and rows that were asked for; the row that others are compared with is always among them."""
    known = {table.name: table for table in suite.tables}
    if unknown := [name for name in args.tables or () if name not in known]:
        raise InputError(f"--tables: expected some of {', '.join(known)}, got {unknown[0]}.")
    chosen = [
        replace(
            known[name],
            clips=min(known[name].clips, args.clips or known[name].clips),
            seeds=min(known[name].seeds, args.seeds or known[name].seeds),
        )
        for name in args.tables or known
    ]
    if not args.rows:
        return chosen
    names = {row for table in chosen for row in table.rows}
    if unknown := [name for name in args.rows if name not in names]:
        raise InputError(f"--rows: expected some of {', '.join(sorted(names))}, got {unknown[0]}.")
    kept = [
        replace(table, rows={row: spec for row, spec in table.rows.items() if row in args.rows or row == table.base})
        for table in chosen
    ]
    return [table for table in kept if set(table.rows) & set(args.rows)]


def _check_amt(tables: Sequence[Table], amt: Path | None) -> None:
    """Who names a checkout wants motion smoothness: say at once why it cannot be had."""
    from ..evaluation.quality.learned import why_not

    measure = "motion smoothness"
    if amt is not None and any(measure in table.measures for table in tables) and (why := why_not(measure, amt)):
        raise InputError(f"--amt: {why}")


def _make_tasks(commands: Sequence[Sequence[str]], folder: Path) -> None:
    """Make the tasks that are not there yet, by the public command."""
    parser = Parser("zero2hero")
    cli_dataset.add_parser(parser.add_subparsers(parser_class=Parser))
    for words in commands:
        made = parser.parse_args(["dataset", *words, "--out", str(folder), "--resume", "--quiet"])
        made.func(made)
