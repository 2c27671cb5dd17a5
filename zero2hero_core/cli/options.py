"""Options that several commands have, the kinds of their values, and the parser class. Imports nothing heavy."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from .. import paper
from ..checks import InputError
from .console import tokens


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, except those that say nothing or are told already; examples keep their lines."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = isinstance(action.default, bool) or action.default in (None, "", (), [], {})
        return action.help if silent or "(default" in (action.help or "") else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """A parser that shows defaults, knows no abbreviations, and whose errors are exceptions."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"formatter_class": HelpFormatter, "allow_abbrev": False, **kwargs})

    def error(self, message: str) -> NoReturn:
        """Raise `InputError`."""
        raise InputError(f"{message}; see `{self.prog} --help`.")


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """A kind of value: whole numbers from `low` (to `high`)."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low or (high is not None and value > high):
            span = f"from {low} up" if high is None else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(f"expected a whole number {span}, got '{text}'")
        return value

    return convert


def size_value(text: str) -> int | tuple[int, int]:
    """A kind of value: "256" (short side) or "448x256" (width x height); returns the short side or (height, width)."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"expected a short side like 512 or width x height like 768x512, got '{text}'")
    return int(parts[0]) if len(parts) == 1 else (int(parts[1]), int(parts[0]))


def number_list(text: str) -> tuple[int, ...]:
    """A kind of value: numbers and ranges, "3,5,8-11"; returns them sorted, each once."""
    numbers: set[int] = set()
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal()) or int(last) < int(first):
            raise argparse.ArgumentTypeError(f"expected numbers and ranges like 3,5,8-11, got '{text}'")
        numbers.update(range(int(first), int(last) + 1))
    return tuple(sorted(numbers))


class AnchorAction(argparse.Action):
    """Collects what --anchor says: the first index in `anchor`, edited frames in `anchor_pictures`."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Add one."""
        text = str(values)
        number, equals, path = text.partition("=")
        if not number.strip().isdecimal() or (equals and not path):
            parser.error(f"--anchor: expected an index like 12, or INDEX=PICTURE like 12=edited.png, got '{text}'")
        index, first = int(number), getattr(namespace, "anchor", None)
        if first is None:
            namespace.anchor, namespace.anchor_pictures = index, {index: path} if equals else {}
            return
        pictures = namespace.anchor_pictures
        if not equals or not pictures:
            parser.error("--anchor: of several edited frames each needs its picture, like 12=edited.png")
        if index in pictures:
            parser.error(f"--anchor: expected each frame once, got frame {index} twice; leave one out")
        pictures[index] = path


def fill_anchors(args: argparse.Namespace) -> None:
    """Put what --anchor collected where jobs look for it: `reference`, and the other edited frames in `also`.

    Raises: InputError where a picture is missing or there twice.
    """
    arguments = vars(args)
    if "also" not in arguments or "anchor" not in arguments or "reference" not in arguments:
        return
    pictures: dict[int, str] = arguments.pop("anchor_pictures", {})
    if pictures and args.reference is not None:
        raise InputError("--reference: the edited frames stand in --anchor already; leave it out.")
    if not pictures and args.reference is None:
        raise InputError(f"--reference: is needed, or the picture with its index: --anchor {args.anchor}=IMG.")
    if pictures:
        args.reference = pictures.pop(args.anchor)
        if not isinstance(args.also, list):
            args.also = pictures
        else:
            args.also = [*args.also, *(f"{index}={path}" for index, path in pictures.items())]


_SIDES = "a multiple of what the model needs (default: as the clip is; 256 with --tiny)"


def add_clip_options(
    parser: argparse.ArgumentParser, *, reference: bool = False, anchor: bool = True, sides: str = _SIDES
) -> None:
    """--video, --anchor and --reference where they are needed, --out, and which frames at which size. sides: what the
    help says of sides."""
    clip = parser.add_argument_group("clip")
    clip.add_argument("--video", required=True, metavar="V", help="a video, a folder of images or a quoted glob")
    if anchor and reference:
        clip.add_argument(
            "--anchor",
            required=True,
            action=AnchorAction,
            metavar="N[=IMG]",
            help="index of a frame that was edited, from 0, and that frame after the edit, of any size; may be given "
            "several times; or the index alone, with --reference",
        )
        clip.add_argument("--reference", metavar="IMG", help="the one edited frame, where --anchor is an index alone")
        parser.set_defaults(also={})
    elif anchor:
        clip.add_argument(
            "--anchor", required=True, type=whole(0), metavar="N", help="index of the frame that was edited, from 0"
        )
    clip.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    add_frame_options(parser, sides)


def add_frame_options(parser: argparse.ArgumentParser, sides: str) -> None:
    """Which frames of the clip, and at which size. sides: what the help says of sides."""
    frames = add_range_options(parser)
    frames.add_argument(
        "--size", type=size_value, metavar="S|WxH", help=f"short side or width x height, rounded to {sides}"
    )
    frames.add_argument(
        "--policy", choices=("resize", "crop", "pad"), default="resize", help="how frames get another aspect ratio"
    )


def add_range_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Which frames of the clip; returns the group."""
    frames = parser.add_argument_group("frames", "Indices count from 0 in the original clip.")
    frames.add_argument("--start", type=whole(0), default=0, metavar="N", help="first frame")
    frames.add_argument("--stop", type=whole(1), metavar="N", help="frame before which to stop (default: the end)")
    frames.add_argument("--stride", type=whole(1), default=1, metavar="N", help="take every N-th frame")
    frames.add_argument("--max-frames", type=whole(1), metavar="N", help="take at most this many (default: all)")
    return frames


def add_model_group(parser: argparse.ArgumentParser, tiny: str, model: str) -> argparse._ArgumentGroup:
    """--tiny or --model, and where to compute; returns the group. tiny, model: what the help says of them."""
    group = parser.add_argument_group("model", "One of --tiny and --model is needed.")
    choice = group.add_mutually_exclusive_group(required=True)
    choice.add_argument(
        "--tiny", action="store_true", help=f"the bundled {tiny}: for trials and rendered scenes, not real footage"
    )
    choice.add_argument("--model", metavar="PATH", help=model)
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    return group


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """The model of Stable Diffusion's family."""
    model = add_model_group(
        parser,
        "tiny models",
        "Stable Diffusion 1.5 or 2.1: a diffusers folder, a .safetensors file, or hub:owner/name to fetch it",
    )
    model.add_argument(
        "--dtype",
        choices=("auto", "float32", "float16", "bfloat16"),
        default="auto",
        help="auto is float32 on the CPU and for --tiny, else float16",
    )
    model.add_argument(
        "--prediction-type",
        choices=("auto", "epsilon", "v_prediction"),
        default="auto",
        help="what the UNet predicts, where the files do not tell",
    )
    model.add_argument(
        "--empty-embedding", metavar="FILE", help="embedding of the empty prompt, for a model without text encoder"
    )
    model.add_argument("--tokenizer", metavar="DIR", help="CLIP tokenizer, for prompts with a single-file model")


def add_match_options(parser: argparse.ArgumentParser) -> None:
    """How frames are matched with the anchor; the defaults are those of `ZeroStageSettings`."""
    match = parser.add_argument_group("correspondence")
    match.add_argument(
        "--k", type=tokens, default=1, metavar="K", help="reference tokens per token: 1 or more, -1 (all) or adaptive"
    )
    match.add_argument(
        "--timestep",
        type=whole(0, 999),
        metavar="T",
        help="noise level at which features are read (default: what suits the model, else 261)",
    )
    match.add_argument(
        "--block",
        type=whole(0, 3),
        metavar="B",
        help="decoder block that they are read from (default: what suits the model, else 1)",
    )
    match.add_argument(
        "--ensemble",
        type=whole(1, 1024),
        metavar="N",
        help="noise draws to average over (default: what suits the model, else 8)",
    )
    match.add_argument(
        "--neighbourhood",
        type=float,
        metavar="R",
        help="search no farther than this share of the longer side (default: everywhere)",
    )
    match.add_argument(
        "--track",
        action=argparse.BooleanOptionalAction,
        help="follow parts from frame to frame, or match every frame on its own (default: what suits the model, else "
        "on its own)",
    )
    match.add_argument("--prompt", default="", help="text that describes the clip (default: none)")
    match.add_argument("--seed", type=whole(0), default=0, metavar="N", help="of the feature noise")


# settings that have another name as an option
_OPTIONS = {"batch": "pairs", "num_inference_steps": "sample_steps"}
_HERO_PAPER = {_OPTIONS.get(name, name): value for name, value in (paper.TRAINING | paper.RESTORING).items()}
# Of Zero-Stage: on rendered validation clips no worse than 20 steps and 8 draws, in two fifths of the time.
_FAST = {"num_inference_steps": 10, "ensemble": 1, "timestep": 0}
PRESETS: dict[str, dict[str, Any]] = {
    "fast": _FAST,
    "best": {"adapter": "none"},  # all steps of Hero-Stage, from nothing
    "paper": paper.ZERO | _HERO_PAPER | {"adapter": "none", "finish": "hero"},
}
_WITHOUT = {"num_inference_steps": 20}  # where neither the user nor a preset says it


def add_preset(parser: argparse.ArgumentParser) -> None:
    """--preset, which stands for options that are not given."""
    parser.add_argument(
        "--preset",
        choices=("model", *PRESETS),
        default="model",
        help="where an option is not given: what suits the model; fast, fewer steps and draws of Zero-Stage; best, the "
        "longest training of Hero-Stage; or the settings of the paper (default: model)",
    )


def fill_preset(args: argparse.Namespace) -> None:
    """Put the preset's values where the user gave none."""
    arguments = vars(args)
    preset = arguments.get("preset", "model")
    values = PRESETS.get(preset, {})
    if preset == "paper" and "train_steps" in arguments:
        values = values | {"train_steps": paper.training_steps(arguments["mode"])}
    for name, value in [*values.items(), *_WITHOUT.items()]:
        if name in arguments and arguments[name] is None:
            arguments[name] = value


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """The video, and what to do about an earlier run."""
    output = parser.add_argument_group("output")
    output.add_argument("--video-name", default="edited.mp4", metavar="NAME", help=".mp4, .mov, .webm or .mkv")
    output.add_argument("--codec", choices=("h264", "vp9", "ffv1"), help="(default: what the name's suffix suggests)")
    output.add_argument("--crf", type=whole(0, 63), help="quality, smaller is better (default: 16 H.264, 24 VP9)")
    output.add_argument("--no-audio", action="store_true", help="leave the clip's sound out")
    again = output.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with an interrupted run of the same command")
    again.add_argument("--overwrite", action="store_true", help="replace the results of an earlier run")
