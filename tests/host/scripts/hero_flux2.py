"""FLUX.2's layout at a small size, in hosts that know it: the host's MODEL against the core; prints the differences."""

from __future__ import annotations

import json
import sys
import tempfile
from functools import partial
from pathlib import Path

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import torch
from parts import LatentsOnly, difference, random_lora, restored
from zero2hero_ext.nodes.host.dit import HostDiT
from zero2hero_ext.nodes.host.dit_lora import HostLoRA, fit
from zero2hero_ext.nodes.host.lora_files import read_hero_lora
from zero2hero_ext.nodes.host.tiny_dit import to_original
from zero2hero_ext.nodes.host.train import load_weights, prepare_training, training_mode
from zero2hero_ext.zero2hero_core.backbones.flux.dit import FLUX2, DiTBackbone, TextEmbedding
from zero2hero_ext.zero2hero_core.hero_stage.training.pairs import TrainingPair
from zero2hero_ext.zero2hero_core.hero_stage.training.trainer import HeroSettings, HeroTrainer

restore = partial(restored, channels=128)


def host_model(transformer):
    """MODEL with the host's FLUX.2 class in the transformer's size."""
    given = transformer.config
    config = comfy.supported_models.Flux2(
        {
            "image_model": "flux2",
            "axes_dim": list(given.axes_dims_rope),
            "num_heads": given.num_attention_heads,
            "mlp_ratio": given.mlp_ratio,
            "theta": given.rope_theta,
            "in_channels": 128,
            "out_channels": 128,
            "global_modulation": True,
            "mlp_silu_act": True,
            "qkv_bias": False,
            "ops_bias": False,
            "default_ref_method": "index",
            "ref_index_scale": 10.0,
            "txt_ids_dims": [3],
            "hidden_size": given.num_attention_heads * given.attention_head_dim,
            "context_in_dim": given.joint_attention_dim,
            "vec_in_dim": None,
            "patch_size": 1,
            "depth": given.num_layers,
            "depth_single_blocks": given.num_single_layers,
            "guidance_embed": given.guidance_embeds,
            "yak_mlp": False,
            "txt_norm": False,
        }
    )
    config.set_inference_dtype(torch.float32, None)
    base = config.get_model({}, "")
    base.load_model_weights(to_original(transformer.state_dict()), "")
    return comfy.model_patcher.ModelPatcher(
        base, comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    )


if not hasattr(comfy.model_base, "Flux2"):
    print(json.dumps({"skipped": "this ComfyUI has no FLUX.2"}))
    sys.exit()
from diffusers import Flux2Transformer2DModel  # noqa: E402

torch.manual_seed(0)
transformer = Flux2Transformer2DModel(
    in_channels=128,
    num_layers=2,
    num_single_layers=2,
    attention_head_dim=64,
    num_attention_heads=2,
    joint_attention_dim=48,
    axes_dims_rope=(16, 16, 16, 16),
)
with torch.inference_mode():
    model = host_model(transformer)
    words = torch.randn(1, 512, 48)
core = DiTBackbone(transformer.eval().requires_grad_(False), FLUX2, text=TextEmbedding(words))
path = Path(tempfile.mkdtemp()) / "hero.safetensors"
lora = random_lora(core, path)
found = {}
expected, plain = restore(core, lora), restore(core, None)
found["effect of the LoRA"] = difference(expected, plain)
with torch.inference_mode():
    conditioning = [[words, {"pooled_output": None}]]
    host = HostDiT(model, LatentsOnly(128), conditioning)
    host_lora = HostLoRA(model, fit(read_hero_lora(path), model, host.family))
    found["family"] = host.family.name
    found["latents"] = difference(restore(host, host_lora), expected)
    found["without LoRA"] = difference(restore(host, None), plain)
    losses = {}
    for weights in ("as loaded", "fp8"):
        with training_mode():
            backbone = prepare_training(model, LatentsOnly(128), conditioning)
            load_weights(backbone, model, weights)
            found[f"{weights}: trained on"] = difference(restore(backbone, None), plain)
            pictures = torch.randn(3, 128, 4, 4, generator=torch.Generator().manual_seed(6))
            pair = TrainingPair((pictures[:1], pictures[1:2]), pictures[2:])
            trainer = HeroTrainer(backbone, [pair], HeroSettings(rank=2, steps=2, learning_rate=1e-3))
            losses[weights] = [trainer.step(), trainer.step()]
            found[f"{weights}: moved"] = max(float(p.detach().abs().max()) for p in trainer.lora.parameters()[1::2])
    found["losses"] = losses
print(json.dumps(found))
