"""RAFT as a flow function: what it is fed with and gives back, what it says when parts are missing, and its row in the
bench. Against torchvision itself it is checked in the host's Python: tests/host/test_flow_raft.py.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from zero2hero_core.checks import InputError, ShapeError
from zero2hero_core.evaluation.page import report
from zero2hero_core.evaluation.quality import plan as planning
from zero2hero_core.evaluation.quality import tools
from zero2hero_core.evaluation.quality.clips import TaskClip
from zero2hero_core.evaluation.quality.methods import run_method
from zero2hero_core.evaluation.quality.runner import Bench
from zero2hero_core.evaluation.quality.specs import Spec
from zero2hero_core.evaluation.quality.suites import METHOD_ROWS, Table
from zero2hero_core.evaluation.quality.tools import Tools, why_unavailable
from zero2hero_core.flow.raft import load_raft

FILE = "raft_large_C_T_SKHT_V2-ff5fadd5.pth"
DIS, RAFT = "Optical flow (DIS)", "Optical flow (RAFT)"


class ColourFlow(torch.nn.Module):
    """In the place of torchvision's RAFT: the last of its flows has dx = red of the first picture and dy = green of the
    second, as they are fed, times its only weight."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.zeros(1))
        torch.rand(1)  # like every new layer
        self.seen: list[torch.Tensor] = []

    def forward(self, image1: torch.Tensor, image2: torch.Tensor) -> list[torch.Tensor]:
        assert not self.training
        self.seen += [image1, image2]
        flow = torch.stack([image1[:, 0], image2[:, 1]], 1) * self.gain
        return [torch.full_like(flow, 99), flow]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder where torch.hub keeps its files, and no way to the net."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a download that nobody asked for")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def made(hub: Path, monkeypatch: pytest.MonkeyPatch) -> list[ColourFlow]:
    """A torchvision whose RAFT is `ColourFlow`, and its weights in place; holds every network that is made."""
    networks: list[ColourFlow] = []

    def raft_large(*, weights: object = "download", progress: bool = True) -> ColourFlow:
        assert weights is None and not progress
        networks.append(ColourFlow())
        return networks[-1]

    module = types.ModuleType("torchvision.models.optical_flow")
    module.raft_large = raft_large  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    hub.mkdir(parents=True)
    torch.save({"gain": torch.ones(1)}, hub / FILE)
    return networks


def pictures(height: int, width: int) -> torch.Tensor:
    """Two of them, (2, 3, H, W)."""
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))


# By hand: 131 x 150 becomes 136 x 152, 5 rows as 2 above and 3 below and 2 columns as 1 and 1.
@pytest.mark.parametrize(
    ("size", "fed", "first"),
    [
        ((128, 136), (128, 136), (0, 0)),
        ((131, 150), (136, 152), (2, 1)),
        ((120, 133), (128, 136), (4, 1)),
        ((16, 17), (128, 128), (56, 55)),
    ],
)
def test_pictures_are_scaled_and_padded_and_the_flow_is_cut_back(
    made: list[ColourFlow], size: tuple[int, int], fed: tuple[int, int], first: tuple[int, int]
) -> None:
    source, target = pictures(*size)
    flow = load_raft()(source, target)
    assert flow.shape == (*size, 2) and flow.dtype == torch.float32
    assert torch.allclose(flow[..., 0], 2 * source[0] - 1) and torch.allclose(flow[..., 1], 2 * target[1] - 1)
    for picture, seen in zip((source, target), made[0].seen, strict=True):
        assert seen.shape == (1, 3, *fed)
        rows = (torch.arange(fed[0]) - first[0]).clamp(0, size[0] - 1)
        columns = (torch.arange(fed[1]) - first[1]).clamp(0, size[1] - 1)
        assert torch.allclose(seen[0], 2 * picture[:, rows[:, None], columns] - 1)


def test_the_model_is_loaded_once_and_draws_nothing_of_the_callers(made: list[ColourFlow], tmp_path: Path) -> None:
    torch.save({"gain": torch.full((1,), 2.0)}, tmp_path / "mine.pth")
    state = torch.get_rng_state()
    flow = load_raft(tmp_path / "mine.pth", device="cpu")
    assert torch.equal(torch.get_rng_state(), state)
    source, target = pictures(16, 16)
    given = (source * 3).half().requires_grad_()
    result = flow(given, target)
    assert torch.allclose(result[..., 0], (4 * given.detach().float()[0] - 2).clamp(max=2))  # of the file, and clipped
    assert result.dtype == torch.float32 and not result.requires_grad
    assert torch.equal(flow(given, target), result) and len(made) == 1


def test_wrong_pictures_are_explained(made: list[ColourFlow]) -> None:
    flow, (source, target) = load_raft(), pictures(20, 24)
    with pytest.raises(ShapeError, match="target"):
        flow(source, target[:, :, :20])
    with pytest.raises(ShapeError, match="divide by 255"):
        flow(source.mul(255).byte(), target)
    with pytest.raises(InputError, match="source: expected at least 16 x 16 pixels"):
        flow(source[:, :15], target[:, :15])
    with pytest.raises(InputError, match="target: expected finite values"):
        flow(source, target / 0)


def test_without_torchvision_the_message_says_so(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torchvision", "torchvision.models.optical_flow"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match="needs torchvision, which cannot be imported here .*pip install") as caught:
        load_raft()
    assert caught.value.exit_status == 2


def test_missing_and_wrong_weights_are_explained(made: list[ColourFlow], hub: Path, tmp_path: Path) -> None:
    (hub / FILE).rename(tmp_path / "elsewhere.pth")
    with pytest.raises(InputError) as caught:
        load_raft()
    assert str(caught.value) == (
        "Optical flow by RAFT needs the weights C_T_SKHT_V2 of torchvision's raft_large (20 MB), and they are not "
        f"here: pass the file {FILE} as weights, or download it from https://download.pytorch.org/models/{FILE} to "
        f"{hub}. Nothing is downloaded unasked."
    )
    with pytest.raises(InputError, match="weights: expected a file of weights, found none at .*absent.pth"):
        load_raft(tmp_path / "absent.pth")
    torch.save({"other": torch.ones(1)}, hub / FILE)
    with pytest.raises(InputError, match=f"weights: expected torchvision's file {FILE}, but it does not fit") as caught:
        load_raft()
    assert "\n" not in str(caught.value)
    (hub / FILE).write_bytes(b"PK\3\4 and nothing more")
    with pytest.raises(InputError, match="weights: .*cannot be read as torch weights"):
        load_raft()


# The bench


def clip(frames: int = 3) -> TaskClip:
    """Frames whose truth is the reference, moved to the right by a pixel a frame."""
    line = torch.linspace(0, 1, 24)
    truth = {index: line.roll(index).expand(3, 20, 24) for index in range(frames)}
    return TaskClip("clip", "rendered", "digest", torch.zeros(frames, 3, 20, 24), truth[0], 0, None, truth)


@pytest.fixture
def say_raft(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], None]]:
    """`say_raft(answer)`: what loading RAFT gives in the bench, a flow function or an error."""

    def say(answer: Any) -> None:
        def load() -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

        tools._missing_raft.cache_clear()
        monkeypatch.setattr(tools, "load_raft", load)

    yield say
    tools._missing_raft.cache_clear()


def test_the_row_of_raft_takes_its_flow_and_is_kept_apart_from_that_of_dis(
    say_raft: Callable[[Any], None], tmp_path: Path
) -> None:
    say_raft(lambda source, target: torch.tensor([-2.0, 0.0]).expand(20, 24, 2))
    tools, one = Tools(lambda *_: torch.zeros(0)), clip()
    got = run_method(tools, one, METHOD_ROWS[RAFT], [2]).pictures
    # The truth of frame 2 is nearer to two pixels, the direct flow, than to four, the chained one.
    assert torch.allclose(got[0, ..., 2:], one.truth[2][..., 2:], atol=1e-6)
    keys = [Bench(tmp_path).key(one, METHOD_ROWS[label], [2]) for label in (DIS, RAFT)]
    assert [key["settings"] for key in keys] == [{}, {"flow": "raft"}]
    with pytest.raises(InputError, match="flow: expected dis or raft, got 'lucas'"):
        run_method(tools, one, Spec("flow", {"flow": "lucas"}), [2])


def table() -> Table:
    """All methods on one clip."""
    return Table("methods", "Methods", "Which?", METHOD_ROWS, "Hero-Stage", "clip-", measures=("psnr",))


def table_of_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The table, planned and fill_table with figures."""
    monkeypatch.setattr(planning, "find_tasks", lambda folder: [folder / "clip-0000"])
    rows = planning.plan(table(), tmp_path)
    run = {"key": {"frames": [0, 1]}, "name": "clip-0000", "anchor": 0, "commit": "abc1234", "curve": {}}
    run |= {"values": {"psnr": {"0": 99.0, "1": 20.0}}, "seconds": {"total": 6.0}}
    return planning.fill_table(table(), rows, {planning.name_of(work): run for work in planning.unique({"": rows})})


def test_a_row_that_cannot_run_here_is_named_below_its_table(
    say_raft: Callable[[Any], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    say_raft(InputError("RAFT needs this\n  and that."))
    assert [label for label, spec in METHOD_ROWS.items() if why_unavailable(spec)] == [RAFT]
    got = table_of_runs(tmp_path, monkeypatch)
    assert set(got["rows"]) == set(METHOD_ROWS) - {RAFT}
    assert got["not measured"] == {RAFT: "RAFT needs this and that."}
    lines = report.section("small", got, []).splitlines()
    place = lines.index(f"{RAFT} was not measured: RAFT needs this and that.")
    assert lines[place - 1] == "" and lines[place - 2].startswith("|") and lines[place + 1] == ""
    assert f"{RAFT:42s} not measured: RAFT needs this and that." in report.table_text(got)


def test_a_row_that_can_run_here_is_one_like_the_others(
    say_raft: Callable[[Any], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    say_raft(lambda source, target: torch.zeros(20, 24, 2))
    got = table_of_runs(tmp_path, monkeypatch)
    assert list(got["rows"]) == list(METHOD_ROWS) and got["not measured"] == {}
    del got["not measured"]  # tables that were stored before there was such a row
    assert "not measured" not in report.section("small", got, []) + report.table_text(got)
