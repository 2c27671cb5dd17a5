"""`zero2hero dataset colorize | clip | rendered | general | blender`: tasks with a known answer, one folder a clip."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..evaluation.dataset.requests import ALL_EDITS, GENERAL_EDITS, OBJECTS
from .console import ConsoleListener, add_common
from .options import add_frame_options, whole

if TYPE_CHECKING:
    from ..evaluation.dataset.requests import ChosenFrames, TaskRequest
    from ..files.guard import Results

EXAMPLES = """\
Every task is a folder: content (the clip), style (the edited anchor), mask, target (the truth), task.json. zero.json
beside them lists all tasks as the authors' Zero-Stage reads them (its data folder is _input/_data).

examples:
  zero2hero dataset colorize --video clip.mp4 --out data
  zero2hero dataset clip --video clip.mp4 --anchor 0 --reference edited.png --appearance rainbow --out data
  zero2hero dataset rendered --clips 20 --out data
  zero2hero dataset blender --out data
"""


def add_parser(subparsers: Any) -> None:
    """Register the commands."""
    parser = subparsers.add_parser(
        "dataset",
        help="make clips to edit whose right answer is known",
        description="Make tasks of the evaluation: clips, references, masks and the truth.",
        epilog=EXAMPLES,
    )
    commands = parser.add_subparsers(
        dest="dataset_command", required=True, metavar="colorize|clip|rendered|general|blender"
    )
    colorize = commands.add_parser("colorize", help="any clip in grey; the reference is one frame in colour")
    _add_clip_options(colorize)
    colorize.add_argument("--anchor", type=whole(0), metavar="N", help="frame of the reference (default: the first)")
    colorize.set_defaults(func=run_colorize)
    clip = commands.add_parser("clip", help="any clip and your edit of one frame; truth on that frame only")
    _add_clip_options(clip)
    clip.add_argument("--anchor", type=whole(0), required=True, metavar="N", help="index of the frame that was edited")
    clip.add_argument("--reference", required=True, metavar="IMG", help="that frame after the edit")
    clip.add_argument("--appearance", default="edit", metavar="NAME", help="what the edit is called")
    clip.set_defaults(func=run_clip)
    rendered = commands.add_parser("rendered", help="rendered scenes in two appearances; truth on all frames")
    _add_scene_options(rendered)
    rendered.add_argument(
        "--edits", nargs="+", choices=ALL_EDITS, default=list(ALL_EDITS), help="kinds of edits (default: all)"
    )
    rendered.set_defaults(func=run_scenes, whole_truth=True)
    general = commands.add_parser(
        "general", help="rendered scenes whose pattern or style changes; truth on the anchor only"
    )
    _add_scene_options(general)
    general.set_defaults(func=run_scenes, edits=list(GENERAL_EDITS), whole_truth=False)
    blender = commands.add_parser(
        "blender", help="objects rendered with Blender in two appearances; truth on all frames"
    )
    _add_blender_options(blender)
    blender.set_defaults(func=run_blender)
    for command in (colorize, clip, rendered, general, blender):
        _add_output_options(command)


def _add_clip_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--video", required=True, metavar="V", help="a video, a folder of images or a quoted glob")
    parser.add_argument("--name", help="name of the task (default: the clip's)")
    add_frame_options(parser, "a multiple of 8 (default: as the clip is)")


def _add_scene_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clips", type=whole(1), required=True, metavar="N", help="number of clips")
    parser.add_argument("--first", type=whole(0), default=0, metavar="N", help="index of the scene to begin with")
    parser.add_argument("--split", choices=("train", "validation", "test"), default="test", help="which scenes")
    parser.add_argument("--size", type=whole(16, 4096), default=256, metavar="S", help="side of the frames, pixels")
    parser.add_argument(
        "--frames", type=whole(2), default=16, metavar="N", help="frames of a clip; the first is the anchor"
    )
    parser.add_argument(
        "--no-matches", action="store_false", dest="matches", help="leave out where pixels lie in other frames: faster"
    )


def _add_blender_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--objects", nargs="+", choices=OBJECTS, default=list(OBJECTS), help="which (default: all five)"
    )
    parser.add_argument("--size", type=whole(16, 4096), default=512, metavar="S", help="side of the frames, pixels")
    parser.add_argument(
        "--frames", type=whole(2), default=16, metavar="N", help="frames of a clip; the first is the anchor"
    )
    parser.add_argument("--samples", type=whole(1), default=16, metavar="N", help="light samples a pixel")
    parser.add_argument("--seed", type=whole(0, 2**31 - 1), default=0, metavar="N", help="of the light samples")
    parser.add_argument("--threads", type=whole(0), default=0, metavar="N", help="CPU threads (default: all)")
    parser.add_argument(
        "--python", default=sys.executable, help="a Python that has bpy, Blender as a module (default: this one)"
    )


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the data set")
    again = output.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="keep the tasks that are made already")
    again.add_argument("--overwrite", action="store_true", help="replace tasks of the same name")
    add_common(parser)
    parser.set_defaults(results=results)


def results(args: argparse.Namespace) -> Results:
    """What every command of these writes in --out, beside the folder of a task, whose name is known later."""
    from ..evaluation.dataset_tasks import RESULTS

    return RESULTS


def run_colorize(args: argparse.Namespace) -> dict[str, Any]:
    """Write one colorization task; returns the report."""
    from ..evaluation.dataset.requests import ColorizationRequest

    return _make(args, ColorizationRequest(**_output(args), clip=_clip(args), name=args.name, anchor=args.anchor))


def run_clip(args: argparse.Namespace) -> dict[str, Any]:
    """Write one general-edit task from the user's clip and reference; returns the report."""
    from ..evaluation.dataset.requests import GeneralEditRequest

    edit = {"reference": args.reference, "anchor": args.anchor, "appearance": args.appearance}
    return _make(args, GeneralEditRequest(**_output(args), clip=_clip(args), name=args.name, **edit))


def run_scenes(args: argparse.Namespace) -> dict[str, Any]:
    """Write rendered tasks; returns the report."""
    from ..evaluation.dataset.requests import ScenesRequest

    scenes = {
        name: getattr(args, name) for name in ("clips", "first", "split", "size", "frames", "whole_truth", "matches")
    }
    return _make(args, ScenesRequest(**_output(args), **scenes, edits=tuple(args.edits)))


def run_blender(args: argparse.Namespace) -> dict[str, Any]:
    """Render the objects in a Blender process, write a task for each; returns the report."""
    from ..evaluation.dataset.requests import BlenderRequest

    names = ("size", "frames", "samples", "seed", "threads", "python")
    options = {name: getattr(args, name) for name in names}
    return _make(args, BlenderRequest(**_output(args), objects=tuple(args.objects), **options))


def _output(args: argparse.Namespace) -> dict[str, Any]:
    return {"out": args.out, "resume": args.resume, "overwrite": args.overwrite}


def _clip(args: argparse.Namespace) -> ChosenFrames:
    from ..evaluation.dataset.requests import ChosenFrames

    options = {name: getattr(args, name) for name in ("video", "start", "stop", "stride", "size", "policy")}
    return ChosenFrames(**options, maximum=args.max_frames)


def _make(args: argparse.Namespace, request: TaskRequest) -> dict[str, Any]:
    from ..evaluation.dataset_tasks import make_tasks
    from ..jobs.folder import readings

    with ConsoleListener(args) as console:
        return make_tasks(request, console, readings(vars(args)))
