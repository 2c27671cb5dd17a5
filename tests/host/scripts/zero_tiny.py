"""Tiny models: the host's MODEL and VAE against the core on diffusers, equal weights; prints JSON of differences."""

from __future__ import annotations

import json

import torch
from parts import difference
from zero2hero_ext.nodes.host.tiny import tiny_conditioning, tiny_model, tiny_vae
from zero2hero_ext.nodes.host.unet import HostUNet
from zero2hero_ext.zero2hero_core.tiny.scenes.scene import Scene, split_seed
from zero2hero_ext.zero2hero_core.tiny.unet import load_tiny
from zero2hero_ext.zero2hero_core.zero_stage.stage import ZeroStage, ZeroStageSettings

with torch.inference_mode():
    scene = Scene(split_seed("test", 0), 3, 128)
    frames, truth = scene.frames(0), scene.frames(1)
    core = load_tiny()
    host = HostUNet(tiny_model(), tiny_vae(), tiny_conditioning())
    out = {"recommended": host.recommended, "encode": difference(core.encode(frames), host.encode(frames))}
    latents = core.encode(frames)
    out["decode"] = difference(core.decode(latents), host.decode(latents))
    context = core.encode_prompt("")
    for timestep in (1, 500, 951):
        pair = [one.predict_noise(latents, timestep, one.encode_prompt("")) for one in (core, host)]
        out[f"noise {timestep}"] = difference(*pair)
    for block in range(4):
        pair = [one.features(latents, 51, one.encode_prompt(""), block) for one in (core, host)]
        out[f"features {block}"] = difference(*pair)
    for k, gamma in ((1, 1.0), (4, 0.8), ("adaptive", 1.0), (-1, 1.0)):
        settings = ZeroStageSettings(num_inference_steps=4, k=k, gamma=gamma, ensemble=2)
        stages = [ZeroStage(one, frames[0], truth[0], 0, settings) for one in (core, host)]
        matches = [stages[0].correspond(frame, index) for index, frame in enumerate(frames)]
        pair = [stage.edit_latents(frames, range(3), matches) for stage in stages]
        out[f"latents k={k}"] = difference(*pair)
    masks = scene.masks()
    out["latents mask"] = difference(*[stage.edit_latents(frames, range(3), matches, masks) for stage in stages])
print(json.dumps(out))
