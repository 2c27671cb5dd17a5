"""Hero-Stage as nodes: restore Zero-Stage frames with a trained LoRA; load and save such a LoRA."""

from __future__ import annotations

from typing import Any

from .host.lora_files import PRECISIONS
from .host.services import io, model_file, model_files
from .host.sockets import CATEGORY, HeroLora
from .work.hero_sockets import clip_inputs, sockets


def _restore_widgets() -> list[io.Input]:
    return [
        io.Int.Input(
            "steps",
            default=0,
            min=0,
            max=1000,
            tooltip="Sampling steps; 0 takes what suits the model (25 for FLUX).",
        ),
        io.Int.Input(
            "samples",
            default=0,
            min=0,
            max=64,
            tooltip="Results from so many noises are averaged: steadier, softer and as many times slower; 0 takes "
            "what suits the model (1 for FLUX).",
        ),
        io.Float.Input(
            "zero_strength",
            default=1.0,
            min=0.0,
            max=10.0,
            step=0.05,
            tooltip="How strongly the Zero-Stage frame is attended to; 1 is as trained, 0 leaves it out.",
        ),
        io.Float.Input(
            "frame_strength",
            default=1.0,
            min=0.0,
            max=10.0,
            step=0.05,
            tooltip="How strongly the original frame is attended to; 1 is as trained, 0 leaves it out.",
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=2**64 - 1,
            control_after_generate=False,  # the front end would draw a new one after each run, and all starts anew
            tooltip="Of the starting noise.",
        ),
        io.Boolean.Input(
            "same_noise",
            default=True,
            tooltip="One noise for all frames, which keeps the clip steady; off: another one for every frame.",
        ),
        io.Int.Input(
            "batch_size",
            default=4,
            min=1,
            max=256,
            tooltip="Frames at once; halved by itself when memory is short. It does not change the result.",
        ),
    ]


class HeroRestore(io.ComfyNode):
    """Restores Zero-Stage frames with a Hero LoRA."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="HeroRestore",
            display_name="Hero Restore",
            category=CATEGORY,
            description="Hero-Stage: gives Zero-Stage frames back the detail they lost. The LoRA from HeroLoRATrainer "
            "knows how this one edit differs from its Zero-Stage result; here it is applied to every frame.",
            inputs=[
                *sockets(),
                HeroLora.Input("hero_lora", tooltip="From HeroLoRATrainer or Hero LoRA Load, for the same MODEL."),
                *clip_inputs(),
                *_restore_widgets(),
            ],
            outputs=[
                io.Image.Output("restored", display_name="restored", tooltip="The restored frames, for VideoSave.")
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, model: Any, vae: Any, conditioning: Any, hero_lora: Any, zero_frames: Any, frames: Any, **widgets: Any
    ) -> io.NodeOutput:
        """Restore all frames."""
        from .work.hero_stage import restore_clip

        images, notes = restore_clip(cls, (model, vae, conditioning), hero_lora, zero_frames, frames, widgets)
        return io.NodeOutput(images, ui=notes.ui())


class HeroLoRALoad(io.ComfyNode):
    """Loads a Hero LoRA."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="HeroLoRALoad",
            display_name="Hero LoRA Load",
            category=CATEGORY,
            description="Reads a LoRA that HeroLoRATrainer made, or one in the format of the paper's authors. Ordinary "
            "LoRA files do not belong here: they go on the MODEL with the host's LoRA loaders.",
            inputs=[io.Combo.Input("file", options=model_files("loras"), tooltip="A file of models/loras.")],
            outputs=[
                HeroLora.Output(
                    "hero_lora", display_name="hero_lora", tooltip="For HeroRestore, with the MODEL it was trained on."
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str | None) -> str:
        """Another value when the file changed."""
        if file is None:  # comes through a link and is not known yet
            return ""
        path = model_file("loras", file)
        return f"{path} {path.stat().st_mtime_ns} {path.stat().st_size}"

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        """Read the file."""
        from .host.lora_files import read_hero_lora

        return io.NodeOutput(read_hero_lora(model_file("loras", file)))


class HeroLoRASave(io.ComfyNode):
    """Saves a Hero LoRA."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="HeroLoRASave",
            display_name="Hero LoRA Save",
            category=CATEGORY,
            description="Writes a Hero LoRA to models/loras under a name of yours, where Hero LoRA Load and the "
            "command line find it. HeroLoRATrainer saves what it made by itself, under a name with a number.",
            inputs=[
                HeroLora.Input("hero_lora", tooltip="From HeroLoRATrainer or Hero LoRA Load."),
                io.String.Input("name", default="hero/my_clip", tooltip="Name in models/loras; may hold folders."),
                io.Combo.Input(
                    "precision",
                    options=PRECISIONS,
                    default="float32",
                    tooltip="Type of the numbers; bfloat16 and float16 halve the file.",
                ),
                io.Boolean.Input(
                    "overwrite", default=False, tooltip="Replace a file of that name; off: an existing one is kept."
                ),
            ],
            outputs=[io.String.Output("saved_as", display_name="saved_as", tooltip="Where the file lies.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, hero_lora: Any, name: str, precision: str, overwrite: bool) -> io.NodeOutput:
        """Write the file."""
        from .host.lora_files import save_hero_lora

        path = save_hero_lora(hero_lora, name, precision, overwrite=overwrite)
        return io.NodeOutput(str(path), ui={"text": (f"saved as {path.name}",)})


NODES = [HeroRestore, HeroLoRALoad, HeroLoRASave]
