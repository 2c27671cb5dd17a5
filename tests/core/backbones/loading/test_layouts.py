"""What was saved is what is loaded, from a folder and from a single file; at full width, shapes only."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.loaders import single_file_utils
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from zero2hero_core.backbones import weights
from zero2hero_core.backbones.sd import single_file, text
from zero2hero_core.backbones.sd.loading import load_backbone, load_parts
from zero2hero_core.diffusion.ddim import stable_diffusion_alphas

SD15_UNET: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SD21_UNET: dict[str, Any] = {
    **SD15_UNET,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
SD_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
SMALL_VAE: dict[str, Any] = {
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 1,
}


def unet_keys(names: Iterable[str]) -> dict[str, str]:
    return {name: single_file.unet_source(name, 2, (False, True, True, True)).key for name in names}


@pytest.mark.parametrize("name", ["sd15", "sd21", "v"])
def test_folder_and_single_file_give_the_model_that_was_saved(
    models: dict[str, Path], name: str, vocabulary: list[str]
) -> None:
    saved_unet = UNet2DConditionModel.from_pretrained(models[name], subfolder="unet").eval()
    saved_vae = AutoencoderKL.from_pretrained(models[name], subfolder="vae").eval()
    saved_text = CLIPTextModel.from_pretrained(models[name] / "text_encoder").eval()
    generator = torch.Generator().manual_seed(0)
    latents, images = torch.randn(2, 4, 8, 8, generator=generator), torch.rand(1, 3, 16, 16, generator=generator)
    last = len(vocabulary) - 1
    ids = torch.full((1, 16), 0 if name != "sd15" else last)
    ids[0, :2] = torch.tensor([last - 1, last])
    for path in (models[name], models[f"{name}-file"]):
        parts = load_parts(path, device="cpu")
        assert parts.prediction_type == ("v_prediction" if name == "v" else "epsilon")
        assert parts.family == "custom" and parts.scaling_factor == 0.18215 and parts.name == name
        assert parts.prompt_encoder is not None and parts.empty_embedding is not None
        with torch.no_grad():
            context = saved_text(ids).last_hidden_state
            torch.testing.assert_close(parts.empty_embedding, context)
            both = [unet(latents, 261, context.expand(2, -1, -1)).sample for unet in (parts.unet, saved_unet)]
            torch.testing.assert_close(*both)
            codes = [vae.encode(images).latent_dist.mode() for vae in (parts.vae, saved_vae)]
            torch.testing.assert_close(*codes)
            torch.testing.assert_close(*(vae.decode(codes[0]).sample for vae in (parts.vae, saved_vae)))
        torch.testing.assert_close(
            parts.alphas_cumprod, DDIMScheduler.from_pretrained(models[name] / "scheduler").alphas_cumprod
        )


def test_the_parts_are_frozen_and_on_a_real_device(models: dict[str, Path]) -> None:
    parts = load_parts(models["sd15"], device="cpu", dtype="bfloat16")
    for module in (parts.unet, parts.vae, parts.prompt_encoder.text_encoder):
        assert not module.training and not any(p.requires_grad for p in module.parameters())
        assert {p.device.type for p in module.parameters()} == {"cpu"}
        assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    assert parts.empty_embedding.dtype == torch.bfloat16 and parts.alphas_cumprod.dtype == torch.float32


def test_load_backbone_predicts_noise_from_v(models: dict[str, Path]) -> None:
    backbone = load_backbone(models["v-file"], device="cpu")
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    context = backbone.encode_prompt("")
    velocity = backbone.unet(latents, 500, context).sample
    alpha = stable_diffusion_alphas()[500]
    expected = alpha.sqrt() * velocity + (1 - alpha).sqrt() * latents
    torch.testing.assert_close(backbone.predict_noise(latents, 500, context), expected)


@pytest.mark.parametrize("name", ["sd15", "sd21", "sd15-tiny", "sd21-tiny"])
def test_unet_names_are_those_of_diffusers_converter(tiny_unets: dict[str, dict[str, Any]], name: str) -> None:
    config = tiny_unets[name[:4]] if name.endswith("tiny") else {"sd15": SD15_UNET, "sd21": SD21_UNET}[name]
    with torch.device("meta"):
        state = UNet2DConditionModel(**config).state_dict()
    stored = {key: state[name] for name, key in unet_keys(state).items()}
    assert len(stored) == len(state)
    converted = single_file_utils.convert_ldm_unet_checkpoint(stored, {"layers_per_block": 2})
    assert converted.keys() == state.keys()
    assert all(converted[name] is state[name] for name in state)


@pytest.mark.parametrize("config", [SD_VAE, SMALL_VAE])
def test_vae_names_are_those_of_diffusers_converter(config: dict[str, Any]) -> None:
    state = {name: torch.full((1,), float(i)) for i, name in enumerate(AutoencoderKL(**config).state_dict())}
    levels = len(config["block_out_channels"])
    stored = {single_file.vae_source(name, levels).key: tensor for name, tensor in state.items()}
    converted = single_file_utils.convert_ldm_vae_checkpoint(stored, config)
    assert {name: tensor.item() for name, tensor in converted.items()} == {n: t.item() for n, t in state.items()}


def header(tensors: dict[str, tuple[int, ...]]) -> weights.Weights:
    dtypes, files = dict.fromkeys(tensors, "F32"), dict.fromkeys(tensors, Path("x"))
    return weights.Weights(Path("x"), tensors, dtypes, files, {})


# Parameter counts as published for the two models.
@pytest.mark.parametrize(("config", "count"), [(SD15_UNET, 859_520_964), (SD21_UNET, 865_910_724)])
def test_full_size_configurations_are_read_off_the_shapes(config: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**config), AutoencoderKL(**SD_VAE)
    keys = unet_keys(unet.state_dict())
    shapes = {keys[name]: tuple(tensor.shape) for name, tensor in unet.state_dict().items()}
    shapes |= {single_file.vae_source(name, 4).key: tuple(t.shape) for name, t in vae.state_dict().items()}
    single_file.refuse_other_families(header(shapes))
    inferred, inferred_vae = single_file.unet_config(header(shapes)), single_file.vae_config(header(shapes))
    with torch.device("meta"):
        again, vae_again = UNet2DConditionModel(**inferred), AutoencoderKL(**inferred_vae)
    for first, second in ((unet, again), (vae, vae_again)):
        assert {n: t.shape for n, t in first.state_dict().items()} == {
            n: t.shape for n, t in second.state_dict().items()
        }
    assert sum(p.numel() for p in again.parameters()) == count
    assert sum(p.numel() for p in vae_again.parameters()) == 83_653_863
    ignored = {"upcast_attention", "_use_default_values"}
    assert {k: v for k, v in again.config.items() if k not in ignored} == {
        k: v for k, v in unet.config.items() if k not in ignored
    }


def test_full_size_text_encoders_are_read_off_the_shapes() -> None:
    for open_clip, width, layers, used, count in ((False, 768, 12, 12, 123_060_480), (True, 1024, 24, 23, 340_387_840)):
        config = {
            "vocab_size": 49408,
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
        }
        with torch.device("meta"):
            state = CLIPTextModel(CLIPTextConfig(**config, num_attention_heads=width // 64)).state_dict()
        shapes: dict[str, tuple[int, ...]] = {}
        for name, tensor in state.items():
            source = text.text_source(name, "p.", open_clip=open_clip)
            shapes[source.key] = (tensor.shape[0] * source.parts, *tensor.shape[1:])
        inferred = text.text_config(header(shapes), "p.", open_clip=open_clip)
        assert inferred["num_hidden_layers"] == used and inferred["num_attention_heads"] == width // 64
        with torch.device("meta"):
            model = CLIPTextModel(CLIPTextConfig(**inferred))
        assert sum(p.numel() for p in model.parameters()) == count


def test_folder_variants_load_alike(models: dict[str, Path], folder: Path) -> None:
    wanted = load_parts(models["sd15"], device="cpu")
    stem, unet, vae = "diffusion_pytorch_model", folder / "unet", folder / "vae"
    tensors = load_file(unet / f"{stem}.safetensors")
    half = len(tensors) // 2
    shards = {f"{stem}-00001-of-00002.safetensors": list(tensors)[:half]}
    shards[f"{stem}-00002-of-00002.safetensors"] = list(tensors)[half:]
    for shard, names in shards.items():
        save_file({name: tensors[name] for name in names}, unet / shard)
    index = {name: shard for shard, names in shards.items() for name in names}
    (unet / f"{stem}.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (unet / f"{stem}.safetensors").unlink()
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in load_file(vae / f"{stem}.safetensors").items():
        for new, former in old.items():
            name = name.replace(new, former)
        renamed[name] = tensor
    (vae / f"{stem}.safetensors").unlink()
    save_file(renamed, vae / f"{stem}.fp16.safetensors")
    encoder = folder / "text_encoder" / "model.safetensors"
    names = {f"text_model.{n.removeprefix('text_model.')}": t for n, t in load_file(encoder).items()}
    save_file(names | {"text_model.embeddings.position_ids": torch.arange(16)[None]}, encoder)
    (folder / "model_index.json").unlink()
    parts = load_parts(folder, device="cpu")
    torch.testing.assert_close(parts.empty_embedding, wanted.empty_embedding, rtol=0, atol=0)
    for module, other in ((parts.unet, wanted.unet), (parts.vae, wanted.vae)):
        torch.testing.assert_close(module.state_dict(), other.state_dict(), rtol=0, atol=0)
