"""Full-size Stable Diffusion 1.5 and ControlNet with random weights, in the host and in the core; prints JSON.

Argument: a folder to write the files to.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import comfy.controlnet
import comfy.sd
import sd_checkpoint
import torch
from parts import difference, pictures
from safetensors.torch import save_file
from zero2hero_ext.nodes.guidance import GuidedKeyFrameSampler, KeyFrameBatchSampler
from zero2hero_ext.nodes.guidance_patches import CorrespondenceFeatures, CrossFrameAttention, FlowGuidedAttention
from zero2hero_ext.zero2hero_core.backbones.sd import single_file
from zero2hero_ext.zero2hero_core.backbones.sd.controlnet import Control, _original_name, load_controlnet
from zero2hero_ext.zero2hero_core.backbones.sd.guided import GuidedUNet
from zero2hero_ext.zero2hero_core.backbones.sd.loading import load_backbone
from zero2hero_ext.zero2hero_core.backbones.weights import open_weights
from zero2hero_ext.zero2hero_core.guidance.rerender import KeyFramePainter
from zero2hero_ext.zero2hero_core.guidance.settings import RerenderSettings
from zero2hero_ext.zero2hero_core.jobs.guidance import paint_key_frames

import nodes as host_nodes

folder = Path(sys.argv[1])
path, stored, net = (folder / name for name in ("sd15.safetensors", "empty.safetensors", "net.safetensors"))
SAMPLE = {"seed": 0, "steps": 2, "cfg": 3.0, "strength": 1.0}
PLACE = "up_blocks_2_attentions_2_transformer_blocks_0_attn1_to_v"


def context(seed: int) -> torch.Tensor:
    return torch.randn(1, 77, 768, generator=torch.Generator().manual_seed(seed))


def original_layout() -> Path:
    """The ControlNet's file again, as its authors name its tensors."""
    weights, other = open_weights(net), folder / "original.safetensors"
    names = {name: f"control_model.{_original_name(name, 2)}" for name in weights.shapes}
    save_file({new: weights.read(name).contiguous() for name, new in names.items()}, other)
    return other


def core(images: torch.Tensor, hints: torch.Tensor) -> torch.Tensor:
    backbone = load_backbone(path, device="cpu", dtype="float32", empty_embedding=stored)
    control = load_controlnet(net, backbone.unet, device=torch.device("cpu"), dtype=torch.float32)
    shown = Control(control, dict(enumerate(hints)), 0.7)
    denoiser = GuidedUNet(backbone, context(2), context(3), guidance_scale=3.0, controls=[shown])
    painter = KeyFramePainter(denoiser, RerenderSettings(steps=2, strength=1.0))
    keys = {key.index: key.latents for key in paint_key_frames(painter, dict(enumerate(images)), [0, 1], 0)}
    return torch.cat([keys[index] for index in range(2)])


with torch.inference_mode():
    sd_checkpoint.write(path, "sd15", single_file)
    importlib.import_module("standins").write_controlnet(net)  # after the host's nodes: it puts our folder on the path
    save_file({"empty": context(2)}, stored)
    frames, hints = pictures(2, 64), pictures(2, 64, seed=3)
    ours = core(frames.movedim(-1, 1), hints.movedim(-1, 1))

    model, _, vae, _ = comfy.sd.load_checkpoint_guess_config(str(path), output_clip=False)
    out: dict[str, object] = {"size": float(ours.abs().max())}
    positive, negative = [[context(2), {}]], [[context(3), {}]]
    for name, file in (("diffusers", net), ("original", original_layout())):
        control = comfy.controlnet.load_controlnet(str(file))
        held = host_nodes.ControlNetApplyAdvanced().apply_controlnet(positive, negative, control, hints, 0.7, 0.0, 1.0)
        result = GuidedKeyFrameSampler.execute(model, vae, *held, frames, **SAMPLE).args[1]["samples"]
        scaled = model.model.latent_format.process_in(result)
        out[f"as the core, {name}"] = difference(scaled, ours)
    plain = GuidedKeyFrameSampler.execute(model, vae, positive, negative, frames, **SAMPLE).args[1]["samples"]
    out["control changes"] = difference(plain, result)

    lora = {
        f"lora_unet_{PLACE}.lora_{way}.weight": torch.randn(*shape)
        for way, shape in (("down", (2, 640)), ("up", (640, 2)))
    }
    lora[f"lora_unet_{PLACE}.alpha"] = torch.tensor(2.0)
    styled, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)
    guided = CrossFrameAttention.execute(styled, "anchor and new regions", True, 0.0, 1.0, frames).args[0]
    guided = FlowGuidedAttention.execute(guided, 5.0, 350, 5.0).args[0]
    guided = CorrespondenceFeatures.execute(guided, 2, 2.0, 100.0, 0.75).args[0]
    latents = {"samples": vae.encode(frames)}

    def ksampler(one: object) -> torch.Tensor:
        made = host_nodes.KSampler().sample(one, 1, 2, 1.0, "ddim", "ddim_uniform", *held, latents, 0.75)
        return made[0]["samples"]

    before, result = ksampler(styled), ksampler(guided)
    out["guidance changes"], out["finite"] = difference(before, result), bool(result.isfinite().all())
    out["lora changes"] = difference(ksampler(model), before)
    batch = KeyFrameBatchSampler.execute(guided, vae, *held, frames, **SAMPLE, batch_size=2).args[1]["samples"]
    out["batch finite"] = bool(batch.isfinite().all())
print(json.dumps(out))
