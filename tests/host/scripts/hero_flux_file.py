"""A FLUX checkpoint of random weights (full width, one block of each kind) in a single file, read by the host and by
the core; prints how far the restored latents are apart, and what the host trains on."""

from __future__ import annotations

import gc
import json
import sys
from functools import partial
from pathlib import Path

import comfy.sd
import torch
from flux_checkpoint import POOLED, TEXT, WIDTH, write_checkpoint
from parts import LatentsOnly, difference, random_lora, restored
from safetensors.torch import load_file, save_file
from zero2hero_ext.nodes.host.dit import HostDiT
from zero2hero_ext.nodes.host.dit_lora import HostLoRA, fit
from zero2hero_ext.nodes.host.lora_files import read_hero_lora
from zero2hero_ext.nodes.host.train import host_tensor, load_weights, prepare_training, training_mode
from zero2hero_ext.zero2hero_core.backbones.flux.dit import FLUX1, DiTBackbone, TextEmbedding
from zero2hero_ext.zero2hero_core.backbones.flux.single_file import fill_transformer, infer_config, locate_transformer
from zero2hero_ext.zero2hero_core.backbones.meta_device import build_on_meta
from zero2hero_ext.zero2hero_core.backbones.weights import open_weights
from zero2hero_ext.zero2hero_core.hero_stage.lora.file import load_lora

folder = Path(sys.argv[1])


restore = partial(restored, channels=64)


def core_backbone(path: Path, text: TextEmbedding) -> DiTBackbone:
    weights = open_weights(path)
    prefix, original, flux2 = locate_transformer(weights)
    module = build_on_meta("FluxTransformer2DModel", infer_config(weights, prefix, original, flux2), path)
    fill_transformer(module, weights, prefix, original, device=torch.device("cpu"), dtype=torch.float32)
    return DiTBackbone(module.eval().requires_grad_(False), FLUX1, text=text)


def write_authors_lora(path: Path, rank: int = 4) -> None:
    """Two conditions in the format of the paper's authors."""
    generator, tensors = torch.Generator().manual_seed(8), {}
    for stack, parts in (
        ("transformer_blocks", ("q", "k", "v", "proj")),
        ("single_transformer_blocks", ("q", "k", "v")),
    ):
        for part in parts:
            for index in range(2):
                key = f"{stack}.0.attn.processor.{part}_loras.{index}"
                tensors[f"{key}.down.weight"] = torch.randn(rank, WIDTH, generator=generator) / WIDTH**0.5
                tensors[f"{key}.up.weight"] = torch.randn(WIDTH, rank, generator=generator) / rank**0.5
    save_file(tensors, path)


path, lora_file, authors_file = (folder / f"{name}.safetensors" for name in ("flux_random", "hero", "authors"))
write_checkpoint(path)
generator = torch.Generator().manual_seed(1)
words, pooled = torch.randn(1, 6, TEXT, generator=generator), torch.randn(1, POOLED, generator=generator)
core = core_backbone(path, TextEmbedding(words, pooled))
lora = random_lora(core, lora_file)
expected, plain = restore(core, lora), restore(core, None)
found = {"effect of the LoRA": difference(expected, plain)}
lora.remove()
write_authors_lora(authors_file)
lora, _ = load_lora(authors_file, core)
authors = restore(core, lora)
del core, lora
gc.collect()

with torch.inference_mode():
    model = comfy.sd.load_diffusion_model(str(path), model_options={"dtype": torch.float32})
    conditioning = [[words, {"pooled_output": pooled, "guidance": 3.5}]]
    host = HostDiT(model, LatentsOnly(16), conditioning)
    found["model"] = [host.name, host.family.name, host.layers, str(host.dtype)]
    host_lora = HostLoRA(model, fit(read_hero_lora(lora_file), model, host.family))
    found["latents"] = difference(restore(host, host_lora), expected)
    found["without LoRA"] = difference(restore(host, None), plain)

    lora = read_hero_lora(authors_file)
    found["authors' kinds"] = lora.kinds(2)
    host_lora = HostLoRA(model, fit(lora, model, host.family))
    found["authors' latents"] = difference(restore(host, host_lora), authors)

    # A host LoRA on the MODEL: the same in sampling and in what is trained on.
    key = "diffusion_model.double_blocks.0.img_attn.qkv.weight"
    patched = model.clone()
    norm = model.model.diffusion_model.double_blocks[0].img_attn.norm.query_norm
    kind = "weight" if getattr(norm, "weight", None) is not None else "scale"  # since ComfyUI 0.14, and before
    norm_key = f"diffusion_model.double_blocks.0.img_attn.norm.query_norm.{kind}"
    patched.add_patches({key: ("diff", (torch.full((3 * WIDTH, WIDTH), 1e-3),))})
    patched.add_patches({norm_key: ("diff", (torch.full_like(getattr(norm, kind), 0.5),))})
    native = restore(HostDiT(patched, LatentsOnly(16), conditioning), None)
    found["effect of the host's LoRA"] = difference(native, plain)
    with training_mode():
        backbone = prepare_training(patched, LatentsOnly(16), conditioning)
        load_weights(backbone, patched, "as loaded")
        found["trained on"] = difference(restore(backbone, None), native)
        held = backbone.transformer.transformer_blocks[0].attn.to_k.weight
        own = patched.model.diffusion_model.double_blocks[0].img_attn.qkv.weight
        found["memory is shared"] = held.untyped_storage().data_ptr() == own.untyped_storage().data_ptr()
        del backbone, held, own
    restore(HostDiT(model, LatentsOnly(16), conditioning), None)  # the host takes the patch off again
    value = host_tensor(patched, "transformer_blocks.0.attn.to_q.weight")
    stored = load_file(path)["double_blocks.0.img_attn.qkv.weight"][:WIDTH].float()
    found["patched while not loaded"] = difference(value, stored + 1e-3)
    value = host_tensor(patched, "transformer_blocks.0.attn.norm_q.weight")
    found["patched norm"] = difference(value, getattr(norm, kind).float() + 0.5)
print(json.dumps(found))
