"""`zero2hero zero`: the main job, Zero-Stage on the user's own clip; frames and video are written as it goes."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .console import ConsoleListener, add_common, request_of
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
    from ..files.guard import Results

EXAMPLES = """\
The folder gets frames/frame_NNNNNN.png (named by the index in the original clip), the video, report.json and zero.json
(what the run was made of). A reference of another aspect ratio than the clip is cropped at its centre.

examples:
  zero2hero zero --tiny --video clip.mp4 --anchor 0 --reference edited.png --out result --stride 5
  zero2hero zero --model sd15.safetensors --video clip.mp4 --anchor 12 --reference edited.png --out result --size 512
  zero2hero zero ... --out result --resume      (after an interruption: the same command with --resume)
  zero2hero zero ... --mask masks/ --k adaptive --layers 6-11
"""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "zero",
        help="give a clip the look of one edited frame (Zero-Stage)",
        usage="zero2hero zero --video V --anchor N=IMG [--anchor N=IMG ...] --out DIR (--tiny | --model PATH) "
        "[options]",
        description="Give every frame of a clip the look of the reference, an edit of the anchor frame.",
        epilog=EXAMPLES,
    )
    add_clip_options(parser, reference=True)
    add_model_options(parser)
    add_preset(parser)
    add_match_options(parser)
    stage = parser.add_argument_group("Zero-Stage")
    stage.add_argument(
        "--steps", dest="num_inference_steps", type=whole(1, 999), metavar="N", help="DDIM steps (default: 20)"
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
    from ..jobs import zero
    from ..jobs.frames import OutputRequest

    return zero.results(request_of(OutputRequest, args))


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Do the job; returns its report."""
    from ..jobs import zero

    with ConsoleListener(args) as listener:
        return zero.run(request_of(zero.ZeroRequest, args), listener)
