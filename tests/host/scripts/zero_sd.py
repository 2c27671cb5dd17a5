"""A full-size checkpoint with random weights, loaded by the host and by the core: Zero-Stage of both; prints JSON.

Arguments: a folder to write the checkpoint to; sd15 or sd21-v.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import comfy.sd
import sd_checkpoint
import torch
from parts import difference
from safetensors.torch import save_file
from zero2hero_ext.nodes.host.unet import HostUNet
from zero2hero_ext.zero2hero_core.backbones.sd import single_file
from zero2hero_ext.zero2hero_core.backbones.sd.loading import load_backbone
from zero2hero_ext.zero2hero_core.tiny.scenes.scene import Scene, split_seed
from zero2hero_ext.zero2hero_core.zero_stage.stage import ZeroStage, ZeroStageSettings

folder, kind = Path(sys.argv[1]), sys.argv[2]
path, stored = folder / f"{kind}.safetensors", folder / f"{kind}_empty.safetensors"
width = 768 if kind == "sd15" else 1024
scene = Scene(split_seed("test", 0), 2, 64)
frames, truth = scene.frames(0), scene.frames(1)
settings = ZeroStageSettings(num_inference_steps=2, k=1, ensemble=1, seed=5)


def run(backbone: object) -> dict[str, torch.Tensor]:
    stage = ZeroStage(backbone, frames[0], truth[0], 0, settings)
    generator = torch.Generator().manual_seed(1)
    out = {"drawn": backbone.posterior(frames).sample(generator), "features": stage.features(frames[1], 1)}
    out["latents"] = stage.edit_latents(frames[1:], [1], matches.setdefault("known", [stage.correspond(frames[1], 1)]))
    return out | {"picture": backbone.decode(out["latents"])}


matches: dict[str, list] = {}
with torch.inference_mode():
    sd_checkpoint.write(path, kind, single_file)
    context = torch.randn(1, 77, width, generator=torch.Generator().manual_seed(2))
    save_file({"empty": context}, stored)
    core = run(load_backbone(path, device="cpu", dtype="float32", empty_embedding=stored))
    model, _, vae, _ = comfy.sd.load_checkpoint_guess_config(str(path), output_clip=False)
    backbone = HostUNet(model, vae, [[context, {}]])
    host = run(backbone)
    out = {name: difference(core[name], host[name]) for name in core}
    out |= {f"size of {name}": float(core[name].abs().max()) for name in core}
    out |= {"type": model.model.model_type.name}
print(json.dumps(out))
