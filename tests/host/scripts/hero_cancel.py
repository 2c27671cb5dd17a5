"""Cancel in the middle of restoring and of the trainer's evaluations; prints how much ran on afterwards."""

from __future__ import annotations

import gc
import json
import tempfile
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from parts import RESTORE, TRAIN, Pressed, difference, outcome, pictures, random_lora
from zero2hero_ext.nodes.hero_stage import HeroRestore
from zero2hero_ext.nodes.hero_training import HeroLoRATrainer
from zero2hero_ext.nodes.host.lora_files import read_hero_lora
from zero2hero_ext.nodes.host.tiny import tiny_vae
from zero2hero_ext.nodes.host.tiny_dit import load_tiny_dit_model
from zero2hero_ext.zero2hero_core.tiny.dit import load_tiny_dit

SMALL = RESTORE | {"batch_size": 1}
TRAINING = TRAIN | {"checkpointing": True, "crop": 1.0, "evaluate_every": 2}
path = Path(tempfile.mkdtemp()) / "hero.safetensors"
random_lora(load_tiny_dit(), path)
found = {}

with torch.inference_mode():
    model, conditioning = load_tiny_dit_model()
    given = {"model": model, "vae": tiny_vae(), "conditioning": conditioning}
    given |= {"zero_frames": pictures(3, 64, 1), "frames": pictures(3, 64, 2)}
    lora, reference = read_hero_lora(path), pictures(1, 64, 3)
    with Pressed(model.model, "apply_model", 5) as pressed:
        found["restore"] = outcome(HeroRestore, **given, hero_lora=lora, **SMALL)
    found["passes after Cancel"] = pressed.calls - pressed.at
    found["restore again"] = outcome(HeroRestore, **given, hero_lora=lora, **SMALL)
    found["hooks left"] = sum(len(module._forward_hooks) for module in model.model.modules())

    whole = HeroLoRATrainer.execute(**given, reference=reference, **TRAINING, name="whole").result[0].state
    gc.collect()
    alive = sum(isinstance(thing, FluxTransformer2DModel) for thing in gc.get_objects())
    found["results"] = {}
    for at in (1, 20, 30, 60):  # evaluations have 18 passes, at the steps 0, 2 and 4; training steps have 3
        name = f"broken_{at}"
        with Pressed(FluxTransformer2DModel, "forward", at) as pressed:
            said = outcome(HeroLoRATrainer, **given, reference=reference, **TRAINING, name=name)
        done = HeroLoRATrainer.execute(**given, reference=reference, **TRAINING, name=name)
        differs = max(difference(done.result[0].state[key], whole[key]) for key in whole)
        found["results"][at] = [said, pressed.calls - at, differs, done.ui["text"][0].splitlines()[0]]
    del done
    gc.collect()
    found["models left"] = sum(isinstance(thing, FluxTransformer2DModel) for thing in gc.get_objects()) - alive
print(json.dumps(found))
