"""Learned measures in the bench: their columns, kept runs that get them later, and what is said where they are missing.

Small networks stand in the place of the real ones, whose weights cannot be part of the repository.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from zero2hero_core.checks import InputError
from zero2hero_core.cli import main as cli
from zero2hero_core.evaluation.page import report
from zero2hero_core.evaluation.quality import learned, runner, suites
from zero2hero_core.evaluation.quality.clips import TaskClip, clip_at
from zero2hero_core.evaluation.quality.learned import LEARNED, Networks, measure_learned
from zero2hero_core.evaluation.quality.measures import BETTER_LOW
from zero2hero_core.evaluation.quality.plan import fill_table, name_of, plan, unique
from zero2hero_core.evaluation.quality.runner import Bench, Work
from zero2hero_core.evaluation.quality.specs import Spec
from zero2hero_core.evaluation.quality.statistics import clip_means
from zero2hero_core.evaluation.quality.suites import OF_METHODS, QUALITY, SUITES, TEMPORAL, Suite, Table
from zero2hero_core.metrics.learned import lpips, motion_smoothness, subject_consistency

FRAMES = 4
SCENES = {"size": 64, "frames": FRAMES}
ROWS = {"Original": Spec("identity"), "Swap": Spec("pixel swap", {"ensemble": 1, "track": False})}
GENERATOR = torch.Generator().manual_seed(0)
FILTERS, DIRECTIONS = torch.randn(5, 3, 4, 4, generator=GENERATOR), torch.randn(3 * 8 * 8, 6, generator=GENERATOR)


class Layer:
    """One random convolution in the place of AlexNet."""

    weights = (torch.tensor([1.0, 2.0, 3.0, 0.5, 1.5]),)

    def features(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        return [torch.nn.functional.conv2d(pictures, FILTERS, stride=4)]


def random_features(pictures: torch.Tensor) -> torch.Tensor:
    """A random projection in the place of DINO."""
    return torch.nn.functional.adaptive_avg_pool2d(pictures, 8).flatten(1) @ DIRECTIONS


def mean_of_two(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    return (before + after) / 2


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered clip of four frames."""
    folder = tmp_path_factory.mktemp("bench") / "tasks"
    assert (
        cli.main(
            [
                "dataset",
                "rendered",
                "--clips",
                "1",
                "--size",
                "64",
                "--frames",
                str(FRAMES),
                "--out",
                str(folder),
                "--quiet",
            ]
        )
        == 0
    )
    return folder


@pytest.fixture
def give(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[str]]]:
    """`give(...)`: the networks that load from now on, by default all; gives what is loaded, in order."""

    def now(*there: str) -> list[str]:
        loaded: list[str] = []

        def load(name: str, network: object) -> object:
            if name not in there:
                raise InputError(f"{name} needs\n its file.")
            loaded.append(name)
            return network

        learned._missing.cache_clear()
        monkeypatch.setattr(learned, "load_lpips", lambda: load("AlexNet", Layer()))
        monkeypatch.setattr(learned, "load_dino", lambda: load("DINO", random_features))
        monkeypatch.setattr(learned, "load_amt", lambda folder: load("AMT", mean_of_two))
        return loaded

    yield now
    learned._missing.cache_clear()


def table(**changed: Any) -> Table:
    """Two methods on one clip."""
    given = {"name": "few", "title": "Few", "question": "Which?", "rows": ROWS, "base": "Swap", "tasks": suites.TEST}
    return Table(**(given | {"measures": OF_METHODS} | changed))  # type: ignore[arg-type]


def run_in_process(folder: Path, wanted: list[Work], jobs: int, progress: Any, amt: Path | None) -> list[Any]:
    """In the place of `run_all`, whose processes would load the real networks."""
    bench = Bench(folder, amt)
    return [bench.run(work) for work in wanted]


@pytest.fixture
def bench_quality(tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs the command on the small table, its runs and page kept; gives the table, the page and what was printed."""
    monkeypatch.setitem(suites.SUITES, "small", Suite("small", (table(),), SCENES))
    monkeypatch.setattr(runner, "run_all", run_in_process)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "tasks").symlink_to(tasks)

    def go(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[dict[str, Any], str, str]:
        given = ["bench", "quality", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out"), *words]
        assert cli.main(given) == 0
        (shown,) = json.loads((tmp_path / "out/results/quality_small.json").read_text(encoding="utf-8"))["tables"]
        return shown, (tmp_path / "out" / "RESULTS.md").read_text(encoding="utf-8"), capsys.readouterr().out

    return go


def direct(clip: TaskClip, pictures: torch.Tensor) -> dict[str, list[float]]:
    """The measures by their own functions, for frames and pairs in order."""
    truth = clip.truths(range(FRAMES))
    return {
        "lpips": lpips(pictures, truth, Layer()).tolist(),
        "lpips authors": lpips(pictures, truth, Layer(), form="authors").tolist(),
        "subject consistency": subject_consistency(random_features(pictures)).tolist(),
        "motion smoothness": motion_smoothness(pictures, mean_of_two).tolist(),
    }


def test_values_are_those_of_the_measures_own_functions(tasks: Path, give: Callable[..., list[str]]) -> None:
    loaded = give("AlexNet", "DINO", "AMT")
    clip, networks = clip_at(next(tasks.glob("*-test-*"))), Networks(Path("AMT"))
    got = measure_learned(networks, clip, clip.frames, range(FRAMES), LEARNED)
    expected = direct(clip, clip.frames)
    frames = {"lpips": [0, 1, 2, 3], "lpips authors": [0, 1, 2, 3], "subject consistency": [1, 2, 3]}
    for name, values in expected.items():
        assert got[name] == dict(zip(frames.get(name, [1]), values, strict=True))
    assert min(got["lpips"].values()) > 0 and got["lpips"] != got["lpips authors"]
    measure_learned(networks, clip, clip.frames, range(FRAMES), LEARNED)
    assert loaded == ["AlexNet", "DINO", "AMT"]  # once
    some = measure_learned(networks, clip, clip.frames[[1, 3]], [1, 3], LEARNED)  # the others need the whole clip
    assert some == {name: {index: got[name][index] for index in (1, 3)} for name in ("lpips", "lpips authors")}
    few = TaskClip("few", "general", "", clip.frames[:2], clip.reference, 0, None, {})
    assert list(measure_learned(networks, few, few.frames, [0, 1], LEARNED)) == ["subject consistency"]


def test_a_kept_run_gets_them_without_running_again(
    tasks: Path, tmp_path: Path, give: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, task = give("AlexNet", "DINO", "AMT"), next(tasks.glob("*-test-*"))
    before = Bench(tmp_path).run(Work(task, ROWS["Swap"]))
    monkeypatch.setattr(runner, "run_method", lambda *_: pytest.fail("computed again"))
    assert not set(before["values"]) & set(LEARNED) and loaded == []
    bench = Bench(tmp_path, Path("AMT"))
    first = bench.run(Work(task, ROWS["Swap"], learned=("lpips",)))
    assert set(first["values"]) - set(before["values"]) == {"lpips"} and loaded == ["AlexNet"]
    got = bench.run(Work(task, ROWS["Swap"], learned=LEARNED))
    kept = {name: values for name, values in got["values"].items() if name not in LEARNED}
    assert got | {"values": kept} == before  # nothing else is noted, and the run is found by the same key
    clip = clip_at(task)
    expected = direct(clip, bench.pictures(clip, ROWS["Swap"], range(FRAMES)))
    assert {name: list(got["values"][name].values()) for name in LEARNED} == expected
    (file,) = (tmp_path / "runs").iterdir()  # nothing half-written beside it
    time = file.stat().st_mtime_ns
    assert json.loads(file.read_text(encoding="utf-8")) == got
    give()  # what is there stays, whatever loads
    assert Bench(tmp_path).run(Work(task, ROWS["Swap"], learned=LEARNED)) == got
    assert file.stat().st_mtime_ns == time


def test_columns_appear_when_they_are_measured(
    bench_quality: Callable[..., Any], give: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    give()
    shown, page, out = bench_quality(capsys)
    missing = "AlexNet needs its file. subject consistency: DINO needs its file. motion smoothness: Motion smoothness"
    line = f"Not measured where a table does not show it: LPIPS, LPIPS (authors' form): {missing} needs a checkout"
    for text in (page, out):
        (said,) = [one for one in text.splitlines() if "LPIPS (authors' form)" in one]
        assert said.startswith(line) and said.endswith("by --amt.")
    assert page.index(line) < page.index("# Suite small") and "| LPIPS |" not in page and "--amt AMT" not in page
    del shown["columns not measured"]  # a table that was stored before there were such measures
    shown |= {"measures": [name for name in shown["measures"] if name not in LEARNED]}
    for row in shown["rows"].values():
        row["values"] = {name: value for name, value in row["values"].items() if name not in LEARNED}
    assert report.unmeasured([shown]) == "" and "| LPIPS |" not in report.section("small", shown, [])
    give("AlexNet", "DINO", "AMT")
    shown, page, out = bench_quality(capsys, "--amt", "AMT")
    assert shown["columns not measured"] == {} and "Not measured" not in page + out
    assert "| LPIPS | LPIPS (authors' form) | warp error" in page and "--seeds 1 --amt AMT --rows" in page
    assert "| tOF, px | subject consistency | motion smoothness | s a frame |" in page
    for label, row in shown["rows"].items():
        printed = next(one for one in out.splitlines() if one.startswith(label))
        drawn = next(one for one in page.splitlines() if one.startswith("|") and label in one)
        for name in LEARNED:
            assert f" {row['values'][name]['mean']:.4f}" in printed and f"| {row['values'][name]['mean']:.4f}" in drawn
    give()
    assert bench_quality(capsys)[0]["columns not measured"] == {}  # the kept runs have them


def test_the_mean_of_a_clip_is_vbenchs(
    bench_quality: Callable[..., Any],
    tasks: Path,
    tmp_path: Path,
    give: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    give("AlexNet", "DINO", "AMT")
    shown, *_ = bench_quality(capsys, "--amt", "AMT")
    clip = clip_at(next(tasks.glob("*-test-*")))
    for label, row in shown["rows"].items():
        expected = direct(clip, Bench(tmp_path / "work").pictures(clip, ROWS[label], range(FRAMES)))
        for name, values in expected.items():
            used = values[1:] if name.startswith("lpips") else values  # the anchor is frame 0
            assert row["values"][name]["mean"] == pytest.approx(sum(used) / len(used), abs=1e-9)
    run = {"anchor": 1, "values": {name: {"1": 0.5, "2": 1.0} for name in ("lpips", "motion smoothness")}}
    assert clip_means([[run]], "lpips") == [[1.0]] and clip_means([[run]], "motion smoothness") == [[0.75]]


def test_a_clip_without_truth_shows_no_loss_against_it(
    give: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give("AlexNet", "DINO", "AMT")
    steady = table(tasks=suites.GENERAL, measures=TEMPORAL + LEARNED)
    monkeypatch.setitem(suites.SUITES, "small", Suite("small", (steady,), SCENES))
    monkeypatch.setattr(runner, "run_all", run_in_process)
    words = ["bench", "quality", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out"), "--amt", "AMT"]
    assert cli.main(words) == 0
    (shown,) = json.loads((tmp_path / "out/results/quality_small.json").read_text(encoding="utf-8"))["tables"]
    original = shown["rows"]["Original"]["values"]
    assert original["motion smoothness"]["difference"] > 0 and original["lpips"]["mean"] is None
    assert shown["pictures"] == ["pictures/small/few.png"] and shown["columns not measured"] == {}


def test_rows_of_which_only_some_have_them(tasks: Path, give: Callable[..., list[str]]) -> None:
    give()
    rows = plan(table(measures=("psnr", "lpips")), tasks)
    run = {"key": {"frames": [0, 1]}, "name": "clip", "anchor": 0, "commit": "abc1234", "curve": {}}
    run |= {"values": {"psnr": {"1": 20.0}}, "seconds": {"total": 6.0}}
    found = {name_of(rows["Swap"][0][0]): run}
    found[name_of(rows["Original"][0][0])] = run | {"values": {"psnr": {"1": 19.0}, "lpips": {"1": 0.25}}}
    made = fill_table(table(measures=("psnr", "lpips")), rows, found)
    assert "| Original | 19.00<br>-1.00 | 0.2500 | 3.0 |" in report.markdown(made)
    assert "| *Swap* | 20.00 | - | 3.0 |" in report.markdown(made) and report.gains(made) == []
    assert report.losses(made) == ["No row is better than *Swap* in any column.\n"]
    assert made["columns not measured"] == {"lpips": "AlexNet needs its file."}
    for clips in rows.values():
        assert clips[0][0].learned == ()


def test_a_checkout_that_is_of_no_use_is_refused_at_once(
    give: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    give("AlexNet", "DINO")
    words = ["bench", "quality", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out"), "--amt", "AMT"]
    assert cli.main(words) == 2 and "--amt: AMT needs its file." in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_which_tables_have_which(tasks: Path, give: Callable[..., list[str]]) -> None:
    give("AlexNet", "DINO")
    for suite in SUITES.values():
        for one in suite.tables:
            wanted = [name for name in one.measures if name in LEARNED]
            if one.name in ("color-edit", "colorization", "tracking"):
                assert wanted == list(LEARNED)
            elif one.name == "general-edit":  # truth on the anchor only
                assert wanted == ["subject consistency", "motion smoothness"] and set(TEMPORAL) < set(one.measures)
            elif one.name in ("rerender", "fresco"):  # parts are compared by warp error and drift
                assert wanted == [] and {"psnr", "warp error", "drift"} <= set(one.measures)
            else:
                assert wanted == ["lpips"] and set(QUALITY) <= set(one.measures)
            assert set(one.measures) <= set(report.UNITS)
    assert {"lpips", "lpips authors"} <= BETTER_LOW and not BETTER_LOW & {"subject consistency", "motion smoothness"}
    few, many = plan(table(measures=("psnr", "lpips")), tasks), plan(table(), tasks)
    for plans in ({"a": few, "b": many}, {"a": many, "b": few}):  # one run for both tables
        assert [work.learned for work in unique(plans)] == [("lpips", "lpips authors", "subject consistency")] * 2
