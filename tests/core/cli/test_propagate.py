"""`propagate` on small clips: results, masks to the bit, resuming, bad input."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from moving import drift, pan
from PIL import Image

import zero2hero_core
from zero2hero_core.checks import InputError
from zero2hero_core.cli.main import main
from zero2hero_core.video.source import open_frames, read_image
from zero2hero_core.video.writer import VideoWriter, write_image

COUNT, RATE, HEIGHT, WIDTH = 8, 8, 48, 64


@pytest.fixture(scope="session")
def material(tmp_path_factory) -> Path:
    """clip.mkv (lossless), edits of its frames, a mask."""
    folder = tmp_path_factory.mktemp("propagate")
    with VideoWriter(folder / "clip.mkv", RATE) as writer:
        for index in range(COUNT):
            writer.write(drift(index))
    for index in (0, 3, 7):
        write_image(folder / f"edit{index}.png", 1 - drift(index).flip(0))
    write_image(folder / "small.png", 1 - drift(0, HEIGHT // 2, WIDTH // 2).flip(0))
    write_image(folder / "tiny.png", 1 - drift(0, 15, 20).flip(0))
    write_image(folder / "tall.png", torch.zeros(3, WIDTH, HEIGHT))
    half = torch.zeros(1, HEIGHT, WIDTH)
    half[:, :, WIDTH // 2 :] = 1
    write_image(folder / "half.png", half)
    write_image(folder / "black.png", torch.zeros(1, HEIGHT, WIDTH))
    return folder


def arguments(material: Path, out: Path, *options: str, keys: tuple[int, ...] = (0,)) -> list[str]:
    chosen = [part for index in keys for part in ("--key", f"{index}={material / f'edit{index}.png'}")]
    return ["propagate", "--video", str(material / "clip.mkv"), *chosen, "--out", str(out), "--quiet", *options]


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "frames").iterdir())}


@pytest.mark.parametrize("keys", [(0,), (7,), (3,), (7, 0), (0, 3, 7)])
def test_every_frame_gets_the_edit_and_keys_get_it_exactly(material, tmp_path, keys):
    assert main(arguments(material, tmp_path / "out", keys=keys)) == 0
    pictures = open_frames(tmp_path / "out" / "frames", multiple=1)
    assert len(pictures) == len(open_frames(tmp_path / "out" / "edited.mp4", multiple=1)) == COUNT
    for index in range(COUNT):
        assert (pictures[index] - (1 - drift(index).flip(0))).abs().mean() < 0.05
    for index in keys:
        assert torch.equal(pictures[index], read_image(material / f"edit{index}.png"))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["keys"] == sorted(keys) and report["count"] == COUNT and report["notes"] == []
    assert not (tmp_path / "out" / "walks").exists()


def test_a_folder_of_edited_keys_and_a_cut(material, tmp_path):
    with VideoWriter(tmp_path / "two.mkv", RATE) as writer:
        for seed in (0, 1):
            writer.write(pan(seed, COUNT, 1))
    keys = tmp_path / "keys"
    keys.mkdir()
    for index in (0, COUNT + 1):
        clip = open_frames(tmp_path / "two.mkv", multiple=1)
        write_image(keys / f"key_{index:06d}.png", 1 - clip[index])
    options = ["propagate", "--video", str(tmp_path / "two.mkv"), "--key", str(keys), "--quiet"]
    assert main([*options, "--out", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["keys"] == [0, COUNT + 1] and report["cuts"] == [COUNT]
    pictures = open_frames(tmp_path / "out" / "frames", multiple=1)
    for index in range(2 * COUNT):
        assert (pictures[index] - (1 - clip[index])).abs().mean() < 0.06
    assert main(["propagate", "--video", "v", "--key", str(tmp_path / "out" / "frames"), "--out", "o"]) == 2


def test_the_same_in_python(material, tmp_path):
    assert main(arguments(material, tmp_path / "out", keys=(0, 7))) == 0
    key = {index: str(material / f"edit{index}.png") for index in (0, 7)}
    report = zero2hero_core.propagate(video=str(material / "clip.mkv"), key=key, out=str(tmp_path / "python"))
    assert report["count"] == COUNT and files(tmp_path / "python") == files(tmp_path / "out")
    with pytest.raises(InputError, match="did you mean key"):
        zero2hero_core.propagate(video="clip.mkv", keys=key, out="out")


def test_outside_the_mask_every_pixel_is_the_clips(material, tmp_path):
    mask = str(material / "half.png")
    assert main(arguments(material, tmp_path / "out", "--mask", mask, "--video-name", "edited.mkv")) == 0
    clip, edited = (open_frames(path, multiple=1) for path in (material / "clip.mkv", tmp_path / "out" / "edited.mkv"))
    left = slice(0, WIDTH // 2)
    for index in range(COUNT):
        assert torch.equal(edited[index][:, :, left], clip[index][:, :, left])
        assert (edited[index] - clip[index])[:, :, WIDTH // 2 :].abs().mean() > 0.1


@pytest.mark.parametrize("options", [("--choice", "hard"), ("--mix",), ("--mix", "--poisson", "--choice", "hard")])
def test_two_keys_may_be_blended_otherwise(material, tmp_path, options):
    assert main(arguments(material, tmp_path / "soft", keys=(0, 7))) == 0
    assert main(arguments(material, tmp_path / "out", *options, keys=(0, 7))) == 0
    soft, out = files(tmp_path / "soft"), files(tmp_path / "out")
    assert soft != out and soft["frame_000007.png"] == out["frame_000007.png"]
    pictures = open_frames(tmp_path / "out" / "frames", multiple=1)
    assert (pictures[3] - (1 - drift(3).flip(0))).abs().mean() < 0.08


def test_an_empty_mask_is_said_aloud_and_changes_nothing(material, tmp_path, capsys):
    assert main(arguments(material, tmp_path / "out", "--mask", str(material / "black.png"))) == 0
    assert "the mask is empty in every frame" in capsys.readouterr().err


def test_a_small_edit_is_put_on_the_clips_own_size(material, tmp_path):
    options = ["propagate", "--video", str(material / "clip.mkv"), "--key", f"0={material / 'small.png'}"]
    assert main([*options, "--out", str(tmp_path / "out"), "--quiet"]) == 0
    pictures = open_frames(tmp_path / "out" / "frames", multiple=1)
    assert pictures.size_hw == (HEIGHT, WIDTH)
    for index in range(COUNT):
        assert (pictures[index] - (1 - drift(index).flip(0))).abs().mean() < 0.06


def test_a_key_need_not_be_among_the_chosen_frames(material, tmp_path):
    options = ("--start", "4", "--stride", "2")
    assert main(arguments(material, tmp_path / "out", *options, keys=(3,))) == 0
    assert sorted(files(tmp_path / "out")) == ["frame_000004.png", "frame_000006.png"]


def test_a_stopped_run_resumes_to_the_same_bytes(material, tmp_path, monkeypatch):
    from zero2hero_core.jobs import frames as job

    assert main(arguments(material, tmp_path / "whole", keys=(0, 7))) == 0
    assert main(arguments(material, tmp_path / "out", keys=(0, 7))) == 0
    whole, written = files(tmp_path / "whole"), []
    out, real = tmp_path / "stopped", job.write_image

    def write(path: Path, *more, **options) -> None:
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(path)
        real(path, *more, **options)

    monkeypatch.setattr(job, "write_image", write)
    assert main(arguments(material, out, keys=(0, 7))) == 1
    assert len(files(out)) == 5 and (out / "walks").is_dir()
    monkeypatch.setattr(job, "write_image", real)
    assert main(arguments(material, out, "--resume", keys=(0, 3))) == 2  # another run
    assert main(arguments(material, out, "--resume", keys=(0, 7))) == 0
    assert files(out) == whole
    assert (out / "edited.mp4").read_bytes() == (tmp_path / "whole" / "edited.mp4").read_bytes()


def test_resume_may_be_written_from_the_start(material, tmp_path):
    assert main(arguments(material, tmp_path / "out", "--resume")) == 0
    assert len(files(tmp_path / "out")) == COUNT
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    assert main(arguments(material, tmp_path / "other", "--resume")) == 2
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--key", "0=EDIT", "--key", "0=EDIT"], ["--key", "frame 0 twice"]),
        (["--key", "8=EDIT"], ["--key", "0 to 7", "got 8"]),
        (["--key", "EDIT"], ["--key", "INDEX=PICTURE"]),
        (["--key", "x=EDIT"], ["--key", "INDEX=PICTURE"]),
        (["--key", "0=no.png"], ["no.png", "no such file"]),
        ([], ["--key"]),
        (["--key", "0=EDIT", "--engine", "magic"], ["--engine", "auto"]),
        (["--key", "0=TINY"], ["edit of key 0", "at least 16 x 16", "got 20 x 15 for frames of 64 x 48"]),
        (["--key", "0=EDIT", "--size", "8"], ["edit of key 0", "at least 16 x 16", "got 11 x 8 for frames of 11 x 8"]),
    ],
)
def test_bad_input_gets_one_sentence_and_leaves_nothing(material, tmp_path, capsys, options, words):
    edit, tiny = str(material / "edit0.png"), str(material / "tiny.png")
    arguments = ["propagate", "--video", str(material / "clip.mkv"), "--out", str(tmp_path / "out")]
    assert main([*arguments, *(option.replace("EDIT", edit).replace("TINY", tiny) for option in options)]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and all(word in error for word in words)
    assert not (tmp_path / "out").exists()


def test_an_edit_of_another_shape_is_cut_and_that_is_said(material, tmp_path, capsys):
    options = ["propagate", "--video", str(material / "clip.mkv"), "--key", f"0={material / 'tall.png'}"]
    assert main([*options, "--out", str(tmp_path / "out"), "--quiet"]) == 0
    assert "the edit of frame 0 (48 x 64) has another aspect ratio" in capsys.readouterr().err


def test_a_transparent_edit_is_said_aloud(material, tmp_path, capsys):
    layer = np.full((HEIGHT, WIDTH, 4), 255, np.uint8)
    layer[: HEIGHT // 2, :, 3] = 0
    Image.fromarray(layer).save(tmp_path / "layer.png")
    options = ["propagate", "--video", str(material / "clip.mkv"), "--key", f"0={tmp_path / 'layer.png'}"]
    assert main([*options, "--out", str(tmp_path / "out"), "--quiet"]) == 0
    assert "the edit of frame 0: layer.png is transparent in places, which become black" in capsys.readouterr().err


def test_an_edit_that_changes_nothing_keeps_every_pixel(material, tmp_path, capsys):
    write_image(tmp_path / "same.png", drift(0))
    options = ["propagate", "--video", str(material / "clip.mkv"), "--key", f"0={tmp_path / 'same.png'}"]
    assert main([*options, "--out", str(tmp_path / "out"), "--quiet"]) == 0
    assert "is the frame itself" in capsys.readouterr().err
    pictures, clip = (
        open_frames(tmp_path / "out" / "frames", multiple=1),
        open_frames(material / "clip.mkv", multiple=1),
    )
    assert all(torch.equal(a, b) for a, b in zip(pictures, clip, strict=True))


def test_another_tools_result_is_mended(material_for_repair, tmp_path, capsys) -> None:
    video, edit, tool = material_for_repair
    base = ["propagate", "--video", str(video), "--key", f"0={edit}"]
    assert main([*base, "--repair", str(tool), "--keep-unedited", "--out", str(tmp_path / "repaired")]) == 0
    rows = json.loads((tmp_path / "repaired" / "report.json").read_text())["frames"]
    assert rows[0]["witness"] == 0 and all(0 < row["witness"] <= 0.9 for row in rows[1:])
    first = read_image(tmp_path / "repaired" / "frames" / "frame_000000.png")
    assert float((first - read_image(edit)).abs().max()) < 0.01
    capsys.readouterr()
    for options, message in (
        (("--repair", str(tool), "--witness", str(tool)), "--repair, --witness: expected one of them, got both"),
        (("--repair", str(tmp_path / "gone.mp4")), "no such file"),
        (("--witness", str(tool), "--witness-strength", "2"), "--witness-strength: expected"),
    ):
        assert main([*base, *options, "--out", str(tmp_path / "bad")]) == 2
        assert message in capsys.readouterr().err


@pytest.fixture
def material_for_repair(tmp_path):
    """A clip of 4 frames, the edit of its first, and a tool's video in that look that darkens."""
    y, x = torch.meshgrid(torch.arange(48) / 48, torch.arange(64) / 64, indexing="ij")
    frames = torch.stack([torch.stack([(x * 0.5 + n / 50), y * 0.6, (x * 9).sin() * 0.2 + 0.4]) for n in range(4)])
    edited = frames.clone()
    edited[:, 0, 10:38, 10:50] += 0.3
    for name, pictures in {"clip": frames, "tool": edited * (1 - torch.arange(4) / 20).view(-1, 1, 1, 1)}.items():
        with VideoWriter(tmp_path / f"{name}.mkv", Fraction(8), codec="ffv1") as writer:
            writer.write(pictures.clamp(0, 1))
    write_image(tmp_path / "edit.png", edited[0].clamp(0, 1))
    return tmp_path / "clip.mkv", tmp_path / "edit.png", tmp_path / "tool.mkv"
