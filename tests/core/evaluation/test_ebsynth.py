"""EbSynth's program as a rival: what it is asked, and what becomes of its answer, with a stand-in for it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from moving import drift

from zero2hero_core.checks import InputError, Zero2HeroError
from zero2hero_core.evaluation.quality.ebsynth import run_ebsynth
from zero2hero_core.evaluation.quality.specs import Spec
from zero2hero_core.evaluation.quality.tools import why_unavailable

# Notes what it was asked, and gives the guide "temporal" back.
PROGRAM = """#!{python}
import shutil, sys
words = sys.argv[1:]
with open({log!r}, "a") as log:
    print(*words, file=log)
guide = [words[place + 2] for place, word in enumerate(words) if word == "-guide" and "temporal" in words[place + 2]]
shutil.copy(guide[0], words[words.index("-output") + 1])
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "ebsynth"
    path.write_text(PROGRAM.format(python=sys.executable, log=str(tmp_path / "log.txt")))
    path.chmod(0o755)
    monkeypatch.setenv("EBSYNTH", str(path))
    return path


def clip(count: int = 4) -> torch.Tensor:
    return torch.stack([drift(index) for index in range(count)])


def test_it_is_asked_outward_from_the_key_with_its_users_guides(program: Path) -> None:
    frames = clip()
    results = run_ebsynth(frames, 1 - frames[1], 1)
    assert torch.equal(results[1], 1 - frames[1])
    assert (results - (1 - frames)).abs().mean() < 0.05  # the picture before, warped
    lines = program.with_name("log.txt").read_text().splitlines()
    assert len(lines) == 3
    weights = lines[0].split("-weight ")[1:]
    assert [float(part.split()[0]) for part in weights] == [6.0, 0.5, 0.5, 2.0]
    assert "-searchvoteiters 6 -patchmatchiters 4" in lines[0] and "-uniformity 3500 -patchsize 5" in lines[0]


def test_without_the_program_its_row_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EBSYNTH", raising=False)
    assert "set EBSYNTH" in why_unavailable(Spec("ebsynth"))
    with pytest.raises(InputError, match="EBSYNTH"):
        run_ebsynth(clip(2), clip(1)[0], 0)


def test_a_program_that_fails_is_no_result(program: Path) -> None:
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('no memory')\n")
    with pytest.raises(Zero2HeroError, match="ended with 1: no memory"):
        run_ebsynth(clip(2), clip(1)[0], 0)
