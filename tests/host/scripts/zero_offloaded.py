"""Weights that stay offloaded give the same frames, with a LoRA too; prints JSON.

On a CPU the host keeps all weights in one place whatever its flags say. Here it is told that the CPU is a device
without free memory, so that it goes the way of --novram: weights are fetched, and LoRA applied, layer by layer.
"""

from __future__ import annotations

import json

import comfy.model_management as model_management
import comfy.sd
import torch
from zero2hero_ext.nodes import host_tiny
from zero2hero_ext.nodes.models import ZeroToHeroDemoClip
from zero2hero_ext.nodes.zero_stage import DIFTCorrespondence, MaskedCiAKSampler

MATCH = {"anchor_index": 0, "max_k": 8, "timestep": -1, "block": -1, "ensemble": 1, "neighbourhood": 1.0, "seed": 3}
SAMPLE = {"tokens": "adaptive", "k": 1, "gamma": 1.0, "tau": 1.0, "steps": 2, "layers": "all (3-11)"}
SAMPLE |= {"adain_start": True, "batch": 2}
PLACES = ("up_blocks_1_attentions_0", "down_blocks_0_attentions_1")


def lora() -> dict[str, torch.Tensor]:
    generator, tensors = torch.Generator().manual_seed(0), {}
    for place, width in zip(PLACES, (96, 64), strict=True):
        name = f"lora_unet_{place}_transformer_blocks_0_attn1_to_v"
        tensors[f"{name}.lora_down.weight"] = torch.randn(2, width, generator=generator)
        tensors[f"{name}.lora_up.weight"] = torch.randn(width, 2, generator=generator)
    return tensors


def run() -> tuple[torch.Tensor, torch.Tensor, int]:
    vae, empty = host_tiny.tiny_vae(), host_tiny.tiny_conditioning()
    model, _ = comfy.sd.load_lora_for_models(host_tiny.tiny_model(), None, lora(), 1.0, 0.0)
    matched = DIFTCorrespondence.execute(model, vae, empty, frames, **MATCH).args[0]
    latents = MaskedCiAKSampler.execute(model, vae, empty, matched, frames, reference, **SAMPLE).args[1]["samples"]
    fetched = sum(getattr(part, "comfy_cast_weights", False) for part in model.model.modules())
    return latents, matched.frames[1].confidence, fetched


with torch.inference_mode():
    frames, reference, *_ = ZeroToHeroDemoClip.execute(0, 2, 64).args
    loaded = run()
    model_management.unload_all_models()
    model_management.is_device_cpu = lambda device: False
    model_management.vram_state = model_management.VRAMState.NO_VRAM
    offloaded = run()
out = {"latents": float((loaded[0] - offloaded[0]).abs().max()), "fetched": [loaded[2], offloaded[2]]}
out["confidence"] = float((loaded[1] - offloaded[1]).abs().max())
print(json.dumps(out))
