"""`zero2hero deflicker`: steady a clip that was stylised frame by frame, by whatever tool."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .console import ConsoleListener, add_common, request_of
from .options import add_clip_options, add_output_options, whole

if TYPE_CHECKING:
    from ..files.guard import Results

EXAMPLES = """\
No model is needed. The folder gets frames/frame_NNNNNN.png (named by the index in the original clip), the video with
the original's sound, report.json with the warp error before and after, and deflicker.json (what the run was made of).

examples:
  zero2hero deflicker --video clip.mp4 --stylised drawn.mp4 --out steady
  zero2hero deflicker --video clip.mp4 --stylised drawn/ --window 15 --out steady
  zero2hero deflicker ... --out steady --resume      (after an interruption: the same command with --resume)
"""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "deflicker",
        help="steady a clip that was stylised frame by frame",
        usage="zero2hero deflicker --video ORIGINAL --stylised CLIP --out DIR [options]",
        description="Average every stylised frame with its neighbours along the motion of the original clip.",
        epilog=EXAMPLES,
    )
    add_clip_options(parser, anchor=False, sides="whole pixels (default: as the stylised clip is)")
    steady = parser.add_argument_group("deflicker")
    steady.add_argument(
        "--stylised",
        required=True,
        metavar="CLIP",
        help="a video, a folder of images or a quoted glob with as many frames as are chosen",
    )
    steady.add_argument(
        "--window", type=whole(0, 60), default=7, metavar="N", help="frames on each side that take part"
    )
    steady.add_argument("--strength", type=float, default=1.0, metavar="X", help="0 changes nothing, 1 is the mean")
    add_output_options(parser)
    add_common(parser)
    parser.set_defaults(func=run, results=results, video_name="steady.mp4")


def results(args: argparse.Namespace) -> Results:
    """What the command writes in --out."""
    from ..jobs import deflicker
    from ..jobs.frames import OutputRequest

    return deflicker.results(request_of(OutputRequest, args))


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Do the job; returns its report."""
    from ..jobs import deflicker

    with ConsoleListener(args) as listener:
        return deflicker.run(request_of(deflicker.DeflickerRequest, args), listener)
