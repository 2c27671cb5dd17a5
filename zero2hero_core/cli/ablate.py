"""`zero2hero ablate`: the paper's ablations of Hero-Stage on rendered clips, where every frame's truth is known."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checks import InputError
from ..files.json_file import write_json
from . import bench as cli_bench
from . import console as cli_shared
from .dataset import ALL_EDITS
from .options import whole

if TYPE_CHECKING:
    from ..evaluation.quality.suites import Table

TABLES = {3: "pairs", 4: "initial"}  # of the paper -> of the suite "full" of `zero2hero bench quality`
BASELINES = ("Original", "Pixel swap", "Optical flow (DIS)", "Cross-image attention", "Zero-Stage")
EXAMPLES = """\
Table 3: which pairs are trained on (explicit, implicit, zero-ref, tgt-ref). Table 4: what Hero-Stage starts from
(pixel swap, Zero-Stage), at half the steps and at all. What needs no training stands below them. Finished runs are kept
in --out and not done again, also when `zero2hero bench quality --work DIR` asks for them.

examples:
  zero2hero ablate --table 3 --out ablation
  zero2hero ablate --table 3 --out ablation --edits retexture --seeds 1
  zero2hero ablate --table 4 --out ablation --clips 2 --seeds 1 --frames 0 5 10 15
"""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "ablate",
        help="the paper's ablations of Hero-Stage on rendered clips",
        description="Train and measure Hero-Stage in the variants of the paper's Tables 3 and 4 on held-out rendered "
        "clips, with the bundled tiny models.",
        epilog=EXAMPLES,
    )
    parser.add_argument("--table", type=int, choices=tuple(TABLES), required=True, help="table of the paper")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the table and the runs")
    parser.add_argument("--clips", type=whole(1), default=5, metavar="N", help="clips of the split (default: 5)")
    parser.add_argument("--split", choices=("validation", "test"), default="test", help="which clips (default: test)")
    parser.add_argument("--edits", nargs="+", choices=ALL_EDITS, help="clips of these kinds of edits only")
    parser.add_argument(
        "--seeds", type=whole(1), default=3, metavar="N", help="trainings per clip and variant (default: 3)"
    )
    parser.add_argument(
        "--frames", type=whole(0, 15), nargs="+", metavar="N", help="frames to measure (default: all sixteen)"
    )
    parser.add_argument("--modes", nargs="+", metavar="M", help="some of the variants (default: all of the table)")
    parser.add_argument("--jobs", type=whole(1), default=2, metavar="N", help="runs at a time (default: 2)")
    cli_shared.add_common(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Do the ablation; returns the table."""
    from ..files.lock import locked_folder

    with locked_folder(args.out, "zero2hero ablate"):
        return _run(args)


def _run(args: argparse.Namespace) -> dict[str, Any]:
    from ..evaluation.page.report import table_text
    from ..evaluation.quality.suites import SUITES

    started = time.perf_counter()
    suite = SUITES["full"]
    tables = {table.name: table for table in suite.tables}
    trained = _chosen(tables[TABLES[args.table]], args)
    cli_shared.output_folder(args.out, True, ())
    plain = replace(trained, name="baselines", rows=_baselines(), base="Zero-Stage", seeds=1)
    _, _, (made, beside) = cli_bench.run_tables(args, suite, [trained, plain], args.out)
    report = {
        "command": "ablate",
        "table": args.table,
        "split": args.split,
        "edits": args.edits,
        **made,
        "baselines": beside["rows"],
        "seconds": {"total": round(time.perf_counter() - started, 1)},
    }
    write_json(args.out / f"table{args.table}.json", report)
    cli_shared.say(args, table_text(made))
    cli_shared.say(args, table_text(beside | {"title": "Without training"}))
    return report


def _chosen(table: Table, args: argparse.Namespace) -> Table:
    """The table as it was asked for; the row that others are compared with is always in it."""
    from ..evaluation.quality.suites import TEST, VALIDATION

    if unknown := [name for name in args.modes or () if name not in table.rows]:
        raise InputError(f"--modes: expected some of {', '.join(table.rows)}, got {unknown[0]}.")
    rows = {row: spec for row, spec in table.rows.items() if row in (args.modes or table.rows) or row == table.base}
    frames = tuple(sorted(set(args.frames))) if args.frames else None
    tasks = TEST if args.split == "test" else VALIDATION
    given = {"tasks": tasks, "edits": tuple(args.edits or ()), "clips": args.clips, "seeds": args.seeds}
    return replace(table, rows=rows, frames=frames, **given)


def _baselines() -> dict[str, Any]:
    from ..evaluation.quality.suites import METHOD_ROWS

    return {label: METHOD_ROWS[label] for label in BASELINES}
