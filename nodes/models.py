"""The bundled tiny models as ordinary MODEL, VAE and CONDITIONING, and clips to try them on: nothing is downloaded."""

from __future__ import annotations

import torch

from .convert.pictures import mask_to_host, to_host
from .host.services import Progress, io
from .host.sockets import CATEGORY

FPS = 8.0


class ZeroToHeroTinyModels(io.ComfyNode):
    """The bundled models."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets."""
        return io.Schema(
            node_id="ZeroToHeroTinyModels",
            display_name="Zero-to-Hero Tiny Models",
            category=CATEGORY,
            description="Small models that come with the extension, for the whole pipeline on a CPU without a "
            "download. They were trained on rendered scenes like those of Zero-to-Hero Demo Clip and are a proof and "
            "a teaching aid: for footage of your own, load Stable Diffusion 1.5 or 2.1 and FLUX.",
            inputs=[],
            outputs=[
                io.Model.Output(
                    "zero_model",
                    display_name="zero_model",
                    tooltip="UNet for DIFTCorrespondence and MaskedCiAKSampler.",
                ),
                io.Vae.Output("vae", display_name="vae", tooltip="Autoencoder of both models."),
                io.Conditioning.Output(
                    "zero_conditioning", display_name="zero_conditioning", tooltip="The empty prompt of the UNet."
                ),
                io.Model.Output(
                    "hero_model", display_name="hero_model", tooltip="DiT for HeroLoRATrainer and HeroRestore."
                ),
                io.Conditioning.Output(
                    "hero_conditioning", display_name="hero_conditioning", tooltip="The empty prompt of the DiT."
                ),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        """Load all of them."""
        from .host.tiny import tiny_conditioning, tiny_model, tiny_vae
        from .host.tiny_dit import load_tiny_dit_model

        return io.NodeOutput(tiny_model(), tiny_vae(), tiny_conditioning(), *load_tiny_dit_model())


class ZeroToHeroDemoClip(io.ComfyNode):
    """A rendered clip with its edit."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="ZeroToHeroDemoClip",
            display_name="Zero-to-Hero Demo Clip",
            category=CATEGORY,
            description="Renders a clip that the tiny models have not seen: a textured solid under a moving camera "
            "and light, and the same clip with the solid in another look, so that every result can be compared with "
            "the truth.",
            inputs=[
                io.Int.Input("clip", default=0, min=0, max=999_999, tooltip="Which clip; each number is another one."),
                io.Int.Input("frame_count", default=16, min=2, max=1000, tooltip="Frames of the clip."),
                io.Int.Input("size", default=256, min=64, max=1024, step=64, tooltip="Side of the square, in pixels."),
            ],
            outputs=[
                io.Image.Output("frames", display_name="frames", tooltip="The clip in its first look."),
                io.Image.Output(
                    "reference", display_name="reference", tooltip="The anchor frame in the second look: the edit."
                ),
                io.Image.Output("truth", display_name="truth", tooltip="The whole clip in the second look."),
                io.Mask.Output("mask", display_name="mask", tooltip="Where the solid is, for every frame."),
                io.Int.Output(
                    "anchor_index", display_name="anchor_index", tooltip="Place of the anchor: 0, the first frame."
                ),
                io.Float.Output("fps", display_name="fps", tooltip="Frames per second to save the clip with."),
            ],
        )

    @classmethod
    def execute(cls, clip: int, frame_count: int, size: int) -> io.NodeOutput:
        """Render both looks."""
        from ..zero2hero_core.tiny.scenes.scene import Scene, split_seed

        scene, progress = Scene(split_seed("test", clip), frame_count, size), Progress(frame_count)
        frames, truth, masks = [], [], []
        for index in range(frame_count):
            picture, mask = scene.render(index, 0)
            frames.append(picture)
            masks.append(mask)
            truth.append(scene.render(index, 1)[0])
            progress.step(1, picture)
        pictures = to_host(torch.stack(truth))
        return io.NodeOutput(
            to_host(torch.stack(frames)), pictures[:1].clone(), pictures, mask_to_host(torch.stack(masks)), 0, FPS
        )


NODES = [ZeroToHeroTinyModels, ZeroToHeroDemoClip]
