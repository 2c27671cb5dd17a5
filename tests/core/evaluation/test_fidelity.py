"""What is lost in rounds of encoding: the measure, and the command with its section of the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from zero2hero_core.cli.main import main
from zero2hero_core.evaluation.bench_fidelity import lost_by_round, train_autoencoder
from zero2hero_core.evaluation.page.report_fidelity import rounds_text


class Paler:
    """Keeps nine tenths in every round."""

    def encode(self, images: torch.Tensor, /) -> torch.Tensor:
        return images * 0.9

    def decode(self, latents: torch.Tensor, /) -> torch.Tensor:
        return latents


def test_errors_by_round() -> None:
    pictures = torch.full((2, 3, 8, 8), 0.5)
    plain, faithful = (lost_by_round(Paler(), pictures, 3, share) for share in (0.0, 1.0))
    assert [row[0] for row in plain] == pytest.approx([0.25 * (1 - 0.9**k) ** 2 for k in (1, 2, 3)])
    assert [row[1] for row in faithful] == pytest.approx([0.25 * (1 - 0.99**k) ** 2 for k in (1, 2, 3)], abs=1e-7)


def test_the_training_is_repeatable_and_learns() -> None:
    one, other = (train_autoencoder(2, seed=3).vae.state_dict() for _ in range(2))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_the_command_writes_a_section(tmp_path: Path) -> None:
    command = ["bench", "fidelity", "--quiet", "--out", str(tmp_path), "--steps", "2", "--rounds", "2", "--clips", "2"]
    assert main(command) == 0
    report = json.loads((tmp_path / "results" / "fidelity.json").read_text(encoding="utf-8"))
    assert set(report["rows"]) == {"0.0", "0.5", "1.0"} and len(report["rows"]["1.0"]) == 2
    page = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert "# Fidelity-oriented encoding" in page and rounds_text(report) in page and "| 2 rounds |" in page
