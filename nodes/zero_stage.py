"""Zero-Stage as nodes: where each frame's tokens lie in the anchor, and the frames in the reference's look."""

from __future__ import annotations

from typing import Any

from .convert.pictures import to_host
from .host.services import io, ui
from .host.sockets import CATEGORY, Correspondence
from .work.zero_stage import LAYERS, TOKENS, TRACK, correspond_clip, edit_clip


def sockets() -> list[io.Input]:
    """The three native inputs that both nodes begin with."""
    return [
        io.Model.Input("model", tooltip="MODEL of Stable Diffusion 1.5 or 2.1; LoRA and offloading of the host apply."),
        io.Vae.Input("vae", tooltip="VAE of the same checkpoint."),
        io.Conditioning.Input(
            "conditioning", tooltip="The empty prompt: CLIP Text Encode with no text, CLIP of the same checkpoint."
        ),
    ]


class DIFTCorrespondence(io.ComfyNode):
    """Matches of every frame with the anchor, from diffusion features."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="DIFTCorrespondence",
            display_name="DIFT Correspondence",
            category=CATEGORY,
            description="Finds for each part of every frame the parts of the anchor frame that show the same thing, by "
            "comparing features of the diffusion model (DIFT). MaskedCiAKSampler carries the edit along these matches.",
            inputs=[
                *sockets(),
                io.Image.Input("frames", tooltip="All frames of the clip; sides must be multiples of 64."),
                io.Int.Input(
                    "anchor_index", default=0, min=0, max=999_999, tooltip="Place of the edited frame, from 0."
                ),
                *_match_widgets(),
            ],
            outputs=[
                Correspondence.Output(
                    "correspondence", display_name="correspondence", tooltip="For MaskedCiAKSampler and PixelSwap."
                ),
                io.Image.Output(
                    "match_map",
                    display_name="match_map",
                    tooltip="For up to eight frames: the anchor, its places as colours, the frame, the colours that "
                    "its parts found in the anchor, and the confidence (white is sure).",
                ),
                io.Mask.Output(
                    "confidence",
                    display_name="confidence",
                    tooltip="Trust in the matches of each frame, 0 to 1, at the frames' size.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Any, vae: Any, conditioning: Any, frames: Any, **widgets: Any) -> io.NodeOutput:
        """Match all frames."""
        result = correspond_clip(cls, (model, vae, conditioning), frames, widgets)
        pictures = to_host(result.pictures)
        preview = ui.PreviewImage(pictures, cls=cls)
        return io.NodeOutput(result.clip, pictures, result.confidence, ui=result.notes.ui(preview))


class MaskedCiAKSampler(io.ComfyNode):
    """Masked cross-image attention (Zero-Stage) over a clip."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="MaskedCiAKSampler",
            display_name="Masked Cross-image Attention KSampler",
            category=CATEGORY,
            description="Zero-Stage: gives every frame the look of the reference, the edited anchor frame. Each part "
            "of a frame attends only to its matches in the reference while the frame's own structure is kept. The "
            "colours are those of the edit, details are soft; HeroRestore brings them back.",
            inputs=[
                *sockets(),
                Correspondence.Input("correspondence", tooltip="From DIFTCorrespondence, for the same frames."),
                io.Image.Input("frames", tooltip="All frames of the clip; sides must be multiples of 64."),
                io.Image.Input("reference", tooltip="The edited anchor frame: one picture of the frames' size."),
                *_sampler_widgets(),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where to edit (white), one mask or one a frame; outside, a frame keeps its own look.",
                ),
            ],
            outputs=[
                io.Image.Output("edited", display_name="edited", tooltip="The frames in the reference's look."),
                io.Latent.Output(
                    "latent", display_name="latent", tooltip="The same as latents, for VAE Decode or another sampler."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        vae: Any,
        conditioning: Any,
        correspondence: Any,
        frames: Any,
        reference: Any,
        mask: Any = None,
        **widgets: Any,
    ) -> io.NodeOutput:
        """Edit all frames."""
        clip = (frames, reference, mask)
        result = edit_clip(cls, (model, vae, conditioning), correspondence, clip, widgets)
        return io.NodeOutput(result.edited, {"samples": result.latents}, ui=result.notes.ui())


def _match_widgets() -> list[io.Input]:
    return [
        io.Int.Input(
            "max_k",
            default=8,
            min=1,
            max=64,
            tooltip="Matches kept per part: the most that k of MaskedCiAKSampler can use (adaptive takes up to "
            "8). At 512 px, 8 take 1.1 MB a frame, 1 takes 0.14.",
        ),
        io.Int.Input(
            "timestep",
            default=-1,
            min=-1,
            max=999,
            tooltip="Noise level at which features are read; -1 takes what suits the model (261, or what a "
            "bundled model recommends). Low values such as 51 match small movements better.",
        ),
        io.Int.Input(
            "block",
            default=-1,
            min=-1,
            max=3,
            tooltip="Decoder block whose output is compared; -1 takes what suits the model (1). 2 is finer.",
        ),
        io.Int.Input(
            "ensemble",
            default=-1,
            min=-1,
            max=64,
            tooltip="Noise draws that features are averaged over; -1 takes what suits the model (8, or what a bundled "
            "model recommends).",
        ),
        io.Float.Input(
            "neighbourhood",
            default=1.0,
            min=0.01,
            max=1.0,
            step=0.01,
            tooltip="Search radius as a share of the longer side; 1 searches everywhere. Lower it where things "
            "move little and look alike.",
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=2**64 - 1,
            control_after_generate=False,  # another draw of noise is no better: do not compute all anew
            tooltip="Of the feature noise; each frame has a random stream of its own.",
        ),
        io.Combo.Input(
            "track",
            options=list(TRACK),
            default="auto",
            optional=True,  # it came later: graphs without it still run
            tooltip="Follow parts from frame to frame instead of looking for them in every frame anew: steadier, and "
            "right where a surface repeats itself or turns away. Auto takes what suits the model (on with the bundled "
            "models, off as in the paper with others).",
        ),
    ]


def _sampler_widgets() -> list[io.Input]:
    return [
        io.Combo.Input(
            "tokens",
            options=TOKENS,
            default="fixed",
            tooltip="How many parts of the reference a part of the frame may read: fixed (k of them), adaptive (one "
            "where the match is sure, more where it is not), all (plain cross-image attention, no matches).",
        ),
        io.Int.Input(
            "k",
            default=1,
            min=1,
            max=64,
            tooltip="With fixed: matches read on the middle grid; a quarter of it on the coarse one, four times as "
            "many on the fine one. 1 is sharpest.",
        ),
        io.Float.Input(
            "gamma",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.05,
            tooltip="Whose structure asks: 1 the original frame's, 0 that of the result so far. Has no effect where "
            "one match is read.",
        ),
        io.Float.Input(
            "tau",
            default=1.0,
            min=0.0,
            max=100.0,
            step=0.05,
            tooltip="Sharpness of the choice among matches; higher prefers the best one. Has no effect where one "
            "match is read.",
        ),
        io.Int.Input("steps", default=20, min=1, max=999, tooltip="DDIM steps of inversion and of sampling."),
        io.Combo.Input(
            "layers",
            options=list(LAYERS),
            default="all (3-11)",
            tooltip="Decoder layers that read the reference; fewer keep more of the frame's own look.",
        ),
        io.Boolean.Input(
            "adain_start",
            default=True,
            tooltip="Start from latents with the reference's mean and spread, so that colours arrive early.",
        ),
        io.Int.Input(
            "batch",
            default=2,
            min=1,
            max=64,
            tooltip="Frames at once; halved by itself when memory runs out. The result does not depend on it.",
        ),
    ]


NODES = [DIFTCorrespondence, MaskedCiAKSampler]
