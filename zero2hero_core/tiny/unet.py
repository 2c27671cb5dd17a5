"""The bundled tiny UNet: the class and the four-level layout of Stable Diffusion, about 7 M parameters."""

from __future__ import annotations

import warnings
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from ..backbones.sd.unet import UNetBackbone
from ..checks import InputError
from ..diffusion.ddim import stable_diffusion_alphas
from ..files.tensor_file import write_tensors
from .autoencoder import PatchAutoencoder

CONTEXT = (4, 32)  # tokens and width of the (all-zero) empty prompt
RECOMMENDED: dict[str, Any] = {"timestep": 51, "block": 2, "adain_start": False, "track": True}
UNET_FILE, AUTOENCODER_FILE = "tiny_unet.safetensors", "tiny_autoencoder.safetensors"


def build_unet() -> Any:
    """A freshly initialised tiny UNet (weights from torch's global generator)."""
    from diffusers import UNet2DConditionModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return UNet2DConditionModel(
            sample_size=32,
            in_channels=8,
            out_channels=8,
            layers_per_block=2,
            block_out_channels=(64, 80, 96, 96),
            cross_attention_dim=CONTEXT[1],
            attention_head_dim=4,
            norm_num_groups=16,
        )


def as_backbone(unet: Any, autoencoder: PatchAutoencoder) -> UNetBackbone:
    """A backbone of tiny parts."""
    return UNetBackbone(
        unet.eval().requires_grad_(False),
        autoencoder.eval().requires_grad_(False),
        prediction_type="epsilon",
        alphas_cumprod=stable_diffusion_alphas(),
        empty_embedding=torch.zeros(1, *CONTEXT),
        scaling_factor=1.0,
        name="tiny",
        recommended=RECOMMENDED,
    )


def weights_folder() -> Path:
    """Folder of the bundled weights."""
    return Path(str(resources.files(__package__))) / "weights"


def save_weights(folder: Path, unet: Any, autoencoder: PatchAutoencoder, metadata: dict[str, str]) -> None:
    """Write both models to `folder` in half precision (the autoencoder in float32: it is small), through temporary
    files."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        UNET_FILE: {name: tensor.detach().half().contiguous() for name, tensor in unet.state_dict().items()},
        AUTOENCODER_FILE: {name: tensor.detach().contiguous() for name, tensor in autoencoder.state_dict().items()},
    }
    for name, tensors in parts.items():
        write_tensors(folder / name, tensors, metadata)


def load_tiny(folder: Path | None = None, device: str | torch.device = "cpu") -> UNetBackbone:
    """The bundled models (or those in `folder`) as a backbone, float32.

    Raises: InputError when the weights are missing or damaged.
    """
    folder = folder or weights_folder()
    unet, autoencoder = build_unet(), PatchAutoencoder()
    for name, model in ((UNET_FILE, unet), (AUTOENCODER_FILE, autoencoder)):
        try:
            model.load_state_dict({key: value.float() for key, value in load_file(folder / name).items()})
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"tiny models: cannot read {folder / name} ({reason}); "
                "reinstall the package or train them with `zero2hero tiny train`."
            ) from error
    return as_backbone(unet.to(device), autoencoder.to(device))


def weights_metadata(folder: Path | None = None) -> dict[str, str]:
    """What the recipe wrote into the UNet's file: steps, seconds, losses, seed."""
    with safe_open((folder or weights_folder()) / UNET_FILE, "pt") as handle:
        return dict(handle.metadata() or {})
