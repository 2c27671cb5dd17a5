"""Everything that can be wired wrongly into the Hero nodes; prints what the user reads, case by case, as JSON."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
from parts import RESTORE, TRAIN, pictures, random_lora
from safetensors.torch import save_file
from zero2hero_ext.nodes.hero_stage import HeroLoRALoad, HeroLoRASave, HeroRestore
from zero2hero_ext.nodes.hero_training import HeroLoRATrainer
from zero2hero_ext.nodes.host.dit import _Override
from zero2hero_ext.nodes.host.lora_files import read_hero_lora
from zero2hero_ext.nodes.host.tiny import tiny_conditioning, tiny_model, tiny_vae
from zero2hero_ext.nodes.host.tiny_dit import load_tiny_dit_model
from zero2hero_ext.nodes.work import hero_training as hero_training_work
from zero2hero_ext.zero2hero_core.checks import InputError
from zero2hero_ext.zero2hero_core.hero_stage.memory.estimate import MemoryEstimate
from zero2hero_ext.zero2hero_core.tiny.dit import load_tiny_dit

RESTORING = RESTORE | {"steps": 1, "samples": 1}
TRAINING = TRAIN | {"steps": 1, "name": "hero/lora"}
folder = Path(tempfile.mkdtemp())
path = folder / "made_for_tiny.safetensors"
random_lora(load_tiny_dit(), path)
said: dict[str, str] = {}

with torch.inference_mode():
    model, conditioning = load_tiny_dit_model()
    vae, lora = tiny_vae(), read_hero_lora(path)
    zero_frames, frames, reference = pictures(2, 64, 1), pictures(2, 64, 2), pictures(1, 64, 3)
    words, extras = conditioning[0]
    GOOD = {
        "model": model,
        "vae": vae,
        "conditioning": conditioning,
        "zero_frames": zero_frames,
        "frames": frames,
    }

    def restore(case: str, **changes) -> None:
        attempt(f"restore: {case}", HeroRestore, GOOD | {"hero_lora": lora} | RESTORING | changes)

    def train(case: str, **changes) -> None:
        attempt(f"train: {case}", HeroLoRATrainer, GOOD | {"reference": reference} | TRAINING | changes)

    def attempt(case: str, node, given) -> None:
        try:
            node.execute(**given)
            said[case] = "(went through)"
        except InputError as error:
            said[case] = str(error)

    for run in (restore, train):
        run("SD model", model=tiny_model())
        run("VAE of another model", vae=SimpleNamespace(latent_channels=4))
        run("prompt of another model", conditioning=tiny_conditioning())
        run("two prompts", conditioning=[*conditioning, *conditioning])
        run("ControlNet", conditioning=[[words, {**extras, "control": object()}]])
        run("hooks and GLIGEN", conditioning=[[words, {**extras, "hooks": object(), "gligen": object()}]])
        run("VAE for video", vae=SimpleNamespace(latent_channels=8, latent_dim=3))
        run("unequal counts", zero_frames=pictures(3, 64))
        run("unequal sizes", zero_frames=pictures(2, 80))
        run("odd sizes", zero_frames=pictures(2, 72), frames=pictures(2, 72))
    wider = {key: torch.cat([value, value], -1) if "lora_A" in key else value for key, value in lora.state.items()}
    restore(
        "LoRA of another family",
        hero_lora=dataclasses.replace(lora, metadata=dataclasses.replace(lora.metadata, family="flux1")),
    )
    restore("LoRA of another width", hero_lora=dataclasses.replace(lora, state=wider))
    restore("both strengths 0", zero_strength=0.0, frame_strength=0.0)
    restore("one strength 0", frame_strength=0.0)
    train("two references", reference=pictures(2, 64))
    train("reference of another size", reference=pictures(1, 80))
    train("anchor outside", anchor_index=2)
    train("implicit without its frames", mode="implicit")
    train("a name that leads out", name="../../lora")
    linear = model.model.diffusion_model.img_in
    kept = linear.weight
    linear.weight = torch.nn.Parameter(torch.zeros(kept.shape, dtype=torch.uint8), requires_grad=False)
    train("quantised weights")
    linear.weight = kept
    train("no edit", reference=frames[:1])
    train("weights of another kind", weights="bf16")

    def noted(*given, **named):
        """Notes how the trainer's estimate takes the weights to be held."""
        held.append(named["weights"])
        return estimated(*given, **named)

    def loading(backbone, *given):
        """Notes how they are held."""
        loaded_by(backbone, *given)
        held.append(type(backbone.transformer.transformer_blocks[0].attn.to_q).__name__)

    held, estimated, loaded_by = [], hero_training_work.expected_memory, hero_training_work.load_weights
    hero_training_work.expected_memory, hero_training_work.load_weights = noted, loading
    small = load_tiny_dit_model()[0]
    small.model.diffusion_model.to(torch.float8_e4m3fn)
    small.model.diffusion_model.dtype, small.model.manual_cast_dtype = torch.float8_e4m3fn, torch.float32
    train("in float32", name="hero/wide")
    train("in float8", model=small, name="hero/small")
    said["held"] = " ".join(held)
    hero_training_work.expected_memory = lambda *given, **named: MemoryEstimate("", (("all", 30 * 10**9),))
    hero_training_work.total_memory = lambda place: 24 * 10**9
    train("too large")
    train("too large with less", checkpointing=True, model=small, rank=1)

    saved = HeroLoRASave.execute(lora, "hero/mine", "bfloat16", False).result[0]
    loaded = HeroLoRALoad.execute("hero/mine.safetensors").result[0]
    said["saved"] = Path(saved).name
    said["loaded"] = f"{loaded.metadata == lora.metadata} {sorted(loaded.state) == sorted(lora.state)}"
    attempt(
        "save again", HeroLoRASave, {"hero_lora": lora, "name": "hero/mine", "precision": "float32", "overwrite": False}
    )
    attempt(
        "overwrite", HeroLoRASave, {"hero_lora": lora, "name": "hero/mine", "precision": "float32", "overwrite": True}
    )
    said["offered"] = " ".join(HeroLoRALoad.GET_SCHEMA().inputs[0].options)
    save_file(lora.state, folder / "no_metadata.safetensors")
    theirs = "single_transformer_blocks.0.attn.processor.q_loras.0"
    tensors = {f"{theirs}.down.weight": torch.zeros(2, 8), f"{theirs}.up.weight": torch.zeros(8, 2)}
    save_file(tensors, folder / "no_tensors.safetensors", metadata=dict(lora.header))
    for case in ("no_metadata", "no_tensors"):
        attempt(f"read: {case}", SimpleNamespace(execute=read_hero_lora), {"path": folder / f"{case}.safetensors"})
    other = {"hero_lora": lora, "name": "hero/other", "precision": "float8_e4m3fn", "overwrite": False}
    attempt("save in another precision", HeroLoRASave, other)
    tokens = torch.zeros(1, 2, 4, 8)
    layer = {"function": None, "query": tokens, "key": tokens, "value": tokens, "heads": 2}
    masked, flat = layer | {"mask": torch.zeros(4, 4)}, layer | {"query": torch.zeros(1, 4, 16)}
    for case, given in (("a mask", masked), ("another attention", flat)):
        attempt(f"attention: {case}", SimpleNamespace(execute=_Override(None)), given)
    said["fingerprint through a link"] = HeroLoRALoad.fingerprint_inputs(None)
    said["fingerprint"] = str(HeroLoRALoad.fingerprint_inputs("hero/mine.safetensors") != "")
print(json.dumps(said))
