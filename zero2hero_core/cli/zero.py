"""`zero2hero zero`: the main job, Zero-Stage on the user's own clip; frames and video are written as it goes."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..checks import InputError
from .console import add_common
from .options import (
    add_clip_options,
    add_match_options,
    add_model_options,
    add_output_options,
    add_preset,
    number_list,
    whole,
)

if TYPE_CHECKING:
    from pathlib import Path

    from ..correspondence.file import ClipCorrespondence
    from ..files.guard import Results
    from ..jobs.clip import Clip, Masks
    from ..zero_stage.stage import ZeroStage

EXAMPLES = """\
The folder gets frames/frame_NNNNNN.png (named by the index in the original clip), the video, report.json and zero.json
(what the run was made of). A reference of another aspect ratio than the clip is cropped at its centre.

examples:
  zero2hero zero --tiny --video clip.mp4 --anchor 0 --reference edited.png --out result --stride 5
  zero2hero zero --model sd15.safetensors --video clip.mp4 --anchor 12 --reference edited.png --out result --size 512
  zero2hero zero ... --out result --resume      (after an interruption: the same command with --resume)
  zero2hero zero ... --mask masks/ --k adaptive --layers 6-11
"""
MATCH_OPTIONS = ("timestep", "block", "ensemble", "neighbourhood", "track")


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "zero",
        help="give a clip the look of one edited frame (Zero-Stage)",
        usage="zero2hero zero --video V --reference IMG --anchor N --out DIR (--tiny | --model PATH) [options]",
        description="Give every frame of a clip the look of the reference, an edit of the anchor frame.",
        epilog=EXAMPLES,
    )
    add_clip_options(parser, reference=True)
    add_model_options(parser)
    add_preset(parser)
    add_match_options(parser)
    stage = parser.add_argument_group("Zero-Stage")
    stage.add_argument(
        "--steps", dest="num_inference_steps", type=whole(1, 999), default=20, metavar="N", help="DDIM steps"
    )
    stage.add_argument("--gamma", type=float, default=1.0, metavar="G", help="share of the inversion's query, 0 to 1")
    stage.add_argument("--tau", type=float, default=1.0, metavar="X", help="factor on the attention scores")
    stage.add_argument(
        "--contrast", type=float, default=1.0, metavar="X", help="contrast of the attention weights, with --k -1 only"
    )
    stage.add_argument(
        "--guidance",
        dest="guidance_scale",
        type=float,
        default=1.0,
        metavar="G",
        help="classifier-free guidance; 1 is none",
    )
    stage.add_argument(
        "--layers", type=number_list, default=tuple(range(3, 12)), metavar="L", help="decoder layers (default: 3-11)"
    )
    stage.add_argument(
        "--adain",
        dest="adain_start",
        action=argparse.BooleanOptionalAction,
        help="start from the reference's latent statistics, or from the frame's own (default: what suits the model, "
        "else the reference's)",
    )
    stage.add_argument(
        "--mask",
        metavar="PATH",
        help="where to edit (white): one image, or a folder or video with one per chosen frame",
    )
    stage.add_argument("--matches", metavar="FILE", help="use the matches that `zero2hero correspond` wrote")
    stage.add_argument(
        "--batch", type=whole(1), default=2, metavar="N", help="frames at once; halved if memory is short"
    )
    add_output_options(parser)
    add_common(parser)
    parser.set_defaults(func=run, results=results)


def results(args: argparse.Namespace) -> Results:
    """What the command writes in --out."""
    from ..jobs.frames import frame_results

    return frame_results("zero.json", args.video_name)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Do the job; nothing is written before every input has been checked."""
    from ..jobs.clip import check_paths
    from .folder import job_folder

    check_paths(args.video, args.reference, args.mask, args.matches)
    with job_folder(args, "zero", results(args), remedy="--resume or --overwrite") as out:
        return _run(args, out)


def _run(args: argparse.Namespace, out: Path) -> dict[str, Any]:
    from pathlib import Path

    from ..correspondence.file import load_correspondences
    from ..jobs import clip as cli_inputs
    from ..jobs import frames as cli_frames
    from ..jobs import zero as cli_zero_job
    from ..zero_stage.stage import ZeroStage

    notes: list[str] = []
    settings = cli_inputs.settings_of(args)
    matches = load_correspondences(Path(args.matches)) if args.matches else None
    backbone = cli_inputs.load_model(args)
    clip = cli_inputs.open_clip(args, backbone.multiple, notes=notes)
    cli_frames.check_video(args, clip, notes)
    reference = cli_inputs.read_reference(args.reference, clip, notes)
    masks = cli_inputs.Masks(args.mask, clip) if args.mask else None
    stage = ZeroStage(backbone, clip.anchor, reference, args.anchor, settings, clip.by_index())
    cli_inputs.check_k(stage.settings, stage.editor.grids)
    if matches is not None:
        _check_matches(matches, clip, stage, args)
    _say_no_ops(args, notes, clip, masks)
    state = cli_zero_job.state_of(args, stage, clip)
    job = cli_zero_job.ZeroJob(args, out, stage, clip, masks, matches.frames if matches else None, notes)
    return job.run(state)


def _check_matches(matches: ClipCorrespondence, clip: Clip, stage: ZeroStage, args: argparse.Namespace) -> None:
    from ..jobs import clip as cli_inputs

    (h, w), (file_h, file_w) = clip.size_hw, matches.size_hw
    missing = [index for index in clip.indices if index not in matches.frames]
    wanted: list[tuple[str, object, object]] = [
        ("anchor", args.anchor, matches.anchor_index),
        ("frame size", f"{w} x {h}", f"{file_w} x {file_h}"),
        ("k", stage.settings.k, matches.settings.get("k")),
        ("model", stage.backbone.name, matches.settings.get("model")),
        ("video", cli_inputs.fingerprint(args.video), matches.settings.get("video sha256")),
    ]
    for name, want, got in wanted:
        if want != got:
            raise InputError(
                f"--matches {args.matches}: expected {name} {want}, got {got}; make it with equal options."
            )
    if missing:
        raise InputError(
            f"--matches {args.matches}: expected all {len(clip.indices)} chosen frames, "
            f"but {len(missing)} are missing, the first is {missing[0]}; choose the same frames in both commands."
        )
    for index in clip.indices:
        for grid in stage.editor.grids:
            matches.frames[index].level(grid)  # raises where the grid is another


def _say_no_ops(args: argparse.Namespace, notes: list[str], clip: Clip, masks: Masks | None) -> None:
    """Options that change nothing are said aloud."""
    from ..jobs.clip import note

    if masks is not None and (empty := masks.empty()):
        where = "every frame, so nothing is edited" if empty == len(clip.indices) else f"{empty} of the frames"
        note(notes, f"the mask is empty in {where}")
    if args.guidance_scale != 1 and not args.prompt:
        note(notes, "--guidance changes nothing without --prompt")
    if args.matches and args.k == -1:
        note(notes, "--matches changes nothing with --k -1, which reads all tokens")
    unused = [f"--{name}" for name in MATCH_OPTIONS if getattr(args, name) is not None]
    if unused and (args.matches or args.k == -1):
        note(notes, f"{', '.join(unused)}: no effect, {'the matches are given' if args.matches else 'k is -1'}")
