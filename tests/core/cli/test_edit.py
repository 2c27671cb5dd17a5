"""`edit`: Zero-Stage, training and restoring in one resumable command, with tiny models of random weights."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import zero2hero_core
from tiny_models import random_dit
from zero2hero_core.checks import InputError, Unfinished
from zero2hero_core.cli.main import main
from zero2hero_core.hero_stage.lora.file import read_metadata
from zero2hero_core.hero_stage.stage import HeroStage
from zero2hero_core.hero_stage.training.log import TrainingLog
from zero2hero_core.hero_stage.training.trainer import HeroTrainer
from zero2hero_core.jobs import adapter, training
from zero2hero_core.jobs import zero as zero_job
from zero2hero_core.jobs.listener import Listener
from zero2hero_core.tiny import dit
from zero2hero_core.tiny import unet as model
from zero2hero_core.tiny.autoencoder import PatchAutoencoder
from zero2hero_core.video import image_writer
from zero2hero_core.video.source import open_frames, read_image
from zero2hero_core.video.writer import VideoWriter, write_image
from zero2hero_core.zero_stage.stage import ZeroStage

COUNT, RATE, SIDE, STEPS = 4, 8, 64, 4
ADVICE = {"rank": 4, "crop": 0.5, "light": 1.0, "num_inference_steps": 2}


@pytest.fixture(scope="session")
def unet():
    torch.manual_seed(0)
    return model.as_backbone(model.build_unet(), PatchAutoencoder())


def one_step(request: zero_job.ZeroRequest) -> zero_job.ZeroRequest:
    return replace(request, settings=replace(request.settings, num_inference_steps=1))


def quicken(patch: pytest.MonkeyPatch, unet: Any) -> None:
    """Random models; a single Zero-Stage step; no plots, which would take most of a tiny run."""
    run = zero_job.run
    patch.setattr(model, "load_tiny", lambda device="cpu": unet)
    patch.setattr(dit, "load_tiny_dit", lambda folder=None, device="cpu": random_dit(**ADVICE))
    patch.setattr(zero_job, "run", lambda request, listener: run(one_step(request), listener))
    patch.setattr(adapter, "bundled_adapter", lambda family: None)  # it fits the bundled models
    patch.setattr(TrainingLog, "plot", lambda self, path: Path(path).touch())


@pytest.fixture(autouse=True)
def quick(monkeypatch, unbroken, unet) -> None:
    quicken(monkeypatch, unet)


@pytest.fixture(scope="session")
def material(tmp_path_factory) -> Path:
    """clip.mkv, wide.mkv (96 x 48), and edited first frames of both."""
    folder = tmp_path_factory.mktemp("material")
    for name, (height, width) in {"clip": (SIDE, SIDE), "wide": (48, 96)}.items():
        y, x = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
        frames = torch.stack([torch.stack([(x + n / 10) % 1, y, (x * 3 + y) % 1]) for n in range(COUNT)])
        with VideoWriter(folder / f"{name}.mkv", RATE) as writer:
            writer.write(frames)
        write_image(folder / f"{name}.png", 1 - frames[0].flip(0))
    return folder


def arguments(material: Path, out: Path, options: tuple[str, ...] = (), clip: str = "clip") -> list[str]:
    """An edit of some steps, unless `options` say otherwise."""
    values = {"video": str(material / f"{clip}.mkv"), "reference": str(material / f"{clip}.png"), "anchor": "0"}
    values |= {"out": str(out), "learning-rate": "0.01", "train-steps": str(STEPS)}
    values |= {"save-every": "2", "evaluate-every": "2", "ensemble": "1", "size": str(SIDE)}
    given = [text for name, value in values.items() if f"--{name}" not in options for text in (f"--{name}", value)]
    models = [] if any(option.endswith("-model") for option in options) else ["--tiny"]
    return ["edit", *models, *given, *options]


Call = Callable[..., int]


@pytest.fixture
def edit(material, tmp_path) -> Call:
    """Run `edit` into tmp_path / out."""
    return lambda *options, out="out", clip="clip": main(arguments(material, tmp_path / out, options, clip))


@pytest.fixture(scope="session")
def unbroken(material, unet, tmp_path_factory) -> Path:
    """The folder of an edit that nothing disturbed."""
    out = tmp_path_factory.mktemp("unbroken") / "out"
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch, unet)
        assert main(arguments(material, out)) == 0
    return out


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())


def names(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def frames_in(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((folder / "frames").iterdir())}


def result(folder: Path) -> dict[str, Any]:
    """All that an edit makes, to compare by the bit."""
    return {
        "zero": frames_in(folder / "zero"),
        "lora": (folder / "training" / "hero_lora.safetensors").read_bytes(),
        "samples": {file.name: file.read_bytes() for file in sorted((folder / "training" / "samples").iterdir())},
        "frames": frames_in(folder),
        "video": (folder / "edited.mp4").read_bytes(),
        "names": names(folder),
    }


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("zero2hero: note: ")]
    assert len(lines) == 1 and lines[0].startswith("zero2hero: error: "), lines
    return lines[0].removeprefix("zero2hero: error: ")


def at_call(number: int, function: Callable[..., Any], action: Callable[[], Any]) -> Callable[..., Any]:
    """The function, with an action before this call of it."""
    calls = []

    def acting(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == number:
            action()
        return function(*args, **kwargs)

    return acting


def interrupt() -> None:
    raise KeyboardInterrupt


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


AGAIN = "repeat the `zero2hero edit` command with --resume"


def test_one_command_runs_all_parts(unbroken):
    own = ["edited.mp4", "propagate.json", "report.json"]
    got = names(unbroken)
    assert [name for name in got if "/" not in name] == own
    assert {name.split("/")[0] for name in got if "/" in name} == {"zero", "training", "restored", "frames"}
    assert {"zero/zero.mp4", "zero/zero.json", "training/hero_lora.safetensors", "training/training.png"} <= set(got)
    video = open_frames(unbroken / "edited.mp4")
    assert (len(video), video.fps, video.size_hw) == (COUNT, RATE, (SIDE, SIDE))
    assert frames_in(unbroken).keys() == frames_in(unbroken / "zero").keys()
    restored = frames_in(unbroken / "restored")
    assert all(data != frames_in(unbroken / "zero")[name] for name, data in restored.items())
    assert restored.keys() == frames_in(unbroken).keys()


def test_the_end_is_a_mix_of_both_witnesses(edit, material, unbroken, tmp_path):
    """The edited frame is the edit itself; each other one lies between the carried change and the restored frame."""
    assert edit("--finish", "hero") == 0
    assert frames_in(tmp_path / "out") == frames_in(unbroken / "restored")
    values = {"video": str(material / "clip.mkv"), "key": {0: str(material / "clip.png")}, "size": SIDE}
    zero2hero_core.propagate(**values, out=tmp_path / "alone")
    zero2hero_core.propagate(**values, out=tmp_path / "mix", witness=str(unbroken / "restored"), keep_unedited=True)
    assert frames_in(tmp_path / "mix") == frames_in(unbroken)
    rows = report(unbroken)["frames"]
    assert rows[0]["witness"] == 0 and all(0 < row["witness"] < 0.5 for row in rows[1:])
    alone, mix = (read_image(tmp_path / name / "frames" / "frame_000003.png") for name in ("alone", "mix"))
    assert (alone - mix).abs().max() > 0 and (alone - mix).abs().mean() < 0.1


def test_the_same_in_python(material, unbroken, tmp_path):
    values = {"video": str(material / "clip.mkv"), "reference": str(material / "clip.png"), "anchor": 0, "tiny": True}
    values |= {"learning_rate": 0.01, "train_steps": STEPS, "save_every": 2, "evaluate_every": 2, "ensemble": 1}
    got = zero2hero_core.edit(**values, size=SIDE, out=tmp_path / "out")
    assert result(tmp_path / "out") == result(unbroken)
    assert got["video"] == str(tmp_path / "out" / "edited.mp4") and got["notes"] == []
    with pytest.raises(InputError, match="ancor: is no setting here; did you mean anchor"):
        zero2hero_core.edit(**values, ancor=0, out="other")


def test_a_listener_may_cancel_and_the_edit_goes_on(material, unbroken, tmp_path):
    class Impatient(Listener):
        def __init__(self, part: str, done: int) -> None:
            self.wish, self.parts = (part, done), dict[str, int]()

        def progress(self, part: str, done: int, total: int | None = None, detail: str = "") -> None:
            self.parts[part] = done

        def cancelled(self) -> bool:
            return self.parts.get(self.wish[0], -1) >= self.wish[1]

    values = {"video": str(material / "clip.mkv"), "reference": str(material / "clip.png"), "anchor": 0, "tiny": True}
    values |= {"learning_rate": 0.01, "train_steps": STEPS, "save_every": 2, "evaluate_every": 2, "ensemble": 1}
    values |= {"size": SIDE, "out": tmp_path / "out", "resume": True}
    for part, done, told in (("frames", 2, "2 of 4 frames are finished"), ("training", 3, "stopped at step 3")):
        with pytest.raises(Unfinished, match=f"{told}.*to go on, do the same with resume"):
            zero2hero_core.edit(listener=Impatient(part, done), **values)
    zero2hero_core.edit(**values)
    assert result(tmp_path / "out") == result(unbroken)


def test_one_report_tells_of_all_parts(unbroken):
    got = report(unbroken)
    assert (got["command"], got["count"], got["reused"]) == ("edit", COUNT, 0)
    assert list(got["parts"]) == ["zero", "train", "restore"]
    assert got["parts"]["zero"]["command"] == "zero" and got["parts"]["train"]["steps"] == STEPS
    seconds = got["seconds"]
    parts = [seconds[f"part {name}"] for name in ("zero", "train", "restore", "mix")]
    assert all(value > 0 for value in parts) and seconds["total"] >= sum(parts) - 0.01
    assert got["state"]["size"] == [SIDE, SIDE] and got["video"] == str(unbroken / "edited.mp4")


@pytest.mark.parametrize(
    ("owner", "name", "call", "action"),
    [
        (model, "load_tiny", 1, interrupt),  # before anything has been written
        (ZeroStage, "edit", 2, interrupt),
        (dit, "load_tiny_dit", 1, interrupt),  # between two parts
        (HeroTrainer, "step", 1, interrupt),
        (HeroTrainer, "step", 4, interrupt),
        (HeroTrainer, "step", 3, ctrl_c),
        (dit, "load_tiny_dit", 2, interrupt),
        (image_writer, "_save_png", COUNT + 3 + 3, interrupt),  # after Zero-Stage and 3 samples: the third frame
        (VideoWriter, "write", COUNT + 2, interrupt),  # while the video is put together
    ],
)
def test_interrupted_anywhere_and_resumed_equals_an_unbroken_run(
    edit, unbroken, tmp_path, monkeypatch, capsys, owner, name, call, action
):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, at_call(call, getattr(owner, name), action))
        assert edit() == 1
    assert AGAIN in (line := error_line(capsys)) and ("interrupted" in line or "stopped at step 3" in line)
    assert not (out / "edited.mp4").exists() and not list(tmp_path.rglob("*.part*"))
    if out.exists():
        assert edit() == 2 and "--resume or --overwrite" in error_line(capsys)
    assert edit("--resume") == 0
    assert result(out) == result(unbroken)


def test_finished_parts_are_not_done_again(edit, unbroken, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(unbroken, out)
    (out / "frames" / "frame_000001.png").unlink()
    for owner, name in ((ZeroStage, "edit"), (HeroTrainer, "step")):
        monkeypatch.setattr(owner, name, lambda *_: pytest.fail("nothing is missing here"))
    assert edit("--resume") == 0
    assert result(out) == result(unbroken) and report(out)["reused"] == COUNT - 1


def test_the_training_can_be_made_longer_and_the_frames_follow(edit, unbroken, tmp_path):
    out = tmp_path / "out"
    assert edit("--train-steps", "2") == 0
    before = frames_in(out / "restored")
    assert edit("--resume") == 0
    assert result(out) == result(unbroken)
    assert all(data != before[name] for name, data in frames_in(out / "restored").items())
    assert report(out)["reused"] == 0 and report(out)["parts"]["train"]["resumed_at"] == 2


def test_overwrite_does_everything_again(edit, unbroken, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert edit("--rank", "2", "--train-steps", "1", "--anchor", "1") == 0
    (out / "notes.txt").write_text("mine")
    with monkeypatch.context() as patch:  # broken off, the new edit goes on; nothing of the old one is taken up
        patch.setattr(ZeroStage, "edit", at_call(2, ZeroStage.edit, interrupt))
        assert edit("--overwrite") == 1
    assert edit("--resume") == 0
    assert result(out) == result(unbroken) | {"names": sorted([*names(unbroken), "notes.txt"])}


def test_an_anchor_outside_the_chosen_frames(edit, tmp_path):
    assert edit("--stride", "2", "--anchor", "1") == 0
    out = tmp_path / "out"
    assert list(frames_in(out)) == ["frame_000000.png", "frame_000002.png"]
    assert list(frames_in(out / "zero_anchor")) == ["frame_000001.png"]
    got = report(out)
    assert list(got["parts"]) == ["zero", "zero anchor", "train", "restore"]
    assert read_image(out / "training" / "samples" / "step_000000.png").shape == (3, SIDE, 3 * SIDE)  # 0, 1 and 2


def test_several_anchors(edit, material, unbroken, tmp_path, capsys):
    clip = open_frames(material / "clip.mkv")
    for index in (1, 3):
        write_image(tmp_path / f"{index}.png", 1 - clip[index].flip(0))
    first, more = f"0={material / 'clip.png'}", [f"{index}={tmp_path / f'{index}.png'}" for index in (1, 3)]
    anchors = [text for value in (first, *more) for text in ("--anchor", value)]
    base = [*arguments(material, tmp_path / "out", ("--anchor", "--reference"))]
    base = base[: base.index("--anchor")] + base[base.index("--reference") + 2 :]
    assert main([*base, *anchors]) == 0
    out = tmp_path / "out"
    for index in (1, 3):  # an edited frame is its edit
        edited = read_image(out / "frames" / f"frame_{index:06d}.png")
        assert float((edited - read_image(tmp_path / f"{index}.png")).abs().max()) < 0.01
    assert sorted(report(out)["keys"]) == [0, 1, 3]
    assert frames_in(out / "zero")["frame_000002.png"] != frames_in(unbroken / "zero")["frame_000002.png"]
    state = json.loads((out / "training" / "train.json").read_text())
    assert {"reference 1 sha256", "reference 3 sha256"} <= state.keys()
    one = [*base[: base.index("--out") + 1], str(tmp_path / "one"), *base[base.index("--out") + 2 :]]
    assert main([*one, "--anchor", first]) == 0  # one anchor in the new form is what it was in the old one
    assert result(tmp_path / "one") == result(unbroken)
    capsys.readouterr()
    for options, message in (
        ((*anchors, "--anchor", first), "got frame 0 twice"),
        (("--anchor", "0"), "--reference: is needed, or the picture with its index: --anchor 0=IMG"),
        (("--anchor", "0", "--anchor", more[0]), "each needs its picture"),
        (("--anchor", first, "--reference", "x.png"), "stand in --anchor already"),
        (("--anchor", "x=y.png"), "expected an index like 12"),
        ((*anchors[:2], "--anchor", f"9={tmp_path / '1.png'}"), "--also"),
    ):
        assert main([*one, *options, "--overwrite"]) == 2
        assert message in error_line(capsys)


def test_hero_stage_may_start_from_the_carried_change(edit, material, unbroken, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ZeroStage, "edit", lambda *_: pytest.fail("no model is needed for this"))
    with monkeypatch.context() as patch:
        patch.setattr(HeroStage, "restore", at_call(2, HeroStage.restore, interrupt))
        assert edit("--initial", "change", "--batch", "1") == 1
    assert AGAIN in error_line(capsys)
    assert edit("--initial", "change", "--batch", "1", "--resume") == 0
    out = tmp_path / "out"
    assert list(report(out)["parts"]) == ["initial", "train", "restore"]
    assert frames_in(out).keys() == frames_in(out / "initial").keys() == frames_in(unbroken).keys()
    assert not (out / "zero").exists() and (out / "initial" / "initial.mp4").exists()
    reference = read_image(material / "clip.png")
    worn = read_image(out / "initial" / "frames" / "frame_000000.png")
    assert 0 < (worn - reference).abs().mean() < 0.3  # there and back, not the edit itself


def test_an_anchor_outside_the_chosen_frames_is_carried_too(edit, tmp_path):
    options = ("--stride", "2", "--anchor", "1", "--initial", "flow", "--train-steps", "1")
    assert edit(*options) == 0
    out = tmp_path / "out"
    assert list(frames_in(out / "initial")) == ["frame_000000.png", "frame_000002.png"]
    assert "frame_000001.png" in frames_in(out / "initial_anchor")
    assert list(report(out)["parts"]) == ["initial", "initial anchor", "train", "restore"]


def test_the_implicit_mode_makes_its_own_zero_stage_frames(edit, material, unbroken, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(ZeroStage, "edit", at_call(4, ZeroStage.edit, interrupt))  # in the second run of Zero-Stage
        assert edit("--mode", "implicit") == 1
    assert AGAIN in error_line(capsys)
    assert edit("--mode", "implicit", "--resume") == 0
    assert list(report(out)["parts"]) == ["zero", "zero target", "train", "restore"]
    assert frames_in(out / "zero") == frames_in(unbroken / "zero") != frames_in(out / "zero_target")
    assert torch.equal(read_image(out / "anchor.png"), open_frames(material / "clip.mkv")[0])
    metadata = read_metadata(out / "training" / "hero_lora.safetensors")
    assert metadata is not None and (metadata.mode, metadata.count) == ("implicit", 1)
    assert report(out)["parts"]["restore"]["state"]["conditions"] == ["zero"]


def test_a_clip_whose_sides_fit_no_model_ends_at_the_size_asked_for(edit, tmp_path):
    assert edit("--size", "48", "--train-steps", "1", clip="wide") == 0  # 96 x 48; the UNet needs multiples of 64
    sizes = {part: report(tmp_path / "out" / part)["state"]["size"] for part in ("zero", "training", "restored", "")}
    assert sizes == {"zero": [128, 64], "training": [128, 64], "restored": [128, 64], "": [96, 48]}
    assert report(tmp_path / "out")["notes"] == []


def test_a_vp9_video_of_its_own_quality(edit, tmp_path):
    options = ("--video-name", "a.webm", "--codec", "vp9", "--crf", "60", "--train-steps", "1", "--max-frames", "1")
    assert edit(*options) == 0
    assert (tmp_path / "out" / "a.webm").exists() and (tmp_path / "out" / "zero" / "zero.mp4").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--zero-model", "sd.safetensors"), "models: expected --tiny, or --zero-model together with --hero-model"),
        (("--hero-model", "flux"), "models: expected --tiny, or --zero-model together with --hero-model"),
        (("--initial", "change", "--zero-model", "sd"), "models: expected --tiny, or --hero-model"),
        (("--initial", "change", "--mode", "implicit"), "--mode implicit: learns from Zero-Stage's wear"),
        (("--tiny", "--zero-model", "a", "--hero-model", "b"), "models: expected --tiny, or"),
        (("--zero-model", "none", "--hero-model", "none.safetensors"), "none.safetensors: no such file"),
        (("--video", "none.mp4"), "none.mp4: no such file"),
        (("--reference", "none.png"), "none.png: no such file"),
        (("--anchor", "9"), "--anchor: expected 0 to 3 (the clip has 4 frames), got 9"),
        (("--video-name", "a.gif"), "--video-name: expected"),
        (("--codec", "vp9"), "codec: expected h264 for .mp4"),
        (("--lora-layers", "mlp"), "LoRA layers: expected some of"),
        (("--alpha", "0"), "alpha: expected a number above 0"),
        (("--learning-rate", "2"), "learning rate: expected a value from 0 to 1"),
        (("--strength", "1", "1", "1"), "strengths: expected 1 or 2"),
        (("--mode", "implicit", "--strength", "1", "1"), "strengths: expected 1 or 1"),
        (("--hero-guidance", "-1"), "guidance: expected a value from 0"),
        (("--evaluate-frames", "0,8"), "--evaluate-frames: frame 8 is not a chosen frame"),
        (("--k", "99"), "--k: expected 1 to 16"),
    ],
)
def test_bad_input_is_found_before_the_first_part(edit, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.setattr(ZeroStage, "edit", lambda *_: pytest.fail("too late"))
    assert edit(*options) == 2
    assert message in (line := error_line(capsys)) and AGAIN not in line
    assert list(tmp_path.iterdir()) == []


def test_one_of_the_models_is_needed(material, tmp_path, capsys):
    given = [text for text in arguments(material, tmp_path / "out") if text != "--tiny"]
    assert main(given) == 2
    assert "models: expected --tiny, or --zero-model together with --hero-model" in error_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_the_remains_of_another_command_are_no_edit_to_go_on_with(edit, unbroken, tmp_path, capsys):
    shutil.copytree(unbroken / "zero", tmp_path / "out")
    before = {name: (tmp_path / "out" / name).read_bytes() for name in names(tmp_path / "out")}
    assert edit("--resume") == 2
    assert "holds no earlier `zero2hero edit`" in error_line(capsys)
    assert {name: (tmp_path / "out" / name).read_bytes() for name in names(tmp_path / "out")} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--k", "4"), "k (1 before, 4 now)"),
        (("--rank", "2"), "rank (4 before, 2 now)"),
        (("--noise-seed", "2"), "seed (0 before, 2 now)"),
    ],
)
def test_resume_checks_that_it_is_the_same_edit(edit, unbroken, tmp_path, capsys, options, message):
    shutil.copytree(unbroken, tmp_path / "out")
    assert edit("--resume", *options) == 2
    assert message in error_line(capsys)
    assert frames_in(tmp_path / "out") == frames_in(unbroken)


@pytest.mark.parametrize(
    ("owner", "name", "message", "status"),
    [
        (ZeroStage, "edit", "out of memory with a single frame", 1),
        (HeroTrainer, "step", "out of memory while training: lower it with --checkpointing", 1),
        (HeroStage, "restore", "out of memory", 1),
    ],
)
def test_an_error_within_a_part_says_how_the_edit_goes_on(
    edit, unbroken, tmp_path, monkeypatch, capsys, owner, name, message, status
):
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, lambda *_: out_of_memory())
        assert edit() == status
    line = error_line(capsys)
    assert message in line and AGAIN in line and "same command" not in line
    assert edit("--resume") == 0
    assert result(tmp_path / "out") == result(unbroken)


def test_bad_input_that_only_a_later_part_finds_says_so_too(edit, unbroken, tmp_path, monkeypatch, capsys):
    def refuse(*_: Any) -> None:
        raise InputError("pairs: no good.")

    with monkeypatch.context() as patch:
        patch.setattr(training, "training_pairs", refuse)
        assert edit() == 2
    line = error_line(capsys)
    assert line.startswith(f"pairs: no good; what is finished is kept in {tmp_path / 'out'}") and AGAIN in line
    assert edit("--resume") == 0
    assert result(tmp_path / "out") == result(unbroken)
