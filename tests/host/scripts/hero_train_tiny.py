"""HeroLoRATrainer on the tiny DiT, as the host runs it: under inference mode. Prints what the test looks at."""

from __future__ import annotations

import json
from pathlib import Path

import comfy.model_management
import folder_paths
import torch
from parts import RESTORE, TRAIN, difference, pictures, sampled
from safetensors.torch import load_file
from zero2hero_ext.nodes.hero_stage import HeroRestore
from zero2hero_ext.nodes.hero_training import HeroLoRATrainer
from zero2hero_ext.nodes.host.tiny import tiny_vae
from zero2hero_ext.nodes.host.tiny_dit import load_tiny_dit_model
from zero2hero_ext.zero2hero_core.hero_stage.training.trainer import HeroTrainer

WIDGETS = TRAIN | {"anchor_index": 1, "light": -1.0, "name": "hero/lora"}
found = {}


def interrupt_at(step):
    """Cancel, as if pressed during a training step."""
    trainer = HeroTrainer
    plain = trainer.step

    def cancelled(self):
        loss = plain(self)
        if self.done == step:
            comfy.model_management.interrupt_current_processing()
        return loss

    trainer.step = cancelled
    return lambda: setattr(trainer, "step", plain)


with torch.inference_mode():  # as the host loads models and runs nodes
    model, conditioning = load_tiny_dit_model()
    vae = tiny_vae()
    native = {"model": model, "vae": vae, "conditioning": conditioning}
    clip = {"zero_frames": pictures(3, 128, 1), "frames": pictures(3, 128, 2), "reference": pictures(1, 128, 3)}
    before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    first = sampled(model, conditioning)
    found["inference weights"] = all(tensor.is_inference() for tensor in model.model.state_dict().values())

    done = HeroLoRATrainer.execute(**native, **clip, **WIDGETS)
    lora, samples, plot = done.result
    found["samples"], found["plot"] = list(samples.shape), list(plot.shape)
    files = sorted(Path(folder_paths.get_folder_paths("loras")[0]).rglob("*.safetensors"))
    found["files"] = [path.name for path in files]
    whole = load_file(files[0])

    again = HeroLoRATrainer.execute(**native, **clip, **WIDGETS)
    found["again said"] = again.ui
    found["again equal"] = bool(torch.equal(again.result[1], samples))

    words, extras = conditioning[0]
    other_text = [[words, {**extras, "pooled_output": extras["pooled_output"] + 1}]]
    other_vae = tiny_vae()
    next(other_vae.first_stage_model.parameters()).mul_(1.01)
    for what, changed in (("text", {"conditioning": other_text}), ("VAE", {"vae": other_vae})):
        HeroLoRATrainer.execute(**native | changed, **clip, **WIDGETS)
        found[f"files with another {what}"] = len(list(files[0].parent.glob(f"{files[0].stem[:5]}*")))

    undo = interrupt_at(2)
    try:
        HeroLoRATrainer.execute(**native, **clip, **WIDGETS | {"name": "hero/other"})
        found["cancel"] = "was not raised"
    except comfy.model_management.InterruptProcessingException as error:
        found["cancel"] = type(error).__name__
    undo()
    folders = Path(folder_paths.get_output_directory()) / "zero2hero"
    found["state kept"] = [path.parent.name for path in folders.rglob("state.pt")]
    resumed = HeroLoRATrainer.execute(**native, **clip, **WIDGETS | {"name": "hero/other"})
    found["resumed said"] = resumed.ui
    other = resumed.result[0].state
    found["resumed differs by"] = max(difference(other[name], whole[name]) for name in whole)
    found["trained by"] = max(float(whole[name].abs().max()) for name in whole if "lora_B" in name)

    after = model.model.state_dict()
    found["model changed"] = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
    found["KSampler unchanged"] = bool(torch.equal(sampled(model, conditioning), first))
    suited = RESTORE | {"steps": 0, "samples": 0}
    shown = {"zero_frames": clip["zero_frames"], "frames": clip["frames"]}
    restored = HeroRestore.execute(**native, **shown, hero_lora=lora, **suited).result[0]
    found["restored"] = list(restored.shape)
    found["native and trained on"] = difference(restored, samples)
print(json.dumps(found))
