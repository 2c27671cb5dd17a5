"""`zero2hero tiny train | evaluate`: the recipe of the bundled models and their measures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..checks import InputError
from .console import ConsoleListener, add_common, tokens
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
    add_common(train)
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
        type=tokens,
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
    add_common(evaluate)
    evaluate.set_defaults(func=run_evaluate)


def run_train(args: argparse.Namespace) -> dict[str, Any]:
    """Train; returns the recipe and the last line of the curve."""
    from ..jobs.models import pick_device
    from ..tiny.recipe.making import RecipeRequest, make_weights

    if (args.clips is not None and args.clips < 1) or args.scale <= 0:
        raise InputError(
            f"--clips, --scale: expected at least one clip and a scale above 0, got {args.clips}, {args.scale:g}."
        )
    device = str(pick_device(args.device))
    request = RecipeRequest(args.part, args.work, args.out, args.seed, args.clips, args.scale, device)
    with ConsoleListener(args) as console:
        facts = make_weights(request, console.say)
    return {"command": "tiny train", "part": args.part, "out": str(args.out), **facts}


def run_evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Measure; returns mean, spread and minimum of each figure and the rows."""
    from ..evaluation.bundled import LENGTH, EvaluationRequest, evaluate_models
    from ..evaluation.quality.rendered import METHODS
    from ..zero_stage.settings import ZeroStageSettings

    methods = tuple(args.methods or METHODS)
    if args.clips < 1 or any(method not in METHODS for method in methods):
        raise InputError(
            f"--clips, --methods: expected at least one clip and some of {tuple(METHODS)}, got {args.clips}, {methods}."
        )
    if not all(1 <= frame < LENGTH for frame in args.frames):
        raise InputError(f"--frames: expected frames from 1 to 15 (0 is the anchor), got {list(args.frames)}.")
    settings = ZeroStageSettings(
        num_inference_steps=args.steps, k=args.k, timestep=args.timestep, block=args.block, track=args.track
    )
    request = EvaluationRequest(args.clips, args.first, args.split, tuple(args.frames), methods, settings, args.weights)
    with ConsoleListener(args) as console:
        return evaluate_models(request, console)
