"""`zero2hero correspond`: the matches of a clip with its anchor, as a file and as a picture."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .console import ConsoleListener, add_common, request_of
from .options import add_clip_options, add_match_options, add_model_options, add_preset, number_list, whole

if TYPE_CHECKING:
    from ..files.guard import Results

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
    from ..jobs.correspond import RESULTS

    return RESULTS


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Do the job; returns its report."""
    from ..jobs import correspond

    with ConsoleListener(args) as listener:
        return correspond.run(request_of(correspond.CorrespondRequest, args), listener)
