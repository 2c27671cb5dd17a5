"""The bundled tiny DiT: diffusers' `FluxTransformer2DModel` with about 5 M parameters, guidance embedding, one text
token and a pooled text vector in their smallest form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from ..backbones.flux.dit import TINY, DiTBackbone, PlainCodec, TextEmbedding
from ..checks import InputError
from ..files.tensor_file import write_tensors
from .autoencoder import PatchAutoencoder
from .unet import load_tiny, weights_folder

TEXT_WIDTH = 16
RECOMMENDED = {
    "rank": 16,
    "learning_rate": 1e-3,
    "decay": True,
    "batch": 2,
    "draws": 2,
    "steps": 300,
    "adapter_steps": 150,
    "crop": 0.5,
    "light": 1.0,
    "shift": 8,
    "num_inference_steps": 2,
    "samples": 2,
    "high_noise": 0.8,
}
DIT_FILE = "tiny_dit.safetensors"
ADAPTER_FILE = "tiny_adapter.safetensors"


def build_dit() -> Any:
    """A freshly initialised tiny DiT (weights from torch's global generator)."""
    from diffusers import FluxTransformer2DModel

    transformer: Any = FluxTransformer2DModel(
        in_channels=32,
        num_layers=1,
        num_single_layers=6,
        attention_head_dim=32,
        num_attention_heads=6,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(8, 12, 12),
    )
    gates = [transformer.norm_out.linear, transformer.proj_out]
    for block in transformer.transformer_blocks:
        gates += [block.norm1.linear, block.norm1_context.linear]
    gates += [block.norm.linear for block in transformer.single_transformer_blocks]
    for linear in gates:  # every block starts as the identity (DiT's adaLN-Zero)
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    return transformer


def as_dit_backbone(transformer: Any, autoencoder: PatchAutoencoder | None = None) -> DiTBackbone:
    """A backbone of tiny parts."""
    codec = PlainCodec(autoencoder.eval().requires_grad_(False), scaling_factor=1.0) if autoencoder else None
    text = TextEmbedding(torch.zeros(1, 1, TEXT_WIDTH), torch.zeros(1, TEXT_WIDTH))
    return DiTBackbone(transformer, TINY, codec=codec, text=text, recommended=RECOMMENDED)


def save_dit(folder: Path, transformer: Any, metadata: dict[str, str]) -> None:
    """Write the transformer to `folder` in half precision, through a temporary file."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().half().contiguous() for name, tensor in transformer.state_dict().items()}
    write_tensors(folder / DIT_FILE, tensors, metadata)


def load_tiny_dit(folder: Path | None = None, device: str | torch.device = "cpu") -> DiTBackbone:
    """The bundled tiny DiT (or that in `folder`) with the bundled autoencoder, float32.

    Raises: InputError when the weights are missing or damaged.
    """
    path = (folder or weights_folder()) / DIT_FILE
    transformer = build_dit()
    try:
        transformer.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"tiny DiT: cannot read {path} ({reason}); reinstall the package or train it with "
            "`zero2hero tiny train --part dit`."
        ) from error
    autoencoder: Any = load_tiny().vae
    transformer.eval().requires_grad_(False)
    return as_dit_backbone(transformer.to(device), autoencoder.to(device))


def dit_metadata(folder: Path | None = None) -> dict[str, str]:
    """What the recipe wrote into the file: steps, seconds, losses, seed."""
    with safe_open((folder or weights_folder()) / DIT_FILE, "pt") as handle:
        return dict(handle.metadata() or {})
