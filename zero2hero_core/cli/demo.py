"""`zero2hero demo`: the whole method on a rendered clip with the bundled models, beside its baselines and the truth."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..checks import InputError
from ..files.guard import Results
from . import console as cli_shared

EXAMPLE = "example:\n  zero2hero demo --out demo\n  zero2hero demo --out demo7 --seed 7 --frames 8"
SIZES = (64, 1024)


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "demo",
        help="render a clip, edit its first frame, carry the edit through the clip with the bundled tiny models",
        description="Render a clip, take its first frame's second appearance as the edit, run Zero-Stage on all "
        "frames, train Hero-Stage on the edited frame and restore the clip, with the bundled tiny models; compare with "
        "baselines and the truth. Needs no download and no GPU.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for edited.mp4, compare.png, matches.png, report.json"
    )
    parser.add_argument("--frames", type=int, default=16, help="frames of the clip (default: 16)")
    parser.add_argument(
        "--size", type=int, default=256, help="side of the square frames, pixels, a multiple of 64 (default: 256)"
    )
    parser.add_argument("--seed", type=int, default=0, help="which clip of the test range (default: 0)")
    parser.add_argument("--steps", type=int, default=20, help="DDIM steps of Zero-Stage (default: 20)")
    parser.add_argument("--train-steps", type=int, default=None, help="steps of Hero-Stage (default: the model's 150)")
    cli_shared.add_common(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace the results of an earlier run in --out")
    parser.set_defaults(func=run, results=results)


def results(args: argparse.Namespace) -> Results:
    """What the command writes in --out."""
    return Results(("edited.mp4", "compare.png", "matches.png", "report.json"))


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Do the demo; returns the report."""
    if args.frames < 2:
        raise InputError(f"--frames: expected at least 2 (the first one is the anchor), got {args.frames}.")
    if args.train_steps is not None and args.train_steps < 1:
        raise InputError(f"--train-steps: expected at least 1, got {args.train_steps}.")
    if args.size % 64 or not SIZES[0] <= args.size <= SIZES[1]:
        raise InputError(f"--size: expected a multiple of 64 from {SIZES[0]} to {SIZES[1]}, got {args.size}.")
    from ..evaluation.demo import DemoRequest, make_demo
    from .folder import job_folder

    with job_folder(args, "demo", results(args), empty=False) as out:
        cli_shared.output_folder(args.out, args.overwrite, results(args).files)
        request = DemoRequest(args.seed, args.frames, args.size, args.steps, args.train_steps, args.overwrite)
        with cli_shared.ConsoleListener(args) as console:
            report = make_demo(request, out, console)
            console.say(_summary(report, args.out))
    return report


def _summary(report: dict[str, Any], out: Path) -> str:
    psnr = report["psnr"]
    return (
        f"PSNR inside the object: the result {psnr['mix']:.1f} dB, Hero-Stage {psnr['hero']:.1f}, Zero-Stage "
        f"{psnr['zero']:.1f}, plain cross-image attention {psnr['cia']:.1f}, pixel swap {psnr['pixel_swap']:.1f}, "
        f"unchanged {psnr['identity']:.1f}.\n"
        f"Matches within 5 % of the side: {report['pck']:.1%}.\n"
        f"Look at {out / 'compare.png'} and {out / 'edited.mp4'}."
    )
