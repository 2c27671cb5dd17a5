"""The workflows run to their end; the demo gives the command line's figures."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from moving import pan
from PIL import Image, ImageOps

from zero2hero_core.video.source import open_frames
from zero2hero_core.video.writer import VideoWriter, write_image

sys.path.insert(0, str(Path(__file__).parent))
from ui_graph import NAMES, WORKFLOWS, load, switched_on, to_prompt, widgets

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = Path(__file__).parent / "scripts"
MEMORY = 16 * 2**30  # bytes: Stable Diffusion, its ControlNet and FLUX of two blocks, in float32
DISK = 8 * 2**30
# Workflow -> the videos that it saves, and those that the bypassed group saves besides.
VIDEOS = {
    "colorize": (["zero"], ["coloured"]),
    "fresco_sd15": (["fresco"], []),
    "rerender_sd15": (["rerender"], []),
    "zero_stage_only": (["zero"], []),
    "zero_to_hero_sd15_flux": (["zero"], ["hero"]),
}
Graph = dict[str, Any]


def change(prompt: Graph, kind: str, **values: Any) -> None:
    """Set inputs of all nodes of a kind."""
    found = [node for node in prompt.values() if node["class_type"] == kind]
    assert found and all(name in node["inputs"] for node in found for name in values)
    for node in found:
        node["inputs"] |= values


@pytest.fixture
def small_demo(described: Graph) -> Graph:
    """The demo, made small: some seconds instead of minutes."""
    prompt = to_prompt(load("demo_cpu"), described)
    change(prompt, "ZeroToHeroDemoClip", frame_count=4, size=128)
    change(prompt, "MaskedCiAKSampler", steps=5)
    change(prompt, "HeroLoRATrainer", steps=6)
    return prompt


def measured(prompt: Graph, outputs: Graph) -> dict[str, float]:
    """PSNR that the metrics nodes show, by the node whose frames they measure and its first value."""
    found = {}
    for key, node in prompt.items():
        if node["class_type"] == "VideoMetrics":
            source = prompt[node["inputs"]["frames"][0]]
            name = f"{source['class_type']} {source['inputs'].get('tokens', '')}".strip()
            found[name] = float(outputs[key]["text"][0].split("PSNR ")[1].split(" dB")[0])
    return found


NAMES_OF = {
    "HeroRestore": "hero",
    "MaskedCiAKSampler fixed": "zero",
    "MaskedCiAKSampler all": "cia",
    "PixelSwap": "pixel_swap",
    "ZeroToHeroDemoClip": "identity",
}


def test_the_demo_gives_the_command_lines_figures(server: Any, small_demo: Graph, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "zero2hero_core", "demo", "--out", str(tmp_path / "demo"), "--quiet"]
    command += ["--frames", "4", "--size", "128", "--steps", "5", "--train-steps", "6"]
    subprocess.run(command, check=True, cwd=REPOSITORY)
    expected = json.loads((tmp_path / "demo" / "report.json").read_text(encoding="utf-8"))["psnr"]
    values = measured(small_demo, server.queue(small_demo, workflow=load("demo_cpu")))
    assert {NAMES_OF[name] for name in values} == set(expected) - {
        "autoencoder",
        "mix",
    }  # the template ends with Hero-Stage
    for name, value in values.items():
        assert value == pytest.approx(expected[NAMES_OF[name]], abs=0.1), name
    assert len(set(values.values())) == len(values)


def frames_of(folder: Path) -> list[bytes]:
    """The pixels of a folder of PNG files."""
    return [Image.open(path).tobytes() for path in sorted(folder.glob("*.png"))]


def smaller(saved: Graph, described: Graph) -> Graph:
    """The demo as a user would have saved it after making it small."""
    chosen = {
        "ZeroToHeroDemoClip": {"clip": 1, "frame_count": 3, "size": 64},
        "MaskedCiAKSampler": {"steps": 2},
        "HeroLoRATrainer": {"steps": 3},
        "VideoSave": {"format": "png"},
    }
    for node in saved["nodes"]:
        for name, value in chosen.get(node["type"], {}).items():
            node["widgets_values"][widgets(node, described[node["type"]])[name]] = value
    return saved


def test_saved_reloaded_and_queued_again_gives_the_same_frames(server: Any, described: Graph) -> None:
    saved = smaller(load("demo_cpu"), described)
    prompt = to_prompt(saved, described)
    (result,) = [key for key, node in prompt.items() if node["inputs"].get("filename_prefix") == "zero2hero/demo"]
    (first,) = server.files(server.queue(prompt, workflow=saved), result)
    frames = frames_of(first.parent)
    with Image.open(first) as picture:
        stored = json.loads(picture.text["workflow"])
    server.forget()
    shutil.rmtree(server.base / "models" / "loras" / "hero")
    for folder in (server.output / "zero2hero").iterdir():  # the training's own, too
        if folder.is_dir() and folder != first.parent:
            shutil.rmtree(folder)
    assert to_prompt(stored, described) == prompt
    (second,) = server.files(server.queue(to_prompt(stored, described), workflow=stored), result)
    assert second.parent != first.parent
    assert len(frames) == 3 and frames_of(second.parent) == frames


def test_progress_and_pictures_come_over_the_websocket(
    server: Any, small_demo: Graph, host_python: Path, host_environment: dict[str, str], tmp_path: Path
) -> None:
    change(small_demo, "ZeroToHeroDemoClip", clip=2, size=64)  # nothing of it was computed before
    (tmp_path / "prompt.json").write_text(json.dumps(small_demo), encoding="utf-8")
    command = [str(host_python), str(SCRIPTS / "watch.py"), server.url, str(tmp_path / "prompt.json")]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=host_environment)
    found = json.loads(done.stdout.splitlines()[-1])
    kinds = {key: node["class_type"] for key, node in small_demo.items()}
    kept = {"ZeroToHeroTinyModels"}  # what a test before this one loaded, the host still has
    assert set(kinds.values()) - kept <= {kinds[key] for key in found["order"]}
    shown = {kinds[key] for key in found["pictures"]}
    assert {"ZeroToHeroDemoClip", "MaskedCiAKSampler", "HeroLoRATrainer", "HeroRestore"} <= shown
    for key, steps in found["progress"].items():
        values = [value for value, _ in steps]
        assert values == sorted(values) and values[-1] == steps[-1][1] > 1, kinds[key]
    assert {"DIFTCorrespondence", "VideoSave", "VideoMetrics"} <= {kinds[key] for key in found["progress"]}


@pytest.fixture(scope="module")
def models(server: Any, host_python: Path, host_environment: dict[str, str]) -> Iterator[Path]:
    """Model files of random weights under the names that the workflows ask for."""
    psutil = pytest.importorskip("psutil")
    if psutil.virtual_memory().available < MEMORY or shutil.disk_usage(server.base).free < DISK:
        pytest.skip(f"NOT ENOUGH MEMORY: the models need {MEMORY / 2**30:.0f} GB, and {DISK / 2**30:.0f} GB on disk")
    folder = server.base / "models"
    command = [str(host_python), str(SCRIPTS / "standins.py"), str(folder), *map(str, WORKFLOWS)]
    subprocess.run(command, check=True, env=host_environment)
    yield folder
    server.forget()
    for path in folder.rglob("*.safetensors"):  # gigabytes that pytest would keep
        if path.stat().st_size > 10**8:
            path.unlink()


def stand_in(prompt: Graph) -> None:
    """Sizes and steps as small as may be; the text encoders of FLUX by a node of the tests."""
    change(prompt, "VideoLoad", file="clip.mp4", maximum=2, short_side=64)
    for node in prompt.values():
        if node["class_type"] == "DIFTCorrespondence":
            node["inputs"] |= {"ensemble": 1}
        if node["class_type"] == "MaskedCiAKSampler":
            node["inputs"] |= {"steps": 1}
        if node["class_type"] in ("GuidedKeyFrameSampler", "KeyFrameBatchSampler"):
            node["inputs"] |= {"steps": 2, "strength": 1.0}
        if node["class_type"] == "DualCLIPLoader":
            node |= {"class_type": "StandInFluxText", "inputs": {}}
        if node["class_type"] == "UNETLoader":
            node["inputs"]["weight_dtype"] = "default"  # a CPU takes minutes with fp8
        if node["class_type"] == "KSampler":
            node["inputs"] |= {"steps": 2, "sampler_name": "euler"}
        if node["class_type"] == "HeroLoRATrainer":
            node["inputs"] |= {"steps": 1, "rank": 2, "evaluate_every": 0}
        if node["class_type"] == "HeroRestore":
            node["inputs"] |= {"steps": 1}


def videos(server: Any, prompt: Graph, outputs: Graph) -> list[str]:
    """Names of the films that a run has saved, without their number."""
    saved = [key for key, node in prompt.items() if node["class_type"] == "VideoSave"]
    files = [file for key in saved for file in server.files(outputs, key)]
    assert all(file.stat().st_size > 1000 for file in files)
    return sorted(file.stem.rstrip("_0123456789") for file in files)


@pytest.mark.parametrize("name", VIDEOS)
def test_runs_on_the_formats_it_names(server: Any, described: Graph, models: Path, name: str) -> None:
    """As shipped, and then with everything switched on: the host has the first part from before."""
    with VideoWriter(server.input / "clip.mp4", 8, overwrite=True) as writer:
        writer.write(torch.rand(4, 3, 64, 96, generator=torch.Generator().manual_seed(0)))
    Image.radial_gradient("L").resize((96, 64)).convert("RGB").save(server.input / "edited_anchor.png")
    server.forget()
    shipped, besides = VIDEOS[name]
    for saved, expected in ((load(name), shipped), (switched_on(load(name)), besides + shipped)):
        prompt = to_prompt(saved, described)
        stand_in(prompt)
        outputs = server.queue(prompt, timeout=1500, workflow=saved)
        assert videos(server, prompt, outputs) == sorted(expected)


def test_two_edited_frames_are_carried(server: Any, described: Graph) -> None:
    """As shipped, but for the names of the files: the frames to edit first, then the edits carried to all."""
    frames = pan(0, 6, 2)
    with VideoWriter(server.input / "pan.mkv", 8, overwrite=True) as writer:
        writer.write(frames)
    saved = load("propagate_keyframes")
    prompt = to_prompt(saved, described)
    change(prompt, "VideoLoad", file="pan.mkv")
    change(prompt, "VideoSave", format="mkv")
    keep = {key: node for key, node in prompt.items() if node["class_type"] in ("VideoLoad", "SelectKeyFrames")}
    (key,) = [key for key, node in prompt.items() if node["class_type"] == "SaveImage"]
    shown = server.queue(keep | {key: prompt[key]}, workflow=saved)
    keys = [Image.open(path) for path in server.files(shown, key)]
    assert len(keys) == 2
    for picture, name in zip(keys, ("edited_first.png", "edited_second.png"), strict=True):
        ImageOps.invert(picture.convert("RGB")).save(server.input / name)
    outputs = server.queue(prompt, workflow=saved)
    (result,) = [key for key, node in prompt.items() if node["class_type"] == "VideoSave"]
    item = outputs[result]["videos"][0]
    with open_frames(server.base / item["type"] / item["subfolder"] / item["filename"], multiple=1) as source:
        assert len(source) == 6
        assert (source.frames(range(6)) - (1 - frames)).abs().mean() < 0.03


def test_another_tools_drift_is_mended(server: Any, described: Graph) -> None:
    """As shipped, but for the names of the files: a tool's negative that darkens; the edit is the negative itself."""
    frames = pan(0, 6, 2)
    drifted = (1 - frames) * (1 - torch.arange(6) / 20).view(-1, 1, 1, 1)
    for name, pictures in {"pan.mkv": frames, "tool.mkv": drifted}.items():
        with VideoWriter(server.input / name, 8, codec="ffv1", overwrite=True) as writer:
            writer.write(pictures)
    write_image(server.input / "edited.png", 1 - frames[0], overwrite=True)
    saved = load("repair_other_tools")
    prompt = to_prompt(saved, described)
    for node in prompt.values():
        if node["class_type"] == "VideoLoad":
            made = node["inputs"]["file"] == "made_by_another_tool.mp4"
            node["inputs"]["file"] = "tool.mkv" if made else "pan.mkv"
    change(prompt, "VideoSave", format="mkv")
    outputs = server.queue(prompt, workflow=saved)
    (result,) = [key for key, node in prompt.items() if node["class_type"] == "VideoSave"]
    item = outputs[result]["videos"][0]
    with open_frames(server.base / item["type"] / item["subfolder"] / item["filename"], multiple=1) as source:
        mended = source.frames(range(6))
    error, before = ((pictures[5] - (1 - frames[5])).abs().mean() for pictures in (mended, drifted))
    assert error < before / 2


def test_every_workflow_is_run() -> None:
    assert sorted([*VIDEOS, "demo_cpu", "propagate_keyframes", "repair_other_tools"]) == NAMES
