"""`guide` on a small model of the real layout: prompts, a ControlNet by Canny outlines or given pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from moving import drift

from zero2hero_core.cli.main import main
from zero2hero_core.video.source import read_image
from zero2hero_core.video.writer import VideoWriter, write_image

SIDE, COUNT = 64, 4


@pytest.fixture(scope="module")
def material(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose cells are eight pixels wide, its ControlNet, a clip, pictures to show."""
    folder = tmp_path_factory.mktemp("guided")
    model = Path(shutil.copytree(models["sd15"], folder / "model"))
    shutil.rmtree(model / "vae")
    torch.manual_seed(1)
    vae: dict[str, Any] = {"block_out_channels": (32, 32, 32, 32)}
    vae |= {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    AutoencoderKL(**vae).save_pretrained(model / "vae")
    net = ControlNetModel.from_unet(UNet2DConditionModel.from_pretrained(model / "unet"))
    for convolution in [*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out]:
        torch.nn.init.normal_(convolution.weight, std=0.3)
    net.save_pretrained(folder / "net")
    with VideoWriter(folder / "clip.mkv", 8) as writer:
        for index in range(COUNT):
            writer.write(drift(index, SIDE, SIDE))
    (folder / "hints").mkdir()
    for index in range(COUNT):
        write_image(folder / "hints" / f"{index}.png", torch.full((3, SIDE, SIDE), index / COUNT))
    return folder


def key(out: Path) -> torch.Tensor:
    return read_image(out / "keys" / f"key_{COUNT - 1:06d}.png")


def run(material: Path, out: Path, *options: str) -> torch.Tensor:
    given = [
        "guide",
        "--quiet",
        "--model",
        str(material / "model"),
        "--device",
        "cpu",
        "--video",
        str(material / "clip.mkv"),
    ]
    given += ["--size", str(SIDE), "--steps", "2", "--strength", "1", "--out", str(out), "--every", "3"]
    assert main([*given, *options]) == 0
    return key(out)


def test_prompts_and_controls_decide_the_picture(material: Path, tmp_path: Path) -> None:
    net = ["--controlnet", str(material / "net" / "diffusion_pytorch_model.safetensors")]
    rows = {
        "plain": ["--prompt", "red"],
        "again": ["--prompt", "red"],
        "other": ["--prompt", "ab"],
        "avoid": ["--prompt", "red", "--negative", "ab"],
        "weak": ["--prompt", "red", "--guidance", "2"],
        "canny": ["--prompt", "red", *net, "--canny", "1", "2"],
        "nothing": ["--prompt", "red", *net, "--control-strength", "0"],
        "given": ["--prompt", "red", *net, "--control", str(material / "hints")],
        "folder": ["--prompt", "red", "--controlnet", str(material / "net"), "--control", str(material / "hints")],
        "fresco": ["--prompt", "red", *net, "--method", "fresco", "--key-method", "uniform"],
    }
    made = {name: run(material, tmp_path / name, *options) for name, options in rows.items()}
    assert torch.equal(made["again"], made["plain"]) and torch.equal(made["nothing"], made["plain"])
    assert torch.equal(made["folder"], made["given"])
    apart = [made[name] for name in ("plain", "other", "avoid", "weak", "canny", "given", "fresco")]
    assert all(not torch.equal(one, other) for place, one in enumerate(apart) for other in apart[:place])
    state = json.loads((tmp_path / "given" / "keys" / "keys.json").read_text(encoding="utf-8"))
    assert len(state["control sha256"]) == len(state["controlnet sha256"]) == 64


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--controlnet", "net", "--control", "few"], "expected 4 pictures, one for each chosen frame, got 1"),
        (["--controlnet", "model/unet"], "expected a ControlNetModel, got a UNet2DConditionModel"),
        (["--controlnet", "net", "--control-strength", "3"], "--control-strength: expected a value from 0 to 2, got 3"),
        (["--controlnet", "net", "--canny", "200", "100"], "--canny: expected 0 <= low <= high, got 200, 100"),
    ],
)
def test_bad_controls_are_one_line(
    material: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(material)
    (material / "few").mkdir(exist_ok=True)
    shutil.copy(material / "hints" / "0.png", material / "few")
    given = [
        "guide",
        "--quiet",
        "--model",
        "model",
        "--device",
        "cpu",
        "--video",
        "clip.mkv",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*given, "--size", str(SIDE), "--prompt", "red", *options]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if ": note: " not in line]
    assert len(lines) == 1 and words in lines[0], lines
