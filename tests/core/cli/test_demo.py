"""`demo`, `tiny` and `zero --tiny` with the bundled models, through the public commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zero2hero_core.cli.main import main
from zero2hero_core.video.source import open_frames, read_image
from zero2hero_core.video.writer import write_image


def demo(out: Path, *options: str) -> int:
    quick = ["--frames", "3", "--size", "128", "--steps", "2", "--train-steps", "2", "--quiet"]
    return main(["demo", "--out", str(out), *quick, *options])


def test_demo_writes_everything_it_promises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo(tmp_path / "out", "--json", str(tmp_path / "report.json")) == 0
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "edited.mp4", "compare.png", "matches.png", "report.json",
    }  # fmt: skip
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report == json.loads((tmp_path / "report.json").read_text())
    assert set(report["psnr"]) >= {"mix", "hero", "zero", "cia", "pixel_swap", "identity"}
    assert set(report["psnr_frame"]) >= {"hero", "zero"}
    assert 0 < report["pck"] <= 1
    assert {"features", "matching", "reference", "inversion", "sampling", "decode", "total", "hero training"} <= set(
        report["seconds"]
    )
    video = open_frames(tmp_path / "out" / "edited.mp4")
    assert len(video) == 3 and video.size_hw == (128, 128)
    assert read_image(tmp_path / "out" / "compare.png").shape[2] > 6 * 128
    assert capsys.readouterr().out == ""
    assert demo(tmp_path / "out") == 2  # never overwrites unasked
    assert "--overwrite" in capsys.readouterr().err
    assert demo(tmp_path / "out", "--overwrite") == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--frames", "1"), "--frames"),
        (("--size", "100"), "--size"),
        (("--seed", "-1"), "scene index"),
        (("--steps", "0"), "steps"),
        (("--train-steps", "0"), "--train-steps"),
    ],
)
def test_demo_refuses(
    options: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo(tmp_path / "out", *options) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_evaluate_measures_clips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "measures.json"
    options = ["--clips", "2", "--split", "validation", "--steps", "1", "--methods", "identity", "pixel_swap"]
    assert main(["tiny", "evaluate", *options, "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert len(report["rows"]) == 2 and report["summary"]["pck.features"]["min"] > 0.3
    assert "psnr.zero" not in report["summary"] and "recipe" in report["weights"]
    assert "pck.features" in capsys.readouterr().out
    assert main(["tiny", "evaluate", "--methods", "magic"]) == 2


@pytest.mark.parametrize(
    ("name", "frames", "fps", "audio"),
    [("car-turn", 2, 1, False), ("wolf", 2, 1, False), ("rabbit-watermelon", 2, 1, True)],
)
def test_real_clips_run(name: str, frames: int, fps: float, audio: bool, tmp_path: Path, shared_data: Path) -> None:
    clip = shared_data / f"{name}.mp4"
    original = open_frames(clip, maximum=21)
    stride = int(original.fps)
    write_image(tmp_path / "edit.png", 1 - original[0])
    command = ["zero", "--tiny", "--video", str(clip), "--reference", str(tmp_path / "edit.png"), "--anchor", "0"]
    options = ["--stride", str(stride), "--max-frames", str(frames), "--steps", "3", "--size", "128"]
    assert main([*command, *options, "--out", str(tmp_path / "out"), "--quiet"]) == 0
    edited = open_frames(tmp_path / "out" / "edited.mp4")
    assert len(edited) == frames and edited.fps == fps and edited.has_audio == audio
