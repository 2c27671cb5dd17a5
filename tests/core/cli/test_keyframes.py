"""`zero2hero keyframes`: from a clip to the frames to edit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from moving import pan

from zero2hero_core.cli.main import main
from zero2hero_core.video.source import read_image
from zero2hero_core.video.writer import VideoWriter


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """22 frames of 96 x 64, lossless: a pan of 12, then another one of 10."""
    path = tmp_path_factory.mktemp("clip") / "clip.mkv"
    with VideoWriter(path, 12) as writer:
        writer.write(torch.cat([pan(0, 12, 6), pan(1, 10, 1)]))
    return path


def run(clip: Path, out: Path, *options: str) -> dict[str, Any]:
    assert main(["keyframes", "--video", str(clip), "--out", str(out), "--quiet", *options]) == 0
    report: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return report


def names(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "keys").iterdir())


def test_advice_names_the_anchor_the_key_and_the_next(clip: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    assert main(["keyframes", "--video", str(clip), "--out", str(out)]) == 0
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["cuts"] == [12] and report["shots"] == [[0, 11], [12, 21]]
    (key,) = report["keys"]
    assert report["anchor"]["frame"] == key and names(out) == [f"key_{key:06d}.png"]
    assert (report["next"]["frame"] < 12) is not (key < 12)  # the other shot
    assert report["anchor"]["gain"] == pytest.approx(report["coverage"], abs=0.01)
    said = capsys.readouterr().out
    assert f"1 key frame of 22: {key}\n" in said
    assert f"next is {report['next']['frame']}" in said and "new shots begin at 12" in said
    assert read_image(out / "coverage.png").shape[-1] == 960


def test_key_frames_are_the_frames_themselves(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = run(clip, out, "--method", "uniform", "--every", "6")
    assert report["keys"] == [0, 6, 11, 12, 18, 21] and report["next"] is None
    assert report["files"] == [f"keys/{name}" for name in names(out)]
    frames = torch.cat([pan(0, 12, 6), pan(1, 10, 1)])
    assert float((read_image(out / "keys/key_000018.png") - frames[18]).abs().max()) < 3 / 255
    assert len(report["frames"]) == 22 and report["frames"][18]["coverage"] == 1.0


def test_numbers_are_those_of_the_original_clip(clip: Path, tmp_path: Path) -> None:
    stretch = ("--start", "2", "--stop", "12", "--stride", "3")
    report = run(clip, tmp_path / "out", *stretch, "--keys", "8", "--count", "2")
    assert [frame["index"] for frame in report["frames"]] == [2, 5, 8, 11]
    assert 8 in report["keys"] and len(report["keys"]) == 2 and set(report["keys"]) <= {2, 5, 8, 11}
    adaptive = ("--method", "adaptive", "--smallest-gap", "1", "--largest-gap", "2")
    keys = run(clip, tmp_path / "more", *stretch, *adaptive)["keys"]
    assert len(keys) == 3 and (keys[0], keys[2]) == (2, 11)


def test_an_edited_key_frame_is_not_replaced(clip: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    uniform = ("--method", "uniform", "--every", "6", "--max-frames", "7")
    run(clip, out, *uniform)
    run(clip, out, *uniform, "--overwrite")
    shutil.copy(out / "keys/key_000000.png", out / "keys/key_000006.png")
    again = ["keyframes", "--video", str(clip), "--out", str(out), *uniform, "--overwrite"]
    assert main(again) == 2
    assert "key_000006.png: is not the frame of this clip as an earlier run wrote it" in capsys.readouterr().err
    assert main([*again[:-1]]) == 2
    assert "--out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--keys", "3,3"], "--keys: expected each frame once, got 3 twice; leave one out."),
        (["--keys", "22"], "--keys: expected frames that are looked at (0 to 21), got 22."),
        (["--keys", "3", "--stride", "2"], "--keys: expected frames that are looked at (0 to 20, every 2), got 3."),
        (["--keys", "x"], "--keys: expected frame numbers like 0,12,31, got 'x'."),
        (["--every", "0"], "--every: expected a whole number from 1 up, got 0."),
        (["--smallest-gap", "9", "--largest-gap", "4"], "--smallest-gap: expected at most --largest-gap (4), got 9"),
        (["--count", "0"], "--count: expected a whole number from 1 up, got 0."),
        (["--count", "23"], "--count: expected at most 22, the frames of the clip, got 23."),
        (["--method", "uniform", "--count", "1"], "--count: expected 4 or more, for the first and last frames"),
        (["--start", "99"], "--start: expected 0 to 21"),
    ],
)
def test_bad_input_is_one_sentence(clip: Path, tmp_path: Path, capsys: Any, options: list[str], message: str) -> None:
    assert main(["keyframes", "--video", str(clip), "--out", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []
