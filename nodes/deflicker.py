"""Steady a clip that was stylised frame by frame."""

from __future__ import annotations

import torch

from .host.services import io
from .host.sockets import CATEGORY


class Deflicker(io.ComfyNode):
    """Averages every frame with its neighbours along the motion of the original."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Deflicker",
            display_name="Deflicker (Zero-to-Hero)",
            category=CATEGORY,
            description="Steadies a clip that was drawn frame by frame, by whatever tool: every frame becomes the mean "
            "of its neighbours, moved along the motion of the original clip. What flickers averages out, what "
            "moves stays sharp. Runs on the CPU, without a model.",
            inputs=[
                io.Image.Input("originals", tooltip="The clip before it was stylised: its motion counts."),
                io.Image.Input("stylised", tooltip="The stylised frames: as many, and of the same size."),
                io.Int.Input(
                    "window",
                    default=7,
                    min=0,
                    max=60,
                    tooltip="How many frames on each side take part. More is steadier and slower, and evens out light "
                    "that changes.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="1 takes the whole mean, 0 leaves the frames as they are.",
                ),
            ],
            outputs=[io.Image.Output("frames", display_name="frames", tooltip="The steadied frames.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, originals: torch.Tensor, stylised: torch.Tensor, window: int, strength: float) -> io.NodeOutput:
        from .work.deflicker import steady_clip

        images, notes = steady_clip(cls, originals, stylised, window, strength)
        return io.NodeOutput(images, ui=notes.ui())


NODES = [Deflicker]
