"""`zero` and `correspond` on small clips, with tiny models of random weights: results, resuming, bad input."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from zero2hero_core.cli.main import main
from zero2hero_core.correspondence import narrow
from zero2hero_core.correspondence.file import load_correspondences
from zero2hero_core.files import whole
from zero2hero_core.tiny import unet as model
from zero2hero_core.tiny.autoencoder import PatchAutoencoder
from zero2hero_core.video import image_writer
from zero2hero_core.video.source import open_frames
from zero2hero_core.video.writer import VideoWriter, write_image
from zero2hero_core.zero_stage.stage import ZeroStage

COUNT, RATE, SIDE = 8, 8, 64
EVERY_SECOND = ("--stride", "2")


@pytest.fixture(scope="session")
def backbone():
    torch.manual_seed(0)
    return model.as_backbone(model.build_unet(), PatchAutoencoder())


@pytest.fixture(autouse=True)
def random_tiny_models(monkeypatch, backbone):
    monkeypatch.setattr(model, "load_tiny", lambda device="cpu": backbone)


def pictures(count: int, height: int = SIDE, width: int = SIDE) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    return torch.stack([torch.stack([(x + n / 10) % 1, y, (x * 3 + y) % 1]) for n in range(count)])


@pytest.fixture(scope="session")
def material(tmp_path_factory) -> Path:
    """clip.mkv (lossless, one second of sound), edit.png (its first frame, colours turned round) and the like."""
    folder = tmp_path_factory.mktemp("material")
    with av.open(str(folder / "tone.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        tone = (np.sin(np.arange(8000) / 5) * 9000).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 8000, 0, Fraction(1, 8000)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with VideoWriter(folder / "clip.mkv", RATE, audio_from=folder / "tone.wav") as writer:
        writer.write(pictures(COUNT))
    edit = 1 - pictures(1)[0].flip(0)
    write_image(folder / "edit.png", edit)
    write_image(folder / "tall.png", torch.cat([edit, edit], 1))
    half = torch.zeros(1, SIDE, SIDE)
    half[:, :, SIDE // 2 :] = 1
    write_image(folder / "half.png", half)
    write_image(folder / "black.png", torch.zeros(1, SIDE, SIDE))
    (folder / "no_images").mkdir()
    (folder / "text.mp4").write_text("not a video")
    (folder / "text.png").write_text("not an image")
    (folder / "pickle.ckpt").write_bytes(b"\x80\x04.")
    save_file({"lora_unet_down.lora_up.weight": torch.zeros(2, 2)}, folder / "lora.safetensors")
    whole = (folder / "lora.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) - 4])
    return folder


def arguments(
    material: Path, out: Path, command: str = "zero", options: tuple[str, ...] = (), **named: str
) -> list[str]:
    """A command on the clip: every second frame, 1 step, unless `options` say otherwise."""
    values = {"video": "clip.mkv", "anchor": "0", "reference": "edit.png"} | named
    if command == "correspond":
        del values["reference"]
    for name in {"video", "reference", "mask", "model"} & set(values):
        values[name] = str(material / values[name])
    model_option = [] if "model" in named else ["--tiny"]
    steps = ["--steps", "1"] if command == "zero" else []
    always = [command, "--out", str(out), "--size", str(SIDE), "--ensemble", "1", *model_option, *steps]
    return [
        *always,
        *(text for name, value in values.items() for text in (f"--{name}", value)),
        *(options or EVERY_SECOND),
    ]


Call = Callable[..., int]


@pytest.fixture
def zero(material, tmp_path) -> Call:
    """Run a command, `zero` unless another is named, into tmp_path / out."""

    def call(*options: str, out: str = "out", command: str = "zero", **named: str) -> int:
        return main(arguments(material, tmp_path / out, command, options, **named))

    return call


@pytest.fixture(scope="session")
def unbroken(material, backbone, tmp_path_factory) -> Path:
    """The folder of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("unbroken") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "load_tiny", lambda device="cpu": backbone)
        assert main(arguments(material, out)) == 0
    return out


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())


def frames_in(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((folder / "frames").iterdir())}


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("zero2hero: note: ")]
    assert len(lines) == 1 and lines[0].startswith("zero2hero: error: "), lines
    return lines[0].removeprefix("zero2hero: error: ")


def test_count_rate_sound_and_names_are_kept(zero, tmp_path, capsys):
    json_file = tmp_path / "again.json"
    assert zero("--start", "1", "--stride", "3", "--json", str(json_file)) == 0
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err and "3 frames" in shown.out
    out = tmp_path / "out"
    assert sorted(file.name for file in out.iterdir()) == ["edited.mp4", "frames", "report.json", "zero.json"]
    assert list(frames_in(out)) == ["frame_000001.png", "frame_000004.png", "frame_000007.png"]
    edited = open_frames(out / "edited.mp4")
    assert (len(edited), edited.fps, edited.size_hw, edited.has_audio) == (3, Fraction(8, 3), (SIDE, SIDE), True)
    with av.open(str(out / "edited.mp4")) as container:
        sound = sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))
        assert "zero2hero" in container.metadata["comment"]
        assert json.loads(container.metadata["zero2hero"])["num_inference_steps"] == 1
    assert sound == pytest.approx(7 / 8, abs=0.15)  # from frame 1 to the end of the one second
    got = report(out)
    assert (got["count"], got["reused"], got["fps_fraction"], got["audio"]) == (3, 0, "8/3", True)
    assert [row["index"] for row in got["frames"]] == [1, 4, 7]
    assert got["state"]["timestep"] == model.RECOMMENDED["timestep"]
    assert json.loads(json_file.read_text()) == got


def test_an_anchor_outside_the_chosen_frames_and_a_lossless_video(zero, tmp_path):
    assert zero("--start", "2", "--stop", "4", "--video-name", "a.mkv", "--no-audio", anchor="6") == 0
    out = tmp_path / "out"
    video = open_frames(out / "a.mkv")
    assert len(video) == 2 and not video.has_audio
    for place, file in enumerate(sorted((out / "frames").iterdir())):
        stored = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
        assert torch.equal((video[place] * 255).round().byte(), stored)


def interrupt_at(call: int, function: Callable[..., Any]) -> Callable[..., Any]:
    calls = []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    return interrupted


@pytest.mark.parametrize(
    ("owner", "name", "call", "finished"),
    [
        (ZeroStage, "edit", 2, 2),
        (image_writer, "_save_png", 2, 1),  # in the middle of a batch
        (whole, "publish", 1 + 4, 3),  # after zero.json: a frame is written, but not yet renamed
        (VideoWriter, "write", 3, 4),  # while the video is put together
    ],
)
def test_ctrl_c_then_resume_equals_an_unbroken_run(
    zero, unbroken, tmp_path, monkeypatch, capsys, owner, name, call, finished
):
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupt_at(call, getattr(owner, name)))
        assert zero() == 1
    assert "interrupted" in (line := error_line(capsys)) and "--resume" in line
    assert f"{finished} of 4 frames" in line
    left = [file.name for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert sorted(left) == sorted([*(f"frame_{2 * n:06d}.png" for n in range(finished)), "zero.json"])
    assert zero() == 2 and "--resume or --overwrite" in error_line(capsys)
    assert zero("--stride", "2", "--resume") == 0
    assert frames_in(tmp_path / "out") == frames_in(unbroken)
    assert (tmp_path / "out" / "edited.mp4").read_bytes() == (unbroken / "edited.mp4").read_bytes()
    assert report(tmp_path / "out")["reused"] == finished
    assert (tmp_path / "out" / "zero.json").read_text() == (unbroken / "zero.json").read_text()


def test_a_full_disk_keeps_finished_frames(zero, tmp_path, monkeypatch, capsys):
    save, calls = image_writer._save_png, []

    def full(path: Path, pixels: np.ndarray, texts: dict[str, str]) -> None:
        save(path, pixels, texts)
        calls.append(path)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(image_writer, "_save_png", full)
        assert zero() == 1
    assert "no space left" in (line := error_line(capsys)) and "2 of 4 frames" in line and "--resume" in line
    assert sorted(frames_in(tmp_path / "out")) == ["frame_000000.png", "frame_000002.png"]
    assert zero("--stride", "2", "--resume") == 0


def test_resume_makes_damaged_frames_again_and_takes_the_rest(zero, unbroken, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(unbroken, out)
    before = frames_in(out)
    damaged = out / "frames" / "frame_000002.png"
    damaged.write_bytes(before[damaged.name][:300])
    (out / "frames" / ".frame_000004.abc.partial.png").write_bytes(b"left by a killed run")
    assert zero("--stride", "2", "--resume") == 0
    assert frames_in(out) == before and report(out)["reused"] == 3
    monkeypatch.setattr(ZeroStage, "edit", lambda *_: pytest.fail("nothing is missing"))
    assert zero("--stride", "2", "--resume") == 0
    assert report(out)["reused"] == 4 and report(out)["seconds_per_frame"] is None


def test_resume_checks_that_it_is_the_same_run(zero, material, tmp_path, capsys):
    assert zero("--max-frames", "1") == 0
    before = frames_in(tmp_path / "out")
    assert zero("--max-frames", "2", "--resume", "--k", "4", reference="half.png") == 2
    assert "differs" in (line := error_line(capsys))
    assert "frames" in line and "k (1 before, 4 now)" in line and "reference" in line and "video" not in line
    assert frames_in(tmp_path / "out") == before
    (tmp_path / "out" / "zero.json").write_text("{")
    assert zero("--max-frames", "1", "--resume") == 2
    assert "zero.json" in error_line(capsys)
    (tmp_path / "out" / "zero.json").unlink()
    assert zero("--max-frames", "1", "--resume") == 2
    assert "holds no zero.json" in error_line(capsys)
    assert zero("--max-frames", "1", "--resume", out="fresh") == 0  # nothing there yet: begins


def test_overwrite_replaces_own_files_only(zero, tmp_path):
    assert zero("--max-frames", "2") == 0
    (tmp_path / "out" / "frames" / "mine.png").write_bytes(b"mine")
    assert zero("--max-frames", "1", "--overwrite") == 0
    assert list(frames_in(tmp_path / "out")) == ["frame_000000.png", "mine.png"]
    assert report(tmp_path / "out")["count"] == 1


def test_an_interrupted_overwrite_leaves_the_old_result(zero, unbroken, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    shutil.copytree(unbroken, out)
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(ZeroStage, "edit", interrupt_at(2, ZeroStage.edit))
        assert zero("--stride", "2", "--seed", "1", "--overwrite") == 1
    assert "2 of 4 frames" in error_line(capsys)
    assert {file: file.read_bytes() for file in before} == before
    assert zero("--stride", "2", "--seed", "1", "--resume") == 0
    assert report(out)["reused"] == 2 and report(out)["state"]["seed"] == 1
    assert report(out)["video"] == str(out / "edited.mp4")
    assert {file for file in out.rglob("*") if file.is_file()} == set(before)


@pytest.mark.parametrize(
    ("named", "options", "message"),
    [
        ({"video": "none.mp4"}, (), "none.mp4: no such file"),
        ({"video": "text.mp4"}, (), "text.mp4: expected a video"),
        ({"video": "no_images"}, (), "expected at least one image"),
        ({"anchor": "8"}, (), "--anchor: expected 0 to 7 (the clip has 8 frames), got 8"),
        ({}, ("--start", "8"), "--start: expected 0 to 7"),
        ({}, ("--start", "3", "--stop", "3"), "stop: expected more than start"),
        ({"reference": "none.png"}, (), "none.png: no such file"),
        ({"reference": "text.png"}, (), "text.png: expected an intact image"),
        ({"mask": "tall.png"}, (), "expected the clip's aspect ratio (64 x 64), got 64 x 128"),
        ({"mask": "clip.mkv"}, (), "expected 4 masks, one for each chosen frame, or one image for all, got 8"),
        ({}, ("--k", "0"), "k: expected a whole number from 1 up"),
        ({}, ("--k", "17"), "--k: expected 1 to 16 (or -1 for all) at this frame size, got 17"),
        ({}, ("--k", "16", "--neighbourhood", "0.1"), "neighbourhood: 0.1 of the side holds fewer than"),
        ({}, ("--neighbourhood", "2"), "neighbourhood: expected"),
        ({}, ("--gamma", "1.5"), "gamma: expected"),
        ({}, ("--layers", "2-4"), "layers: expected some of 3 to 11"),
        ({}, ("--prompt", "a cat"), "holds the empty prompt only"),
        ({}, ("--device", "abacus"), "--device: expected"),
        ({}, ("--dtype", "float16"), "--dtype"),
        ({}, ("--matches", "none.safetensors"), "none.safetensors: no such file"),
        ({}, ("--video-name", "a.gif"), "--video-name: expected"),
        ({}, ("--video-name", "a/b.mp4"), "--video-name: expected"),
        ({}, ("--codec", "vp9"), "codec: expected h264 for .mp4"),
        ({}, ("--crf", "60"), "crf: expected 0 to 51"),
        ({"model": "none.safetensors"}, (), "none.safetensors"),
        ({"model": "pickle.ckpt"}, (), "pickle checkpoints (.ckpt) are refused"),
        ({"model": "lora.safetensors"}, (), "lora.safetensors: expected"),
        ({"model": "cut.safetensors"}, (), "truncated or corrupt"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(named, options, message, zero, material, tmp_path, capsys):
    before = sorted(material.rglob("*"))
    assert zero("--stride", "2", *options, **named) == 2
    assert message in error_line(capsys)
    assert list(tmp_path.iterdir()) == [] and sorted(material.rglob("*")) == before


def test_an_output_folder_that_cannot_be_made(zero, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert zero(out="file/out") == 2
    assert "is a file" in error_line(capsys)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "holiday.jpg").touch()
    assert zero(out="full") == 2
    assert "is not empty" in error_line(capsys)
    assert [file.name for file in (tmp_path / "full").iterdir()] == ["holiday.jpg"]


def test_a_reference_of_another_shape_is_cropped_and_that_is_said(zero, material, tmp_path, capsys):
    assert zero("--max-frames", "1", reference="tall.png") == 0
    assert "zero2hero: note: the reference (64 x 128) has another aspect ratio" in capsys.readouterr().err
    assert ["centre was cut out" in note for note in report(tmp_path / "out")["notes"]] == [True]
    big = tmp_path / "big.png"
    Image.open(material / "edit.png").resize((200, 201)).save(big)  # within 1 %
    assert zero("--max-frames", "1", out="same", reference=str(big)) == 0
    assert report(tmp_path / "same")["notes"] == []


def test_the_native_shape_of_a_stretched_clip_is_not_another_shape(zero, material, tmp_path):
    write_image(tmp_path / "0.png", pictures(1, 96, 160)[0])
    wide = tmp_path / "wide.png"
    write_image(wide, 1 - pictures(1, 48, 80)[0])
    for number, reference in enumerate((wide, material / "edit.png")):  # the clip's own shape, and the frames'
        out = f"out{number}"
        assert zero("--size", "64x64", out=out, video=str(tmp_path / "0.png"), reference=str(reference)) == 0
        assert report(tmp_path / out)["notes"] == []


def test_what_changes_nothing_is_said(zero, tmp_path, capsys):
    first = tmp_path / "anchor.png"
    write_image(first, pictures(1)[0])
    options = ("--max-frames", "2", "--guidance", "5", "--k", "-1", "--timestep", "9")
    assert zero(*options, reference=str(first), mask="black.png") == 0
    notes = " / ".join(report(tmp_path / "out")["notes"])
    for part in ("reference is the anchor", "mask is empty in every frame", "--guidance", "--timestep"):
        assert part in notes
    assert capsys.readouterr().err.count("zero2hero: note: ") == len(report(tmp_path / "out")["notes"])


def test_an_unchanged_result_and_weak_matches_are_said(zero, tmp_path, monkeypatch):
    monkeypatch.setattr(ZeroStage, "edit", lambda self, frames, *_: frames)
    monkeypatch.setattr(narrow, "WEAK", 1.1)
    assert zero("--max-frames", "2") == 0
    got = report(tmp_path / "out")
    assert len(got["notes"]) == 2 and "100% of the matches are weak" in got["notes"][0]
    assert got["notes"][1] == "the result equals the input" and got["weak_matches"] == 1
    assert got["frames"][0]["psnr_to_input"] is None  # infinite, which JSON lacks


def test_one_mask_is_a_mask_for_every_frame(zero, material, tmp_path):
    folder = tmp_path / "masks"
    folder.mkdir()
    for number in range(2):
        shutil.copy(material / "half.png", folder / f"{number}.png")
    assert zero("--max-frames", "2", out="one", mask="half.png") == 0
    assert zero("--max-frames", "2", out="each", mask=str(folder)) == 0
    assert zero("--max-frames", "2", out="none") == 0
    assert frames_in(tmp_path / "one") == frames_in(tmp_path / "each") != frames_in(tmp_path / "none")


def test_stored_matches_give_the_same_frames(zero, tmp_path, capsys):
    frames = ("--stride", "4", "--k", "adaptive")
    assert zero(*frames, out="matches", command="correspond") == 0
    matches = str(tmp_path / "matches" / "correspondence.safetensors")
    assert zero(*frames, out="plain") == 0
    assert zero(*frames, "--matches", matches, out="stored") == 0
    assert frames_in(tmp_path / "plain") == frames_in(tmp_path / "stored")
    for options, named, message in [
        (frames, {"anchor": "1"}, "expected anchor 1, got 0"),
        (("--k", "adaptive", "--stride", "2"), {}, "expected all 4 chosen frames, but 2 are missing, the first is 2"),
        (("--stride", "4"), {}, "expected k 1, got adaptive"),
        ((*frames, "--size", "128"), {}, "expected frame size 128 x 128, got 64 x 64"),
    ]:
        capsys.readouterr()
        assert zero(*options, "--matches", matches, out="bad", **named) == 2
        assert message in error_line(capsys) and not (tmp_path / "bad").exists()
    content = Path(matches).read_bytes()
    Path(matches).write_bytes(content[:-9])
    assert zero(*frames, "--matches", matches, out="bad") == 2
    assert "truncated" in error_line(capsys) and not (tmp_path / "bad").exists()


def test_correspond_writes_matches_picture_and_report(zero, tmp_path, capsys):
    assert zero("--frames", "0,3,5-6", "--rows", "2", "--seed", "3", command="correspond") == 0
    assert "frame 3: confidence" in capsys.readouterr().out
    out = tmp_path / "out"
    names = ["correspondence.safetensors", "matches.png", "report.json"]
    assert sorted(file.name for file in out.iterdir()) == names
    loaded = load_correspondences(out / names[0])
    assert list(loaded.frames) == [0, 3, 5, 6] and loaded.settings["seed"] == 3 and loaded.settings["model"] == "tiny"
    assert Image.open(out / "matches.png").height == 2 * SIDE
    got = report(out)
    assert got["frames"][0] == {"index": 0, "confidence": pytest.approx(1), "weak": 0, "cycle_error": 0}
    assert got["mean"]["confidence"] == pytest.approx(sum(row["confidence"] for row in got["frames"]) / 4)
    assert zero(command="correspond") == 2
    assert "add --overwrite" in error_line(capsys)
    assert zero("--frames", "7", "--overwrite", command="correspond") == 0
    assert list(load_correspondences(out / names[0]).frames) == [7]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--frames", "3,8"), "--frames: expected 0 to 7 (the clip has 8 frames), got 8"),
        (("--frames", "9"), "--frames: expected 0 to 7 (the clip has 8 frames), got 9"),
        (("--frames", "3", "--stride", "2"), "--frames: expected without --start"),
        (("--k", "99"), "--k: expected 1 to 16"),
    ],
)
def test_correspond_refuses(options, message, zero, tmp_path, capsys):
    assert zero(*options, command="correspond") == 2
    assert message in error_line(capsys)
    assert list(tmp_path.iterdir()) == []
