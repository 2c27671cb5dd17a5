"""`zero2hero hero pretrain`: Hero-Stage's LoRA trained once over many clips, so that a new clip needs few steps."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .console import ConsoleListener, add_common, request_of
from .hero_options import add_hero_weight_options, add_restore_options, add_training_options
from .options import add_preset, size_value, whole

if TYPE_CHECKING:
    from ..files.guard import Results

CARRIERS = ("zero", "carried", "worn")
EXAMPLES = """\
The folder gets adapter.safetensors (half precision, for --adapter), hero_lora.safetensors, log.csv, training.png, and
state.pt to resume from. OUT_pictures/ keeps what Zero-Stage and propagation made of the clips.

examples:
  zero2hero dataset rendered --split train --clips 100 --no-matches --out clips
  zero2hero dataset rendered --split validation --clips 4 --out held_out
  zero2hero hero pretrain --tiny --clips clips --held-out held_out --out universal
  zero2hero hero pretrain --zero-model sd15.safetensors --hero-model FLUX.2-klein-base-4B --weights nf4 \\
      --checkpointing --footage holiday.mp4 street.mp4 --size 512 --out universal
  zero2hero edit --tiny --adapter universal/adapter.safetensors --video clip.mp4 ...
"""


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "pretrain",
        help="train one LoRA over many clips, for all later ones",
        description="Train a universal adapter: a LoRA that restores clips it has not seen, at once or after few steps "
        "of their own. It learns from clips whose truth is known: tasks of `zero2hero dataset`, or any footage, "
        "which gets random changes of look.",
        epilog=EXAMPLES,
    )
    clips = parser.add_argument_group("clips", "At least one of --clips and --footage is needed.")
    clips.add_argument("--clips", nargs="+", default=(), metavar="DIR", help="folders of tasks that have a truth")
    clips.add_argument("--footage", nargs="+", default=(), metavar="V", help="any videos: pairs are made of them")
    clips.add_argument("--held-out", nargs="+", default=(), metavar="DIR", help="folders of other tasks, to measure on")
    clips.add_argument("--maximum", type=whole(1), metavar="N", help="use at most so many clips (default: all)")
    clips.add_argument("--frames", type=whole(2), default=5, metavar="N", help="frames of each clip to learn from")
    clips.add_argument("--looks", type=whole(1), default=4, metavar="N", help="random looks of each stretch of footage")
    clips.add_argument("--length", type=whole(2), default=16, metavar="N", help="frames of a stretch of footage")
    clips.add_argument("--size", type=size_value, metavar="S|WxH", help="of footage (default: as it is)")
    clips.add_argument("--look-seed", type=whole(0), default=0, metavar="N", help="of the looks")
    clips.add_argument(
        "--carriers",
        nargs="+",
        choices=CARRIERS,
        default=CARRIERS,
        help="what carried the edits: Zero-Stage, propagation, simulated wear (default: all)",
    )
    clips.add_argument("--pictures", metavar="DIR", help="where what they made is kept (default: beside --out)")
    clips.add_argument(
        "--adapter-rank", type=whole(1), metavar="N", help="rank of adapter.safetensors (default: as trained)"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    model = parser.add_argument_group("models", "Either --tiny, or the others.")
    model.add_argument("--tiny", action="store_true", help="the bundled tiny models")
    model.add_argument("--zero-model", metavar="PATH", help="Stable Diffusion 1.5 or 2.1, for the carrier zero")
    model.add_argument("--hero-model", metavar="PATH", help="FLUX.1 or FLUX.2-klein: folder or .safetensors file")
    model.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    add_hero_weight_options(model)
    add_preset(parser)
    add_training_options(parser)
    add_restore_options(parser)
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with an interrupted run of the same command")
    again.add_argument("--overwrite", action="store_true", help="replace the results of an earlier run")
    add_common(parser)
    parser.set_defaults(func=run, results=results)


def results(args: argparse.Namespace) -> Results:
    """What the command writes in --out."""
    from ..jobs.pretrain import ALL_RESULTS

    return ALL_RESULTS


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train; returns the report."""
    from ..evaluation.pretraining import ClipsRequest, pretrain_on
    from ..jobs.pretrain import PretrainRequest

    with ConsoleListener(args) as listener:
        return pretrain_on(request_of(PretrainRequest, args), request_of(ClipsRequest, args), listener)
