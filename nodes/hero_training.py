"""The training of Hero-Stage as a node."""

from __future__ import annotations

from typing import Any

from ..zero2hero_core.paper import MODES
from .convert.pictures import to_host
from .host.services import io
from .host.sockets import CATEGORY, HeroLora
from .host.train import AS_LOADED, WEIGHTS
from .work.hero_sockets import ADAPTERS, clip_inputs, sockets


def _pair_inputs() -> list[io.Input]:
    return [
        io.Image.Input("reference", tooltip="The edited anchor frame: one picture of the frames' size."),
        io.Int.Input("anchor_index", default=0, min=0, max=999_999, tooltip="Place of the edited frame, from 0."),
        io.Combo.Input(
            "mode",
            options=list(MODES),
            default="explicit",
            tooltip="What is learned from. explicit (best): Zero-Stage frame and original together. implicit: also "
            "from zero_anchor_frames. zero-ref: the Zero-Stage frame alone. tgt-ref: the original alone.",
        ),
    ]


def _size_widgets() -> list[io.Input]:
    return [
        io.Int.Input(
            "rank",
            default=0,
            min=0,
            max=512,
            tooltip="Size of the LoRA: more learns more and takes more memory; 0 takes what suits the model (32 for "
            "FLUX).",
        ),
        io.Int.Input(
            "steps",
            default=0,
            min=0,
            max=100_000,
            tooltip="Training steps; 0 takes what suits the model and the mode (400 or 600 for FLUX).",
        ),
        io.Float.Input(
            "learning_rate",
            default=0.0,
            min=0.0,
            max=0.1,
            step=0.00001,
            round=0.0000001,
            tooltip="0 takes what suits the model (0.0001 for FLUX).",
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=2**63 - 1,
            control_after_generate=False,  # the front end would draw a new one after each run, and all starts anew
            tooltip="Of the training.",
        ),
        io.Combo.Input(
            "weights",
            options=WEIGHTS,
            default=AS_LOADED,
            tooltip="How the model is held while training. as loaded: the loaded weights themselves; a model loaded as "
            "fp8 is held as with fp8. fp8 and nf4 hold a copy of a half and a quarter of the size of bf16, for smaller "
            "cards; nf4 needs an NVIDIA card and bitsandbytes.",
        ),
        io.Boolean.Input(
            "checkpointing", default=False, tooltip="Less memory for activations, but slower; same result."
        ),
    ]


def _data_widgets() -> list[io.Input]:
    return [
        io.Float.Input(
            "light",
            default=-1.0,
            min=-1.0,
            max=10.0,
            step=0.1,
            tooltip="Show the pair in other lights too, so that frames keep their own light; 0 is off, 1 usual, -1 "
            "takes what suits the model (off for FLUX).",
        ),
        io.Float.Input(
            "crop",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.05,
            tooltip="Share of the sides that a step sees, at a random place: less is faster; 0 takes what suits the "
            "model (1 for FLUX).",
        ),
    ]


def _run_widgets() -> list[io.Input]:
    return [
        io.Int.Input(
            "evaluate_every",
            default=200,
            min=0,
            max=100_000,
            tooltip="Restore a few frames every so many steps, for the preview and the curve; 0 at the start and the "
            "end only.",
        ),
        io.Int.Input(
            "save_every",
            default=100,
            min=1,
            max=100_000,
            tooltip="Steps between checkpoints. Cancel saves one too; queue the same graph again to go on.",
        ),
        io.String.Input(
            "name",
            default="hero/lora",
            tooltip="Begin of the file's name in models/loras; the number behind it tells trainings apart.",
        ),
        io.Image.Input(
            "zero_anchor_frames",
            optional=True,
            tooltip="For the mode implicit: the Zero-Stage result of all frames with the anchor itself as the "
            "reference.",
        ),
        io.Combo.Input(
            "adapter",
            options=ADAPTERS,
            default="auto",
            optional=True,
            tooltip="What the LoRA begins with. auto: an adapter that was trained over many clips, where one is "
            "bundled (the tiny models have one): half the steps. none: from nothing, as in the paper.",
        ),
    ]


class HeroLoRATrainer(io.ComfyNode):
    """Trains a LoRA that restores Zero-Stage frames, on the edited frame alone."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="HeroLoRATrainer",
            display_name="Hero LoRA Trainer",
            category=CATEGORY,
            description="Hero-Stage: learns from the anchor, the one frame whose edit is known, how to restore what "
            "Zero-Stage wore down. The MODEL is not changed. Cancel saves a checkpoint, and the same graph queued "
            "again goes on there. Checkpoints, curve and samples lie in output/zero2hero, the LoRA in models/loras.",
            inputs=[
                *sockets(),
                *clip_inputs(),
                *_pair_inputs(),
                *_size_widgets(),
                *_data_widgets(),
                *_run_widgets(),
            ],
            outputs=[
                HeroLora.Output(
                    "hero_lora",
                    display_name="hero_lora",
                    tooltip="For HeroRestore with the same MODEL, and Hero LoRA Save.",
                ),
                io.Image.Output(
                    "samples",
                    display_name="samples",
                    tooltip="Frames restored at the end: the anchor, first, middle and last.",
                ),
                io.Image.Output("loss_plot", display_name="loss_plot", tooltip="Loss and PSNR by step."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Any, vae: Any, conditioning: Any, **widgets: Any) -> io.NodeOutput:
        """Train, or go on with a training that was cancelled."""
        from .work.hero_training import train

        lora, samples, plot, notes = train(cls, (model, vae, conditioning), widgets)
        return io.NodeOutput(lora, to_host(samples), to_host(plot), ui=notes.ui())


NODES = [HeroLoRATrainer]
