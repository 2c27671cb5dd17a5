"""`zero2hero dataset colorize | clip | rendered | general | blender`: tasks with a known answer, one folder a clip."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checks import InputError
from .console import warn
from .dataset_job import DatasetJob, add_output_options
from .options import add_frame_options, whole

if TYPE_CHECKING:
    from ..evaluation.dataset.info import TaskInfo
    from ..video.source import FrameSource

GENERAL_EDITS = ("retexture", "style")
OBJECTS = ("car", "teapot", "dog", "house", "chair")
ALL_EDITS = ("tint", "recolour", *GENERAL_EDITS)
RENDERED_FPS = 8
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
    rendered.set_defaults(func=run_rendered)
    general = commands.add_parser(
        "general", help="rendered scenes whose pattern or style changes; truth on the anchor only"
    )
    _add_scene_options(general)
    general.set_defaults(func=run_general, edits=list(GENERAL_EDITS))
    blender = commands.add_parser(
        "blender", help="objects rendered with Blender in two appearances; truth on all frames"
    )
    _add_blender_options(blender)
    blender.set_defaults(func=run_blender)
    for command in (colorize, clip, rendered, general, blender):
        add_output_options(command)


def _add_clip_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--video", required=True, metavar="V", help="a video, a folder of images or a quoted glob")
    parser.add_argument("--name", help="name of the task (default: the clip's)")
    add_frame_options(parser, "a multiple of 8 (default: as the clip is)")


def _add_scene_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clips", type=whole(1), required=True, metavar="N", help="number of clips")
    parser.add_argument("--first", type=whole(0), default=0, metavar="N", help="index of the scene to begin with")
    parser.add_argument("--split", choices=("validation", "test"), default="test", help="which scenes")
    parser.add_argument("--size", type=whole(16, 4096), default=256, metavar="S", help="side of the frames, pixels")
    parser.add_argument(
        "--frames", type=whole(2), default=16, metavar="N", help="frames of a clip; the first is the anchor"
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


def run_colorize(args: argparse.Namespace) -> dict[str, Any]:
    """Write one colorization task; returns the report."""
    from ..evaluation.dataset.kinds import write_colorization

    frames = _open_clip(args)
    info = _clip_info(args, "colorization", "colour", frames, tuple(range(len(frames))))
    with DatasetJob(args, info.frames) as job:
        job.make(info, write_colorization, frames)
    return job.report()


def run_clip(args: argparse.Namespace) -> dict[str, Any]:
    """Write one general-edit task from the user's clip and reference; returns the report."""
    from ..evaluation.dataset.kinds import write_general
    from ..jobs.state import file_digest
    from ..video.resize import resize_frames
    from ..video.source import read_image

    frames, reference = _open_clip(args), read_image(args.reference)
    info = _clip_info(args, "general-edit", args.appearance, frames, None, file_digest(args.reference))
    (height, width), (h, w) = frames.size_hw, reference.shape[-2:]
    if abs((w * height) / (h * width) - 1) > 0.01:
        raise InputError(
            f"--reference: expected the frames' aspect ratio ({width} x {height}), got {w} x {h}; edit the anchor "
            "without cropping it."
        )
    reference = resize_frames(reference[None], frames.size_hw)[0]
    with DatasetJob(args, info.frames) as job:
        job.make(info, write_general, frames, reference)
    return job.report()


def run_rendered(args: argparse.Namespace) -> dict[str, Any]:
    """Write rendered tasks with truth on all frames; returns the report."""
    return _run_scenes(args, "color-edit", tuple(range(args.frames)))


def run_general(args: argparse.Namespace) -> dict[str, Any]:
    """Write rendered tasks with truth on the anchor only; returns the report."""
    return _run_scenes(args, "general-edit", (0,))


def run_blender(args: argparse.Namespace) -> dict[str, Any]:
    """Render the objects in a Blender process, write a task for each; returns the report."""
    from ..evaluation.blender.job import RenderJob
    from ..evaluation.blender.render import task_info, write_clip

    with DatasetJob(args, args.frames * len(args.objects)) as job:
        for name in args.objects:
            render = RenderJob(name, args.size, args.frames, args.samples, args.threads, args.seed)
            job.make(task_info(render), write_clip, render, args.python, resume=args.resume, overwrite=args.overwrite)
    return job.report()


def _run_scenes(args: argparse.Namespace, kind: str, truth_frames: tuple[int, ...]) -> dict[str, Any]:
    from fractions import Fraction
    from itertools import count

    from ..evaluation.dataset.info import TaskInfo
    from ..evaluation.dataset.kinds import write_rendered
    from ..tiny.scenes.scene import Scene, split_seed

    with DatasetJob(args, args.frames * args.clips) as job:
        for index in count(args.first):
            if len(job.tasks) == args.clips:
                break
            scene = Scene(split_seed(args.split, index), args.frames, args.size)
            if scene.edit not in args.edits:
                continue
            info = TaskInfo(
                kind=kind,
                name=f"{kind}-{args.split}-{index:04d}",
                appearance=scene.edit,
                anchor=0,
                frames=args.frames,
                size_hw=(args.size, args.size),
                fps=Fraction(RENDERED_FPS),
                truth_frames=truth_frames,
                has_masks=True,
                has_correspondence=True,
                seed=scene.seed,
                source={"renderer": "zero2hero scenes", "split": args.split, "index": index, "edit": scene.edit},
            )
            job.make(info, write_rendered, scene)
    return job.report()


def _open_clip(args: argparse.Namespace) -> FrameSource:
    from ..jobs.clip import check_paths
    from ..video.source import open_frames

    check_paths(args.video)
    source = open_frames(
        args.video,
        start=args.start,
        stop=args.stop,
        stride=args.stride,
        maximum=args.max_frames,
        size=args.size,
        policy=args.policy,
    )
    for text in source.notes:
        warn(text)
    return source


def _clip_info(
    args: argparse.Namespace,
    kind: str,
    appearance: str,
    frames: FrameSource,
    truth_frames: tuple[int, ...] | None,
    reference: str | None = None,
) -> TaskInfo:
    """What the task of a user's clip is; `truth_frames` None means the anchor only."""
    from ..evaluation.dataset.info import TaskInfo, clip_name
    from ..jobs.state import file_digest

    indices = [frames.index_of(place) for place in range(len(frames))]
    anchor = indices[0] if args.anchor is None else args.anchor
    if anchor not in indices:
        raise InputError(
            f"--anchor: expected one of the chosen frames ({indices[0]} to {indices[-1]}, stride {args.stride}), got "
            f"{anchor}."
        )
    place = indices.index(anchor)
    source = {
        "clip": Path(args.video).name,
        "clip sha256": file_digest(args.video),
        "start": indices[0],
        "stride": args.stride,
        "policy": args.policy,
    }
    return TaskInfo(
        kind=kind,
        name=args.name or clip_name(args.video),
        appearance=appearance,
        anchor=place,
        frames=len(frames),
        size_hw=frames.size_hw,
        fps=frames.fps,
        truth_frames=(place,) if truth_frames is None else truth_frames,
        has_masks=False,
        has_correspondence=False,
        source=source | ({"reference sha256": reference} if reference else {}),
    )
