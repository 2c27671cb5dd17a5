"""`zero2hero dataset`: every kind of task through the public command."""

from __future__ import annotations

import json
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from zero2hero_core.cli import dataset as cli_dataset
from zero2hero_core.cli.main import main
from zero2hero_core.evaluation.dataset.task import find_tasks, hash_files, load_task
from zero2hero_core.tiny.scenes.scene import EDITS, Scene, split_seed
from zero2hero_core.video.writer import VideoWriter, write_image

SMALL = ["--size", "64", "--frames", "2", "--quiet"]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five frames of 64 x 48 pixels, lossless, 10 per second."""
    path = tmp_path_factory.mktemp("clip") / "my clip.mkv"
    pictures = torch.rand((5, 3, 48, 64), generator=torch.Generator().manual_seed(0))
    with VideoWriter(path, Fraction(10)) as writer:
        writer.write(pictures)
    return path


def run(*arguments: object) -> int:
    return main(["dataset", *map(str, arguments)])


def test_colorize(video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, report = tmp_path / "data", tmp_path / "report.json"
    assert run("colorize", "--video", video, "--out", out, "--start", 1, "--stride", 2, "--json", report) == 0
    assert capsys.readouterr().out == f"1 tasks: {out}\n"
    task = load_task(out / "my-clip")
    assert task.metadata.sha256 == hash_files(task.folder)
    info = task.metadata
    assert (info.kind, info.anchor, info.frames, info.size_hw, info.fps) == ("colorization", 0, 2, (48, 64), 5)
    assert info.truth_frames == (0, 1) and info.source["clip"] == "my clip.mkv" and info.source["start"] == 1
    assert len(info.source["clip sha256"]) == 64 and info.seed is None
    assert (out / "my-clip" / "style" / "frame_0000_colour.png").is_file()
    written = json.loads(report.read_text())
    assert written["command"] == "dataset colorize" and written["seconds"]["total"] > 0
    assert written["tasks"] == [
        {
            "name": "my-clip",
            "folder": str(out / "my-clip"),
            "kind": "colorization",
            "appearance": "colour",
            "frames": 2,
            "truth_frames": 2,
            "size": [64, 48],
            "reused": False,
        }
    ]
    assert [entry["exp_name"] for entry in json.loads((out / "zero.json").read_text())] == ["my-clip"]


def test_the_anchor_counts_in_the_clip(video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("colorize", "--video", video, "--out", tmp_path, "--start", 1, "--stride", 2, "--quiet")
    assert run(*options, "--anchor", 3) == 0
    assert load_task(tmp_path / "my-clip").anchor == 1
    assert run(*options, "--anchor", 2, "--name", "other") == 2
    assert "--anchor: expected one of the chosen frames (1 to 3, stride 2), got 2" in capsys.readouterr().err


def test_clip_with_an_edit_of_ones_own(video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit, square = tmp_path / "edit.png", tmp_path / "square.png"
    write_image(edit, torch.full((3, 96, 128), 0.5))
    write_image(square, torch.full((3, 96, 96), 0.5))
    options = ("clip", "--video", video, "--anchor", 2, "--appearance", "grey", "--out", tmp_path / "data", "--quiet")
    assert run(*options, "--reference", square) == 2
    assert "--reference: expected the frames' aspect ratio (64 x 48), got 96 x 96" in capsys.readouterr().err
    assert run(*options, "--reference", edit) == 0
    task = load_task(tmp_path / "data" / "my-clip")
    assert (task.metadata.kind, task.anchor, task.truth_frames) == ("general-edit", 2, (2,))
    assert task.reference.shape == (3, 48, 64) and len(task.frames) == 5
    assert (task.folder / "style" / "frame_0002_grey.png").is_file()


def test_rendered(tmp_path: Path) -> None:
    assert run("rendered", "--clips", 2, "--split", "validation", "--first", 4, "--out", tmp_path, *SMALL) == 0
    tasks = [load_task(folder) for folder in find_tasks(tmp_path)]
    assert [task.folder.name for task in tasks] == ["color-edit-validation-0004", "color-edit-validation-0005"]
    for index, task in zip((4, 5), tasks, strict=True):
        scene = Scene(split_seed("validation", index), 2, 64)
        info = task.metadata
        assert (info.seed, info.appearance, info.fps) == (scene.seed, scene.edit, 8)
        assert task.truth is not None and task.masks is not None and task.truth_frames == (0, 1)
        assert float((task.truth[1] - scene.render(1, 1)[0]).abs().max()) < 0.002
        assert bool(task.correspondence(1).to_anchor_visible.any())


def test_edits_can_be_chosen(tmp_path: Path) -> None:
    assert set(cli_dataset.ALL_EDITS) == set(EDITS)
    assert run("rendered", "--clips", 1, "--edits", "tint", "--out", tmp_path, *SMALL) == 0
    assert load_task(find_tasks(tmp_path)[0]).metadata.appearance == "tint"


def test_general(tmp_path: Path) -> None:
    assert run("general", "--clips", 2, "--out", tmp_path, *SMALL) == 0
    tasks = [load_task(folder) for folder in find_tasks(tmp_path)]
    assert len(tasks) == 2
    for task in tasks:
        assert task.metadata.kind == "general-edit" and task.truth_frames == (0,)
        assert task.metadata.appearance in ("retexture", "style")
        assert [file.name for file in (task.folder / "target").iterdir()] == ["frame_0000.png"]


def test_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An earlier task is kept or replaced only when that is asked for, and kept only if it is the same."""
    report = tmp_path / "report.json"
    options = ("rendered", "--out", tmp_path / "data", *SMALL)
    assert run(*options, "--clips", 1) == 0
    made = (tmp_path / "data" / "color-edit-test-0000" / "task.json").stat().st_mtime_ns
    assert run(*options, "--clips", 2) == 2
    assert "add --resume or --overwrite" in capsys.readouterr().err
    assert run(*options, "--clips", 2, "--resume", "--json", report) == 0
    assert [task["reused"] for task in json.loads(report.read_text())["tasks"]] == [True, False]
    assert (tmp_path / "data" / "color-edit-test-0000" / "task.json").stat().st_mtime_ns == made
    assert len(json.loads((tmp_path / "data" / "zero.json").read_text())) == 2
    assert run(*options, "--clips", 1, "--resume", "--frames", 3) == 2
    assert "differs in frames, truth_frames" in capsys.readouterr().err
    assert run(*options, "--clips", 1, "--overwrite", "--frames", 3) == 0
    assert load_task(tmp_path / "data" / "color-edit-test-0000").metadata.frames == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "colorize|clip|rendered|general|blender"),
        (("colorize", "--out", "o"), "--video"),
        (("colorize", "--video", "none.mp4", "--out", "o"), "none.mp4: no such file"),
        (("clip", "--video", "v.mp4", "--out", "o"), "--anchor, --reference"),
        (("rendered", "--clips", "0", "--out", "o"), "--clips: expected a whole number from 1 up"),
        (("rendered", "--clips", "1", "--frames", "1", "--out", "o"), "--frames: expected a whole number from 2 up"),
        (("rendered", "--clips", "1", "--split", "all", "--out", "o"), "--split: invalid choice"),
        (("general", "--clips", "1", "--resume", "--overwrite", "--out", "o"), "not allowed with"),
        (("blender", "--objects", "tree", "--out", "o"), "--objects: invalid choice"),
    ],
)
def test_bad_arguments(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_folder(video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").touch()
    assert run("colorize", "--video", video, "--out", tmp_path / "data") == 2
    assert "expected a folder" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["", "colorize", "clip", "rendered", "general", "blender"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*command.split(), "--help") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "(default: None)" not in shown and (not command or "--resume" in shown)
    assert "bpy" not in sys.modules
