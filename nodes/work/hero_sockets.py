"""What the Hero nodes check of their sockets, and the sockets they share."""

from __future__ import annotations

import torch

from ...zero2hero_core.checks import ShapeError
from ..convert.pictures import to_core
from ..host.services import io

ADAPTERS = ["auto", "none"]  # what a training begins with: the bundled adapter, or nothing
MULTIPLE = 16  # sides of pictures: the autoencoder's cell of 8 pixels, packed 2 x 2


def sockets() -> list[io.Input]:
    """The three native inputs that the Hero nodes begin with."""
    return [
        io.Model.Input(
            "model",
            tooltip="MODEL of the FLUX family, or hero_model of the bundled ones; LoRA and offloading of the host "
            "apply.",
        ),
        io.Vae.Input("vae", tooltip="VAE of the same model (ae.safetensors for FLUX.1)."),
        io.Conditioning.Input(
            "conditioning",
            tooltip="The prompt, empty by default: CLIP Text Encode with the text encoders of the same model. The "
            "guidance of FluxGuidance applies, 3.5 without it.",
        ),
    ]


def clip_inputs() -> list[io.Input]:
    """The clip twice: as Zero-Stage left it, and as it was."""
    return [
        io.Image.Input("zero_frames", tooltip="The Zero-Stage result of all frames (MaskedCiAKSampler)."),
        io.Image.Input(
            "frames", tooltip=f"The original frames: as many, of the same size; sides are multiples of {MULTIPLE}."
        ),
    ]


def read_clip(zero_frames: torch.Tensor, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both sockets in the core's layout. Raises: ShapeError naming the socket when they do not fit together."""
    zero, originals = to_core(zero_frames, "zero_frames"), to_core(frames, "frames")
    check_like("zero_frames", zero, originals)
    height, width = originals.shape[-2:]
    if height % MULTIPLE or width % MULTIPLE:
        fit = [max(1, round(side / MULTIPLE)) * MULTIPLE for side in (width, height)]
        raise ShapeError(
            f"frames: expected sides that are multiples of {MULTIPLE}, got {width} x {height}; load the clip at "
            f"{fit[0]} x {fit[1]} (VideoLoad's width and height), for all nodes."
        )
    return zero, originals


def check_like(socket: str, pictures: torch.Tensor, frames: torch.Tensor) -> None:
    """Raise `ShapeError` unless as many pictures of the same size came as frames."""
    height, width = frames.shape[-2:]
    if len(pictures) != len(frames):
        raise ShapeError(
            f"{socket}: expected {len(frames)} pictures, as many as on frames, got {len(pictures)}; connect the "
            "result for the same clip."
        )
    if pictures.shape[-2:] != (height, width):
        raise ShapeError(
            f"{socket}: expected {width} x {height} pixels like frames, got {pictures.shape[-1]} x "
            f"{pictures.shape[-2]}; resize it (Upscale Image) or connect the result for the same clip."
        )
