"""`zero2hero demo`: the whole method on a rendered clip with the bundled models, beside its baselines and the truth."""

from __future__ import annotations

import argparse
import time
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checks import InputError
from ..files.guard import Results
from ..files.json_file import write_json
from . import console as cli_shared

if TYPE_CHECKING:
    from ..evaluation.quality.rendered import ClipResult

EXAMPLE = "example:\n  zero2hero demo --out demo\n  zero2hero demo --out demo7 --seed 7 --frames 8"
SIZES = (64, 1024)
COLUMNS = ("original", "reference look (truth)", "plain cross-image", "pixel swap", "Zero-Stage", "Hero-Stage")


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
    parser.add_argument("--train-steps", type=int, default=None, help="steps of Hero-Stage (default: the model's 300)")
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
    from .folder import job_folder

    with job_folder(args, "demo", results(args), empty=False) as out:
        cli_shared.output_folder(args.out, args.overwrite, results(args).files)
        return _run(args, out)


def _run(args: argparse.Namespace, out: Path) -> dict[str, Any]:
    started = time.perf_counter()
    from ..evaluation.quality.rendered import METHODS, evaluate_clip
    from ..tiny.scenes.scene import Scene, split_seed
    from ..tiny.unet import load_tiny
    from ..zero_stage.stage import ZeroStageSettings

    scene = Scene(split_seed("test", args.seed), args.frames, args.size)
    backbone = load_tiny()
    settings = ZeroStageSettings(num_inference_steps=args.steps)
    with cli_shared.progress(args) as bar:
        task = bar.add_task("Zero-Stage and baselines", total=args.frames * len(METHODS))
        result = evaluate_clip(
            backbone, scene, range(args.frames), settings=settings, progress=lambda _, done: bar.advance(task, done)
        )
    _add_hero(result, args)
    report = _report(result, args)
    written = time.perf_counter()
    _write_pictures(out, result)
    _write_video(out, result, args.overwrite)
    report["seconds"] |= {"writing": time.perf_counter() - written, "total": time.perf_counter() - started}
    write_json(out / "report.json", report)
    cli_shared.say(args, _summary(report, args.out))
    return report


def _add_hero(result: ClipResult, args: argparse.Namespace) -> None:
    """Train Hero-Stage on the anchor's pair, restore all frames, measure them like the other methods."""
    from ..evaluation.quality.clips import Clip
    from ..evaluation.quality.methods import Spec, Tools, run_method
    from ..metrics.psnr import psnr
    from ..tiny.dit import RECOMMENDED

    frames, truth, masks = result.scene.frames(0), result.scene.frames(1), result.scene.masks()
    clip = Clip("demo", "rendered", "", frames, truth[0], 0, masks, dict(enumerate(truth)))
    steps = RECOMMENDED["steps"] if args.train_steps is None else args.train_steps
    with cli_shared.progress(args) as bar:
        task = bar.add_task("Hero-Stage training", total=steps)
        tools = Tools(
            lambda _clip, _spec, shown: result.pictures["zero"][list(shown)],
            progress=lambda step: bar.update(task, completed=step),
        )
        made = run_method(tools, clip, Spec("hero", {"steps": steps}), result.frames)
    result.pictures["hero"] = made.pictures
    result.psnr["hero"] = psnr(made.pictures[1:], truth[1:], masks[1:])
    result.psnr_frame["hero"] = psnr(made.pictures[1:], truth[1:])
    result.seconds |= {f"hero {part}": seconds for part, seconds in made.seconds.items()}


def _report(result: ClipResult, args: argparse.Namespace) -> dict[str, Any]:
    row = result.row()
    measures = {name: round(value, 4) for name, value in row.items()}
    return {
        "command": "demo",
        "clip": {"seed": args.seed, "frames": args.frames, "size": args.size, "edit": result.scene.edit, "anchor": 0},
        "psnr": {name: measures[f"psnr.{name}"] for name in (*result.psnr, "autoencoder")},
        "psnr_frame": {name: measures[f"psnr_frame.{name}"] for name in result.psnr_frame},
        "pck": measures["pck.features"],
        "pck_rgb": measures["pck.rgb"],
        "pck_identity": measures["pck.identity"],
        "notes": [
            "psnr: dB inside the edited object, mean over all frames but the anchor; psnr_frame: over the whole frame",
            "pck: share of visible points whose match lies within 0.05 of the frame's side, the anchor left out",
        ],
        "seconds": dict(result.seconds),
    }


def _write_pictures(out: Path, result: ClipResult) -> None:
    import torch

    from ..correspondence.pictures import matches_picture
    from ..video.labelled_grid import labelled_grid
    from ..video.writer import write_image

    scene = result.scene
    shown = sorted({round(i * (scene.num_frames - 1) / 4) for i in range(5)})
    originals = {i: scene.render(i, 0)[0] for i in shown}
    rows = [
        [
            originals[i],
            scene.render(i, 1)[0],
            *(result.pictures[name][i] for name in ("cia", "pixel_swap", "zero", "hero")),
        ]
        for i in shown
    ]
    names = [f"frame {i}" if i else "anchor" for i in shown]
    write_image(out / "compare.png", labelled_grid(rows, COLUMNS, names), overwrite=True)
    lines = [matches_picture(result.matches[i], originals[0], originals[i]) for i in shown[1:]]
    write_image(out / "matches.png", torch.cat(lines, 1), overwrite=True)


def _write_video(out: Path, result: ClipResult, overwrite: bool) -> None:
    from ..video.writer import VideoWriter

    with VideoWriter(out / "edited.mp4", Fraction(8), crf=12, overwrite=overwrite) as writer:
        writer.write(result.pictures["hero"])


def _summary(report: dict[str, Any], out: Path) -> str:
    psnr = report["psnr"]
    return (
        f"PSNR inside the object: Hero-Stage {psnr['hero']:.1f} dB, Zero-Stage {psnr['zero']:.1f}, plain cross-image "
        f"attention {psnr['cia']:.1f}, pixel swap {psnr['pixel_swap']:.1f}, unchanged {psnr['identity']:.1f}.\n"
        f"Matches within 5 % of the side: {report['pck']:.1%}.\n"
        f"Look at {out / 'compare.png'} and {out / 'edited.mp4'}."
    )
