"""`zero2hero hero train | restore | pretrain`: Hero-Stage on the user's own clip."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..checks import InputError
from . import pretrain
from .console import ConsoleListener, add_common, request_of
from .hero_options import add_hero_model_options, add_restore_options, add_training_options
from .options import add_clip_options, add_output_options, add_preset, whole

if TYPE_CHECKING:
    from ..files.guard import Results

TRAIN_EXAMPLES = """\
The folder gets hero_lora.safetensors, log.csv, training.png (loss and PSNR), samples/ (restored frames now and then),
report.json, and state.pt to resume from.

examples:
  zero2hero hero train --tiny --video clip.mp4 --anchor 0 --reference edited.png --zero result --out lora
  zero2hero hero train --model FLUX.2-klein-base-4B --video clip.mp4 --anchor 12 --reference edited.png --zero result \\
      --out lora --size 512 --weights nf4 --checkpointing
  zero2hero hero train ... --out lora --resume      (after an interruption: the same command with --resume)
"""
RESTORE_EXAMPLES = """\
The folder gets frames/frame_NNNNNN.png, the video, report.json and hero.json (what the run was made of).

examples:
  zero2hero hero restore --tiny --video clip.mp4 --zero result --lora lora/hero_lora.safetensors --out restored
"""


def add_parser(subparsers: Any) -> None:
    """Register the commands."""
    parser = subparsers.add_parser("hero", help="train on the edited frame, restore the others (Hero-Stage)")
    commands = parser.add_subparsers(dest="hero_command", required=True, metavar="train|restore|pretrain")
    _add_train(commands)
    _add_restore(commands)
    pretrain.add_parser(commands)


def _add_train(commands: Any) -> None:
    train = commands.add_parser(
        "train",
        help="train the LoRA on the one true pair",
        description="Train a LoRA that restores Zero-Stage frames, on the edited frame alone.",
        epilog=TRAIN_EXAMPLES,
    )
    add_clip_options(train, reference=True)
    _add_zero(train)
    train.add_argument(
        "--zero-anchor",
        metavar="DIR",
        help="Zero-Stage frames with the anchor itself as the reference (needed by --mode implicit)",
    )
    train.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="N=IMG",
        help="one more edited frame: its index and the picture; may be repeated",
    )
    train.add_argument(
        "--truth", metavar="PATH", help="true frames, where they are known, to measure against (as many as chosen)"
    )
    add_hero_model_options(train)
    add_preset(train)
    add_training_options(train)
    add_restore_options(train)
    again = train.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with an interrupted run of the same command")
    again.add_argument("--overwrite", action="store_true", help="replace the results of an earlier run")
    add_common(train)
    train.set_defaults(func=run_train, results=train_results)


def _add_restore(commands: Any) -> None:
    restore = commands.add_parser(
        "restore",
        help="restore all frames with a trained LoRA",
        description="Restore Zero-Stage frames with a LoRA that `hero train` made.",
        epilog=RESTORE_EXAMPLES,
    )
    add_clip_options(restore, anchor=False)
    _add_zero(restore)
    restore.add_argument(
        "--lora", required=True, nargs="+", metavar="FILE", help="the trained LoRA; one file per condition if foreign"
    )
    add_hero_model_options(restore)
    add_preset(restore)
    add_restore_options(restore)
    restore.add_argument(
        "--batch", type=whole(1), default=4, metavar="N", help="frames at once; halved if memory is short"
    )
    add_output_options(restore)
    add_common(restore)
    restore.set_defaults(func=run_restore, results=restore_results)


def _add_zero(parser: Any) -> None:
    parser.add_argument(
        "--zero",
        required=True,
        nargs="+",
        metavar="DIR",
        help="folder that `zero2hero zero` wrote for the same frames; of several, the first that has a frame counts",
    )


def train_results(args: argparse.Namespace) -> Results:
    """What `hero train` writes in --out."""
    from ..jobs.train import ALL_RESULTS

    return ALL_RESULTS


def restore_results(args: argparse.Namespace) -> Results:
    """What `hero restore` writes in --out."""
    from ..jobs import restore
    from ..jobs.frames import OutputRequest

    return restore.results(request_of(OutputRequest, args))


def run_train(args: argparse.Namespace) -> dict[str, Any]:
    """Train; returns the report."""
    from ..jobs import train

    also = indexed_pictures(args.also, args.anchor)
    with ConsoleListener(args) as listener:
        return train.run(request_of(train.TrainRequest, args, also=also), listener)


def run_restore(args: argparse.Namespace) -> dict[str, Any]:
    """Restore; returns the report."""
    from ..jobs import restore

    with ConsoleListener(args) as listener:
        return restore.run(request_of(restore.RestoreRequest, args), listener)


def indexed_pictures(texts: list[str], anchor: int) -> dict[int, str]:
    """What --also says: index -> picture. Raises: InputError for another form, or an index that comes twice."""
    pictures: dict[int, str] = {}
    for text in texts:
        number, equals, path = text.partition("=")
        if not (equals and number.isdecimal() and path):
            raise InputError(f"--also: expected INDEX=PICTURE like 12=edit12.png, got '{text}'.")
        if int(number) in pictures or int(number) == anchor:
            raise InputError(f"--also: frame {number} is given twice; give one reference per frame.")
        pictures[int(number)] = path
    return pictures
