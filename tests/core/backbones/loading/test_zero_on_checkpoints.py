"""`zero2hero zero --model` from end to end on checkpoints of both families and layouts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from zero2hero_core.cli.main import main
from zero2hero_core.video.source import open_frames, read_image
from zero2hero_core.video.writer import VideoWriter, write_image

SIDE = 64


def edit(model: Path, folder: Path, out: str, *options: str) -> list[torch.Tensor]:
    """The frames that the command makes of a small clip of two frames."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(2, 3, 8, 8, generator=generator)
    clip = torch.nn.functional.interpolate(pictures, size=(SIDE, 2 * SIDE), mode="bilinear")
    with VideoWriter(folder / "clip.mkv", 4, overwrite=True) as writer:
        writer.write(clip)
    write_image(folder / "edit.png", 1 - clip[0], overwrite=True)
    command = [
        "zero",
        "--model",
        str(model),
        "--video",
        str(folder / "clip.mkv"),
        "--reference",
        str(folder / "edit.png"),
    ]
    settings = ["--anchor", "0", "--steps", "2", "--ensemble", "1", "--out", str(folder / out), "--quiet", *options]
    assert main([*command, *settings]) == 0
    return [read_image(file) for file in sorted((folder / out / "frames").iterdir())]


@pytest.mark.parametrize("name", ["sd15", "sd21", "v"])
def test_folder_and_single_file_give_the_same_frames(name: str, models: dict[str, Path], tmp_path: Path) -> None:
    from_folder = edit(models[name], tmp_path, "out0")
    from_file = edit(models[f"{name}-file"], tmp_path, "out1")
    assert len(from_folder) == len(from_file) == 2
    for one, other in zip(from_folder, from_file, strict=True):
        assert one.shape == (3, SIDE, 2 * SIDE) and float((one - other).abs().max()) < 1.5 / 255
    assert float((from_folder[0] - from_folder[1]).abs().max()) > 0.01
    state = json.loads((tmp_path / "out0" / "zero.json").read_text())
    assert state["timestep"] == 261 and state["block"] == 1  # the paper's settings, for a real model
    video = open_frames(tmp_path / "out0" / "edited.mp4")
    assert len(video) == 2 and video.fps == 4


def test_prompt_and_guidance_change_the_frames(models: dict[str, Path], tmp_path: Path) -> None:
    plain = edit(models["sd15"], tmp_path, "plain")
    prompted = edit(models["sd15"], tmp_path, "prompted", "--prompt", "red", "--guidance", "3")
    assert float((plain[1] - prompted[1]).abs().max()) > 0
