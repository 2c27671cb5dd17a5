"""Writes every model file that a workflow names, with random weights, into the folders of a host.

    PYTHON standins.py MODELS_FOLDER WORKFLOW.json ...

Formats and widths are those of the published files; FLUX has one block of each kind. What a text encoder of FLUX would
do, a node of tests/host/standins does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[2])]

import flux_checkpoint  # noqa: E402
import sd_checkpoint  # noqa: E402

from zero2hero_core.backbones.sd import single_file  # noqa: E402

FLUX_LATENT = 16


def write_controlnet(path: Path) -> None:
    """A ControlNet of SD 1.5 in the layout of diffusers, which the host reads, too."""
    from diffusers import ControlNetModel

    with torch.device("meta"):
        tensors = ControlNetModel(cross_attention_dim=768, attention_head_dim=8).state_dict()
    fill = sd_checkpoint.Filler(1)
    save_file({name: fill(name, tensor.shape).contiguous() for name, tensor in tensors.items()}, path)


def write_flux_vae(path: Path) -> None:
    """The autoencoder of FLUX in the original layout."""
    from diffusers import AutoencoderKL

    shape = sd_checkpoint.VAE | {"latent_channels": FLUX_LATENT}
    with torch.device("meta"):
        tensors = AutoencoderKL(**shape, use_quant_conv=False, use_post_quant_conv=False).state_dict()
    fill, written = sd_checkpoint.Filler(2), {}
    for name, tensor in tensors.items():
        key = single_file.vae_source(name, 4).key.removeprefix("first_stage_model.")
        convolution = ".attn_1." in key and ".norm." not in key and tensor.ndim == 2
        filled = torch.Size((*tensor.shape, 1, 1)) if convolution else tensor.shape
        written[key] = fill(name, filled).contiguous()
    save_file(written, path)


MAKERS = {
    "checkpoints": lambda path: sd_checkpoint.write(path, "sd15", single_file, text=True),
    "controlnet": write_controlnet,
    "diffusion_models": flux_checkpoint.write_checkpoint,
    "vae": write_flux_vae,
}


def main() -> None:
    """Write what is not there yet."""
    models, *workflows = (Path(word) for word in sys.argv[1:])
    for workflow in workflows:
        for node in json.loads(workflow.read_text(encoding="utf-8"))["nodes"]:
            for file in node.get("properties", {}).get("models", []):
                path = models / file["directory"] / file["name"]
                if file["directory"] in MAKERS and not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    MAKERS[file["directory"]](path)


if __name__ == "__main__":
    main()
