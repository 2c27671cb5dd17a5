"""`zero2hero propagate`: edited frames carried through a clip, at its own size, without a model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checks import InputError
from ..propagation.names import ENGINES
from .console import ConsoleListener, add_common, request_of
from .options import add_clip_options, add_output_options, whole

if TYPE_CHECKING:
    from ..files.guard import Results

EXAMPLES = """\
The folder gets frames/frame_NNNNNN.png (named by the index in the original clip), the video, report.json and
propagate.json (what the run was made of). An edit may be smaller than the footage: what it changed is put on the
full-size frames. `zero2hero keyframes` tells which frames to edit.

examples:
  zero2hero propagate --video clip.mp4 --key 0=edited.png --out result
  zero2hero propagate --video clip.mp4 --key 12=edited12.png --key 60=edited60.png --mask masks/ --out result
  zero2hero propagate --video clip.mp4 --key 0=edited.png --repair made_by_another_tool.mp4 --out result
  zero2hero propagate ... --out result --resume      (after an interruption: the same command with --resume)
"""


class KeyAction(argparse.Action):
    """Collects INDEX=PICTURE of an option that may be given several times as index -> picture; a folder stands for all
    key_INDEX.png in it."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Add one."""
        text = str(values)
        keys = dict(getattr(namespace, self.dest) or {})
        for index, path in _pairs(text):
            if not (path and index.strip().isdecimal()):
                parser.error(f"{option_string}: expected INDEX=PICTURE like 12=edited.png, got {text!r}")
            if int(index) in keys:
                parser.error(f"{option_string}: expected each frame once, got frame {int(index)} twice; leave one out")
            keys[int(index)] = path
        setattr(namespace, self.dest, keys)


def _pairs(text: str) -> list[tuple[str, str]]:
    """(index, path) of what follows --key."""
    if not Path(text).is_dir():
        index, _, path = text.partition("=")
        return [(index, path)]
    files = sorted(Path(text).glob("key_*.png"))
    if not files:
        raise InputError(f"--key {text}: expected a folder with key_NNNNNN.png in it, got none; write INDEX=PICTURE.")
    return [(file.stem.removeprefix("key_"), str(file)) for file in files]


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "propagate",
        help="carry edited frames through a clip, without a model",
        usage="zero2hero propagate --video V --key N=IMG [--key N=IMG ...] --out DIR [options]",
        description="Carry the edit of one or several frames to every frame of a clip: on the CPU, at the clip's own "
        "size, without a model.",
        epilog=EXAMPLES,
    )
    add_clip_options(parser, anchor=False, sides="whole pixels (default: the clip's own size)")
    edit = parser.add_argument_group("edit")
    edit.add_argument(
        "--key",
        required=True,
        action=KeyAction,
        metavar="N=IMG",
        help="index of a frame, from 0, and that frame after the edit; may be given several times; or a folder with "
        "key_NNNNNN.png, as `keyframes` writes them, edited in their place",
    )
    edit.add_argument(
        "--mask",
        metavar="PATH",
        help="where to edit (white): one image, or a folder or video with one per chosen frame; elsewhere every pixel "
        "stays",
    )
    edit.add_argument(
        "--witness",
        metavar="PATH",
        help="the clip in the edit's look, as another method or tool made it: a folder of `hero restore` or `zero`, or "
        "any video; mixed in where what is carried is not to be trusted",
    )
    edit.add_argument(
        "--repair",
        metavar="PATH",
        help="the clip in the edit's look, as another tool made it: kept, but for its drift; colours, sharpness and "
        "places that went off with the distance from the edited frame are mended",
    )
    edit.add_argument("--witness-strength", type=float, default=1.0, metavar="X", help="0 leaves it out, 1 is usual")
    edit.add_argument(
        "--keep-unedited",
        action="store_true",
        help="where the edit changes nothing, as far as it shows, every pixel stays the source's",
    )
    _add_carry_options(parser)
    _add_blend_options(parser)
    add_output_options(parser)
    add_common(parser)
    parser.set_defaults(func=run, results=results)


def _add_carry_options(parser: argparse.ArgumentParser) -> None:
    carry = parser.add_argument_group("propagation")
    carry.add_argument(
        "--engine",
        choices=ENGINES,
        default="auto",
        help="what is carried: auto, what the edit did, put on each frame's own pixels, mixed at each place by what "
        "the edit kept of the frame there; change, its plain form, the difference; flow, the edit's pixels; patch, "
        "patches of the edit",
    )
    carry.add_argument(
        "--flow-side", type=whole(64), default=960, metavar="S", help="longest side at which motion is found"
    )
    carry.add_argument("--seed", type=whole(0), default=0, metavar="N", help="of the patch engine")
    carry.add_argument(
        "--cuts",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="look for cuts, which nothing is carried across (default: yes)",
    )
    carry.add_argument(
        "--round-trip",
        action="store_true",
        help="give edited frames, too, what was carried from them and back: worn as all others, to train Hero-Stage on",
    )


def _add_blend_options(parser: argparse.ArgumentParser) -> None:
    blend = parser.add_argument_group("between two edited frames")
    blend.add_argument(
        "--choice",
        choices=("soft", "hard"),
        default="soft",
        help="soft mixes both by distance and trust, hard takes each pixel of one",
    )
    blend.add_argument(
        "--mix",
        action="store_true",
        help="keep the contrast of the better side, as for patches that do not lie on each other",
    )
    blend.add_argument("--poisson", action="store_true", help="keep the gradients of the better side: sharper patches")


def results(args: argparse.Namespace) -> Results:
    """What the command writes in --out."""
    from ..jobs import propagate
    from ..jobs.frames import OutputRequest

    return propagate.results(request_of(OutputRequest, args))


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Do the job; returns its report."""
    from ..jobs import propagate
    from ..propagation.blending import BlendSettings

    blending = BlendSettings(choice=args.choice, mix=args.mix, poisson=args.poisson)
    with ConsoleListener(args) as listener:
        return propagate.run(request_of(propagate.PropagateRequest, args, blending=blending), listener)
