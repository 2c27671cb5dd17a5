"""What cannot be used is refused in one line; only a hub path reaches for the network."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

from zero2hero_core.backbones import weights
from zero2hero_core.backbones.sd import single_file
from zero2hero_core.backbones.sd.loading import load_parts
from zero2hero_core.checks import InputError, Zero2HeroError


def edit_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin", ".CKPT"])
def test_pickles_are_refused_unread(tmp_path: Path, suffix: str, refused: Callable[..., None]) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"not even a pickle")
    refused(path, "pickle", "convert it to .safetensors")


def test_pickles_in_a_folder_or_under_another_name_are_refused(
    folder: Path, tmp_path: Path, refused: Callable[..., None]
) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")
    refused(folder, "diffusion_pytorch_model.bin", "pickle")
    path = tmp_path / "model.safetensors"
    torch.save({"weight": torch.zeros(3)}, path)
    refused(path, "a pickle under that name")
    path.write_bytes(pickle.dumps({"weight": 1}))
    refused(path, "a pickle under that name")


def test_missing_truncated_and_corrupt_files_are_refused(
    models: dict[str, Path], folder: Path, tmp_path: Path, refused: Callable[..., None]
) -> None:
    path = tmp_path / "model.safetensors"
    refused(path, "no such file")
    whole = models["sd15-file"].read_bytes()
    for content in (b"", whole[:4], whole[:1000], whole[:-1], b"\xff" * 100):
        path.write_bytes(content)
        refused(path, "truncated or corrupt")
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    refused(path, "Git LFS pointer")
    path.rename(tmp_path / "model.gguf")
    refused(tmp_path / "model.gguf", "expected a .safetensors file", ".gguf")
    unet = folder / "unet" / "diffusion_pytorch_model.safetensors"
    unet.write_bytes(unet.read_bytes()[:-100])
    refused(folder, "unet", "truncated or corrupt")
    (folder / "unet" / "config.json").write_text("{")
    refused(folder, "config.json", "expected a JSON file")
    unet.unlink()
    shutil.copy(models["sd15"] / "unet" / "config.json", folder / "unet" / "config.json")
    refused(folder, "found no weights")
    shutil.rmtree(folder / "unet")
    refused(folder, "no unet/")


ONE = torch.zeros(1)
UNET = single_file.UNET_PREFIX
FAMILIES: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "lora": ({"lora_unet_down_blocks_0.lora_down.weight": ONE}, "LoRA"),
    "peft": ({"unet.down_blocks.0.attentions.0.to_q.lora_A.weight": ONE}, "LoRA"),
    "controlnet": ({"control_model.input_hint_block.0.weight": ONE}, "ControlNet"),
    "controlnet-diffusers": ({"controlnet_cond_embedding.conv_in.weight": ONE}, "ControlNet"),
    "sd3": ({f"{UNET}joint_blocks.0.x_block.attn.qkv.weight": ONE}, "SD3"),
    "flux": ({"double_blocks.0.img_attn.qkv.weight": ONE}, "FLUX"),
    "flux-diffusers": ({"single_transformer_blocks.0.attn.to_q.weight": ONE}, "FLUX"),
    "video": ({f"{UNET}input_blocks.1.0.time_stack.in_layers.0.weight": ONE}, "video"),
    "vae": ({"first_stage_model.decoder.conv_in.weight": ONE}, "VAE alone"),
    "component": ({"down_blocks.0.resnets.0.conv1.weight": ONE}, "the folder"),
    "unknown": ({"weight": ONE}, "none of the tensors"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_other_files_are_refused_by_name(tmp_path: Path, name: str, refused: Callable[..., None]) -> None:
    tensors, words = FAMILIES[name]
    save_file(tensors, tmp_path / "model.safetensors")
    refused(tmp_path / "model.safetensors", "Stable Diffusion 1.5 or 2.1", words)


@pytest.mark.parametrize(
    ("key", "shape", "words"),
    [
        ("input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", (32, 2048), "SDXL"),
        ("input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", (32, 1280), "SDXL refiner"),
        ("label_emb.0.0.weight", (128, 64), "unCLIP"),
        ("input_blocks.0.0.weight", (32, 9, 3, 3), "inpainting UNet with 9 input"),
        ("input_blocks.0.0.weight", (32, 5, 3, 3), "depth UNet"),
        ("input_blocks.0.0.weight", (32, 8, 3, 3), "InstructPix2Pix"),
        ("input_blocks.0.0.weight", (48, 4, 3, 3), "expected shape (32, 4, 3, 3), got (48, 4, 3, 3)"),
        ("extra.weight", (1,), "1 unexpected tensors for the UNet (model.diffusion_model.extra.weight)"),
    ],
)
def test_other_unets_are_refused_by_name(
    spoil: Callable[..., Path], key: str, shape: tuple[int, ...], words: str, refused: Callable[..., None]
) -> None:
    refused(spoil(lambda tensors: tensors.update({UNET + key: torch.zeros(shape)})), words)


def test_sdxl_is_known_by_its_second_encoder(spoil: Callable[..., Path], refused: Callable[..., None]) -> None:
    refused(spoil(lambda tensors: tensors.update({"conditioner.embedders.1.model.ln_final.weight": ONE})), "SDXL")


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("model.diffusion_model.middle_block.1.norm.bias", "1 missing tensors for the UNet"),
        ("model.diffusion_model.input_blocks.3.0.op", "expected the UNet levels"),
        ("model.diffusion_model.out.2.weight", "expected the tensor model.diffusion_model.out.2.weight"),
        ("first_stage_model.encoder.mid.attn_1", "10 missing tensors for the VAE"),
        ("first_stage_model.", "UNet without its VAE"),
        ("first_stage_model.encoder.", "no encoder"),
        ("cond_stage_model.transformer.text_model.final_layer_norm", "2 missing tensors for the text encoder"),
        ("cond_stage_model.transformer.text_model.encoder", "a whole text encoder"),
    ],
)
def test_incomplete_files_are_refused(
    spoil: Callable[..., Path], part: str, words: str, refused: Callable[..., None]
) -> None:
    def drop(tensors: dict[str, torch.Tensor]) -> None:
        for key in [key for key in tensors if key.startswith(part)]:
            del tensors[key]

    refused(spoil(drop), words)


def test_damaged_and_quantised_weights_are_refused(spoil: Callable[..., Path], refused: Callable[..., None]) -> None:
    key = f"{UNET}out.0.weight"
    refused(spoil(lambda tensors: tensors[key][3:4].fill_(float("nan"))), key, "NaN or infinity")
    refused(spoil(lambda tensors: tensors[key][3:4].fill_(float("-inf"))), key, "NaN or infinity")
    refused(spoil(lambda tensors: tensors.update({key: tensors[key].to(torch.float8_e4m3fn)})), key, "F8_E4M3")


def test_values_beyond_half_precision_are_named(tmp_path: Path) -> None:
    save_file({"weight": torch.full((2, 2), 1e6)}, tmp_path / "x.safetensors")
    opened = weights.open_weights(tmp_path / "x.safetensors")
    with torch.device("meta"):
        module = torch.nn.Linear(2, 2, bias=False)
    with pytest.raises(InputError, match="weight does not fit torch.float16; load as float32"):
        weights.fill_module(
            module,
            {"weight": weights.Source("weight")},
            opened,
            what="layer",
            names=["weight"],
            device=torch.device("cpu"),
            dtype=torch.float16,
        )


@pytest.mark.parametrize(
    ("file", "values", "words"),
    [
        ("model_index.json", {"_class_name": "StableDiffusionXLPipeline"}, "StableDiffusionXLPipeline"),
        ("model_index.json", {"_class_name": "FluxPipeline"}, "FluxPipeline"),
        ("unet/config.json", {"_class_name": "UNetMotionModel"}, "UNetMotionModel"),
        ("unet/config.json", {"in_channels": 9}, "inpainting UNet"),
        ("unet/config.json", {"addition_embed_type": "text_time"}, "SDXL"),
        ("unet/config.json", {"time_cond_proj_dim": 256}, "time_cond_proj_dim"),
        ("unet/config.json", {"down_block_types": ["NoSuchBlock"] * 4}, "configuration cannot be built"),
        ("unet/config.json", {"cross_attention_dim": 32}, "expected shape"),
        ("vae/config.json", {"_class_name": "AutoencoderTiny"}, "AutoencoderTiny"),
        ("vae/config.json", {"shift_factor": 0.1}, "shift_factor"),
        ("vae/config.json", {"scaling_factor": None}, "positive scaling_factor"),
        ("text_encoder/config.json", {"architectures": ["T5EncoderModel"]}, "T5EncoderModel"),
        ("text_encoder/config.json", {"num_hidden_layers": 3}, "missing tensors for the text encoder"),
        ("text_encoder/config.json", {"num_hidden_layers": 1}, "unexpected tensors for the text encoder"),
    ],
)
def test_other_folders_are_refused(
    folder: Path, file: str, values: dict[str, Any], words: str, refused: Callable[..., None]
) -> None:
    edit_json(folder / file, **values)
    refused(folder, words)


def test_unet_and_vae_have_to_belong_together(folder: Path, refused: Callable[..., None]) -> None:
    shutil.rmtree(folder / "vae")
    AutoencoderKL(latent_channels=8, block_out_channels=(32,)).save_pretrained(folder / "vae")
    refused(folder, "4 and 8 latent channels")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "float16"}, "float16 needs a GPU"),
        ({"dtype": "int8"}, "dtype: expected auto, float32, float16, bfloat16, got int8"),
        ({"dtype": torch.int8}, "dtype: expected"),
    ],
)
def test_dtype_options(
    models: dict[str, Path], options: dict[str, Any], words: str, refused: Callable[..., None]
) -> None:
    refused(models["sd15"], words, **options)


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_devices_that_are_not_here_are_refused(models: dict[str, Path], device: str) -> None:
    with pytest.raises(InputError, match="device: expected auto, cpu, mps, cuda"):
        load_parts(models["sd15"], device=device)


# -- the hub ------------------------------------------------------------------------------------------------------


def test_only_a_hub_path_asks_the_hub(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, refused: Callable[..., None]
) -> None:
    asked: list[tuple[str, Any]] = []

    def fake(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision))
        assert not any(pattern.endswith((".bin", ".ckpt")) for pattern in allow_patterns)
        return str(models["sd15"])

    monkeypatch.setattr("huggingface_hub.snapshot_download", fake)
    refused("owner/model", "no such file or folder", "hub:owner/model")
    assert asked == []
    load_parts("hub:owner/model@main", device="cpu")
    load_parts("hub:owner/model", device="cpu")
    assert asked == [("owner/model", "main"), ("owner/model", None)]


def test_a_failed_download_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise OSError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(Zero2HeroError, match=r"could not be fetched \(no route\)") as caught:
        load_parts("hub:owner/model", device="cpu")
    assert caught.value.exit_status == 1
