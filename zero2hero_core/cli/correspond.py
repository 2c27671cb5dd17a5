"""`zero2hero correspond`: the matches of a clip with its anchor, as a file and as a picture."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from ..checks import InputError
from ..files.guard import Results
from ..files.json_file import write_json
from .console import add_common, progress, say
from .options import add_clip_options, add_match_options, add_model_options, add_preset, number_list, whole

FILE, PICTURE, REPORT = "correspondence.safetensors", "matches.png", "report.json"
EXAMPLES = """\
The folder gets matches.png (one row per frame), correspondence.safetensors (for `zero2hero zero --matches`) and
report.json.

examples:
  zero2hero correspond --tiny --video clip.mp4 --anchor 0 --out matches --stride 5
  zero2hero correspond --model sd15.safetensors --video clip.mp4 --anchor 12 --out matches --frames 0,6,18-20
"""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "correspond",
        help="match the frames of a clip with its anchor",
        usage="zero2hero correspond --video V --anchor N --out DIR (--tiny | --model PATH) [options]",
        description="Find for every token of a frame the most similar tokens of the anchor frame.",
        epilog=EXAMPLES,
    )
    add_clip_options(parser)
    parser.add_argument("--frames", type=number_list, metavar="I,J,K", help="just these frames, such as 0,6,18-20")
    parser.add_argument(
        "--rows", type=whole(1), default=8, metavar="N", help="rows of the picture at most, spread evenly"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the results of an earlier run")
    add_model_options(parser)
    add_preset(parser)
    add_match_options(parser)
    add_common(parser)
    parser.set_defaults(func=run, results=results)


def results(args: argparse.Namespace) -> Results:
    """What the command writes in --out."""
    return Results((FILE, PICTURE, REPORT))


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Match; nothing is written before all frames are done."""
    from ..jobs.clip import check_paths
    from .folder import job_folder

    if args.frames and (args.start, args.stop, args.stride, args.max_frames) != (0, None, 1, None):
        raise InputError("--frames: expected without --start, --stop, --stride and --max-frames; leave one way out.")
    check_paths(args.video)
    with job_folder(args, "correspond", results(args), remedy="--overwrite") as out:
        return _run(args, out)


def _run(args: argparse.Namespace, out: Path) -> dict[str, Any]:
    from dataclasses import asdict

    from ..correspondence import file as correspondence_file
    from ..jobs import clip as cli_inputs
    from ..jobs.zero import match_row
    from ..zero_stage.stage import ZeroStage

    started = time.perf_counter()
    settings = cli_inputs.settings_of(args)
    backbone = cli_inputs.load_model(args)
    notes: list[str] = []
    clip = cli_inputs.open_clip(args, backbone.multiple, args.frames, notes)
    stage = ZeroStage(backbone, clip.anchor, clip.anchor, args.anchor, settings, clip.by_index())
    cli_inputs.check_k(stage.settings, stage.editor.grids)
    found = {}
    with progress(args) as bar:
        task = bar.add_task("matching", total=len(clip.indices))
        for number, index in enumerate(clip.indices):
            found[index] = stage.correspond(clip.frames([number])[0], index).cpu()
            bar.advance(task)
    used = asdict(stage.settings)
    names = ("k", "timestep", "block", "ensemble", "neighbourhood", "track", "prompt", "seed")
    video = cli_inputs.fingerprint(args.video)
    source = {"model": backbone.name, "video sha256": video, **{name: used[name] for name in names}}
    whole_clip = correspondence_file.ClipCorrespondence(found, clip.size_hw, args.anchor, source)
    out.mkdir(parents=True, exist_ok=True)
    correspondence_file.save_correspondences(out / FILE, whole_clip, overwrite=args.overwrite)
    _write_picture(args, out, clip, found)
    rows = [{"index": index, **match_row(matches)} for index, matches in found.items()]
    report = {
        "command": "correspond",
        "anchor": args.anchor,
        "size": [clip.size_hw[1], clip.size_hw[0]],
        "settings": source,
        "frames": rows,
        "mean": {name: sum(row[name] for row in rows) / len(rows) for name in rows[0] if name != "index"},
        "notes": notes,
        "seconds": {**stage.seconds, "total": time.perf_counter() - started},
    }
    write_json(out / REPORT, report)
    _say(args, report)
    return report


def _write_picture(args: argparse.Namespace, out: Path, clip: Any, found: dict[int, Any]) -> None:
    import torch

    from ..correspondence.pictures import matches_picture
    from ..video.writer import write_image

    count, last = min(args.rows, len(found)), len(found) - 1
    shown = sorted({round(row * last / max(count - 1, 1)) for row in range(count)})
    rows = [matches_picture(found[clip.indices[n]], clip.anchor, clip.frames([n])[0]) for n in shown]
    write_image(out / PICTURE, torch.cat(rows, 1), overwrite=args.overwrite)


def _say(args: argparse.Namespace, report: dict[str, Any]) -> None:
    for row in report["frames"]:
        sure, back = row["confidence"], row["cycle_error"]
        say(args, f"frame {row['index']}: confidence {sure:.2f}, cycle error {back:.1%} of the side")
    say(args, f"{args.out}: {PICTURE}, {FILE}")
