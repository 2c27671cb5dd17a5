"""`zero2hero tiny train | evaluate`: the recipe of the bundled models and their measures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..checks import InputError
from . import console as cli_shared
from .options import number_list


def add_parser(subparsers: Any) -> None:
    """Register both commands."""
    parser = subparsers.add_parser("tiny", help="train or measure the bundled tiny models")
    commands = parser.add_subparsers(dest="tiny_command", required=True, metavar="train|evaluate")
    train = commands.add_parser("train", help="render scenes and train the tiny models from a seed")
    train.add_argument("--out", type=Path, required=True, help="folder for the weights")
    train.add_argument(
        "--part", choices=("unet", "dit"), default="unet", help="the UNet of Zero-Stage or the DiT of Hero-Stage"
    )
    train.add_argument(
        "--work",
        type=Path,
        default=Path("runs/tiny"),
        help="folder for scenes, resumable state, curve (default: runs/tiny)",
    )
    train.add_argument("--clips", type=int, default=None, help="training clips to render (default: the recipe's)")
    train.add_argument(
        "--scale", type=float, default=1.0, help="multiply the number of steps: longer is better (default: 1)"
    )
    train.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    train.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    cli_shared.add_common(train)
    train.set_defaults(func=run_train)
    evaluate = commands.add_parser("evaluate", help="measure matches and Zero-Stage on held-out rendered clips")
    evaluate.add_argument("--clips", type=int, default=20, help="clips of the split (default: 20)")
    evaluate.add_argument("--first", type=int, default=0, help="index of the first clip (default: 0)")
    evaluate.add_argument("--split", choices=("validation", "test"), default="test", help="which seeds (default: test)")
    evaluate.add_argument(
        "--weights", type=Path, default=None, help="folder of other weights (default: the bundled ones)"
    )
    evaluate.add_argument(
        "--frames", type=number_list, default=(5, 10, 15), help="frames to measure, 1 to 15; frame 0 is the anchor"
    )
    evaluate.add_argument("--steps", type=int, default=20, help="DDIM steps (default: 20)")
    evaluate.add_argument(
        "--k",
        type=cli_shared.tokens,
        default=1,
        help='reference tokens per target token, -1 or "adaptive" (default: 1)',
    )
    evaluate.add_argument(
        "--timestep", type=int, default=None, help="where features are read (default: the model's advice)"
    )
    evaluate.add_argument(
        "--block", type=int, default=None, help="decoder block of the features (default: the model's advice)"
    )
    evaluate.add_argument(
        "--track",
        action=argparse.BooleanOptionalAction,
        help="follow parts from frame to frame, or not (default: the model's advice)",
    )
    evaluate.add_argument(
        "--methods", nargs="+", default=None, help="some of: zero cia pixel_swap identity (default: all)"
    )
    cli_shared.add_common(evaluate)
    evaluate.set_defaults(func=run_evaluate)


def run_train(args: argparse.Namespace) -> dict[str, Any]:
    """Train; returns the recipe and the last line of the curve."""
    from ..files.guard import Results, remove_leftovers
    from ..files.lock import locked_folder
    from ..jobs.models import pick_device
    from ..tiny.dit import dit_metadata
    from ..tiny.recipe.dit import scaled_dit_recipe, train_dit
    from ..tiny.recipe.unet import scaled_recipe, train
    from ..tiny.unet import weights_metadata

    if (args.clips is not None and args.clips < 1) or args.scale <= 0:
        raise InputError(
            f"--clips, --scale: expected at least one clip and a scale above 0, got {args.clips}, {args.scale:g}."
        )
    device = str(pick_device(args.device))
    chosen: dict[str, Any] = {"seed": args.seed, "clips": args.clips, "scale": args.scale}

    def log(line: str) -> None:
        cli_shared.say(args, line)

    with locked_folder(args.work, "zero2hero tiny train"), locked_folder(args.out, "zero2hero tiny train"):
        own = r"(dit_)?state\.pt|.*\.safetensors"
        for folder in (args.work, args.out):
            remove_leftovers(folder, Results(series=((".", own),)))
        if args.part == "dit":
            train_dit(scaled_dit_recipe(**chosen), args.work, args.out, device=device, log=log)
            described = dit_metadata(args.out)
        else:
            train(scaled_recipe(**chosen), args.work, args.out, device=device, log=log)
            described = weights_metadata(args.out)
    return {"command": "tiny train", "part": args.part, "out": str(args.out), **described}


def run_evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Measure; returns mean, spread and minimum of each figure and the rows."""
    from ..evaluation.quality.rendered import METHODS, evaluate_split, summarise
    from ..tiny.unet import load_tiny, weights_metadata
    from ..zero_stage.stage import ZeroStageSettings

    methods = tuple(args.methods or METHODS)
    if args.clips < 1 or any(method not in METHODS for method in methods):
        raise InputError(
            f"--clips, --methods: expected at least one clip and some of {METHODS}, got {args.clips}, {methods}."
        )
    if not all(1 <= frame <= 15 for frame in args.frames):
        raise InputError(f"--frames: expected frames from 1 to 15 (0 is the anchor), got {list(args.frames)}.")
    settings = ZeroStageSettings(
        num_inference_steps=args.steps, k=args.k, timestep=args.timestep, block=args.block, track=args.track
    )
    backbone = load_tiny(args.weights)
    with cli_shared.progress(args) as bar:
        task = bar.add_task("clips", total=args.clips)
        rows = evaluate_split(
            backbone,
            args.split,
            args.clips,
            first=args.first,
            frames=args.frames,
            settings=settings,
            methods=methods,
            progress=lambda *_: bar.advance(task),
        )
    summary = summarise(rows)
    for name, values in summary.items():
        cli_shared.say(args, f"{name:24s} {values['mean']:8.3f} +- {values['std']:.3f}   min {values['min']:.3f}")
    problems = (
        missed_bars(summary) if args.split == "test" and args.clips >= 20 and set(methods) == set(METHODS) else []
    )
    return {
        "command": "tiny evaluate",
        "problems": problems,
        "split": args.split,
        "clips": args.clips,
        "frames": list(args.frames),
        "summary": summary,
        "rows": rows,
        "weights": weights_metadata(args.weights),
    }


def missed_bars(summary: dict[str, dict[str, float]]) -> list[str]:
    """What falls short of the project's bars on the mean of the clips, a sentence each."""
    mean = {name: values["mean"] for name, values in summary.items()}
    bars = [
        ("matches within 5 % of the side", mean["pck.features"], 0.85),
        ("matches against raw patches", mean["pck.features"], mean["pck.rgb"]),
        ("matches against identity", mean["pck.features"], mean["pck.identity"]),
        ("Zero-Stage against plain cross-image attention + 2 dB", mean["psnr.zero"], mean["psnr.cia"] + 2),
        ("Zero-Stage against identity", mean["psnr.zero"], mean["psnr.identity"]),
        ("autoencoder", mean["psnr.autoencoder"], 29.0),
    ]
    return [f"{name}: {value:.3f} is below {bar:.3f}." for name, value, bar in bars if not value >= bar]
