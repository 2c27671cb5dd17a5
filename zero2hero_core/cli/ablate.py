"""`zero2hero ablate`: the paper's ablations of Hero-Stage on rendered clips, where every frame's truth is known."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..evaluation.dataset.requests import ALL_EDITS
from .console import ConsoleListener, add_common
from .options import whole

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
    parser.add_argument("--table", type=int, choices=(3, 4), required=True, help="table of the paper")
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
    add_common(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Do the ablation; returns the table."""
    from ..evaluation.ablation import AblationRequest, make_ablation

    request = AblationRequest(
        args.table,
        args.out,
        args.clips,
        args.split,
        None if args.edits is None else tuple(args.edits),
        args.seeds,
        tuple(args.frames or ()),
        tuple(args.modes or ()),
        args.jobs,
    )
    with ConsoleListener(args) as console:
        return make_ablation(request, console)
