"""`zero2hero bench quality`: the project's figures, made by one command."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from . import bench_speed as cli_bench_speed
from . import console as cli_shared
from .options import whole

EXAMPLES = """\
Tasks, pictures and figures of single runs are kept in --work: what is there is not done again, so an interrupted run
goes on. Tables and plots go to --out.

examples:
  zero2hero bench quality --work runs/bench --out benchmarks
  zero2hero bench quality --work runs/bench --out benchmarks --tables k features
  zero2hero bench quality --suite full --work runs/bench --out benchmarks --jobs 8
"""

FIDELITY = """\
A small autoencoder of Stable Diffusion's class is trained on rendered scenes, some minutes on a CPU, and DIR/RESULTS.md
is written again.

example:
  zero2hero bench fidelity --out benchmarks
"""


def add_parser(subparsers: Any) -> None:
    """Register the commands."""
    parser = subparsers.add_parser(
        "bench",
        help="make the project's tables and plots again",
        description="Quality on tasks with a known answer, speed, and memory of training; together they make one page.",
        epilog=EXAMPLES,
    )
    commands = parser.add_subparsers(dest="bench_command", required=True, metavar="quality|speed|memory|fidelity")
    quality = commands.add_parser("quality", help="methods and ablations against the truth", epilog=EXAMPLES)
    quality.add_argument("--suite", choices=("small", "full"), default="small", help="how much (default: small)")
    quality.add_argument("--work", type=Path, required=True, metavar="DIR", help="folder of what is kept")
    quality.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for RESULTS.md and its figures")
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
        "--join",
        action="store_true",
        help="with --rows: put them into the tables of --out, compared with what is there",
    )
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
    fidelity = commands.add_parser(
        "fidelity", help="what pictures lose in rounds of encoding, plain and faithful", epilog=FIDELITY
    )
    fidelity.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the page and of results")
    fidelity.add_argument("--steps", type=whole(1), default=800, metavar="N", help="of the autoencoder's training")
    fidelity.add_argument("--rounds", type=whole(1), default=20, metavar="N", help="of decoding and encoding")
    fidelity.add_argument("--clips", type=whole(2), default=20, metavar="N", help="held-out pictures")
    fidelity.add_argument("--seed", type=whole(0), default=0, metavar="N", help="of the training")
    cli_shared.add_common(fidelity)
    fidelity.set_defaults(func=run_fidelity)


def run_quality(args: argparse.Namespace) -> dict[str, Any]:
    """Run a suite, write its tables; returns the report."""
    from ..evaluation.bench_quality import QualityRequest, make_quality
    from ..jobs.folder import readings

    request = QualityRequest(
        args.work,
        args.out,
        args.suite,
        own_clips=tuple(args.own_clips or ()),
        blender=args.blender,
        tables=tuple(args.tables or ()),
        rows=tuple(args.rows or ()),
        clips=args.clips,
        seeds=args.seeds,
        jobs=args.jobs,
        amt=args.amt,
        join=args.join,
    )
    with cli_shared.ConsoleListener(args) as console:
        return make_quality(request, console, readings(vars(args)))


def run_fidelity(args: argparse.Namespace) -> dict[str, Any]:
    """Train, measure, write the page; returns the report."""
    from ..evaluation.bench_fidelity import FidelityRequest, make_fidelity

    with cli_shared.ConsoleListener(args) as console:
        return make_fidelity(cli_shared.request_of(FidelityRequest, args), console)
