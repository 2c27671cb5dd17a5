"""`zero2hero ablate`: the paper's ablations of Hero-Stage on rendered clips, where every frame's truth is known."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import cli_shared
from .cli_options import whole
from .json_file import write_json

if TYPE_CHECKING:
    from .tiny.evaluate_hero import Study

EXAMPLES = """\
Table 3: which pairs are trained on (explicit, implicit, zero-ref, tgt-ref). Table 4: what Hero-Stage starts from
(pixel swap, Zero-Stage), at half the steps and at all. Finished trainings are kept in --out and not done again.

examples:
  zero2hero ablate --table 3 --out ablation --clips 5 --seeds 3
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
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the table and the cache")
    parser.add_argument("--clips", type=whole(1), default=5, metavar="N", help="clips of the split")
    parser.add_argument("--first", type=whole(0), default=0, metavar="N", help="index of the first clip")
    parser.add_argument("--split", choices=("validation", "test"), default="test", help="which clips")
    parser.add_argument("--seeds", type=whole(1), default=3, metavar="N", help="trainings per clip and variant")
    parser.add_argument(
        "--frames", type=whole(0, 15), nargs="+", metavar="N", help="frames to measure (default: all sixteen)"
    )
    parser.add_argument("--modes", nargs="+", metavar="M", help="some of the variants (default: all of the table)")
    parser.add_argument("--train-steps", type=whole(1), metavar="N", help="(default: the tiny DiT's recommendation)")
    parser.add_argument("--sample-steps", type=whole(1), metavar="N", help="(default: the tiny DiT's recommendation)")
    parser.add_argument("--dit", type=Path, metavar="DIR", help="folder of another tiny DiT")
    cli_shared.add_common(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Do the ablation; returns the table."""
    from .backbones.dit_restore import RestoreSettings
    from .checks import InputError
    from .hero_training import HeroSettings
    from .tiny.dit import load_tiny_dit
    from .tiny.evaluate_hero import TABLES, Study
    from .tiny.model import load_tiny

    started = time.perf_counter()
    variants = TABLES[args.table]
    if unknown := [name for name in args.modes or () if name not in variants]:
        raise InputError(f"--modes: expected some of {', '.join(variants)}, got {unknown[0]}.")
    backbone = load_tiny_dit(args.dit)
    advice = backbone.recommended
    settings = HeroSettings.suited(advice, **({"steps": args.train_steps} if args.train_steps else {}))
    restore = RestoreSettings.suited(
        advice, **({"num_inference_steps": args.sample_steps} if args.sample_steps else {})
    )
    study = Study(backbone, load_tiny, args.out, settings, restore, args.split, tuple(args.frames or range(16)))
    names = args.modes or list(variants)
    clips = range(args.first, args.first + args.clips)
    with cli_shared.progress(args) as bar:
        task = bar.add_task("trainings", total=len(names) * args.clips * args.seeds)
        for seed in range(args.seeds):  # the outer loop: a table of all variants stands early
            for clip in clips:
                for name in names:
                    study.measure(clip, name, replace(settings, seed=seed))
                    bar.advance(task)
    report = _report(args, study, names, list(clips)) | {"seconds": {"total": round(time.perf_counter() - started, 1)}}
    write_json(args.out / f"table{args.table}.json", report)
    cli_shared.say(args, table_text(report))
    return report


def _report(args: argparse.Namespace, study: Study, names: Sequence[str], clips: list[int]) -> dict[str, Any]:
    return {
        "command": "ablate",
        "table": args.table,
        "split": args.split,
        "clips": clips,
        "seeds": args.seeds,
        "frames": list(study.frames),
        "train_steps": study.settings.total,
        "sample_steps": study.restore.num_inference_steps,
        "settings": study.described(),
        "rows": study.rows(names, clips, range(args.seeds)),
        "baselines": study.baselines(clips),
        "notes": [
            "PSNR in dB of the whole frame, mean over clips and seeds; average: all frames; others: without the anchor",
            "spread: standard deviation of the clips' means; seeds: of the seeds' means",
        ],
    }


def table_text(report: dict[str, Any]) -> str:
    """The table for people to read."""
    lines = [f"{'':28s} average  others  spread  seeds   anchor    last     gap"]
    for name, row in report["rows"].items():
        gap = row["anchor"] - row["last"]
        lines.append(
            f"{name:28s} {row['average']:7.2f} {row['others']:7.2f} {row['spread']:7.2f} {row['seed_spread']:6.2f} "
            f"{row['anchor']:8.2f} {row['last']:7.2f} {gap:7.2f}"
        )
    for name, row in report["baselines"].items():
        lines.append(f"{name:28s} {'':7s} {row['others']:7.2f} {row['spread']:7.2f} {'':15s} {row['last']:7.2f}")
    return "\n".join(lines)
