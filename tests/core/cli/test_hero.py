"""`hero train` and `hero restore` on small clips, with a tiny DiT of random weights: results, resuming, bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tiny_models import random_dit
from zero2hero_core.cli.main import main
from zero2hero_core.files import whole
from zero2hero_core.hero_stage.lora.file import read_metadata
from zero2hero_core.hero_stage.stage import HeroStage
from zero2hero_core.hero_stage.training.log import TrainingLog
from zero2hero_core.hero_stage.training.run import TrainingRun
from zero2hero_core.hero_stage.training.trainer import HeroTrainer
from zero2hero_core.jobs import adapter
from zero2hero_core.jobs.state import file_digest
from zero2hero_core.tiny import dit
from zero2hero_core.tiny.autoencoder import PatchAutoencoder, fit_patch_autoencoder
from zero2hero_core.video import image_writer
from zero2hero_core.video.source import open_frames, read_image
from zero2hero_core.video.writer import VideoWriter, write_image

COUNT, RATE, SIDE = 6, 8, 64
STEPS = 4


def pictures(count: int = COUNT, height: int = SIDE, width: int = SIDE, seed: int = 0) -> torch.Tensor:
    """Waves that move from frame to frame."""
    y, x = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    frames = [[(6 * x + n / 3 + seed).sin(), (5 * y + seed).cos(), (4 * (x + y) - n / 5).sin()] for n in range(count)]
    return torch.stack([torch.stack(frame) for frame in frames]) / 2 + 0.5


ADVICE = {"rank": 4, "draws": 2, "crop": 0.5, "light": 1.0, "num_inference_steps": 2}


def random_model(patch: pytest.MonkeyPatch, material: Path) -> None:
    autoencoder = PatchAutoencoder()
    autoencoder.load_state_dict(load_file(material / "autoencoder.safetensors"))
    patch.setattr(dit, "load_tiny_dit", lambda folder=None, device="cpu": random_dit(autoencoder, **ADVICE))
    patch.setattr(adapter, "bundled_adapter", lambda family: None)  # it fits the bundled models


def store_zero(folder: Path, frames: dict[int, torch.Tensor], **state: Any) -> None:
    """A folder as `zero2hero zero` leaves it, as far as it is read."""
    (folder / "frames").mkdir(parents=True)
    for index, frame in frames.items():
        write_image(folder / "frames" / f"frame_{index:06d}.png", frame)
    h, w = next(iter(frames.values())).shape[-2:]
    (folder / "zero.json").write_text(json.dumps({"size": [w, h], "policy": "resize"} | state))


@pytest.fixture(scope="session")
def material(tmp_path_factory) -> Path:
    """clip.mkv, its edited frames 0 and 4, Zero-Stage folders (worn: the edit; worn_target: the clip), truth, LoRAs."""
    folder = tmp_path_factory.mktemp("material")
    frames = pictures()
    with VideoWriter(folder / "clip.mkv", RATE) as writer:
        writer.write(frames)
    truth = 1 - frames.flip(1)
    for index in (0, 4):
        write_image(folder / f"edit{index}.png", truth[index])
    (folder / "truth").mkdir()
    for index, frame in enumerate(truth):
        write_image(folder / "truth" / f"{index}.png", frame)
    worn = {"worn": truth, "worn_target": frames}
    for name, wear in worn.items():
        store_zero(folder / name, dict(enumerate((wear * 0.7 + 0.2).clamp(0, 1))))
    store_zero(folder / "tall", dict(enumerate(torch.cat([frames, frames], 2))))
    store_zero(folder / "cropped", dict(enumerate(frames)), policy="crop")
    store_zero(folder / "gap", {n: frames[n] for n in (0, 1, 2, 4, 5)})
    store_zero(folder / "late", {n: frames[n] for n in (3, 4)})
    shutil.copytree(folder / "worn", folder / "damaged")
    whole_file = (folder / "worn" / "frames" / "frame_000000.png").read_bytes()
    (folder / "damaged" / "frames" / "frame_000000.png").write_bytes(whole_file[:200])
    (folder / "no_zero").mkdir()
    model = fit_patch_autoencoder(torch.cat([frames, truth]) * 2 - 1)
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "autoencoder.safetensors"
    )
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch, unbroken, material) -> None:
    """The random model; plots, which take most of a tiny run, only in the runs of `unbroken`."""
    random_model(monkeypatch, material)
    monkeypatch.setattr(TrainingLog, "plot", lambda self, path: Path(path).touch())


def train_arguments(material: Path, out: Path, options: tuple[str, ...] = (), **named: str) -> list[str]:
    """A training of some steps, unless `options` say otherwise."""
    values = {"video": "clip.mkv", "reference": "edit0.png", "zero": "worn"} | named
    values = {name: str(material / value) for name, value in values.items()}
    values |= {"anchor": "0", "learning-rate": "0.01", "train-steps": str(STEPS), "out": str(out)}
    values |= {"save-every": "2", "evaluate-every": "2"}
    given = [text for name, value in values.items() if f"--{name}" not in options for text in (f"--{name}", value)]
    return ["hero", "train", "--tiny", *given, *options]


def restore_arguments(material: Path, out: Path, lora: Path, options: tuple[str, ...] = (), **named: str) -> list[str]:
    values = {"video": "clip.mkv", "zero": "worn"} | named
    given = [text for name, value in values.items() for text in (f"--{name}", str(material / value))]
    always = ["hero", "restore", "--tiny", "--out", str(out), "--lora", str(lora)]
    batch = [] if "--batch" in options else ["--batch", "2"]
    return [*always, *batch, *given, *options]


Call = Callable[..., int]


@pytest.fixture
def train(material, tmp_path) -> Call:
    """Run `hero train` into tmp_path / out."""
    return lambda *options, out="out", **named: main(train_arguments(material, tmp_path / out, options, **named))


@pytest.fixture
def restore(material, tmp_path, unbroken) -> Call:
    """Run `hero restore` into tmp_path / out, with the LoRA of the unbroken training unless another is given."""

    def call(*options: str, out: str = "out", lora: Path = unbroken / "lora" / "hero_lora.safetensors", **named: str):
        return main(restore_arguments(material, tmp_path / out, lora, options, **named))

    return call


@pytest.fixture(scope="session")
def unbroken(material, tmp_path_factory) -> Path:
    """lora/ and restored/ of runs that nothing disturbed."""
    folder = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as patch:
        random_model(patch, material)
        assert main(train_arguments(material, folder / "lora")) == 0
        lora = folder / "lora" / "hero_lora.safetensors"
        assert main(restore_arguments(material, folder / "restored", lora)) == 0
    return folder


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())


def names(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def frames_in(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((folder / "frames").iterdir())}


def training_bits(folder: Path) -> dict[str, Any]:
    """LoRA, samples and log (but for times) of a training."""
    samples = {file.name: file.read_bytes() for file in sorted((folder / "samples").iterdir())}
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in TrainingLog(folder).rows()]
    return {"lora": (folder / "hero_lora.safetensors").read_bytes(), "samples": samples, "rows": rows}


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


# --- hero train -------------------------------------------------------------------------------------------------------


def test_training_leaves_what_it_promises(unbroken, material):
    out = unbroken / "lora"
    samples = [f"samples/step_{step:06d}.png" for step in (0, 2, 4)]
    own = ["hero_lora.safetensors", "log.csv", "report.json", "state.pt", "train.json", "training.png"]
    assert names(out) == sorted([*own, *samples])
    got = report(out)
    assert (got["command"], got["steps"], got["resumed_at"], got["stopped_early"]) == ("hero train", STEPS, 0, False)
    assert [row["step"] for row in got["evaluations"]] == [0, 2, 4]
    assert got["loss"]["first"] > 0 and got["seconds_per_step"] > 0 and got["seconds"]["total"] > 0
    state = got["state"]
    assert (state["model"], state["mode"], state["size"]) == ("tiny", "explicit", [SIDE, SIDE])
    assert (state["rank"], state["draws"], state["batch"], state["seed"]) == (
        4,
        2,
        1,
        0,
    )  # the model's advice, defaults
    metadata = read_metadata(out / "hero_lora.safetensors")
    assert metadata is not None
    assert (metadata.family, metadata.mode, metadata.rank, metadata.step) == ("tiny", "explicit", 4, STEPS)
    assert metadata.resolution == "64x64" and metadata.clip_hash == file_digest(str(material / "clip.mkv"))
    assert metadata.anchor_hash == file_digest(str(material / "edit0.png"))
    assert read_image(out / "samples" / "step_000004.png").shape == (3, SIDE, 3 * SIDE)  # frames 0, 3 and 5
    assert read_image(out / "training.png").shape == (3, 400, 1000)


def test_the_memory_estimate_and_a_summary_are_told(train, tmp_path, capsys):
    assert train("--train-steps", "1", "--json", str(tmp_path / "again.json")) == 0
    shown = capsys.readouterr()
    assert "(computed, not measured)" in shown.out and "total" in shown.out
    assert "1 steps; anchor" in shown.out and "\x1b" not in shown.out + shown.err
    assert json.loads((tmp_path / "again.json").read_text()) == report(tmp_path / "out")
    assert train("--train-steps", "1", "--quiet", out="quiet") == 0
    assert capsys.readouterr().out == ""


SCRIPT = """\
import os, signal, sys
from pathlib import Path
import pytest
sys.path.insert(0, sys.argv[1])
import test_hero
from zero2hero_core.hero_stage.training.trainer import HeroTrainer
material, out, step = Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
test_hero.random_model(pytest.MonkeyPatch(), material)
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
HeroTrainer.step = test_hero.at_call(step, HeroTrainer.step, kill)
test_hero.main(test_hero.train_arguments(material, out))
"""


def test_killed_and_resumed_equals_an_unbroken_run_to_the_bit(train, material, unbroken, tmp_path, repository):
    out = tmp_path / "out"
    path = os.pathsep.join([str(repository), str(repository / "tests" / "shared"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(material), str(out), "4"]
    killed = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [row["step"] for row in TrainingLog(out).rows()] == [0, 1, 2, 3]
    assert train() == 2  # not over the remains of a run
    assert train("--resume") == 0
    assert training_bits(out) == training_bits(unbroken / "lora")
    assert report(out)["resumed_at"] == 2 and names(out) == names(unbroken / "lora")


@pytest.mark.parametrize("call", [1, 3])
def test_ctrl_c_ends_after_the_step_and_saves(train, unbroken, tmp_path, monkeypatch, capsys, call):
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        ctrl_c = at_call(call, HeroTrainer.step, lambda: signal.raise_signal(signal.SIGINT))
        patch.setattr(HeroTrainer, "step", ctrl_c)
        assert train() == 1
    assert signal.getsignal(signal.SIGINT) is before
    line = error_line(capsys)
    assert f"stopped at step {call} of {STEPS}" in line and f"step {call} " in line and "--resume" in line
    assert train() == 2 and "--resume or --overwrite" in error_line(capsys)
    assert train("--resume") == 0
    assert training_bits(tmp_path / "out") == training_bits(unbroken / "lora")
    assert report(tmp_path / "out")["resumed_at"] == call


@pytest.mark.parametrize(("call", "kept"), [(1, "nothing has been saved yet"), (4, "the checkpoint of step 2")])
def test_a_second_ctrl_c_ends_at_once(train, unbroken, tmp_path, monkeypatch, capsys, call, kept):
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(HeroTrainer, "step", at_call(call, HeroTrainer.step, twice))
        assert train() == 1
    assert "interrupted" in (line := error_line(capsys)) and kept in line and "--resume" in line
    assert train("--resume") == 0
    assert training_bits(tmp_path / "out") == training_bits(unbroken / "lora")


def test_a_finished_training_can_be_made_longer(train, unbroken, tmp_path, monkeypatch):
    assert train("--train-steps", "2") == 0
    assert train("--resume") == 0
    assert training_bits(tmp_path / "out") == training_bits(unbroken / "lora")
    monkeypatch.setattr(HeroTrainer, "step", lambda self: pytest.fail("nothing is left to do"))
    assert train("--resume") == 0
    assert report(tmp_path / "out")["steps"] == STEPS and report(tmp_path / "out")["seconds_per_step"] is None


def test_with_a_falling_learning_rate_the_number_of_steps_is_part_of_the_run(train, tmp_path, capsys):
    assert train("--decay", "--train-steps", "2") == 0
    assert train("--decay", "--train-steps", "2", "--resume") == 0
    assert train("--decay", "--train-steps", "3", "--resume") == 2
    assert "steps (2 before, 3 now)" in error_line(capsys)


def test_resume_checks_that_it_is_the_same_run(train, tmp_path, capsys):
    out = tmp_path / "out"
    assert train("--train-steps", "2") == 0
    before = training_bits(out)
    assert train("--resume", "--rank", "8", "--train-seed", "3", reference="edit4.png") == 2
    line = error_line(capsys)
    assert "rank (4 before, 8 now)" in line and "seed (0 before, 3 now)" in line and "reference" in line
    assert "video" not in line and "steps" not in line
    content = (out / "state.pt").read_bytes()
    (out / "state.pt").write_bytes(content[: len(content) // 2])
    assert train("--resume") == 2
    assert "state.pt: cannot be read" in error_line(capsys)
    (out / "train.json").write_text("{")
    assert train("--resume") == 2
    assert "train.json: cannot be read" in error_line(capsys)
    (out / "state.pt").unlink()
    (out / "train.json").unlink()
    assert train("--resume") == 2
    assert "holds no train.json" in error_line(capsys)
    assert training_bits(out) == before
    assert train("--resume", "--train-steps", "1", out="fresh") == 0  # nothing there yet: begins


def test_overwrite_begins_anew_and_leaves_other_files_alone(train, unbroken, tmp_path):
    out = tmp_path / "out"
    assert train("--train-steps", "3", "--rank", "2") == 0
    (out / "notes.txt").write_text("mine")
    assert train("--overwrite") == 0
    assert training_bits(out) == training_bits(unbroken / "lora")
    assert names(out) == sorted([*names(unbroken / "lora"), "notes.txt"])


@pytest.fixture
def trained_pairs(monkeypatch) -> list[int]:
    """How many pairs the trainings had."""
    counts: list[int] = []
    run = TrainingRun.run

    def counted(self: TrainingRun) -> None:
        counts.append(len(self.trainer.pairs))
        run(self)

    monkeypatch.setattr(TrainingRun, "run", counted)
    return counts


@pytest.mark.parametrize(
    ("mode", "pairs", "conditions"),  # without other lights
    [("explicit", 1, 2), ("implicit", COUNT + COUNT, 1), ("zero-ref", 1, 1), ("tgt-ref", 1, 1)],
)
def test_every_mode(train, restore, material, tmp_path, trained_pairs, mode, pairs, conditions):
    extra = ("--zero-anchor", str(material / "worn_target")) if mode == "implicit" else ()
    assert train("--train-steps", "1", "--mode", mode, "--light", "0", *extra, out="lora") == 0
    lora = tmp_path / "lora" / "hero_lora.safetensors"
    metadata = read_metadata(lora)
    assert metadata is not None and (metadata.mode, metadata.count) == (mode, conditions)
    assert trained_pairs == [pairs]
    zero = "late" if mode == "tgt-ref" else "worn"  # which needs no Zero-Stage result of the frames
    assert restore("--max-frames", "2", lora=lora, zero=zero) == 0
    assert report(tmp_path / "out")["state"]["conditions"] == {"explicit": ["zero", "frame"], "tgt-ref": ["frame"]}.get(
        mode, ["zero"]
    )


def test_several_references_are_several_pairs(train, material, tmp_path, trained_pairs, capsys):
    also = ("--light", "0", "--also", f"4={material / 'edit4.png'}")
    assert train("--train-steps", "2", *also) == 0
    assert trained_pairs == [2]
    assert report(tmp_path / "out")["state"]["reference 4 sha256"] == file_digest(str(material / "edit4.png"))
    assert train("--train-steps", "2", "--light", "0", "--resume") == 2
    assert "reference 4" in error_line(capsys)
    # Frames that are not among the chosen ones may have been edited, too.
    assert train("--train-steps", "1", "--stride", "3", "--anchor", "1", *also, out="outside") == 0
    assert trained_pairs == [2, 2]


def test_truth_is_measured_where_it_is_known(train, material, tmp_path):
    assert train("--train-steps", "1", "--truth", str(material / "truth"), "--evaluate-frames", "1-2") == 0
    rows = report(tmp_path / "out")["evaluations"]
    assert all({"psnr_anchor", "psnr_truth", "psnr_zero"} <= row.keys() for row in rows)
    assert rows[0]["psnr_zero"] == rows[-1]["psnr_zero"]
    assert read_image(tmp_path / "out" / "samples" / "step_000001.png").shape == (3, SIDE, 3 * SIDE)  # 0, 1 and 2
    options = ("--mode", "tgt-ref", "--truth", str(material / "truth"))
    assert train("--train-steps", "1", *options, zero="late", out="other") == 0  # where most have no Zero-Stage result
    assert "psnr_zero" not in report(tmp_path / "other")["evaluations"][0]


def test_early_stop(train, tmp_path, monkeypatch):
    monkeypatch.setattr(HeroStage, "restore", lambda self, zero, frames, indices: frames)
    assert train("--train-steps", "9", "--evaluate-every", "1", "--patience", "2") == 0
    got = report(tmp_path / "out")
    assert got["stopped_early"] and got["steps"] == 3


def test_out_of_memory_names_what_lowers_it(train, tmp_path, monkeypatch, capsys):
    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with monkeypatch.context() as patch:
        patch.setattr(HeroTrainer, "step", at_call(1, HeroTrainer.step, full))
        assert train() == 1
    line = error_line(capsys)
    assert "out of memory while training" in line
    for option in ("--checkpointing", "--weights fp8 or nf4", "--rank", "--size", "--draws", "--resume"):
        assert option in line
    # As nothing had been saved, the advice can be followed.
    assert train("--rank", "2", "--checkpointing", "--resume", "--train-steps", "2") == 0
    with monkeypatch.context() as patch:
        patch.setattr(HeroTrainer, "step", at_call(1, HeroTrainer.step, full))
        assert train("--rank", "2", "--checkpointing", "--resume") == 1
    assert "--overwrite" in error_line(capsys)


def test_a_loss_that_is_no_number_keeps_the_last_good_lora(train, tmp_path, monkeypatch, capsys):
    step = HeroTrainer.step

    def poisoned(self: HeroTrainer) -> float:
        if self.done == 3:
            for pair in self.pairs:
                pair.target.fill_(float("nan"))
        return step(self)

    monkeypatch.setattr(HeroTrainer, "step", poisoned)
    assert train() == 1
    line = error_line(capsys)
    assert "step 4: the loss is not a number" in line and "the checkpoint of step 2 and its LoRA are kept" in line
    assert str(tmp_path / "out") in line
    metadata = read_metadata(tmp_path / "out" / "hero_lora.safetensors")
    assert metadata is not None and metadata.step == 2
    assert not list((tmp_path / "out").rglob("*.part*"))


@pytest.mark.parametrize(
    ("named", "options", "message"),
    [
        ({"video": "none.mp4"}, (), "none.mp4: no such file"),
        ({"reference": "none.png"}, (), "none.png: no such file"),
        ({"zero": "none"}, (), "none: no such file"),
        ({"zero": "no_zero"}, (), "expected a folder that `zero2hero zero` or `zero2hero propagate` wrote"),
        ({"zero": "late"}, (), "--zero: expected 1 frames in"),
        ({"zero": "tall"}, ("--size", "64"), "expected the shape of the frames (64 x 64), got 64 x 128"),
        ({"zero": "damaged"}, (), "frame_000000.png: expected an intact image"),
        ({"zero": "cropped"}, (), "--policy: expected crop, as for `zero2hero zero`, got resize"),
        ({}, ("--anchor", "6"), "--anchor: expected 0 to 5 (the clip has 6 frames), got 6"),
        ({}, ("--mode", "implicit"), "--mode implicit: needs --zero-anchor"),
        ({}, ("--mode", "implicit", "--zero-anchor", "{gap}"), "--zero-anchor: expected 6 frames in"),
        ({}, ("--mode", "both"), "invalid choice: 'both'"),
        ({}, ("--also", "4"), "--also: expected INDEX=PICTURE like 12=edit12.png, got '4'"),
        ({}, ("--also", "0={edit4}"), "--also: frame 0 is given twice"),
        ({}, ("--also", "9={edit4}"), "--also: expected 0 to 5 (the clip has 6 frames), got 9"),
        ({}, ("--also", "4=none.png"), "none.png: no such file"),
        ({"zero": "gap"}, ("--also", "3={edit4}"), "--zero: expected 2 frames in"),
        ({}, ("--truth", "{clip}", "--stride", "2"), "expected 3 frames, one per chosen frame, got 6"),
        ({}, ("--evaluate-frames", "7"), "--evaluate-frames: frame 7 is not a chosen frame"),
        ({"zero": "gap"}, ("--evaluate-frames", "3"), "--evaluate-frames: frame 3 is not a chosen frame"),
        ({}, ("--rank", "0"), "rank: expected a whole number from 1 up"),
        ({}, ("--alpha", "-1"), "alpha: expected a number above 0"),
        ({}, ("--lora-layers", "q", "mlp"), "LoRA layers: expected some of"),
        ({}, ("--learning-rate", "nan"), "learning rate: expected a value from 0 to 1"),
        ({}, ("--crop", "0"), "crop: expected a value from 0.1 to 1"),
        ({}, ("--light", "-1"), "light: expected a value from 0 to 10"),
        ({}, ("--strength", "1", "1", "1"), "strengths: expected 1 or 2"),
        ({}, ("--hero-guidance", "-1"), "guidance: expected a value from 0"),
        ({}, ("--optimiser", "adamw8bit"), "adamw8bit: needs the package bitsandbytes"),
        ({}, ("--weights", "nf4"), "--weights: the tiny DiT takes none"),
        ({}, ("--hero-prompt", "a cat"), "--hero-prompt: the tiny DiT takes none"),
        ({}, ("--device", "abacus"), "--device: expected"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    named, options, message, train, material, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    before = sorted(material.rglob("*"))
    paths = {"gap": material / "gap", "edit4": material / "edit4.png", "clip": material / "clip.mkv"}
    assert train(*(option.format(**paths) for option in options), **named) == 2
    assert message in error_line(capsys)
    assert list(tmp_path.iterdir()) == [] and sorted(material.rglob("*")) == before


# --- hero restore -----------------------------------------------------------------------------------------------------


def test_restoring_leaves_frames_video_and_report(unbroken):
    out = unbroken / "restored"
    frames = [f"frames/frame_{index:06d}.png" for index in range(COUNT)]
    assert names(out) == sorted(["edited.mp4", "hero.json", "report.json", *frames])
    video = open_frames(out / "edited.mp4")
    assert (len(video), video.fps, video.size_hw) == (COUNT, RATE, (SIDE, SIDE))
    got = report(out)
    assert (got["command"], got["count"], got["reused"]) == ("hero restore", COUNT, 0)
    assert got["seconds_per_frame"] > 0 and all("psnr_to_input" in row for row in got["frames"])
    assert got["state"]["conditions"] == ["zero", "frame"] and got["state"]["num_inference_steps"] == 2
    assert len(set(frames_in(out).values())) == COUNT


@pytest.mark.parametrize(
    ("owner", "name", "call", "finished"),
    [
        (HeroStage, "restore", 2, 2),
        (image_writer, "_save_png", 2, 1),  # in the middle of a batch
        (whole, "publish", 1 + 4, 3),  # after hero.json: a frame is written, but not yet renamed
        (VideoWriter, "write", 3, COUNT),  # while the video is put together
    ],
)
def test_interrupted_and_resumed_equals_an_unbroken_run(
    restore, unbroken, tmp_path, monkeypatch, capsys, owner, name, call, finished
):
    out, whole = tmp_path / "out", unbroken / "restored"
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, at_call(call, getattr(owner, name), interrupt))
        assert restore() == 1
    assert "interrupted" in (line := error_line(capsys)) and f"{finished} of {COUNT} frames" in line
    assert "--resume" in line
    assert names(out) == sorted(["hero.json", *(f"frames/frame_{n:06d}.png" for n in range(finished))])
    assert restore() == 2 and "--resume or --overwrite" in error_line(capsys)

    seen: list[int] = []
    original = HeroStage.restore

    def counted(self: HeroStage, zero: Any, frames: Any, indices: list[int]) -> torch.Tensor:
        seen.extend(indices)
        return original(self, zero, frames, indices)

    with monkeypatch.context() as patch:
        patch.setattr(HeroStage, "restore", counted)
        assert restore("--resume") == 0
    assert seen == list(range(finished // 2 * 2, COUNT))  # only batches that lack a frame
    assert frames_in(out) == frames_in(whole)
    assert (out / "edited.mp4").read_bytes() == (whole / "edited.mp4").read_bytes()
    assert (out / "hero.json").read_text() == (whole / "hero.json").read_text()
    assert report(out)["reused"] == finished


def test_only_missing_and_damaged_frames_are_made_again(restore, unbroken, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(unbroken / "restored", out)
    before = frames_in(out)
    (out / "frames" / "frame_000003.png").unlink()
    (out / "frames" / "frame_000004.png").write_bytes(before["frame_000004.png"][:200])
    assert restore("--resume") == 0
    assert frames_in(out) == before and report(out)["reused"] == 4
    monkeypatch.setattr(HeroStage, "restore", lambda *_: pytest.fail("nothing is missing"))
    assert restore("--resume") == 0
    assert report(out)["reused"] == COUNT and report(out)["seconds_per_frame"] is None


def test_resuming_a_restoration_checks_that_it_is_the_same(restore, unbroken, material, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(unbroken / "restored", out)
    other = tmp_path / "other.safetensors"
    tensors = load_file(unbroken / "lora" / "hero_lora.safetensors")
    with safe_open(unbroken / "lora" / "hero_lora.safetensors", "pt") as file:
        save_file({key: tensor * 2 for key, tensor in tensors.items()}, other, file.metadata())
    assert restore("--resume", "--noise-seed", "5", "--batch", "3", lora=other, zero="worn_target") == 2
    line = error_line(capsys)
    for part in ("seed (0 before, 5 now)", "batch (2 before, 3 now)", "lora 0", "zero 0"):
        assert part in line
    assert "video" not in line and frames_in(out) == frames_in(unbroken / "restored")


def test_the_noise_is_the_same_for_all_frames_unless_asked_for(restore, unbroken, tmp_path):
    still = tmp_path / "still"
    still.mkdir()
    frame = pictures(1)[0]
    for number in range(2):
        write_image(still / f"{number}.png", frame)
    store_zero(tmp_path / "zero", {0: frame, 1: frame})
    clip = {"video": str(still), "zero": str(tmp_path / "zero")}
    assert restore(**clip, out="same") == 0
    assert restore("--new-noise", **clip, out="new") == 0
    assert len(set(frames_in(tmp_path / "same").values())) == 1
    assert len(set(frames_in(tmp_path / "new").values())) == 2


def test_the_first_zero_stage_folder_that_has_a_frame_counts(restore, material, unbroken, tmp_path):
    options = ("--zero", str(material / "gap"), str(material / "worn"))
    assert restore(*options) == 0
    assert restore(zero="worn", out="worn") == 0
    got, worn = frames_in(tmp_path / "out"), frames_in(tmp_path / "worn")
    assert [name for name in got if got[name] == worn[name]] == ["frame_000003.png"]


def test_zero_stage_frames_of_another_clip_are_said(train, material, tmp_path, capsys):
    same, other = (file_digest(str(material / name)) for name in ("clip.mkv", "edit0.png"))
    for number, digest in enumerate((same, other)):
        store_zero(tmp_path / f"zero{number}", {0: pictures(1)[0]}, **{"video sha256": digest})
        assert train("--train-steps", "1", zero=str(tmp_path / f"zero{number}"), out=f"out{number}") == 0
    assert report(tmp_path / "out0")["notes"] == []
    assert "made from another file than --video" in report(tmp_path / "out1")["notes"][0]


def test_a_damaged_zero_stage_frame_is_named_and_the_run_goes_on_when_it_is_repaired(
    restore, material, unbroken, tmp_path, capsys
):
    shutil.copytree(material / "worn", tmp_path / "zero")
    frame = tmp_path / "zero" / "frames" / "frame_000003.png"
    frame.write_bytes(frame.read_bytes()[:200])
    assert restore(zero=str(tmp_path / "zero")) == 2
    assert "frame_000003.png: expected an intact image" in error_line(capsys)
    assert list(frames_in(tmp_path / "out")) == ["frame_000000.png", "frame_000001.png"]
    shutil.copy(material / "worn" / "frames" / frame.name, frame)
    assert restore("--overwrite", zero=str(tmp_path / "zero")) == 0
    assert frames_in(tmp_path / "out") == frames_in(unbroken / "restored")


def test_another_size_than_that_of_the_training_is_said(restore, tmp_path, capsys):
    assert restore("--size", "32", "--max-frames", "1") == 0
    notes = report(tmp_path / "out")["notes"]
    assert any("the LoRA was trained at 64x64, the frames are 32x32" in note for note in notes)
    assert any("the Zero-Stage frames are resized to 32 x 32" in note for note in notes)
    assert read_image(tmp_path / "out" / "frames" / "frame_000000.png").shape == (3, 32, 32)


def test_frames_that_are_not_square_are_trained_and_restored(train, restore, tmp_path):
    wide = pictures(2, 48, 96)
    (tmp_path / "wide").mkdir()
    for number, frame in enumerate(wide):
        write_image(tmp_path / "wide" / f"{number}.png", frame)
    write_image(tmp_path / "edit.png", 1 - wide[0])
    store_zero(tmp_path / "zero", dict(enumerate(1 - wide)))
    clip = {"video": str(tmp_path / "wide"), "zero": str(tmp_path / "zero")}
    assert train("--train-steps", "1", **clip, reference=str(tmp_path / "edit.png"), out="lora") == 0
    assert restore(**clip, lora=tmp_path / "lora" / "hero_lora.safetensors") == 0
    assert read_image(tmp_path / "out" / "frames" / "frame_000001.png").shape == (3, 48, 96)
    assert report(tmp_path / "out")["state"]["size"] == [96, 48] and report(tmp_path / "out")["notes"] == []


def changed_lora(source: Path, target: Path, **metadata: str) -> Path:
    """The LoRA with other words about itself."""
    with safe_open(source, "pt") as file:
        header = file.metadata() | {f"zero2hero.{name}": value for name, value in metadata.items()}
    save_file(load_file(source), target, header)
    return target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "flux1"}, "this LoRA was trained for flux1, this model is tiny; choose one for tiny"),
        ({"rank": "8"}, "expected shape"),
        ({"mode": "sideways"}, "was trained in mode sideways, which is unknown here"),
        ({"mode": "zero-ref"}, "LoRA: expected one for 1 conditions (zero), got 2"),
        ({"format": "hero-lora-9"}, "expected format hero-lora-1, got hero-lora-9"),
    ],
)
def test_a_lora_that_does_not_fit_is_refused(restore, unbroken, tmp_path, capsys, change, message):
    lora = changed_lora(unbroken / "lora" / "hero_lora.safetensors", tmp_path / "changed.safetensors", **change)
    assert restore(lora=lora) == 2
    assert message in error_line(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("keep", [4, 500, -1])
def test_a_truncated_lora_is_refused(restore, unbroken, tmp_path, capsys, keep):
    lora = tmp_path / "cut.safetensors"
    lora.write_bytes((unbroken / "lora" / "hero_lora.safetensors").read_bytes()[:keep])
    assert restore(lora=lora) == 2
    assert "truncated" in error_line(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("named", "options", "message"),
    [
        ({"zero": "gap"}, (), "expected 6 frames in"),
        ({"zero": "gap"}, ("--start", "2"), "but 1 are missing, the first is frame 3; run `zero2hero zero`"),
        ({"zero": "late"}, (), "but 4 are missing, the first is frame 0"),
        ({"zero": "no_zero"}, (), "expected a folder that `zero2hero zero` or `zero2hero propagate` wrote"),
        ({"zero": "cropped"}, (), "--policy: expected crop"),
        ({"video": "none.mp4"}, (), "none.mp4: no such file"),
        ({}, ("--lora", "none.safetensors"), "none.safetensors: no such file"),
        ({}, ("--strength", "1", "0", "1"), "strengths: expected 1 or 2"),
        ({}, ("--strength", "-1"), "strength: expected a value from 0"),
        ({}, ("--sample-steps", "0"), "sample-steps: expected a whole number from 1 to 1000"),
        ({}, ("--video-name", "a.gif"), "--video-name: expected"),
        ({}, ("--vae", "x"), "--vae: the tiny DiT takes none"),
    ],
)
def test_bad_input_of_a_restoration_is_one_line_and_leaves_nothing(named, options, message, restore, tmp_path, capsys):
    assert restore(*options, **named) == 2
    assert message in error_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_out_of_memory_while_restoring(restore, unbroken, tmp_path, monkeypatch, capsys):
    original, most = HeroStage.restore, 1

    def small(self: HeroStage, zero: Any, frames: Any, indices: list[int]) -> torch.Tensor:
        if len(indices) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(self, zero, frames, indices)

    monkeypatch.setattr(HeroStage, "restore", small)
    assert restore("--batch", "4") == 0  # the batch is halved until it fits
    assert list(frames_in(tmp_path / "out")) == list(frames_in(unbroken / "restored"))
    most = 0
    assert restore(out="none") == 1
    line = error_line(capsys)
    assert "out of memory with a single frame" in line and "--size" in line and "--resume" in line


def test_initial_pictures_that_are_the_edit_itself_are_told(train, material, tmp_path, capsys):
    """What `propagate` carries without a round trip: the key frame is the edit."""
    frames = {index: read_image(material / "truth" / f"{index}.png") for index in range(6)}
    store_zero(tmp_path / "carried", frames)
    assert train("--train-steps", "1", zero=str(tmp_path / "carried")) == 0
    assert "the initial picture of frame 0 is the edit itself" in capsys.readouterr().err
    assert train("--train-steps", "1", out="worn") == 0
    assert "is the edit itself" not in capsys.readouterr().err
