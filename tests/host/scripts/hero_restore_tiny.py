"""Restores two frames with the tiny DiT, as the host's MODEL and as the core's backbone; prints the differences."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import comfy.model_management
import torch
from parts import difference, pictures, random_lora
from zero2hero_ext.nodes.hero_stage import HeroRestore
from zero2hero_ext.nodes.host.dit import HostDiT
from zero2hero_ext.nodes.host.dit_lora import HostLoRA, fit
from zero2hero_ext.nodes.host.lora_files import read_hero_lora
from zero2hero_ext.nodes.host.tiny import tiny_vae
from zero2hero_ext.nodes.host.tiny_dit import load_tiny_dit_model
from zero2hero_ext.zero2hero_core.hero_stage.sampling import RestoreSettings, restore_latents
from zero2hero_ext.zero2hero_core.hero_stage.stage import HeroStage
from zero2hero_ext.zero2hero_core.tiny.dit import load_tiny_dit

RESTORE = {"steps": 1, "samples": 1, "zero_strength": 1.0, "seed": 0, "same_noise": True, "batch_size": 1}
core = load_tiny_dit()
path = Path(tempfile.mkdtemp()) / "hero.safetensors"
with torch.inference_mode():  # as the host runs its nodes
    model, conditioning = load_tiny_dit_model()
    host = HostDiT(model, tiny_vae(), conditioning)
before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
core_lora = random_lora(core, path)
found = {}
kinds, settings = ("zero", "frame"), RestoreSettings(num_inference_steps=3, samples=2, strengths=(1.0, 0.5))
zero, frames = (pictures(2, 128, seed).movedim(-1, 1) for seed in (1, 2))
with torch.inference_mode():
    host_lora = HostLoRA(model, fit(read_hero_lora(path), model, host.family))
    inputs = [core.encode(zero), core.encode(frames)]
    found["encode"] = difference(host.encode(zero), inputs[0])
    noise = HeroStage(core, core_lora, kinds, settings).noise([0, 1], (8, 8))
    both = ((core, core_lora), (host, host_lora))
    with_lora = [restore_latents(dit, lora, kinds, inputs, noise, settings) for dit, lora in both]
    found["latents"] = difference(*with_lora)
    without = restore_latents(host, None, kinds, inputs, noise, settings)
    found["effect of the LoRA"] = difference(without, with_lora[1])
    smaller = [inputs[0], torch.nn.functional.avg_pool2d(inputs[1], 2)]  # a condition at half the size
    scaled = [restore_latents(dit, lora, kinds, smaller, noise, settings) for dit, lora in both]
    found["latents, small condition"] = difference(*scaled)
    made = [HeroStage(dit, lora, kinds, settings).restore(zero, frames, [0, 1]) for dit, lora in both]
    found["pictures"] = difference(*made)
    runs = {"first": 0, "last": 0}  # of the output layer of the first and the last single block
    blocks = model.model.diffusion_model.single_blocks
    counting = [
        block.linear2.register_forward_hook(lambda *_, which=which: runs.__setitem__(which, runs[which] + 1))
        for which, block in (("first", blocks[0]), ("last", blocks[-1]))
    ]
    one = host.condition(inputs[0][:1], 0, (8, 8), guidance=1.0)
    found["runs of a condition pass"] = dict(runs)
    host.velocity(noise[:1], torch.ones(1), [one], guidance=1.0)
    found["runs after a sampling pass"] = dict(runs)
    for handle in counting:
        handle.remove()
    found["a condition's bytes"] = sum(tensor.nbytes for pair in one.keys_values.values() for tensor in pair)
    found["room asked"], load = {}, comfy.model_management.load_models_gpu
    for count, strength in ((1, 0.0), (2, 1.0)):
        asked = found["room asked"][count] = []

        def noting(models, memory_required=0, asked=asked, **named):
            """Notes what is asked for besides the weights and one pass."""
            if models[0] is model:
                asked.append(int(memory_required - model.model.memory_required([1, 8, 16, 16])))
            return load(models, memory_required=memory_required, **named)

        comfy.model_management.load_models_gpu = noting
        given = {"zero_frames": zero.movedim(1, -1), "frames": frames.movedim(1, -1), "frame_strength": strength}
        HeroRestore.execute(model, host.codec.vae, conditioning, read_hero_lora(path), **given, **RESTORE)
after = model.model.state_dict()
found["model changed"] = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
found["hooks left"] = sum(len(module._forward_hooks) for module in model.model.modules())
print(json.dumps(found))
