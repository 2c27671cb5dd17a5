"""Cancel in the middle of restoring and of the trainer's evaluations; prints how much ran on afterwards."""

from __future__ import annotations

import gc
import json
import sys
import tempfile
from pathlib import Path

import comfy.model_management as management
import torch

sys.path.insert(0, str(Path(__file__).parent))
from diffusers import FluxTransformer2DModel
from hero_parts import pictures, random_lora
from zero2hero_ext.nodes.hero_lora import read_hero_lora
from zero2hero_ext.nodes.hero_stage import HeroRestore
from zero2hero_ext.nodes.hero_training import HeroLoRATrainer
from zero2hero_ext.nodes.host_tiny import tiny_vae
from zero2hero_ext.nodes.host_tiny_dit import load_tiny_dit_model
from zero2hero_ext.zero2hero_core.tiny.dit import load_tiny_dit

RESTORE = {"steps": 3, "samples": 2, "zero_strength": 1.0, "frame_strength": 1.0}
RESTORE |= {"seed": 0, "same_noise": True, "batch_size": 1}
TRAIN = {"anchor_index": 0, "mode": "explicit", "rank": 2, "steps": 4, "learning_rate": 0.0, "seed": 0}
TRAIN |= {"weights": "as loaded", "checkpointing": True, "light": 0.0, "crop": 1.0}
TRAIN |= {"evaluate_every": 2, "save_every": 100}
path = Path(tempfile.mkdtemp()) / "hero.safetensors"
random_lora(load_tiny_dit(), path)
found = {}


class Pressed:
    """Counts calls of a method and presses Cancel during one of them."""

    def __init__(self, owner, name: str, at: int):
        self.owner, self.name, self.at, self.calls, self.plain = owner, name, at, 0, getattr(owner, name)

    def __enter__(self):
        def counted(*given, **named):
            self.calls += 1
            if self.calls == self.at:
                management.interrupt_current_processing()
            return self.plain(*given, **named)

        setattr(self.owner, self.name, counted)
        return self

    def __exit__(self, *_):
        setattr(self.owner, self.name, self.plain)


def cancelled(node, **given) -> str:
    try:
        node.execute(**given)
    except management.InterruptProcessingException:
        return "cancelled"
    return "went through"


with torch.inference_mode():
    model, conditioning = load_tiny_dit_model()
    given = {"model": model, "vae": tiny_vae(), "conditioning": conditioning}
    given |= {"zero_frames": pictures(3, 64, 1), "frames": pictures(3, 64, 2)}
    lora, reference = read_hero_lora(path), pictures(1, 64, 3)
    with Pressed(model.model, "apply_model", 5) as pressed:
        found["restore"] = cancelled(HeroRestore, **given, hero_lora=lora, **RESTORE)
    found["passes after Cancel"] = pressed.calls - pressed.at
    found["restore again"] = cancelled(HeroRestore, **given, hero_lora=lora, **RESTORE)
    found["hooks left"] = sum(len(module._forward_hooks) for module in model.model.modules())

    whole = HeroLoRATrainer.execute(**given, reference=reference, **TRAIN, name="whole").result[0].state
    gc.collect()
    alive = sum(isinstance(thing, FluxTransformer2DModel) for thing in gc.get_objects())
    found["results"] = {}
    for at in (1, 20, 30, 60):  # evaluations have 18 passes, at the steps 0, 2 and 4; training steps have 3
        name = f"broken_{at}"
        with Pressed(FluxTransformer2DModel, "forward", at) as pressed:
            said = cancelled(HeroLoRATrainer, **given, reference=reference, **TRAIN, name=name)
        done = HeroLoRATrainer.execute(**given, reference=reference, **TRAIN, name=name)
        differs = max(float((done.result[0].state[key] - whole[key]).abs().max()) for key in whole)
        found["results"][at] = [said, pressed.calls - at, differs, done.ui["text"][0].splitlines()[0]]
    del done
    gc.collect()
    found["models left"] = sum(isinstance(thing, FluxTransformer2DModel) for thing in gc.get_objects()) - alive
print(json.dumps(found))
