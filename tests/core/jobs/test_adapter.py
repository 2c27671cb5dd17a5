"""What a training begins with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tiny_models import random_dit
from zero2hero_core.checks import InputError
from zero2hero_core.hero_stage.lora.adapters import HeroLoRA, LoRASpec
from zero2hero_core.hero_stage.lora.file import HeroMetadata, read_metadata, save_lora
from zero2hero_core.jobs.adapter import bundled_adapter, find_start
from zero2hero_core.jobs.hero_settings import TrainingChoice
from zero2hero_core.jobs.listener import Listener, Notes
from zero2hero_core.tiny.dit import load_tiny_dit


@pytest.fixture
def notes() -> Notes:
    return Notes(Listener())


@pytest.fixture(scope="module")
def backbone():
    return load_tiny_dit()


def test_the_bundled_adapter_is_small_and_of_the_default_mode(backbone) -> None:
    path = bundled_adapter("tiny")
    assert path is not None and path.stat().st_size < 2e6
    metadata = read_metadata(path)
    assert metadata is not None
    assert (metadata.family, metadata.mode, metadata.count, metadata.rank) == ("tiny", "explicit", 2, 16)
    assert bundled_adapter("flux1") is None


def test_it_is_the_default_of_the_tiny_model_and_shortens_the_training(backbone, notes) -> None:
    start = find_start(TrainingChoice(), backbone, notes)
    assert start is not None and start.path == bundled_adapter("tiny") and notes == []
    assert all(tensor.dtype == torch.float32 for tensor in start.state.values())
    settings = TrainingChoice().settings(backbone.recommended, start.metadata)
    assert (settings.total, settings.rank) == (150, 16)
    assert TrainingChoice().settings(backbone.recommended).total == 300
    assert TrainingChoice(train_steps=7).settings(backbone.recommended, start.metadata).total == 7


def test_the_paper_begins_from_nothing(backbone, notes) -> None:
    assert find_start(TrainingChoice(adapter="none"), backbone, notes) is None and notes == []


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        (TrainingChoice(mode="zero-ref"), "mode explicit"),
        (TrainingChoice(rank=4), "rank 16"),
        (TrainingChoice(alpha=2.0), "alpha 16"),
        (TrainingChoice(lora_layers=("q",)), "lora_layers"),
    ],
)
def test_what_the_bundled_one_does_not_serve_is_said(backbone, notes, choice, text) -> None:
    assert find_start(choice, backbone, notes) is None
    assert len(notes) == 1 and text in notes[0] and "begins without the bundled adapter" in notes[0]


def test_a_model_that_it_does_not_fit(notes) -> None:
    other = random_dit()
    assert find_start(TrainingChoice(), other, notes) is None and "does not fit" in notes[0]


def test_a_file(backbone, notes, tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    lora = HeroLoRA(backbone, 2, LoRASpec(3))
    try:
        save_lora(path, lora, HeroMetadata.of(lora, mode="explicit"))
        saved = {name: tensor.clone() for name, tensor in lora.state_dict().items()}
    finally:
        lora.remove()
    start = find_start(TrainingChoice(adapter=str(path)), backbone, notes)
    assert start is not None and all(torch.equal(saved[name], tensor) for name, tensor in start.state.items())
    assert TrainingChoice().settings(backbone.recommended, start.metadata).rank == 3
    for choice in (TrainingChoice(rank=4), TrainingChoice(mode="zero-ref")):
        with pytest.raises(InputError):
            find_start(replace(choice, adapter=str(path)), backbone, notes)
    with pytest.raises(InputError, match="no such file"):
        find_start(TrainingChoice(adapter=str(tmp_path / "gone.safetensors")), backbone, notes)
