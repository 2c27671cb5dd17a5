"""`zero2hero guide`: a clip painted anew from a prompt, held together by Rerender-A-Video or FRESCO."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..checks import InputError
from ..jobs.frame_numbers import read_frame_numbers
from ..propagation.names import ENGINES
from .console import ConsoleListener, add_common, request_of
from .options import add_clip_options, add_model_options, add_output_options, whole
from .propagate import KeyAction

if TYPE_CHECKING:
    from ..files.guard import Results
    from ..guidance.settings import FrescoSettings, RerenderSettings
    from ..propagation.key_frames import KeyFrameSettings

PARTS = ("cross", "flow", "features")
EXAMPLES = """\
Key frames are painted first, into keys/; `propagate` then makes the frames between them. With --edit, the edited frame
is kept and all others are held to it.

examples:
  zero2hero guide --model sd15.safetensors --tokenizer clip/ --controlnet canny.safetensors --video clip.mp4 \\
      --prompt "an oil painting of a car" --out result
  zero2hero guide --method fresco --model sd15.safetensors --tokenizer clip/ --video clip.mp4 --prompt "snow" --out snow
  zero2hero guide --tiny --video clip.mp4 --edit 12=edited.png --out result
  zero2hero guide ... --out result --resume      (after an interruption: the same command with --resume)
"""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "guide",
        help="paint a clip anew from a prompt (Rerender-A-Video, FRESCO)",
        usage="zero2hero guide --video V --out DIR (--tiny | --model PATH) [--prompt TEXT] [--edit N=IMG] [options]",
        description="Paint key frames of a clip from a prompt, steady over time, and carry them to all frames.",
        epilog=EXAMPLES,
    )
    add_clip_options(parser, anchor=False, sides="multiples of 64 (default: a short side of 512; 256 with --tiny)")
    add_model_options(parser)
    _add_prompt_options(parser)
    _add_key_options(parser)
    _add_sampling_options(parser)
    _add_rerender_options(parser)
    _add_fresco_options(parser)
    carry = parser.add_argument_group("frames between")
    carry.add_argument("--engine", choices=ENGINES, default="auto", help="what is carried, see `propagate`")
    carry.add_argument("--full-size", action="store_true", help="make the frames at the clip's own size")
    add_output_options(parser)
    add_common(parser)
    parser.set_defaults(func=run, results=results)


def _add_prompt_options(parser: argparse.ArgumentParser) -> None:
    prompt = parser.add_argument_group("what to paint")
    prompt.add_argument("--method", choices=("rerender", "fresco"), default="rerender", help="what holds keys together")
    prompt.add_argument("--prompt", default="", metavar="TEXT", help="what to paint")
    prompt.add_argument("--negative", default="", metavar="TEXT", help="what not to paint")
    prompt.add_argument(
        "--guidance", dest="guidance_scale", type=float, default=7.5, metavar="G", help="how strongly; 1 is none"
    )
    prompt.add_argument(
        "--edit",
        action=KeyAction,
        default={},
        metavar="N=IMG",
        help="number of a frame, from 0, and your edit of it: it is kept, and the others are held to it",
    )
    prompt.add_argument(
        "--controlnet", metavar="PATH", help="a ControlNet of the same family: .safetensors file or diffusers folder"
    )
    prompt.add_argument(
        "--control",
        default="canny",
        metavar="PICTURES",
        help="what the ControlNet is shown: canny, or a folder or video with one picture for each chosen frame",
    )
    prompt.add_argument("--control-strength", type=float, default=1.0, metavar="X", help="of the ControlNet, 0 to 2")
    prompt.add_argument(
        "--canny", nargs=2, type=whole(0, 10_000), default=(100, 200), metavar=("LOW", "HIGH"), help="its thresholds"
    )


def _add_key_options(parser: argparse.ArgumentParser) -> None:
    keys = parser.add_argument_group("key frames")
    keys.add_argument(
        "--key-method",
        choices=("uniform", "adaptive", "advice"),
        help="every --every frames; where the clip changes most; or those that show most of it (default: uniform for "
        "rerender, adaptive for fresco)",
    )
    keys.add_argument("--every", type=whole(1), default=10, metavar="K", help="uniform: distance of key frames")
    keys.add_argument("--smallest-gap", type=whole(1), default=5, metavar="N", help="adaptive: no key nearer")
    keys.add_argument("--largest-gap", type=whole(1), default=20, metavar="N", help="adaptive: no key farther")
    keys.add_argument("--keys", type=_numbers, default=(), metavar="I,J,K", help="frames that are keys in any case")


def _numbers(text: str) -> tuple[int, ...]:
    return read_frame_numbers("keys", text)


def _add_sampling_options(parser: argparse.ArgumentParser) -> None:
    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("--steps", type=whole(1, 999), default=20, metavar="N", help="steps of a whole sampling")
    sampling.add_argument(
        "--strength",
        type=float,
        default=0.75,
        metavar="X",
        help="how far the original is taken apart: 0 leaves it alone, 1 begins with its noisiest form, more with noise",
    )
    sampling.add_argument("--seed", type=whole(0), default=0, metavar="N", help="of the noise, which all keys share")
    sampling.add_argument(
        "--compensation", type=float, default=1.0, metavar="X", help="of the encoding that loses less; 0 is plain"
    )
    sampling.add_argument("--pixel-strength", type=float, default=0.5, metavar="X", help="how strongly pixels pull")


def _add_rerender_options(parser: argparse.ArgumentParser) -> None:
    rerender = parser.add_argument_group("rerender")
    for name, text in (
        ("cross-frame", "attention to the anchor and the key before"),
        ("loose", "leave the coarsest layers to themselves, for large motion"),
        ("shape-fusion", "move the anchor's latents here in the first steps"),
        ("pixel-fusion", "pull a second sampling to the anchor and the key before"),
        ("match-colour", "give each key the anchor's spread of latents in the last steps"),
        ("preserve-colour", "begin with the original's colours, not with the anchor's"),
    ):
        rerender.add_argument(
            f"--{name}", action=argparse.BooleanOptionalAction, default=True, help=f"{text} (default: yes)"
        )
    rerender.add_argument(
        "--update-every", type=whole(1), default=1, metavar="N", help="keys after which the tokens are renewed"
    )


def _add_fresco_options(parser: argparse.ArgumentParser) -> None:
    fresco = parser.add_argument_group("fresco")
    fresco.add_argument("--batch", type=whole(2, 64), default=8, metavar="N", help="key frames at once")
    fresco.add_argument(
        "--parts",
        type=_parts,
        default=PARTS,
        metavar="P,Q",
        help="of the guidance: cross, flow, features, or none (default: all)",
    )
    fresco.add_argument("--align-pixels", action="store_true", help="pull each key to the one before it")
    fresco.add_argument(
        "--foreground", metavar="PATH", help="what moves (white), as masks: the background is kept still behind it"
    )


def _parts(text: str) -> tuple[str, ...]:
    names = () if text == "none" else tuple(part.strip() for part in text.split(","))
    for name in names:
        if name not in PARTS:
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(PARTS)}, or none, got '{name}'")
    return names


def results(args: argparse.Namespace) -> Results:
    """What the command writes in --out."""
    from ..jobs import guide
    from ..jobs.frames import OutputRequest

    return guide.results(request_of(OutputRequest, args))


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Do the job; returns its report."""
    from ..guidance.pixel_target import PixelSettings
    from ..jobs import guide
    from ..jobs.guidance import guidance_part
    from ..propagation.settings import PropagationSettings

    with ConsoleListener(args) as listener:
        if args.method == "rerender" and (args.align_pixels or tuple(args.parts) != PARTS):
            raise InputError("--parts, --align-pixels: are of --method fresco; leave them out or choose it.")
        pixel = PixelSettings(pixel_strength=args.pixel_strength, compensation=args.compensation)
        whole_parts = {
            "rerender": _rerender(args, pixel),
            "fresco": _fresco(args, pixel),
            "parts": tuple(guidance_part(name) for name in args.parts),
            "key_frames": _key_frames(args),
            "carrying": PropagationSettings(engine=args.engine),
            "canny": tuple(args.canny),
        }
        return guide.run(request_of(guide.GuideRequest, args, **whole_parts), listener)


def _rerender(args: argparse.Namespace, pixel: Any) -> RerenderSettings:
    from ..guidance.settings import RerenderSettings

    settings = RerenderSettings(
        steps=args.steps,
        strength=args.strength,
        seed=args.seed,
        loose=args.loose,
        update_every=args.update_every,
        preserve_colour=args.preserve_colour,
        pixel=pixel,
    )
    windows = {
        "cross_window": args.cross_frame,
        "shape_window": args.shape_fusion,
        "pixel_window": args.pixel_fusion,
        "colour_window": args.match_colour,
    }
    off: dict[str, Any] = {name: None for name, on in windows.items() if not on}
    return replace(settings, **off)


def _fresco(args: argparse.Namespace, pixel: Any) -> FrescoSettings:
    from ..guidance.settings import FrescoSettings, RerenderSettings

    window = RerenderSettings().pixel_window if args.align_pixels else None
    return FrescoSettings(
        steps=args.steps, strength=args.strength, seed=args.seed, batch=args.batch, pixel_window=window, pixel=pixel
    )


def _key_frames(args: argparse.Namespace) -> KeyFrameSettings:
    from ..propagation.key_frames import KeyFrameSettings

    method: Any = args.key_method or ("uniform" if args.method == "rerender" else "adaptive")
    gaps = {"smallest_gap": args.smallest_gap, "largest_gap": args.largest_gap}
    return KeyFrameSettings(method, args.every, **gaps)
