"""`zero2hero hero pretrain` on small clips and random models."""

from __future__ import annotations

import csv
import json
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from tiny_models import random_dit
from zero2hero_core.cli.main import main
from zero2hero_core.evaluation.pretraining import ClipsRequest, footage_clips
from zero2hero_core.hero_stage.lora.file import read_metadata
from zero2hero_core.hero_stage.training.log import TrainingLog
from zero2hero_core.jobs import known_clips
from zero2hero_core.tiny import dit
from zero2hero_core.tiny.unet import load_tiny
from zero2hero_core.video.source import read_image
from zero2hero_core.video.writer import VideoWriter

ADVICE = {"rank": 2, "learning_rate": 0.01, "batch": 1, "draws": 1, "num_inference_steps": 1, "samples": 1}
QUICK = ("--train-steps", "4", "--evaluate-every", "2", "--save-every", "2", "--frames", "2", "--rank", "3")


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    vae = load_tiny().vae
    monkeypatch.setattr(dit, "load_tiny_dit", lambda folder=None, device="cpu": random_dit(vae, **ADVICE))
    monkeypatch.setattr(TrainingLog, "plot", lambda self, path: Path(path).touch())


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for split, count in (("train", "2"), ("validation", "1")):
        arguments = ["--split", split, "--clips", count, "--frames", "3", "--size", "64", "--no-matches", "--quiet"]
        assert main(["dataset", "rendered", *arguments, "--out", str(folder / split)]) == 0
    return folder


def run(clips: Path, out: Path, *options: str) -> int:
    arguments = ["--tiny", "--clips", str(clips / "train"), "--held-out", str(clips / "validation"), "--out", str(out)]
    return main(["hero", "pretrain", *arguments, *QUICK, *options])


def report(out: Path) -> dict:
    return json.loads((out / "report.json").read_text())


def test_all_carriers(clips, tmp_path, monkeypatch) -> None:
    settings = known_clips.ZeroStageSettings
    monkeypatch.setattr(known_clips, "ZeroStageSettings", lambda **more: settings(num_inference_steps=2, ensemble=1))
    out = tmp_path / "out"
    assert run(clips, out) == 0
    got = report(out)
    assert (got["clips"], got["held_out"], got["steps"]) == (2, 1, 4)
    assert [row["step"] for row in got["evaluations"]] == [0, 2, 4]
    pictures = sorted(path.name for path in (tmp_path / "out_pictures" / "color-edit-train-0000").glob("*.png"))
    assert pictures == ["carried_000000.png", "carried_000002.png", "zero_000000.png", "zero_000002.png"]
    worn = read_image(tmp_path / "out_pictures" / "color-edit-train-0000" / "carried_000000.png")
    edit = read_image(next((clips / "train" / "color-edit-train-0000" / "style").iterdir()))
    assert 0 < float((worn - edit).abs().mean()) < 0.1  # there and back, not the edit itself
    metadata = read_metadata(out / "adapter.safetensors")
    assert metadata is not None and (metadata.rank, metadata.mode, metadata.step) == (3, "explicit", 4)


def test_pictures_are_made_once_and_a_stopped_run_goes_on(clips, tmp_path, monkeypatch) -> None:
    options = ("--carriers", "carried", "worn", "--pictures", str(tmp_path / "pictures"))
    assert run(clips, tmp_path / "whole", *options) == 0
    monkeypatch.setattr(known_clips, "Propagation", lambda *_, **__: pytest.fail("the pictures are there"))
    assert run(clips, tmp_path / "out", *options, "--train-steps", "2") == 0
    assert run(clips, tmp_path / "out", *options, "--resume") == 0
    whole, out = (
        list(csv.DictReader((tmp_path / name / "log.csv").read_text().splitlines())) for name in ("whole", "out")
    )
    assert [row["loss"] for row in whole] == [row["loss"] for row in out]
    assert report(tmp_path / "out")["resumed_at"] == 2


def test_a_smaller_rank_is_shipped(clips, tmp_path) -> None:
    assert run(clips, tmp_path / "out", "--carriers", "worn", "--adapter-rank", "2") == 0
    shipped, trained = (
        read_metadata(tmp_path / "out" / name) for name in ("adapter.safetensors", "hero_lora.safetensors")
    )
    assert shipped is not None and trained is not None and (shipped.rank, trained.rank) == (2, 3)


def test_any_footage_gives_pairs(clips, tmp_path) -> None:
    video = tmp_path / "footage.mkv"
    with VideoWriter(video, Fraction(8)) as writer:
        writer.write(torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    request = ClipsRequest(footage=(str(video),), looks=2, length=2)
    made = footage_clips(str(video), request)
    assert [clip.name for clip in made] == [f"footage-{first:06d}-look-{n}" for first in (0, 2) for n in (0, 1)]
    assert len({clip.digest for clip in made}) == 4
    for clip in made:
        assert list(clip.frames) == list(clip.truths) == [0, 1] and clip.anchor == 0
        assert float((clip.truths[1] - clip.frames[1]).abs().mean()) > 0.02
    assert torch.equal(made[2].frames[0], made[0].frames[0]) is False
    arguments = ["--tiny", "--footage", str(video), "--looks", "2", "--length", "2", "--carriers", "worn"]
    assert main(["hero", "pretrain", *arguments, *QUICK, "--out", str(tmp_path / "out")]) == 0
    assert report(tmp_path / "out")["clips"] == 4 and report(tmp_path / "out")["evaluations"] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tiny", "--out", "o"), "--clips: expected folders of tasks, or --footage"),
        (("--clips", "gone", "--out", "o"), "models: expected --tiny"),
        (("--tiny", "--clips", "gone", "--out", "o"), "gone: no such file or folder"),
        (("--tiny", "--clips", "{train}", "--held-out", "{train}", "--out", "o"), "expected other clips than those"),
        (("--tiny", "--clips", "{train}", "{train}", "--out", "o"), "different names"),
        (("--tiny", "--clips", "{train}", "--out", "o", "--mode", "implicit"), "got implicit"),
        (("--tiny", "--clips", "{train}", "--out", "o", "--adapter-rank", "99"), "--adapter-rank: expected"),
    ],
)
def test_bad_input(clips, tmp_path, monkeypatch, capsys, options, message) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = [option.format(train=clips / "train") for option in options]
    assert main(["hero", "pretrain", "--carriers", "worn", "--train-steps", "1", *chosen]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
