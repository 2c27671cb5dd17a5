"""The command line as such: help, exit status, one-line errors, reports, the doctor."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import fields

import pytest

from zero2hero_core import __version__
from zero2hero_core.checks import InputError, Zero2HeroError
from zero2hero_core.cli import doctor as cli_doctor
from zero2hero_core.cli.console import request_of
from zero2hero_core.cli.main import build_parser, main
from zero2hero_core.cli.options import fill_preset, number_list, size_value, whole
from zero2hero_core.hero_stage.training.trainer import HeroSettings
from zero2hero_core.jobs.hero_settings import TrainingChoice
from zero2hero_core.tiny.dit import load_tiny_dit
from zero2hero_core.tiny.unet import load_tiny
from zero2hero_core.zero_stage.stage import ZeroStageSettings

COMMANDS = ("doctor", "demo", "zero", "correspond", "tiny")
NEEDED = ["--video", "v.mp4", "--anchor", "0", "--out", "o", "--tiny"]


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr, without its beginning."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("zero2hero: error: "), lines
    return lines[0].removeprefix("zero2hero: error: ")


def test_help_as_a_program_is_quick_and_loads_nothing_heavy(repository):
    code = "import sys; from zero2hero_core.cli.main import main; main(['--help']); main(['zero', '--help'])\n"
    code += "sys.exit(', '.join({'torch', 'diffusers', 'av', 'numpy'} & set(sys.modules)) or 0)"
    light = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, timeout=120)
    assert (light.returncode, light.stderr) == (0, "")
    command = [sys.executable, "-m", "zero2hero_core", "--help"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(name in done.stdout for name in COMMANDS) and "examples:" in done.stdout


@pytest.mark.parametrize("command", [*COMMANDS, "tiny train", "tiny evaluate"])
def test_every_command_has_help(command, capsys):
    assert main([*command.split(), "--help"]) == 0
    shown = capsys.readouterr()
    assert shown.err == "" and "usage:" in shown.out
    if command != "tiny":
        assert all(option in shown.out for option in ("--json", "--quiet", "--debug"))


def test_help_shows_defaults_and_examples(capsys):
    assert main(["zero", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "DDIM steps (default: 20)" in text and "zero2hero zero --tiny" in text
    assert "(default: None)" not in text and "(default: False)" not in text


@pytest.mark.parametrize("command", [["keyframes"], ["guide"], ["hero", "train"]])
def test_help_shows_no_empty_defaults(capsys, command):
    assert main([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "(default: " in text and not any(f"(default: {empty})" in text for empty in ("()", "[]", "{}"))


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"zero2hero {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["paint"], "invalid choice"),
        (["zero"], "required: --video"),
        (["zero", *NEEDED[:-1], "--reference", "r.png"], "one of the arguments --tiny --model is required"),
        (["zero", *NEEDED, "--reference", "r.png", "--model", "m"], "not allowed with argument --tiny"),
        (["zero", *NEEDED, "--reference", "r.png", "--anchor", "-1"], "--anchor: expected an index like 12"),
        (["zero", *NEEDED, "--reference", "r.png", "--max-frames", "0"], "--max-frames: expected"),
        (["zero", *NEEDED, "--reference", "r.png", "--size", "12x"], "--size: expected a short side"),
        (["zero", *NEEDED, "--reference", "r.png", "--k", "many"], "adaptive"),
        (["zero", *NEEDED, "--reference", "r.png", "--layers", "5-3"], "--layers: expected"),
        (["zero", *NEEDED, "--reference", "r.png", "--resume", "--overwrite"], "not allowed with"),
        (["zero", *NEEDED, "--reference", "r.png", "--mas", "x"], "unrecognized arguments"),
        (["correspond", *NEEDED, "--frames", "1,x"], "--frames: expected"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in error_line(capsys)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (InputError("no such\nfile"), 2, "no such file"),
        (Zero2HeroError("out of memory"), 1, "out of memory"),
        (KeyboardInterrupt(), 1, "interrupted"),
        (OSError(28, "No space left on device", "x.png"), 1, "x.png: no space left on the disk"),
        (PermissionError(13, "Permission denied", "x"), 2, "x: Permission denied"),
        (MemoryError(), 1, "out of memory"),
        (ZeroDivisionError("division by zero"), 1, "unexpected ZeroDivisionError: division by zero"),
    ],
)
@pytest.mark.parametrize("debug", [False, True])
def test_errors_become_a_line_and_a_status(error, status, message, debug, monkeypatch, capsys):
    def fail(args: argparse.Namespace) -> dict[str, object]:
        raise error

    monkeypatch.setattr(cli_doctor, "run", fail)
    assert main(["doctor", "--debug"] if debug else ["doctor"]) == status
    if debug:
        lines = capsys.readouterr().err.splitlines()
        assert lines[0].startswith("Traceback") and message in lines[-1]
    else:
        assert message in error_line(capsys)


def test_doctor_and_its_report(tmp_path, monkeypatch, capsys):
    comfyui = tmp_path / "ComfyUI"
    (comfyui / "comfy").mkdir(parents=True)
    (comfyui / "models" / "checkpoints" / "sd").mkdir(parents=True)
    (comfyui / "models" / "checkpoints" / "sd" / "v15.safetensors").touch()
    (comfyui / "models" / "checkpoints" / "readme.txt").touch()
    monkeypatch.setenv("COMFYUI_PATH", str(comfyui))
    path = tmp_path / "reports" / "doctor.json"
    assert main(["doctor", "--json", str(path)]) == 0
    shown = capsys.readouterr()
    report = json.loads(path.read_text())
    assert report["versions"]["zero2hero"] == __version__ and report["versions"]["torch"]
    assert report["comfyui"] == {"found": True, "path": str(comfyui), "checkpoints": ["sd/v15.safetensors"]}
    assert report["encoders"]["h264"] is True and report["problems"] == []
    assert report["devices"][0]["device"] == "cpu" and report["devices"][0]["threads"] >= 1
    assert "checkpoint sd/v15.safetensors" in shown.out and shown.err == "" and "\x1b" not in shown.out
    assert [file.name for file in path.parent.iterdir()] == ["doctor.json"]


def test_doctor_says_what_is_missing(tmp_path, monkeypatch, capsys):
    from zero2hero_core.tiny import dit
    from zero2hero_core.tiny import unet as model

    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    monkeypatch.setattr(model, "weights_folder", lambda: tmp_path)
    monkeypatch.setattr(cli_doctor, "PACKAGES", (*cli_doctor.PACKAGES, "no-such-package-xyz"))
    path = tmp_path / "doctor.json"
    assert main(["doctor", "--quiet", "--json", str(path)]) == 1
    assert error_line(capsys) == "no-such-package-xyz is not installed: pip install no-such-package-xyz."
    report = json.loads(path.read_text())
    assert report["tiny"]["found"] is False and model.UNET_FILE in report["tiny"]["reason"]
    assert report["comfyui"]["found"] is False
    (tmp_path / model.UNET_FILE).write_bytes(b"cut off")
    (tmp_path / model.AUTOENCODER_FILE).write_bytes(b"cut off")
    assert main(["doctor"]) == 1
    assert f"{dit.DIT_FILE} missing" in capsys.readouterr().out
    (tmp_path / dit.DIT_FILE).write_bytes(b"cut off")
    assert main(["doctor"]) == 1
    assert "cannot be read" in capsys.readouterr().out


def test_quiet_prints_nothing(capsys):
    assert main(["doctor", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("place", ["", "file/report.json"])
def test_a_report_that_cannot_be_written_is_noticed_before_the_work(place, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setattr(cli_doctor, "run", lambda args: pytest.fail("the work began"))
    assert main(["doctor", "--json", str(tmp_path / place)]) == 2
    assert "--json" in error_line(capsys)


def test_option_defaults_are_those_of_the_settings():
    args = build_parser().parse_args(["zero", *NEEDED, "--reference", "r.png"])
    fill_preset(args)
    settings = ZeroStageSettings()
    for field in fields(ZeroStageSettings):
        assert getattr(args, field.name) == getattr(settings, field.name), field.name


def test_kinds_of_values():
    assert size_value("256") == 256 and size_value("448x256") == (256, 448)
    assert number_list("7, 3,9-11,10") == (3, 7, 9, 10, 11)
    assert whole(1, 3)("3") == 3
    for convert, text in ((size_value, "0"), (size_value, "1x2x3"), (number_list, "-1"), (whole(1, 3), "4")):
        with pytest.raises(argparse.ArgumentTypeError):
            convert(text)


TRAIN = ["hero", "train", "--tiny", "--video", "v", "--anchor", "0", "--reference", "r", "--zero", "z", "--out", "o"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {"rank": None, "train_steps": None, "light": None, "samples": None}),
        (["--preset", "paper"], {"rank": 128, "train_steps": 400, "light": 0.0, "samples": 1, "decay": False}),
        (["--preset", "paper", "--mode", "tgt-ref"], {"train_steps": 600, "learning_rate": 1e-4, "crop": 1.0}),
        (["--rank", "8", "--preset", "paper"], {"rank": 8, "pairs": 1, "draws": 1, "high_noise": 0.0}),
    ],
)
def test_a_preset_stands_for_what_is_not_given(words, expected):
    args = build_parser().parse_args([*TRAIN, *words])
    fill_preset(args)
    assert {name: vars(args)[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["zero", "--preset", "fast"], {"num_inference_steps": 10, "ensemble": 1, "timestep": 0}),
        (["zero", "--preset", "fast", "--steps", "7", "--ensemble", "3"], {"num_inference_steps": 7, "ensemble": 3}),
        (["zero", "--preset", "paper"], {"num_inference_steps": 20, "ensemble": 8, "timestep": 261}),
        (["zero"], {"num_inference_steps": 20, "ensemble": None}),
        (["edit"], {"num_inference_steps": 20, "finish": None, "adapter": None, "train_steps": None}),
        (["edit", "--preset", "fast"], {"num_inference_steps": 10, "ensemble": 1, "finish": None, "train_steps": None}),
        (["edit", "--preset", "best"], {"num_inference_steps": 20, "adapter": "none", "train_steps": None}),
        (["edit", "--preset", "paper"], {"adapter": "none", "finish": "hero", "train_steps": 400}),
    ],
)
def test_presets_of_zero_stage_and_edit(words, expected):
    args = build_parser().parse_args([*words, *NEEDED, "--reference", "r.png"])
    fill_preset(args)
    assert {name: vars(args)[name] for name in expected} == expected


def test_the_papers_preset_overrules_what_suits_the_model():
    args = build_parser().parse_args([*TRAIN, "--preset", "paper"])
    fill_preset(args)
    settings = request_of(TrainingChoice, args).settings(load_tiny_dit().recommended)
    authors = HeroSettings(rank=128, learning_rate=1e-4, steps=400)
    assert settings == authors
    zero = build_parser().parse_args(["correspond", *NEEDED, "--preset", "paper"])
    fill_preset(zero)
    resolved = request_of(ZeroStageSettings, zero).resolve(load_tiny().recommended)
    assert (resolved.timestep, resolved.block, resolved.ensemble, resolved.k) == (261, 1, 8, 1)
