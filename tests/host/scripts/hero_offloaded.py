"""Weights that stay offloaded give the same result in every node with a model; prints JSON.

    hero_offloaded.py NO_VRAM | LOW_VRAM

The host takes --novram and --lowvram with a GPU only, and on a CPU keeps all weights in one place. So every node runs
first as on a CPU. Then the host is told that the CPU is a device to load weights onto, and is brought into the state
that the flag stands for: with --novram all weights stay behind, with --lowvram those that do not fit, here half of each
model. What is left behind is fetched, and a LoRA of the host applied to it, layer by layer.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import comfy.model_management as management
import comfy.ops
import comfy.sd
import torch
from parts import MATCH, RESTORE, SAMPLE, TRAIN, difference, pictures, random_lora
from zero2hero_ext.nodes.hero_stage import HeroRestore
from zero2hero_ext.nodes.hero_training import HeroLoRATrainer
from zero2hero_ext.nodes.host.lora_files import read_hero_lora
from zero2hero_ext.nodes.host.tiny import tiny_conditioning, tiny_model, tiny_vae
from zero2hero_ext.nodes.host.tiny_dit import load_tiny_dit_model
from zero2hero_ext.nodes.zero_stage import DIFTCorrespondence, MaskedCiAKSampler
from zero2hero_ext.zero2hero_core.tiny.dit import load_tiny_dit

SAMPLING = SAMPLE | {"tokens": "adaptive"}
TRAINING = TRAIN | {"steps": 2, "learning_rate": 0.01, "crop": 1.0}
ZERO_LAYERS = ("output_blocks.5.1.transformer_blocks.0.attn1.to_v", "input_blocks.2.1.transformer_blocks.0.attn1.to_q")
HERO_LAYERS = ("double_blocks.0.img_attn.qkv", "single_blocks.1.linear1")


class Fetches:
    """Counts the layers whose weights the host brings to where they are used."""

    def __init__(self) -> None:
        self.count, self.plain = 0, comfy.ops.cast_bias_weight
        comfy.ops.cast_bias_weight = self

    def __call__(self, *given: Any, **named: Any) -> Any:
        self.count += 1
        return self.plain(*given, **named)


def with_lora(model: Any, layers: tuple[str, ...]) -> Any:
    """A MODEL with a LoRA of the host on some layers."""
    generator, tensors, weights = torch.Generator().manual_seed(0), {}, model.model.state_dict()
    for layer in layers:
        rows, columns = weights[f"diffusion_model.{layer}.weight"].shape
        name = f"lora_unet_{layer.replace('.', '_')}"
        tensors[f"{name}.lora_down.weight"] = torch.randn(2, columns, generator=generator) / columns**0.5
        tensors[f"{name}.lora_up.weight"] = torch.randn(rows, 2, generator=generator) * 0.3
    return comfy.sd.load_lora_for_models(model, None, tensors, 1.0, 0.0)[0]


def run(name: str) -> dict[str, Any]:
    """What each node makes, layers that were fetched for it, and the shares of the models that were loaded."""
    vae, (hero, prompt) = tiny_vae(), load_tiny_dit_model()
    models = [with_lora(tiny_model(), ZERO_LAYERS), with_lora(hero, HERO_LAYERS)]
    zero_given = {"model": models[0], "vae": vae, "conditioning": tiny_conditioning(), "frames": frames}
    hero_given = {"model": models[1], "vae": vae, "conditioning": prompt, "frames": frames, "zero_frames": zero_frames}
    made, fetched, shares = {}, {}, {}

    def note(what: str, model: Any, tensor: torch.Tensor) -> None:
        made[what], fetched[what], fetches.count = tensor.float(), fetches.count, 0
        shares[what] = model.loaded_size() / model.model_size()

    fetches.count = 0
    matches, _, confidence = DIFTCorrespondence.execute(**zero_given, **MATCH).args
    note("DIFTCorrespondence", models[0], confidence)
    sampled = MaskedCiAKSampler.execute(**zero_given, **SAMPLING, correspondence=matches, reference=reference)
    note("MaskedCiAKSampler", models[0], sampled.args[1]["samples"])
    note("HeroRestore", models[1], HeroRestore.execute(**hero_given, **RESTORE, hero_lora=lora).args[0])
    trained = HeroLoRATrainer.execute(**hero_given, **TRAINING, reference=reference, name=name).args[0]
    note("HeroLoRATrainer", models[1], torch.cat([tensor.flatten() for tensor in trained.state.values()]))
    plain = hero_given | {"model": hero}
    note("plain", hero, HeroRestore.execute(**plain, **RESTORE, hero_lora=lora).args[0])
    return {"made": made, "fetched": fetched, "loaded": shares, "vae left": stranded(vae)}


def stranded(vae: Any) -> list[str]:
    """Layers of a VAE that are neither loaded nor fetched: on a GPU they would meet pictures on another device."""
    named = vae.first_stage_model.named_modules()
    weighty = {name: layer for name, layer in named if next(layer.parameters(recurse=False), None) is not None}
    reached = ("comfy_cast_weights", "comfy_patched_weights")
    return [name for name, layer in weighty.items() if not any(hasattr(layer, one) for one in reached)]


def offload(state: str) -> None:
    """From here on the host leaves weights behind."""
    management.unload_all_models()
    management.is_device_cpu = lambda device: False
    management.vram_state = management.VRAMState[state]
    plain = management.LoadedModel.model_load

    def load(self: Any, memory: float = 0, **given: Any) -> Any:
        if memory >= 1:  # 0 asks for the whole model, 0.1 for nothing of it; else memory is short
            memory = max(0.1, self.model_memory() / 2 - self.model_loaded_memory())
        return plain(self, memory, **given)

    management.LoadedModel.model_load = load


with torch.inference_mode():  # as the host runs its nodes
    path = Path(tempfile.mkdtemp()) / "hero.safetensors"
    random_lora(load_tiny_dit(), path)
    lora, fetches = read_hero_lora(path), Fetches()
    frames, zero_frames, reference = pictures(2, 64, 1), pictures(2, 64, 2), pictures(1, 64, 3)
    loaded = run("loaded")
    offload(sys.argv[1])
    offloaded = run("offloaded")
found = {"shares": [loaded["loaded"], offloaded["loaded"]]}
found |= {"fetched": [loaded["fetched"], offloaded["fetched"]], "vae left": offloaded["vae left"]}
pairs = {name: (made, offloaded["made"][name]) for name, made in loaded["made"].items()}
found["differs by"] = {name: difference(*pair) for name, pair in pairs.items()}
found["effect of the LoRA"] = difference(loaded["made"]["HeroRestore"], loaded["made"]["plain"])
print(json.dumps(found))
