"""Key frames painted from a prompt: Rerender-A-Video's sampler, FRESCO's, and their encoding."""

from __future__ import annotations

from typing import Any

from .host.services import io, ui
from .host.sockets import CATEGORY
from .work.guidance import encode_pictures, paint_in_batches, paint_one_by_one


def native_sockets() -> list[io.Input]:
    """What both samplers begin with."""
    return [
        io.Model.Input("model", tooltip="MODEL of Stable Diffusion 1.5 or 2.1; LoRA and patches of the host apply."),
        io.Vae.Input("vae", tooltip="VAE of the same checkpoint."),
        io.Conditioning.Input(
            "positive",
            tooltip="What to paint. A ControlNet in it shows one picture for all key frames or one for each.",
        ),
        io.Conditioning.Input("negative", tooltip="What not to paint."),
        io.Image.Input("frames", tooltip="The original key frames in order; sides must be multiples of 64."),
    ]


def anchor_sockets() -> list[io.Input]:
    """Which key the others are held to, and its edit."""
    return [
        io.Image.Input(
            "edit",
            optional=True,
            tooltip="Your edit of the anchor frame: nothing is painted there, and all other keys are held to it.",
        ),
        io.Int.Input(
            "anchor_index",
            optional=True,
            default=0,
            min=0,
            max=999_999,
            tooltip="The frame that the others are held to, one of keys.",
        ),
        io.String.Input(
            "keys",
            optional=True,
            default="",
            tooltip="The numbers of the key frames in the clip, such as 0, 12, 31, as SelectKeyFrames gives them. Left "
            "empty, they count from 0.",
        ),
    ]


def painted_outputs() -> list[io.Output]:
    """What both samplers give."""
    return [
        io.Image.Output("key_frames", display_name="key_frames", tooltip="The painted keys in order."),
        io.Latent.Output("latents", display_name="latents", tooltip="The same as latents."),
    ]


class GuidedKeyFrameSampler(io.ComfyNode):
    """Rerender-A-Video's key frames."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="GuidedKeyFrameSampler",
            display_name="Guided Key Frame Sampler (Rerender-A-Video)",
            category=CATEGORY,
            description="Paints key frames from a prompt one after another, each held to an anchor, which may be your "
            "own edit, and to the key before it. PropagateKeyFrames makes the frames between.",
            inputs=[*native_sockets(), *_sampling_widgets(), *anchor_sockets(), *_part_widgets()],
            outputs=painted_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, model: Any, vae: Any, positive: Any, negative: Any, frames: Any, edit: Any = None, **widgets: Any
    ) -> io.NodeOutput:
        """Paint."""
        painted = paint_one_by_one(cls, (model, vae, positive, negative), frames, edit, widgets)
        preview = ui.PreviewImage(painted.pictures, cls=cls)
        return io.NodeOutput(painted.pictures, {"samples": painted.latents}, ui=painted.notes.ui(preview))


class KeyFrameBatchSampler(io.ComfyNode):
    """FRESCO's key frames."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="KeyFrameBatchSampler",
            display_name="Key Frame Batch Sampler (FRESCO)",
            category=CATEGORY,
            description="Paints key frames from a prompt a batch at a time; each batch follows the anchor, which may "
            "be your own edit, and the last key of the batch before. What holds a batch together are the guidance "
            "nodes on the MODEL.",
            inputs=[
                *native_sockets(),
                *_sampling_widgets(),
                io.Int.Input(
                    "batch_size", default=8, min=2, max=64, tooltip="Key frames at once; more needs more memory."
                ),
                *anchor_sockets(),
                io.Boolean.Input(
                    "align_pixels",
                    optional=True,
                    default=False,
                    tooltip="In the middle of the steps each key is pulled to the one before it, moved here along the "
                    "flow.",
                ),
                io.Float.Input(
                    "compensation",
                    optional=True,
                    default=1.0,
                    min=0.0,
                    max=1.5,
                    step=0.05,
                    tooltip="Of the encoding that loses less (FidelityEncode); 0 is plain encoding.",
                ),
            ],
            outputs=painted_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, model: Any, vae: Any, positive: Any, negative: Any, frames: Any, edit: Any = None, **widgets: Any
    ) -> io.NodeOutput:
        """Paint."""
        painted = paint_in_batches(cls, (model, vae, positive, negative), frames, edit, widgets)
        preview = ui.PreviewImage(painted.pictures, cls=cls)
        return io.NodeOutput(painted.pictures, {"samples": painted.latents}, ui=painted.notes.ui(preview))


class FidelityEncode(io.ComfyNode):
    """VAE encoding that loses less."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="FidelityEncode",
            display_name="Fidelity Encode",
            category=CATEGORY,
            description="Encodes pictures into latents and adds beforehand what decoding and encoding would lose: for "
            "pictures that go through the VAE again and again.",
            inputs=[
                io.Image.Input("images", tooltip="Pictures; sides must be multiples of 8."),
                io.Vae.Input("vae", tooltip="The VAE to encode with."),
                io.Float.Input(
                    "compensation",
                    default=1.0,
                    min=0.0,
                    max=1.5,
                    step=0.05,
                    tooltip="How much of the loss is added; 0 is the plain VAE Encode.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.25,
                    min=0.0,
                    max=2.0,
                    step=0.01,
                    tooltip="Where the decoded picture is off by more than this, of a range of 2, nothing is added.",
                ),
            ],
            outputs=[
                io.Latent.Output("latents", display_name="latents", tooltip="Latents of the pictures."),
            ],
        )

    @classmethod
    def execute(cls, images: Any, vae: Any, compensation: float, threshold: float) -> io.NodeOutput:
        """Encode."""
        return io.NodeOutput({"samples": encode_pictures(images, vae, compensation, threshold)})


def _sampling_widgets() -> list[io.Input]:
    return [
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=2**48,
            control_after_generate=True,
            tooltip="Of the noise, which all keys share.",
        ),
        io.Int.Input("steps", default=20, min=1, max=200, tooltip="Steps of a whole sampling."),
        io.Float.Input(
            "cfg", default=7.5, min=0.0, max=100.0, step=0.1, tooltip="How strongly the prompt is followed."
        ),
        io.Float.Input(
            "strength",
            default=0.75,
            min=0.0,
            max=1.05,
            step=0.01,
            tooltip="How far the original is taken apart: 0 leaves it alone, 1 begins with its noisiest latents, more "
            "with noise alone. Steps before are not run.",
        ),
    ]


def _part_widgets() -> list[io.Input]:
    return [
        io.Boolean.Input(
            "cross_frame", optional=True, default=True, tooltip="Attention to the anchor and to the key before."
        ),
        io.Boolean.Input(
            "loose",
            optional=True,
            default=True,
            tooltip="The coarsest layers keep to themselves, which follows large motion better.",
        ),
        io.Boolean.Input(
            "shape_fusion",
            optional=True,
            default=True,
            tooltip="In the first tenth of the steps the anchor's latents are moved here along the flow; acts with a "
            "strength of 0.9 and more.",
        ),
        io.Boolean.Input(
            "pixel_fusion",
            optional=True,
            default=True,
            tooltip="A second sampling of each key is pulled to the anchor and the key before, moved here along the "
            "flow. Takes about 1.6 times as long.",
        ),
        io.Float.Input(
            "pixel_strength",
            optional=True,
            default=0.5,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="How strongly they pull.",
        ),
        io.Boolean.Input(
            "match_colour",
            optional=True,
            default=True,
            tooltip="In the last fifth of the steps each key gets the anchor's mean and spread of latents (AdaIN).",
        ),
        io.Boolean.Input(
            "preserve_colour",
            optional=True,
            default=True,
            tooltip="Off: the original is first recoloured to the anchor's look.",
        ),
        io.Float.Input(
            "compensation",
            optional=True,
            default=1.0,
            min=0.0,
            max=1.5,
            step=0.05,
            tooltip="Of the encoding that loses less (FidelityEncode); 0 is plain encoding.",
        ),
        io.Int.Input(
            "update_every",
            optional=True,
            default=1,
            min=1,
            max=1000,
            tooltip="After how many keys the tokens of the key before are renewed; more holds long clips together.",
        ),
    ]


NODES = [GuidedKeyFrameSampler, KeyFrameBatchSampler, FidelityEncode]
