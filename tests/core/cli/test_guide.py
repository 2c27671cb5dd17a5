"""`guide` on small clips with the bundled model: results, resuming, every length, bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from moving import drift

import zero2hero_core
from zero2hero_core.checks import Unfinished
from zero2hero_core.cli.main import main
from zero2hero_core.guidance.hints import canny_edges
from zero2hero_core.guidance.settings import FrescoSettings, RerenderSettings
from zero2hero_core.jobs.listener import Listener
from zero2hero_core.propagation.key_frames import KeyFrameSettings
from zero2hero_core.video.source import open_frames, read_image
from zero2hero_core.video.writer import VideoWriter, write_image

COUNT, SIDE = 6, 64
METHODS = ("rerender", "fresco")
QUICK: dict[str, Any] = {
    "rerender": RerenderSettings(steps=4, strength=1.0),
    "fresco": FrescoSettings(steps=4, strength=1.0, batch=3),
    "key_frames": KeyFrameSettings(method="uniform", every=2),
}


def write_clip(path: Path, count: int) -> None:
    with VideoWriter(path, 8) as writer:
        for index in range(count):
            writer.write(drift(index, SIDE, SIDE))


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """clip.mkv of six frames, the edit of the third, masks, pictures for a ControlNet."""
    folder = tmp_path_factory.mktemp("guide")
    write_clip(folder / "clip.mkv", COUNT)
    write_image(folder / "edit.png", 1 - drift(2, SIDE, SIDE))
    write_image(folder / "wide.png", torch.zeros(3, SIDE, 2 * SIDE))
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, 16:32, 16:32] = 1
    write_image(folder / "mask.png", mask)
    (folder / "two").mkdir()
    for index in range(2):
        write_image(folder / "two" / f"{index}.png", mask)
    return folder


def guide(material: Path, out: Path, listener: Listener | None = None, **values: Any) -> dict[str, Any]:
    options = QUICK | {"tiny": True, "size": SIDE, "edit": {2: str(material / "edit.png")}, "video_name": "out.mkv"}
    options |= {"video": str(material / "clip.mkv"), "out": str(out)} | values
    return zero2hero_core.guide(listener=listener, **options)


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.png"))}


@pytest.mark.parametrize("method", METHODS)
def test_keys_are_painted_and_the_edit_stays_as_it_is(material: Path, tmp_path: Path, method: str) -> None:
    report = guide(material, tmp_path / "out", method=method)
    assert report["command"] == "guide" and report["keys"] == [0, 2, 4, 5] and report["count"] == COUNT
    pictures = open_frames(tmp_path / "out" / "frames", multiple=1)
    assert len(pictures) == len(open_frames(tmp_path / "out" / "out.mkv", multiple=1)) == COUNT
    assert torch.equal(pictures[2], read_image(material / "edit.png"))
    for index in (0, 4, 5):
        key = read_image(tmp_path / "out" / "keys" / f"key_{index:06d}.png")
        assert torch.equal(pictures[index], key) and (key - drift(index, SIDE, SIDE)).abs().mean() > 0.02
    assert not (tmp_path / "out" / "keys" / "carried").exists()
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == json.loads(json.dumps(report))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("edited", [True, False])
def test_a_stopped_run_goes_on_to_the_same_bytes(material: Path, tmp_path: Path, method: str, edited: bool) -> None:
    values: dict[str, Any] = {"method": method} | ({} if edited else {"edit": {}})
    guide(material, tmp_path / "whole", **values)
    whole = files(tmp_path / "whole")
    out = tmp_path / "parts"

    class Stop(Listener):
        """Cancels after so many steps."""

        def __init__(self, after: int) -> None:
            self.left = after

        def cancelled(self) -> bool:
            self.left -= 1
            return self.left < 0

    stops = 0
    for after in (6, 9, 14, 20, 30, 60):
        try:
            guide(material, out, Stop(after), resume=stops > 0, **values)
            break
        except Unfinished as error:
            stops += 1
            assert "finished in" in str(error) and "go on" in str(error)
    assert stops >= 2
    guide(material, out, resume=True, **values)
    assert files(out) == whole
    steps: list[str] = []

    class Steps(Listener):
        """Notes what is counted."""

        def progress(self, part: str, done: int, total: int | None = None, detail: str = "") -> None:
            steps.append(part)

    report = guide(material, out, Steps(), resume=True, **values)
    assert "steps" not in steps and report["reused"] == COUNT  # all that is there is taken
    assert all(Path(path).is_file() for path in report["key_files"].values())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [1, 2, 3, 17])
def test_as_many_frames_come_out_as_went_in(material: Path, tmp_path: Path, method: str, count: int) -> None:
    write_clip(tmp_path / "clip.mkv", count)
    quick = {"rerender": RerenderSettings(steps=2), "fresco": FrescoSettings(steps=2, batch=2)}
    values: dict[str, Any] = {"video": str(tmp_path / "clip.mkv"), "edit": {}, "method": method} | quick
    values["key_frames"] = KeyFrameSettings(method="uniform", every=8)
    report = guide(material, tmp_path / "out", **values)
    assert report["count"] == count and report["keys"][0] == 0 and report["keys"][-1] == count - 1
    assert len(open_frames(tmp_path / "out" / "out.mkv", multiple=1)) == count


@pytest.mark.parametrize("anchor", [0, 5])
def test_the_edit_may_stand_at_either_end(material: Path, tmp_path: Path, anchor: int) -> None:
    report = guide(material, tmp_path / "out", edit={anchor: str(material / "edit.png")})
    assert anchor in report["keys"]
    pictures = open_frames(tmp_path / "out" / "frames", multiple=1)
    assert torch.equal(pictures[anchor], read_image(material / "edit.png"))


def test_a_foreground_keeps_the_background_still(material: Path, tmp_path: Path) -> None:
    plain = guide(material, tmp_path / "plain", method="fresco")
    still = guide(material, tmp_path / "still", method="fresco", foreground=str(material / "mask.png"))
    names = [Path(plain["key_files"][0]).name, Path(still["key_files"][0]).name]
    assert names == ["key_000000.png"] * 2
    assert files(tmp_path / "plain")["keys/key_000000.png"] != files(tmp_path / "still")["keys/key_000000.png"]


def test_frames_of_the_clips_own_size(material: Path, tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "large.mkv", 8) as writer:
        for index in range(COUNT):
            writer.write(drift(index, 96, 96))
    report = guide(material, tmp_path / "out", video=str(tmp_path / "large.mkv"), full_size=True)
    assert report["state"]["size"] == [96, 96]
    assert open_frames(tmp_path / "out" / "frames", multiple=1).size_hw == (96, 96)


def command(material: Path, out: Path, *options: str) -> list[str]:
    given = [
        "guide",
        "--tiny",
        "--video",
        str(material / "clip.mkv"),
        "--size",
        str(SIDE),
        "--out",
        str(out),
        "--quiet",
    ]
    return [*given, "--steps", "2", "--every", "4", *options]


def test_the_command(material: Path, tmp_path: Path) -> None:
    edit = ["--edit", f"2={material / 'edit.png'}"]
    assert main(command(material, tmp_path / "one", *edit, "--no-loose", "--no-match-colour")) == 0
    fresco = [
        "--method",
        "fresco",
        "--parts",
        "cross,flow",
        "--batch",
        "2",
        "--align-pixels",
        "--key-method",
        "uniform",
    ]
    assert main(command(material, tmp_path / "two", *edit, *fresco)) == 0
    state = json.loads((tmp_path / "two" / "keys" / "keys.json").read_text())
    assert state["method"] == "fresco" and len(state["parts"]) == 2 and state["pixel_window"] == [0.5, 0.8]
    assert main(command(material, tmp_path / "two", *edit, *fresco, "--resume")) == 0
    assert main(command(material, tmp_path / "two", *edit, "--resume")) == 2  # another method


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--edit", "9=edit.png"], "--edit: expected one of the chosen frames (0 to 5), got 9"),
        (["--keys", "9"], "--keys: expected one of the chosen frames (0 to 5), got 9"),
        (["--edit", "0=edit.png", "--edit", "1=edit.png"], "--edit: expected the edit of one frame, got 2"),
        (["--edit", "0=nothing.png"], "nothing.png: no such file"),
        (["--prompt", "a car"], 'prompt: model "tiny" holds the empty prompt only'),
        (["--control", "mask.png"], "--control: is shown to a ControlNet, but there is none"),
        (["--controlnet", "edit.png"], "expected a .safetensors file"),
        (["--method", "rerender", "--parts", "cross"], "--parts, --align-pixels: are of --method fresco"),
        (["--foreground", "mask.png"], "--foreground: has an effect with --method fresco only"),
        (["--method", "fresco", "--foreground", "two"], "--foreground two: expected 6 masks"),
        (
            ["--method", "fresco", "--parts", "crossed"],
            "expected some of cross, flow, features, or none, got 'crossed'",
        ),
        (["--strength", "2"], "--strength: expected a value from 0 to 1.05, got 2"),
        (["--compensation", "-1"], "--compensation: expected a value from 0 to 1.5, got -1"),
        (["--guidance", "-1"], "--guidance: expected 0 to 100, got -1"),
        (["--control-strength", "3", "--controlnet", "edit.png"], "expected a .safetensors file"),
    ],
)
def test_bad_input_is_one_line(
    material: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(material)
    assert main(command(material, tmp_path / "out", *options)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if ": note: " not in line]
    assert len(lines) == 1 and words in lines[0], lines
    assert not (tmp_path / "out" / "keys").exists()


def test_an_edit_that_changes_nothing_is_said_aloud(material: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "same.png", drift(2, SIDE, SIDE))
    report = guide(material, tmp_path / "out", edit={2: str(tmp_path / "same.png")})
    assert any("frame 2 is the frame itself, so the clip keeps its look" in note for note in report["notes"])


def test_edges_are_white_on_black() -> None:
    picture = torch.zeros(3, 16, 16)
    picture[:, :, 8:] = 1
    edges = canny_edges(picture)
    assert edges.shape == (3, 16, 16) and set(edges.unique().tolist()) == {0.0, 1.0}
    assert edges[:, 4:12, 6:9].amax(2).eq(1).all() and edges[:, :, :6].eq(0).all() and edges[:, :, 10:].eq(0).all()
