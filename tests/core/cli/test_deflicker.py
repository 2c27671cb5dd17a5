"""`deflicker` on small clips: what it writes, resuming to the same bytes, bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zero2hero_core.cli.main import main
from zero2hero_core.jobs.deflicker import DeflickerSettings, deflickered
from zero2hero_core.propagation.deflicker import Deflicker
from zero2hero_core.video.source import open_frames
from zero2hero_core.video.writer import VideoWriter

COUNT, HEIGHT, WIDTH = 6, 32, 48


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """clip.mkv, a texture that moves by a pixel a frame; drawn/, the same with other brightness in each frame."""
    folder = tmp_path_factory.mktemp("material")
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(1, 3, 8, 16, generator=generator)
    wide = torch.nn.functional.interpolate(small, (HEIGHT, 2 * WIDTH), mode="bicubic")[0].clamp(0, 1)
    frames = torch.stack([wide[..., n : n + WIDTH] for n in range(COUNT)])
    gains = torch.tensor([0.9, 0.6, 0.9, 0.6, 0.9, 0.6]).view(-1, 1, 1, 1)
    drawn = (1 - frames) * gains
    for name, pictures in (("clip.mkv", frames), ("drawn", drawn), ("few", drawn[:4]), ("tall", drawn.mT)):
        with VideoWriter(folder / name, 8) as writer:
            writer.write(pictures)
    return folder


def command(material: Path, out: Path, *options: str, stylised: str = "drawn") -> list[str]:
    return [
        *("deflicker", "--video", str(material / "clip.mkv"), "--stylised", str(material / stylised)),
        *("--out", str(out), "--window", "2", "--quiet", *options),
    ]


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "frames").iterdir())}


def test_frames_video_and_report(material: Path, tmp_path: Path) -> None:
    assert main(command(material, tmp_path / "out")) == 0
    report = json.loads((tmp_path / "out/report.json").read_text())
    before, after = report["warp_error"]["stylised"], report["warp_error"]["result"]
    assert after < 0.2 * before
    assert report["count"] == COUNT and report["state"]["window"] == 2 and report["state"]["strength"] == 1.0
    assert len(open_frames(tmp_path / "out/steady.mp4")) == COUNT
    pictures = open_frames(tmp_path / "out/frames", multiple=1)
    original, drawn = (open_frames(material / name, multiple=1).frames(range(COUNT)) for name in ("clip.mkv", "drawn"))
    expected = torch.stack(list(deflickered(original, drawn, DeflickerSettings(2))))
    assert (pictures.frames(range(COUNT)) - expected).abs().max() <= 0.5 / 255 + 1e-6


def test_a_stopped_run_goes_on_to_the_same_bytes(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(material, tmp_path / "whole")) == 0
    plain = Deflicker.frame

    def stop(self: Deflicker, number: int) -> torch.Tensor:
        if number == 3:
            raise KeyboardInterrupt
        return plain(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(Deflicker, "frame", stop)
        assert main(command(material, tmp_path / "part")) == 1
    assert "3 of 6 frames are finished" in capsys.readouterr().err
    assert main(command(material, tmp_path / "part", "--resume")) == 0
    assert files(tmp_path / "part") == files(tmp_path / "whole")
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("whole", "part")]
    assert reports[0]["warp_error"] == reports[1]["warp_error"] and reports[1]["reused"] == 3
    assert main(command(material, tmp_path / "part", "--resume", "--strength", "0.5")) == 2
    assert "strength (1.0 before, 0.5 now)" in capsys.readouterr().err


def test_strength_0_says_so_and_changes_nothing(
    material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(material, tmp_path / "out", "--strength", "0")) == 0
    assert "--strength or --window is 0: the stylised clip stays as it is" in capsys.readouterr().err
    for written, drawn in zip(files(tmp_path / "out"), sorted((material / "drawn").iterdir()), strict=True):
        one, other = (np.asarray(Image.open(path)) for path in (tmp_path / "out/frames" / written, drawn))
        assert np.array_equal(one, other)


def test_frames_have_the_size_of_the_stylised_clip(material: Path, tmp_path: Path) -> None:
    large = tmp_path / "large"
    with VideoWriter(large, 8) as writer:
        writer.write(open_frames(material / "drawn", size=(64, 96), multiple=1).frames(range(COUNT)))
    assert main(command(material, tmp_path / "out", stylised=str(large))) == 0
    assert Image.open(tmp_path / "out/frames/frame_000005.png").size == (96, 64)
    assert main(command(material, tmp_path / "small", "--size", "32", stylised=str(large))) == 0
    assert Image.open(tmp_path / "small/frames/frame_000005.png").size == (48, 32)


@pytest.mark.parametrize(
    ("stylised", "options", "words"),
    [
        ("few", (), "expected 6 frames, one for each chosen frame of the original, got 4"),
        ("tall", ("--size", "48x32"), "expected the shape of the frames, 48 x 32, got 32 x 48"),
        ("drawn", ("--strength", "2"), "--strength: expected a value from 0 to 1, got 2"),
        ("drawn", ("--size", "12x8"), "--video: expected at least 16 x 16 pixels"),
        ("nowhere", (), "no such file or folder"),
    ],
)
def test_bad_input_leaves_nothing(
    material: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    stylised: str,
    options: tuple[str, ...],
    words: str,
) -> None:
    assert main(command(material, tmp_path / "out", *options, stylised=stylised)) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out/frames").exists()


def test_results_are_kept_apart_from_what_is_read(
    material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(material / "drawn", tmp_path / "out/frames")
    before = files(tmp_path / "out")
    assert main(command(material, tmp_path / "out", "--overwrite", stylised=str(tmp_path / "out/frames"))) == 2
    assert "--stylised" in capsys.readouterr().err
    assert files(tmp_path / "out") == before
