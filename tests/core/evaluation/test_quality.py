"""The bench: figures by hand, each run once, pages made from what is stored."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from zero2hero_core.checks import InputError
from zero2hero_core.cli import main as cli
from zero2hero_core.evaluation import ablation
from zero2hero_core.evaluation.dataset.requests import OBJECTS, BlenderRequest, ChosenFrames, ScenesRequest
from zero2hero_core.evaluation.page import report
from zero2hero_core.evaluation.quality import runner, suites
from zero2hero_core.evaluation.quality import tasks as bench_tasks
from zero2hero_core.evaluation.quality.clips import TaskClip, clip_at
from zero2hero_core.evaluation.quality.measures import measure
from zero2hero_core.evaluation.quality.methods import METHODS, MirroredErrors, run_method
from zero2hero_core.evaluation.quality.plan import fill_table, name_of, plan, unique
from zero2hero_core.evaluation.quality.runner import Bench, Work
from zero2hero_core.evaluation.quality.specs import Spec
from zero2hero_core.evaluation.quality.statistics import spread, summary
from zero2hero_core.evaluation.quality.suites import SUITES, Suite, Table
from zero2hero_core.evaluation.quality.tools import Tools
from zero2hero_core.files.json_file import finite
from zero2hero_core.jobs.propagation import Propagation, key_frames
from zero2hero_core.jobs.spool import Spool
from zero2hero_core.metrics.psnr import psnr
from zero2hero_core.propagation.settings import PropagationSettings
from zero2hero_core.tiny.scenes.scene import Scene, split_seed
from zero2hero_core.tiny.unet import RECOMMENDED
from zero2hero_core.zero_stage.stage import ZeroStageSettings

FRAMES = 3
SCENES = {"size": 64, "frames": FRAMES}
TASKS = ("rendered", "--clips", "2", "--size", "64", "--frames", str(FRAMES))
SMALL = {"num_inference_steps": 2, "ensemble": 1}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rendered clips of three frames."""
    folder = tmp_path_factory.mktemp("bench") / "tasks"
    assert cli.main(["dataset", *TASKS, "--out", str(folder), "--quiet"]) == 0
    return folder


def table(**changed: object) -> Table:
    """A small question."""
    rows = {"Original": Spec("identity"), "Swap": Spec("pixel swap", {"ensemble": 1}), "Zero": Spec("zero", SMALL)}
    given = {"name": "few", "title": "Few", "question": "Which?", "rows": rows, "base": "Zero", "clips": 2}
    given["tasks"] = suites.TEST
    return Table(**(given | changed))  # type: ignore[arg-type]


def run(value: float, frames: int = 3) -> dict[str, object]:
    """What a run left: the anchor is perfect, the others have a value."""
    values = {"psnr": {"0": 99.0} | {str(index): value for index in range(1, frames)}}
    known = {"key": {"frames": list(range(frames))}, "name": "clip", "anchor": 0, "commit": "abc1234"}
    return known | {"values": values, "seconds": {"total": 6.0}, "curve": {}}


def test_means_and_spreads_by_hand() -> None:
    runs, base = [[run(20.0), run(22.0)], [run(30.0), run(32.0)]], [[run(20.0), run(20.0)], [run(25.0), run(25.0)]]
    got = summary(runs, base, ["psnr"])["psnr"]
    assert got["mean"] == 26 and got["clips"] == [21, 31]
    assert got["spread"] == pytest.approx(math.sqrt(50))  # 21 and 31
    assert got["seeds"] == pytest.approx(math.sqrt(2))  # 25 and 27
    assert got["difference"] == 3.5 and got["difference spread"] == pytest.approx(math.sqrt(12.5))  # 1 and 6
    assert math.isnan(spread([1.0])) and spread([1.0, 3.0]) == pytest.approx(math.sqrt(2))


def test_the_anchor_and_the_last_frame_stand_for_themselves() -> None:
    short, long = run(20.0, frames=3), run(30.0, frames=5)
    long["values"] = {"psnr": {"0": 40.0, "2": 35.0, "4": 31.0}}
    names = ["psnr anchor", "psnr last", "anchor - last"]
    got = summary([[short], [long]], [[short], [short]], names)
    assert [got[name]["clips"] for name in names] == [[99.0, 40.0], [20.0, 31.0], [79.0, 9.0]]
    short["values"] = {"psnr": {"0": math.inf, "1": 20.0, "2": 20.0}}  # the anchor as it was given
    got = summary([[short]], [[short]], names)
    assert [math.isnan(got[name]["mean"]) for name in names] == [True, False, True]


def test_spread_over_seeds_is_shown() -> None:
    got = finite(summary([[run(20.0), run(22.0)], [run(30.0), run(32.0)]], [[run(20.0)], [run(25.0)]], ["psnr"]))
    assert report.cell(got["psnr"], "psnr", True) == "26.00 ± 7.07 (1.41)"


def test_a_measure_that_was_not_taken_is_unknown() -> None:
    got = summary([[run(1.0)]], [[run(1.0)]], ["tOF"])["tOF"]
    assert math.isnan(got["mean"]) and report.cell(finite(got), "tOF", False) == "-"


def test_the_truth_itself_is_perfect_and_errors_count(tasks: Path) -> None:
    clip = clip_at(sorted(tasks.glob("*-test-*"))[0])
    everything = list(range(FRAMES))
    truth = clip.truths(everything)
    perfect = measure(clip, truth, everything)
    assert all(math.isinf(value) for value in perfect["psnr"].values())
    assert set(perfect["ssim"].values()) == {1.0} and max(perfect["tOF"].values()) == 0
    assert max(perfect["flicker"].values()) == 0 and list(perfect["tOF"]) == [1, 2]
    worse = truth.clone()
    worse[1] += 0.1  # a flash
    found = measure(clip, worse, everything)
    assert found["psnr"][1] == pytest.approx(20, abs=0.01) and math.isinf(found["psnr"][2])
    assert found["flicker"][1] > 0.02 and found["warp error"][1] > perfect["warp error"][1]
    assert "tOF" not in measure(clip, worse[1:], [1, 2])  # steps need all frames


def test_drift_is_what_is_lost_from_the_second_frame_to_the_last(tasks: Path) -> None:
    clip = clip_at(sorted(tasks.glob("*-test-*"))[0])
    made = clip.truths(range(FRAMES)).clone() * 0.8
    made[1] += 0.01
    made[2] += 0.02
    plain = clip.truths(range(FRAMES))
    found = measure(clip, made, list(range(FRAMES)))
    off = [float((made[i] - plain[i]).mean((1, 2)).abs().mean()) * 255 for i in (1, 2)]
    assert found["drift"] == {2: pytest.approx(found["psnr"][1] - found["psnr"][2], abs=1e-4)}
    assert found["colour drift"] == {2: pytest.approx(off[1] - off[0], abs=1e-3)}
    apart = measure(clip, made[::2], [0, 2])  # every second frame
    assert list(apart["warp error"]) == [2] and "drift" not in apart


def test_propagation_takes_further_keys_and_may_mirror_errors(tasks: Path, tmp_path: Path) -> None:
    clip, tools = clip_at(sorted(tasks.glob("*-test-*"))[0]), Bench(tmp_path).tools
    hard = {"engine": "flow", "keys": (2,), "blending": {"choice": "hard"}}
    one, two = (
        run_method(tools, clip, Spec("propagation", options), [0, 1, 2]).pictures
        for options in ({"engine": "flow"}, hard)
    )
    assert torch.equal(two[2], clip.truth[2]) and not torch.equal(one[2], clip.truth[2])


def test_mirrored_errors_are_those_of_the_frame_on_the_other_side(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    names = {index: f"back-{index}" for index in (3, 4, 5)}
    for index, name in names.items():
        spool.put(name, {"picture": torch.full((3, 2, 2), index / 10), "error": torch.full((2, 2), float(index))})
    frames = {index: torch.rand(3, 32, 32) for index in range(8)}
    keys = key_frames(frames, [(0, frames[0])])
    plain, mirrored = (kind(frames, keys, PropagationSettings(), spool) for kind in (Propagation, MirroredErrors))
    for index, other in ((3, 5), (4, 4), (5, 3)):
        assert plain._take_back(names, index).error.unique().tolist() == [index]
        back = mirrored._take_back(names, index)
        assert back.error.unique().tolist() == [other]
        assert torch.equal(back.picture, plain._take_back(names, index).picture)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_the_frames_that_were_asked_for(tasks: Path, tmp_path: Path, name: str) -> None:
    clip = clip_at(sorted(tasks.glob("*-test-*"))[0])
    options = {"zero": SMALL, "cross-image": SMALL | {"contrast": 1.33}, "pixel swap": {"ensemble": 1}}
    hero = {"steps": 2, "num_inference_steps": 1, "samples": 1, "rank": 2, "curve": [0, 2]}
    options["mix"] = {"hero": hero | {"start": SMALL}}
    if name == "ebsynth":
        pytest.skip("a program that its owner builds; see test_ebsynth.py")
    bench = Bench(tmp_path)
    made = run_method(bench.tools, clip, Spec(name, options.get(name, hero if name == "hero" else {})), [0, 2])
    assert made.pictures.shape == (2, 3, 64, 64)
    assert float(made.pictures.min()) >= 0 and float(made.pictures.max()) <= 1
    if name == "identity":
        assert torch.equal(made.pictures, clip.frames[[0, 2]])
    else:
        assert float((made.pictures[1] - clip.frames[2]).abs().mean()) > 0.01
    if name == "hero":
        assert set(made.curve) == {0, 2} and all(len(row) == FRAMES - 1 for row in made.curve.values())
        assert made.measuring > 0 and set(made.seconds) == {"training", "restoring"}


def test_a_mix_has_the_edit_at_its_anchors_and_its_witness_elsewhere(blurred: TaskClip) -> None:
    asked: list[Spec] = []

    def pictures_of(_clip: TaskClip, spec: Spec, frames: Sequence[int]) -> torch.Tensor:
        asked.append(spec)
        return blurred.truths(frames)

    tools = Tools(pictures_of)
    alone = run_method(tools, blurred, Spec("propagation"), range(3)).pictures
    made = run_method(tools, blurred, Spec("mix", {"hero": {"adapter": True}}, 3), range(3)).pictures
    assert asked == [Spec("hero", {"adapter": True}, 3)]
    assert torch.allclose(made[0], blurred.reference, atol=1 / 255)
    truth = blurred.truths(range(3))
    assert bool((psnr(made[1:], truth[1:]) > psnr(alone[1:], truth[1:])).all())
    two = run_method(tools, blurred, Spec("mix", {"keys": (2,)}), range(3)).pictures
    assert asked[-1] == Spec("hero", {"keys": (2,)}) and torch.allclose(two[2], truth[2], atol=1 / 255)


def test_unknown_methods_are_refused() -> None:
    known = "identity, pixel swap, flow, propagation, ebsynth, rerender, fresco, cross-image, zero, hero, mix"
    with pytest.raises(InputError, match=f"{known}, got 'magic'"):
        run_method(Tools(lambda *_: torch.zeros(0)), None, Spec("magic"), [0])  # type: ignore[arg-type]


def test_a_run_is_done_once(tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(sorted(tasks.glob("*-test-*"))[0], Spec("identity"))
    first = Bench(tmp_path).run(work)
    monkeypatch.setattr(runner, "run_method", lambda *_: pytest.fail("computed again"))
    assert Bench(tmp_path).run(work) == first
    with pytest.raises(pytest.fail.Exception):
        Bench(tmp_path).run(Work(work.task, Spec("pixel swap")))
    for path in (tmp_path / "pictures").iterdir():
        path.unlink()
    with pytest.raises(pytest.fail.Exception):
        Bench(tmp_path).run(work)  # its pictures are gone


def test_equal_runs_of_two_tables_are_one(tasks: Path) -> None:
    plans = {"a": plan(table(), tasks), "b": plan(table(rows={"Other name": Spec("identity")}), tasks)}
    assert len(unique(plans)) == 6  # three rows on two clips
    with pytest.raises(InputError, match="expected 5 tasks named color-edit-test-..., got 2"):
        plan(table(clips=5), tasks)


def test_a_table_with_figures(tasks: Path) -> None:
    rows = plan(table(), tasks)
    values = {"Original": 15.0, "Swap": 21.0, "Zero": 23.0}
    found = {name_of(clip[0]): run(values[label]) for label, clips in rows.items() for clip in clips}
    made = fill_table(table(measures=("psnr",)), rows, found)
    text = report.markdown(made)
    assert "| Swap | 21.00 ± 0.00<br>-2.00 ± 0.00 | 2.0 |" in text and "| *Zero* | 23.00 ± 0.00 | 2.0 |" in text
    assert report.losses(made) == ["No row is better than *Zero* in any column.\n"]
    made = fill_table(table(measures=("psnr",), base="Swap"), rows, found)
    assert "PSNR, dB: Zero by 2.00" in "\n".join(report.losses(made))
    assert made["commits"] == ["abc1234"] and report.commits(made) == "commit abc1234"


def test_gains_count_when_they_are_sure_and_cost_nothing() -> None:
    def row(difference: float, apart: float, *seconds: float) -> dict[str, object]:
        value = {"mean": 20.0, "spread": 1.0, "difference": difference, "difference spread": apart}
        return {"values": {"psnr": value}, "seconds a frame": list(seconds)}

    base = row(0.0, 0.0, 2.0, 2.0, 2.0, 2.0, 2.0)
    rows = {"base": base, "sure": row(0.3, 0.2, 2.0, 2.1, 1.9, 2.2, 1.8), "unsure": row(0.3, 0.4, 1, 1, 1, 1, 1)}
    rows |= {"slow": row(0.3, 0.2, 3.0, 3.1, 3.0, 3.0, 3.2), "worse": row(-0.3, 0.2, 1, 1, 1, 1, 1)}
    shown = {"rows": rows, "base": "base", "measures": ["psnr"], "clips": ["a", "b", "c", "d", "e"]}
    assert report.gains(shown)[1:-1] == ["- sure: PSNR, dB"]
    assert report.gains(shown | {"clips": ["a", "b", "c", "d"]}) == []


def test_a_run_is_found_by_all_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, named = Spec("zero"), Spec("zero", {"timestep": RECOMMENDED["timestep"], "ensemble": 8})
    assert plain.settled() == named.settled() != Spec("zero", {"ensemble": 2}).settled()
    assert Spec("hero").settled()["made"] == {"start": ["zero", plain.settled()]}
    assert Spec("hero", {"start": {"ensemble": 2}}).settled()["made"]["start"][1]["ensemble"] == 2
    assert Spec("identity").settled() == Spec("flow").settled() == {}
    for method, parts in (("rerender", {}), ("fresco", {"parts": ("cross", "features")})):
        assert Spec(method, parts).settled()["steps"] == 20 and Spec(method, parts, 1).settled()["seed"] == 1
    assert [part["name"] for part in Spec("fresco", {"parts": ("flow",)}).settled()["parts"]] == [
        "flow-guided attention"
    ]
    assert Spec("cross-image").settled() != Spec("zero").settled()
    before = [Spec(method).settled() for method in ("zero", "pixel swap", "cross-image", "hero")]
    monkeypatch.setitem(RECOMMENDED, "timestep", 52)  # another default is another result
    after = [Spec(method).settled() for method in ("zero", "pixel swap", "cross-image", "hero")]
    assert all(a != b for a, b in zip(before, after, strict=True))
    assert Spec("hero", {"share": 0.5}).settled()["steps"] * 2 == Spec("hero").settled()["steps"]


def test_a_setting_that_came_later_and_is_off_decides_nothing() -> None:
    """So that results from before it are found again; switched on it is part of what decides."""
    assert "track" not in Spec("zero", {"track": False}).settled() and Spec("zero").settled()["track"] is True
    assert "track" not in Spec("cross-image").settled()  # reads all tokens
    before = Spec("hero", {"start": {"track": False}, "shift": 0}).settled()
    assert "shift" not in before and "track" not in before["made"]["start"][1]
    assert Spec("hero").settled()["shift"] > 0


def test_a_table_of_one_kind_of_edit_takes_clips_that_show_it(tasks: Path) -> None:
    one = table(clips=1, edits=("retexture",))  # the first clip shows another
    folders = [clips[0][0].task.name for clips in plan(one, tasks).values()]
    assert set(folders) == {f"{suites.TEST}0001"}
    suite = Suite("small", (table(clips=2), one), SCENES)
    assert bench_tasks.task_requests(suite, suite.tables, tasks) == [
        ScenesRequest(tasks, resume=True, clips=2, size=64, frames=FRAMES),
        ScenesRequest(tasks, resume=True, clips=1, edits=("retexture",), size=64, frames=FRAMES),
    ]
    with pytest.raises(InputError, match="with the edit style, got 0"):
        plan(table(clips=1, edits=("style",)), tasks)


def test_suites_are_sound() -> None:
    for suite in SUITES.values():
        assert len({one.name for one in suite.tables}) == len(suite.tables)
        for one in suite.tables:
            assert one.base in one.rows and len(one.rows) > 2
            assert len({json.dumps(spec.described()) for spec in one.rows.values()}) == len(one.rows)
            settled = [json.dumps([spec.method, spec.settled()]) for spec in one.rows.values()]
            assert len(set(settled)) == len(settled)
            for spec in one.rows.values():  # a setting that is the default would be run twice
                if spec.method in ("rerender", "fresco"):  # their rows switch parts on that are off without
                    continue
                assert all(getattr(ZeroStageSettings(), name, None) != value for name, value in spec.options.items())
    names = [[one.name for one in suite.tables] for suite in SUITES.values()]
    assert names[0] == names[1]


@pytest.fixture
def tiny_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(suites.SUITES, "small", Suite("small", (table(),), SCENES))


@pytest.mark.usefixtures("tiny_suite")
def test_the_command_makes_the_page_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "quality", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out"), "--jobs", "1"]
    assert cli.main(words) == 0
    page = (tmp_path / "out" / "RESULTS.md").read_text(encoding="utf-8")
    stored = json.loads((tmp_path / "out" / "results" / "quality_small.json").read_text(encoding="utf-8"))
    values = {label: row["values"]["psnr"]["mean"] for label, row in stored["tables"][0]["rows"].items()}
    assert len(set(values.values())) == 3
    for label, value in values.items():
        assert f"{value:.2f}" in next(line for line in page.splitlines() if label in line and "|" in line)
    (tmp_path / "out" / "diagnoses").mkdir()
    why = tmp_path / "out" / "diagnoses" / "small_few.md"
    why.write_text("commit 0000000\nIt moves.\n", encoding="utf-8")
    report.write_page(tmp_path / "out")
    again = (tmp_path / "out" / "RESULTS.md").read_text(encoding="utf-8")
    assert "(Written for earlier figures, of commit 0000000.)\n\nIt moves." in again
    why.write_text(report.commits(stored["tables"][0]) + "\nIt moves.\n", encoding="utf-8")
    report.write_page(tmp_path / "out")
    again = (tmp_path / "out" / "RESULTS.md").read_text(encoding="utf-8")
    assert again.replace("It moves.\n", "").split() == page.split() != again.split()
    why.unlink()
    report.write_page(tmp_path / "out")
    assert '--tables few --clips 2 --seeds 1 --rows "Original"' in page and "2 clips" in page
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "work" / "runs").iterdir()}
    assert len(done) == 6
    capsys.readouterr()
    assert cli.main([*words, "--rows", "Swap"]) == 0  # one row, copied from the page
    out = capsys.readouterr().out
    assert f"{values['Swap']:16.2f}" in out and "Original" not in out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "work" / "runs").iterdir()} == done
    assert (tmp_path / "out" / "RESULTS.md").read_text(encoding="utf-8") == page


@pytest.mark.usefixtures("tiny_suite")
def test_a_row_joins_the_tables_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", "quality", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out"), "--jobs", "1"]
    assert cli.main(words) == 0
    path = tmp_path / "out" / "results" / "quality_small.json"
    (whole,) = json.loads(path.read_text(encoding="utf-8"))["tables"]
    (short,) = json.loads(path.read_text(encoding="utf-8"))["tables"]
    del short["rows"]["Original"], short["rows"]["Swap"]
    path.write_text(json.dumps({"suite": "small", "tables": [short]}), encoding="utf-8")
    assert cli.main([*words, "--rows", "Swap", "Original", "--join"]) == 0
    (joined,) = json.loads(path.read_text(encoding="utf-8"))["tables"]
    assert list(joined["rows"]) == list(whole["rows"])
    for label, row in whole["rows"].items():
        for name, value in row["values"].items():
            got = joined["rows"][label]["values"][name]
            assert got.pop("clips") == value.pop("clips")
            assert got == pytest.approx(value), (label, name)
    assert "Swap" in (tmp_path / "out" / "RESULTS.md").read_text(encoding="utf-8")
    capsys.readouterr()
    before = path.read_bytes()
    assert cli.main([*words, "--rows", "Swap", "--join", "--clips", "1"]) == 0
    assert "holds none of the same clips" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert cli.main([*words, "--rows", "Swap", "--join", "--out", str(tmp_path / "new")]) == 0
    assert "holds none of the same clips" in capsys.readouterr().err and not (tmp_path / "new" / "RESULTS.md").exists()
    assert cli.main([*words, "--join"]) == 2 and "--join: puts single rows" in capsys.readouterr().err


@pytest.fixture(scope="module")
def blurred() -> TaskClip:
    """Three frames of a scene, 64 px."""
    scene = Scene(split_seed("test", 0), 16, 64)
    frames, truth = (torch.stack([scene.render(i, look)[0] for i in (0, 5, 10)]) for look in (0, 1))
    return TaskClip("blurred", "rendered", "", frames, truth[0], 0, None, dict(enumerate(truth)))


def test_training_on_the_anchor_restores_frames_that_it_has_not_seen(blurred: TaskClip) -> None:
    """A smoke test of the effect (`zero2hero ablate` measures it) on truths that are blurred and have too much
    contrast, in the place of Zero-Stage's results: every frame gains, the anchor most."""
    truth = blurred.truths(range(3))
    small = torch.nn.functional.interpolate(truth, scale_factor=0.125, mode="area")
    worn = torch.nn.functional.interpolate(0.5 + 1.5 * (small - 0.5), scale_factor=8.0, mode="bilinear").clamp(0, 1)
    steps: list[int] = []
    tools = Tools(lambda _clip, _spec, frames: worn[list(frames)], steps.append)
    trained = run_method(tools, blurred, Spec("hero", {"steps": 25, "crop": 1.0, "curve": (0, 25)}), range(3))
    assert bool((psnr(trained.pictures, truth) > psnr(worn, truth) + 1).all()) and steps == list(range(26))
    assert torch.tensor(trained.curve[25]).mean() > torch.tensor(trained.curve[0]).mean() + 1
    before = run_method(tools, blurred, Spec("hero", {"share": 0.0, "crop": 1.0}), range(3))
    assert psnr(before.pictures[1:], truth[1:]).tolist() == pytest.approx(trained.curve[0], abs=1e-3)


def test_ablate_runs_the_tables_of_the_paper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    little = {"start": SMALL, "num_inference_steps": 1, "samples": 1, "draws": 1}
    rows = {name: Spec("hero", {**little, "steps": steps}) for name, steps in (("short", 1), ("long", 2))}
    pairs = next(one for one in suites.SUITES["full"].tables if one.name == "pairs")
    few = replace(pairs, rows=rows | {"gone": Spec("magic")}, base="long")
    monkeypatch.setitem(suites.SUITES, "full", Suite("full", (few,), SCENES))
    monkeypatch.setattr(ablation, "BASELINES", ("Original", "Zero-Stage"))
    words = ["ablate", "--table", "3", "--out", str(tmp_path), "--clips", "1", "--jobs", "1", "--frames", "2", "0"]
    assert cli.main([*words, "--seeds", "2", "--modes", "short"]) == 0
    made = json.loads((tmp_path / "table3.json").read_text(encoding="utf-8"))
    assert list(made["rows"]) == ["short", "long"] and list(made["baselines"]) == ["Original", "Zero-Stage"]
    assert (made["frames"], made["seeds"], len(made["clips"])) == ([0, 2], 2, 1)
    values = made["rows"]["short"]["values"]
    assert values["anchor - last"]["mean"] == pytest.approx(values["psnr anchor"]["mean"] - values["psnr last"]["mean"])
    assert values["psnr"]["seeds"] > 0 and made["baselines"]["Original"]["values"]["psnr"]["seeds"] is None
    assert "Without training" in capsys.readouterr().out
    assert cli.main([*words, "--modes", "none"]) == 2
    assert "--modes: expected some of short, long, gone, got none" in capsys.readouterr().err


@pytest.mark.usefixtures("tiny_suite")
@pytest.mark.parametrize(
    ("words", "said"),
    [(["--tables", "none"], "--tables: expected some of few, got none"), (["--rows", "None"], "--rows: expected some")],
)
def test_unknown_names_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    given = ["bench", "quality", "--work", str(tmp_path), "--out", str(tmp_path), *words]
    assert cli.main(given) == 2 and said in capsys.readouterr().err


@pytest.mark.usefixtures("tiny_suite")
def test_fewer_clips_and_seeds_on_demand(tmp_path: Path) -> None:
    words = ["bench", "quality", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out"), "--jobs", "1"]
    assert cli.main([*words, "--rows", "Swap", "--clips", "1", "--seeds", "5", "--json", str(tmp_path / "r.json")]) == 0
    (shown,) = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["tables"]
    assert len(shown["clips"]) == shown["seeds"] == 1 and set(shown["rows"]) == {"Swap", "Zero"}


def _stored(clips: int) -> dict[str, object]:
    rows = {"a": [[run(20.0)]] * clips, "b": [[run(21.0)]] * clips}
    made = {
        label: {
            "values": summary(runs, rows["a"], ["psnr"]),
            "seconds a frame": [1.0] * clips,
            "by frame": {},
            "curve": {},
        }
        for label, runs in rows.items()
    }
    known = {"name": "few", "title": "Few", "question": "Which?", "base": "a", "frames": None, "seeds": 1}
    known |= {"options": [], "clips": [f"clip {index}" for index in range(clips)], "measures": ["psnr"]}
    return finite(known | {"commits": ["abc1234"], "rows": made})


def test_a_table_of_fewer_clips_does_not_replace_another(tmp_path: Path) -> None:
    few, many = _stored(2), _stored(5)
    assert report.write_results(tmp_path, {"suite": "small", "tables": [many]}) == []
    assert report.write_results(tmp_path, {"suite": "small", "tables": [few]}) == ["few"]
    assert "5 clips" in (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert report.write_results(tmp_path, {"suite": "small", "tables": [many | {"seeds": 2}]}) == []
    assert "2 seeds" in (tmp_path / "RESULTS.md").read_text(encoding="utf-8")


def test_only_the_tasks_of_the_chosen_tables_are_made(tmp_path: Path) -> None:
    suite = SUITES["full"]
    chosen = [one for one in suite.tables if one.name in ("k", "features")]
    requests = bench_tasks.task_requests(suite, chosen, tmp_path)
    assert requests == [ScenesRequest(tmp_path, resume=True, split="validation", clips=chosen[0].clips)]
    made = bench_tasks.task_requests(suite, [one for one in suite.tables if one.name == "colorization"], tmp_path)
    assert made[0] == ScenesRequest(tmp_path, resume=True, clips=5) and len(made) == 6
    assert made[5].clip.video == str(tmp_path / "color-edit-test-0004" / "content")
    (general,) = bench_tasks.task_requests(suite, [one for one in suite.tables if one.name == "general-edit"], tmp_path)
    assert general.command == "dataset general" and general.edits == ("retexture", "style")


def test_blender_clips_on_demand(tmp_path: Path) -> None:
    extra = bench_tasks.blender_clips(SUITES["small"])
    made = bench_tasks.task_requests(SUITES["small"], [extra], tmp_path, "python3.11")
    assert made == [BlenderRequest(tmp_path, resume=True, objects=("car", "chair"), size=256, python="python3.11")]
    assert set(bench_tasks.BLENDER_OBJECTS) == set(OBJECTS)


def test_own_clips_are_the_ones_that_were_given(tmp_path: Path) -> None:
    own = bench_tasks.own_clips(["a/my clip.mp4", "b/other.webm"])
    assert [bench_tasks.own_task(video) for video in own.videos] == ["own-my-clip", "own-other"]
    (*_, request) = bench_tasks.task_requests(SUITES["small"], [own], tmp_path)
    assert request.clip == ChosenFrames("b/other.webm", stride=5, maximum=16, size=(256, 256), policy="crop")
    assert (request.command, request.name, request.anchor) == ("dataset colorize", "own-other", None)
    (tmp_path / "own-a-clip-of-before").mkdir()
    assert {work.task.name for work in unique({"own": plan(own, tmp_path)})} == {"own-my-clip", "own-other"}
    with pytest.raises(InputError, match=r"expected different names, got a/x.mp4 and b/x.mov"):
        bench_tasks.own_clips(["a/x.mp4", "b/x.mov"])


def test_an_error_ends_all_work(tasks: Path, tmp_path: Path) -> None:
    (folder,) = tasks.glob("*-test-0000")
    wanted = [Work(folder, Spec("magic")), *(Work(folder, Spec("identity", {"piece": n})) for n in range(100))]
    with pytest.raises(InputError, match="got 'magic'"):
        runner.run_all(tmp_path, wanted, 1)
    assert len(list(tmp_path.rglob("*.json"))) < 100


def test_what_trainings_need_is_made_before_and_once(tasks: Path, tmp_path: Path) -> None:
    (folder,) = tasks.glob("*-test-0000")
    rows = [Spec("hero", {"rank": rank}) for rank in (2, 4)] + [Spec("hero", {"mode": "tgt-ref"})]
    first = runner.prerequisites(tmp_path, [Work(folder, spec, (1,)) for spec in rows])
    assert [(work.spec, work.frames) for work in first] == [(Spec("zero"), (0, 1))]
    implicit = runner.prerequisites(tmp_path, [Work(folder, Spec("hero", {"mode": "implicit"}))])
    assert {json.dumps(work.spec.options) for work in implicit} == {"{}", '{"reference": "anchor"}'}
