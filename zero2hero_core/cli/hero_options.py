"""Options of Hero-Stage that several commands have. Imports nothing heavy."""

from __future__ import annotations

import argparse

from ..paper import MODES
from .options import add_model_group, number_list, whole


def add_hero_model_options(parser: argparse.ArgumentParser) -> None:
    """The model of the FLUX family."""
    model = add_model_group(
        parser,
        "tiny DiT",
        "FLUX.1 or FLUX.2-klein: a diffusers folder, a transformer .safetensors file, or hub:owner/name",
    )
    model.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="(default: bfloat16, CPU float32)")
    add_hero_weight_options(model)


def add_hero_weight_options(model: argparse._ArgumentGroup) -> None:
    """How the transformer is stored, and parts that stand in other files."""
    model.add_argument("--weights", choices=("bf16", "fp8", "nf4"), help="how the transformer's weights are stored")
    model.add_argument("--vae", metavar="PATH", help="autoencoder, for a transformer in a single file")
    model.add_argument("--text-embedding", metavar="FILE", help="stored prompt embedding, in place of text encoders")
    model.add_argument("--hero-prompt", default="", metavar="TEXT", help="text that describes the clip (default: none)")


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """The training; defaults that are not named suit the model."""
    group = parser.add_argument_group("training", "Where no default is told it is what suits the model.")
    group.add_argument("--mode", choices=tuple(MODES), default="explicit", help="which pairs are trained on")
    group.add_argument(
        "--adapter",
        metavar="FILE",
        help="LoRA to begin with, a universal one or another clip's; none: begin from nothing, as the paper does "
        "(default: the bundled one for the tiny models, else none)",
    )
    group.add_argument("--rank", type=whole(1), metavar="N", help="of the LoRA: more learns more and takes more memory")
    group.add_argument("--alpha", type=float, metavar="X", help="factor alpha / rank on the LoRA (default: the rank)")
    group.add_argument("--lora-layers", nargs="+", default=(), metavar="L", help="some of q k v out (default: all)")
    group.add_argument("--train-steps", type=whole(1), metavar="N", help="steps of training")
    group.add_argument("--learning-rate", type=float, metavar="X", help="of the adapters; too high ends in noise")
    group.add_argument("--decay", action=argparse.BooleanOptionalAction, help="let the learning rate fall to zero")
    group.add_argument("--pairs", type=whole(1), metavar="N", help="training pairs per step")
    group.add_argument("--draws", type=whole(1), metavar="N", help="noise levels per pair and step")
    group.add_argument("--crop", type=float, metavar="X", help="share of the sides that a step sees, 0.1 to 1")
    group.add_argument("--light", type=float, metavar="X", help="show the pair in other lights too; 0: off, 1: usual")
    group.add_argument(
        "--shift", type=whole(0, 64), metavar="N", help="show the pair moved by up to N pixels too; 0: off, 8: usual"
    )
    group.add_argument(
        "--high-noise", type=float, metavar="X", help="share of noise levels drawn near 1, for few sampling steps"
    )
    group.add_argument(
        "--optimiser",
        choices=("adamw", "adamw8bit"),
        default="adamw",
        help="adamw8bit: less memory, needs bitsandbytes",
    )
    group.add_argument("--checkpointing", action="store_true", help="less memory, slower")
    group.add_argument("--train-seed", type=whole(0), default=0, metavar="N", help="of the training")
    group.add_argument("--save-every", type=whole(1), default=100, metavar="N", help="steps between checkpoints")
    group.add_argument("--evaluate-every", type=whole(1), default=200, metavar="N", help="steps between evaluations")
    group.add_argument(
        "--evaluate-frames", type=number_list, metavar="L", help="(default: anchor, first, middle, last)"
    )
    group.add_argument(
        "--patience", type=whole(0), default=0, metavar="N", help="stop after N evaluations without gain; 0: never"
    )


def add_restore_options(parser: argparse.ArgumentParser) -> None:
    """Sampling of restored frames."""
    group = parser.add_argument_group("restoring")
    group.add_argument(
        "--sample-steps", type=whole(1, 1000), metavar="N", help="sampling steps (default: what suits the model)"
    )
    group.add_argument(
        "--hero-guidance", type=float, default=3.5, metavar="G", help="what the model's guidance input is"
    )
    group.add_argument(
        "--samples", type=whole(1, 64), metavar="N", help="average of N samples (default: what suits the model, else 1)"
    )
    group.add_argument("--strength", type=float, nargs="+", default=(1.0,), metavar="X", help="of each condition")
    group.add_argument("--noise-seed", type=whole(0), default=0, metavar="N", help="of the starting noise")
    group.add_argument("--new-noise", action="store_true", help="other noise for every frame (default: the same)")
