"""`zero2hero edit`: the whole method in one command: Zero-Stage, training on the edited frame, restoring."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..propagation.names import ENGINES
from .console import ConsoleListener, add_common, request_of
from .hero_options import add_hero_weight_options, add_restore_options, add_training_options
from .options import add_clip_options, add_match_options, add_output_options, add_preset, whole

if TYPE_CHECKING:
    from ..files.guard import Results

EXAMPLES = """\
The folder gets the video, frames/, report.json, and beside them zero/ (Zero-Stage), training/ (LoRA, plot, samples)
and restored/ (Hero-Stage alone).
Each part resumes by itself.

examples:
  zero2hero edit --tiny --video clip.mp4 --anchor 0 --reference edited.png --out result
  zero2hero edit --zero-model sd15.safetensors --hero-model FLUX.2-klein-base-4B --weights nf4 --checkpointing \\
      --video clip.mp4 --anchor 12 --reference edited.png --out result --size 512
  zero2hero edit --tiny --video clip.mp4 --anchor 0=first.png --anchor 47=last.png --out result
  zero2hero edit ... --out result --resume      (after an interruption: the same command with --resume)
"""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "edit",
        help="the whole edit: Zero-Stage, training, restoring",
        usage="zero2hero edit --video V --anchor N=IMG [--anchor N=IMG ...] --out DIR "
        "(--tiny | --zero-model PATH --hero-model PATH) [options]",
        description="Give a whole clip the look of the reference, an edit of the anchor frame.",
        epilog=EXAMPLES,
    )
    add_clip_options(parser, reference=True)
    model = parser.add_argument_group("models", "Either --tiny, or both of the others.")
    model.add_argument("--tiny", action="store_true", help="the bundled tiny models: for trials, not real footage")
    model.add_argument("--zero-model", metavar="PATH", help="Stable Diffusion 1.5 or 2.1: folder or .safetensors file")
    model.add_argument("--hero-model", metavar="PATH", help="FLUX.1 or FLUX.2-klein: folder or .safetensors file")
    model.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    add_hero_weight_options(model)
    model.add_argument(
        "--initial",
        choices=("zero", *ENGINES),
        default="zero",
        help="what Hero-Stage starts from: Zero-Stage's pictures, or what `propagate` carries, without --zero-model",
    )
    model.add_argument(
        "--finish",
        choices=("mix", "hero"),
        help="mix: the restored frames and the carried change in one result, each where it is to be trusted; hero: the "
        "restored frames alone, as in the paper (default: mix)",
    )
    add_preset(parser)
    add_match_options(parser)
    add_training_options(parser)
    add_restore_options(parser)
    parser.add_argument(
        "--batch", type=whole(1), default=2, metavar="N", help="frames at once; halved if memory is short"
    )
    add_output_options(parser)
    add_common(parser)
    parser.set_defaults(num_inference_steps=None)  # of Zero-Stage; a preset may say it
    parser.set_defaults(func=run, results=results, again="repeat the `zero2hero edit` command")


def results(args: argparse.Namespace) -> Results:
    """What the command writes in --out."""
    from ..jobs import edit
    from ..jobs.frames import OutputRequest

    return edit.results(request_of(OutputRequest, args), args.also)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Do the job; returns its report."""
    from ..jobs import edit

    with ConsoleListener(args) as listener:
        return edit.run(request_of(edit.EditRequest, args), listener)
