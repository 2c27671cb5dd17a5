"""Tiny models of both families in both layouts, saved by diffusers and transformers themselves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from zero2hero_core.backbones.sd import single_file
from zero2hero_core.backbones.sd.loading import load_parts
from zero2hero_core.checks import InputError

LEVELS = 3
TINY_VAE: dict[str, Any] = {
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("DownEncoderBlock2D",) * LEVELS,
    "up_block_types": ("UpDecoderBlock2D",) * LEVELS,
}
TINY_UNET: dict[str, dict[str, Any]] = {
    "sd15": {"block_out_channels": (32, 64, 96, 96), "cross_attention_dim": 64, "attention_head_dim": 8},
    "sd21": {
        "block_out_channels": (64, 64, 128, 128),
        "cross_attention_dim": 128,
        "attention_head_dim": (1, 1, 2, 2),
        "use_linear_projection": True,
    },
}
SPECIAL = ("<|startoftext|>", "<|endoftext|>")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
# "!" is token 0 and the special tokens are the last two, as in CLIP's vocabulary of 49408.
VOCABULARY = ["!", *LETTERS, "!</w>", *(f"{letter}</w>" for letter in LETTERS), "re", "red</w>", *SPECIAL]


def write_tokenizer(folder: Path, pad: str) -> None:
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(VOCABULARY)}))
    (folder / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    special = {"bos_token": SPECIAL[0], "eos_token": SPECIAL[1], "unk_token": SPECIAL[1], "pad_token": pad}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    config = {**special, "tokenizer_class": "CLIPTokenizer", "model_max_length": 16, "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def tiny_text_config(kind: str, layers: int = 2) -> CLIPTextConfig:
    width = 64 if kind == "sd15" else 128
    return CLIPTextConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        max_position_embeddings=16,
        hidden_act="quick_gelu" if kind == "sd15" else "gelu",
        bos_token_id=len(VOCABULARY) - 2,
        eos_token_id=len(VOCABULARY) - 1,
    )


def write_folder(folder: Path, kind: str, prediction_type: str) -> Path:
    """A diffusers folder, written by diffusers and transformers."""
    torch.manual_seed(7)
    UNet2DConditionModel(**TINY_UNET[kind]).save_pretrained(folder / "unet")
    AutoencoderKL(**TINY_VAE).save_pretrained(folder / "vae")
    CLIPTextModel(tiny_text_config(kind)).save_pretrained(folder / "text_encoder")
    write_tokenizer(folder / "tokenizer", SPECIAL[1] if kind == "sd15" else "!")
    DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type=prediction_type
    ).save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    return folder


def to_single_file(folder: Path, kind: str) -> dict[str, torch.Tensor]:
    """The tensors of a folder in the original layout; diffusers' own converters check the names in a test below."""
    unet = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    crossed = (False, True, True, True)
    tensors = {single_file.unet_source(name, 2, crossed).key: tensor for name, tensor in unet.items()}
    for name, tensor in load_file(folder / "vae" / "diffusion_pytorch_model.safetensors").items():
        key = single_file.vae_source(name, LEVELS).key
        is_convolution = ".attn_1." in key and ".norm." not in key and key.endswith("weight")
        tensors[key] = tensor[:, :, None, None].contiguous() if is_convolution else tensor
    encoder = load_file(folder / "text_encoder" / "model.safetensors")
    encoder = {name.removeprefix("text_model."): tensor for name, tensor in encoder.items()}
    return tensors | (sd15_text(encoder) if kind == "sd15" else sd21_text(encoder))


def sd15_text(encoder: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    prefix = "cond_stage_model.transformer.text_model."
    tensors = {f"{prefix}{name}": tensor for name, tensor in encoder.items()}
    return tensors | {f"{prefix}embeddings.position_ids": torch.arange(16)[None]}


def sd21_text(encoder: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    prefix, tensors = "cond_stage_model.model.", {}
    names = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "fc1": "c_fc", "fc2": "c_proj"}
    names |= {"encoder.layers": "transformer.resblocks", "self_attn.out_proj": "attn.out_proj"}
    names |= {"final_layer_norm": "ln_final", "embeddings.token_embedding": "token_embedding"}
    names |= {"embeddings.position_embedding.weight": "positional_embedding"}
    for name, tensor in encoder.items():
        if "_proj" in name and "out_proj" not in name:
            continue
        for new, old in names.items():
            name = name.replace(new, old)
        tensors[prefix + name] = tensor
    for layer in range(2):
        for kind in ("weight", "bias"):
            rows = [encoder[f"encoder.layers.{layer}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            tensors[f"{prefix}transformer.resblocks.{layer}.attn.in_proj_{kind}"] = torch.cat(rows)
    # The original has one layer more, which SD 2.x does not use.
    for key in [key for key in tensors if ".resblocks.1." in key]:
        tensors[key.replace(".resblocks.1.", ".resblocks.2.")] = torch.randn_like(tensors[key])
    return tensors | {f"{prefix}text_projection": torch.eye(128), f"{prefix}logit_scale": torch.ones(())}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Name -> path; "sd15", "sd21" and "v" are folders, the same with "-file" single files."""
    root, paths = tmp_path_factory.mktemp("models"), {}
    for name, kind, prediction in (
        ("sd15", "sd15", "epsilon"),
        ("sd21", "sd21", "epsilon"),
        ("v", "sd21", "v_prediction"),
    ):
        paths[name] = write_folder(root / name, kind, prediction)
        paths[f"{name}-file"] = root / f"{name}.safetensors"
        metadata = {"modelspec.prediction_type": "v"} if name == "v" else None
        extra = {"model_ema.decay": torch.ones(()), "betas": torch.ones(1000)}
        save_file(to_single_file(paths[name], kind) | extra, paths[f"{name}-file"], metadata)
    return paths


@pytest.fixture
def folder(models: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the SD 1.5 folder to spoil."""
    return Path(shutil.copytree(models["sd15"], tmp_path / "model"))


@pytest.fixture
def spoil(models: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """Writes the SD 1.5 single file with a change made to its tensors."""

    def write(change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
        tensors = load_file(models["sd15-file"])
        change(tensors)
        save_file(tensors, tmp_path / "spoilt.safetensors")
        return tmp_path / "spoilt.safetensors"

    return write


@pytest.fixture
def refused() -> Callable[..., None]:
    """Checks that loading a path fails with one line that holds all the given words."""

    def check(path: Path | str, *words: str, **options: Any) -> None:
        with pytest.raises(InputError) as caught:
            load_parts(path, device="cpu", **options)
        message = str(caught.value)
        assert "\n" not in message
        for word in words:
            assert word in message

    return check


@pytest.fixture(scope="session")
def vocabulary() -> list[str]:
    """The tokens of the tiny tokenizers."""
    return VOCABULARY


@pytest.fixture(scope="session")
def tiny_unets() -> dict[str, dict[str, Any]]:
    """Configurations of the tiny UNets, by family."""
    return TINY_UNET
