"""Guidance that a MODEL carries to KSampler or KeyFrameBatchSampler: attention between frames and along the flow, and
features that move with the frames."""

from __future__ import annotations

from typing import Any

from .convert.checks import check_choice
from .host.services import io
from .host.sockets import CATEGORY, Flow
from .work.guidance import guided_model

MODES = {"anchor and new regions": "new_regions", "anchor and previous": "anchor_previous", "all frames": "all"}


def _model() -> io.Input:
    return io.Model.Input(
        "model", tooltip="MODEL of Stable Diffusion 1.5 or 2.1; each latent of a batch is a frame of the clip."
    )


def _frames(purpose: str) -> io.Input:
    return io.Image.Input(
        "frames",
        optional=True,
        tooltip=f"The original frames, one for each latent of the batch: {purpose}. KeyFrameBatchSampler brings them "
        "itself.",
    )


def _latents() -> io.Input:
    return io.Latent.Input(
        "latents",
        optional=True,
        tooltip="VAE Encode of the original frames; without it those that the sampler begins with. "
        "KeyFrameBatchSampler makes them itself.",
    )


def _guided() -> list[io.Output]:
    return [io.Model.Output("guided", display_name="guided", tooltip="The MODEL with the guidance.")]


class CrossFrameAttention(io.ComfyNode):
    """Attention between the frames of a batch."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="CrossFrameAttention",
            display_name="Cross-frame Attention",
            category=CATEGORY,
            description="The frames of a batch look at each other while they are painted, so that they get one look.",
            inputs=[
                _model(),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default="anchor and new regions",
                    tooltip="What every frame reads. anchor and new regions: the first frame, and of all others what "
                    "the frame before does not show (FRESCO). anchor and previous: the first frame and the one before "
                    "(Rerender-A-Video). all frames: everything; slow with many.",
                ),
                io.Boolean.Input(
                    "loose", default=True, tooltip="The coarsest layers keep to themselves, as both methods advise."
                ),
                io.Float.Input(
                    "start", default=0.0, min=0.0, max=1.0, step=0.01, tooltip="Share of the noise levels to begin at."
                ),
                io.Float.Input(
                    "end", default=1.0, min=0.0, max=1.0, step=0.01, tooltip="Share of the noise levels to end at."
                ),
                _frames("for new regions"),
                Flow.Input("flow", optional=True, tooltip="From OpticalFlow, for the same frames."),
            ],
            outputs=_guided(),
        )

    @classmethod
    def execute(
        cls, model: Any, mode: str, loose: bool, start: float, end: float, frames: Any = None, flow: Any = None
    ) -> io.NodeOutput:
        """Put it on the MODEL."""
        check_choice("mode", mode, MODES)
        part = ("cross", {"mode": MODES[mode], "loose": loose, "window": (start, end)})
        return io.NodeOutput(guided_model(model, part, frames, flow=flow))


class FlowGuidedAttention(io.ComfyNode):
    """Attention along the flow."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="FlowGuidedAttention",
            display_name="Flow-guided Attention",
            category=CATEGORY,
            description="Each part of a frame looks at where it lies in the other frames, and, in the first step, at "
            "what looked alike in the original (FRESCO).",
            inputs=[
                _model(),
                io.Float.Input(
                    "temporal",
                    default=5.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="How evenly the frames along the flow are mixed: more is more evenly; 0 leaves it out.",
                ),
                io.Int.Input(
                    "until",
                    default=350,
                    min=0,
                    max=1000,
                    tooltip="Timestep, of 1000, down to which they are mixed; later steps draw detail.",
                ),
                io.Float.Input(
                    "spatial",
                    default=5.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="How evenly parts that looked alike in the original are mixed in the first step; 0 leaves "
                    "it out.",
                ),
                _frames("for the motion between them"),
                _latents(),
                Flow.Input("flow", optional=True, tooltip="From OpticalFlow, for the same frames."),
            ],
            outputs=_guided(),
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        temporal: float,
        until: int,
        spatial: float,
        frames: Any = None,
        latents: Any = None,
        flow: Any = None,
    ) -> io.NodeOutput:
        """Put it on the MODEL."""
        part = ("flow", {"temporal": temporal, "until": until, "spatial": spatial})
        return io.NodeOutput(guided_model(model, part, frames, latents=latents, flow=flow))


class CorrespondenceFeatures(io.ComfyNode):
    """Features that move with the frames."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="CorrespondenceFeatures",
            display_name="Correspondence Features",
            category=CATEGORY,
            description="In the first three quarters of the steps the features of the decoder are optimised so that "
            "they move with the frames and keep what looked alike in the original (FRESCO).",
            inputs=[
                _model(),
                io.Int.Input("iterations", default=20, min=0, max=200, tooltip="Steps of the optimisation at a time."),
                io.Float.Input(
                    "temporal", default=2.0, min=0.0, max=1000.0, step=0.1, tooltip="Weight of moving with the frames."
                ),
                io.Float.Input(
                    "spatial",
                    default=100.0,
                    min=0.0,
                    max=10000.0,
                    step=1.0,
                    tooltip="Weight of keeping what looked alike; it takes most of the time, 0 leaves it out.",
                ),
                io.Float.Input(
                    "end", default=0.75, min=0.0, max=1.0, step=0.01, tooltip="Share of the noise levels to end at."
                ),
                _frames("for the motion between them"),
                _latents(),
                io.Mask.Input(
                    "foreground",
                    optional=True,
                    tooltip="What moves, white: the background is taken over from frame to frame. Best where the "
                    "camera stands still.",
                ),
                Flow.Input("flow", optional=True, tooltip="From OpticalFlow, for the same frames."),
            ],
            outputs=_guided(),
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        iterations: int,
        temporal: float,
        spatial: float,
        end: float,
        frames: Any = None,
        latents: Any = None,
        foreground: Any = None,
        flow: Any = None,
    ) -> io.NodeOutput:
        """Put it on the MODEL."""
        values = {"iterations": iterations, "temporal": temporal, "spatial": spatial, "until": end}
        return io.NodeOutput(guided_model(model, ("features", values), frames, foreground, latents, flow))


NODES = [CrossFrameAttention, FlowGuidedAttention, CorrespondenceFeatures]
