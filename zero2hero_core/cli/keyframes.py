"""`zero2hero keyframes`: which frames to edit, how much of the clip they show, and which to edit next."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..jobs.frame_numbers import read_frame_numbers
from .console import ConsoleListener, add_common, request_of
from .options import add_range_options

if TYPE_CHECKING:
    from ..files.guard import Results

EXAMPLES = """\
The folder gets keys/key_000012.png ... (the frames as they are, to edit), coverage.png (which part of each frame the
keys show) and report.json.

examples:
  zero2hero keyframes --video clip.mp4 --out keys
  zero2hero keyframes --video clip.mp4 --keys 12 --out next
  zero2hero keyframes --video clip.mp4 --method uniform --every 10 --out every_tenth
  zero2hero keyframes --video clip.mp4 --method adaptive --smallest-gap 5 --largest-gap 20 --out adaptive
"""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "keyframes",
        help="choose the frames to edit",
        usage="zero2hero keyframes --video V --out DIR [options]",
        description="Choose the frames of a clip to edit, never across cuts, and say how much of the clip they show.",
        epilog=EXAMPLES,
    )
    clip = parser.add_argument_group("clip")
    clip.add_argument("--video", required=True, metavar="V", help="a video, a folder of images or a quoted glob")
    clip.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    clip.add_argument("--overwrite", action="store_true", help="replace the results of an earlier run")
    choice = parser.add_argument_group("key frames")
    choice.add_argument(
        "--method",
        choices=("advice", "uniform", "adaptive"),
        default="advice",
        help="the frames that show most of the clip; every --every frames; or where it changes most",
    )
    choice.add_argument(
        "--keys", type=_numbers, default=(), metavar="I,J,K", help="frames that are keys already, such as 12,60"
    )
    choice.add_argument(
        "--count",
        type=int,
        metavar="N",
        help="key frames in all, at most with adaptive (default: one more than --keys with advice)",
    )
    choice.add_argument("--every", type=int, default=10, metavar="K", help="uniform: distance of key frames")
    choice.add_argument("--smallest-gap", type=int, default=5, metavar="N", help="adaptive: no key nearer to another")
    choice.add_argument("--largest-gap", type=int, default=20, metavar="N", help="adaptive: no key farther from others")
    add_range_options(parser)
    add_common(parser)
    parser.set_defaults(func=run, results=results)


def _numbers(text: str) -> tuple[int, ...]:
    return read_frame_numbers("keys", text)


def results(args: argparse.Namespace) -> Results:
    """What the command writes in --out."""
    from ..jobs.keyframes import RESULTS

    return RESULTS


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Do the job; returns its report."""
    from ..jobs import keyframes

    with ConsoleListener(args) as listener:
        return keyframes.run(request_of(keyframes.KeyFramesRequest, args), listener)
