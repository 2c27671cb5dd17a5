"""Speed and memory: turns and ratios by hand, sections from stored reports, the commands on the smallest sizes."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from zero2hero_core import cli, cli_bench_speed
from zero2hero_core.bench import clocks, hero_speed, plots_speed, real_sizes, report_speed, stored, zero_speed
from zero2hero_core.bench.clocks import Clock, PartTimer, Side, ratio, take_turns
from zero2hero_core.bench.speed_settings import MODELS, HeroSpeed, ZeroSpeed, defaults
from zero2hero_core.checks import InputError, Zero2HeroError
from zero2hero_core.hero_model_size import ModelSize

MACHINE = {"cpu": "x86_64", "cpu_count": 2, "threads": 1, "python": "3.11.7", "torch": "2.13.0"}


def side(*seconds: float, **more: Any) -> dict[str, Any]:
    return {"seconds": sorted(seconds)[len(seconds) // 2], "all_seconds": list(seconds), "parts": {}} | more


def row(part: str, what: str, sides: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A stored row of the tiny models on a CPU, at the size of the defaults."""
    known = defaults(part, "tiny")
    settings = {name: value for name, value in known.items() if name not in ("sizes", "training")}
    found = {"part": part, "model": "tiny", "device": "cpu", "what": what, "size": 256, "settings": settings}
    found |= {"sides": sides, "clock": "processor", "machine": MACHINE, "commit": "abc1234", "date": "2026-01-02T03:04"}
    pairs = (("straightforward", "ours"), ("without encoding", "ours"), ("ours", "bare base"))
    found["ratios"] = {f"{a} / {b}": ratio(sides, a, b) for a, b in pairs if a in sides and b in sides}
    return found | more


ZERO = row("zero", "frame", {"straightforward": side(6.0, 9.0, 8.0), "ours": side(1.0, 1.0, 1.0, outside_model=0.012)})
STEP = {"straightforward": side(3.0, 4.0), "without encoding": side(2.5, 2.5), "ours": side(1.0, 2.0)}
TRAINING = row("hero", "training step", STEP, draws=4, by_arithmetic=2.4)
FRAME = row("hero", "frame", {"bare base": side(1.0), "ours": side(1.25), "straightforward": side(4.0)})
EARLIER_ZERO = {
    "straightforward": {
        "seconds_per_frame": 6.5,
        "all_seconds_per_frame": [6.0, 7.0],
        "share_outside_model": 0.01,
        "seconds_of_parts_last_run": {"inversion": 8.0, "sampling": 16.0},
    },
    "ours": {"seconds_per_frame": 1.75, "all_seconds_per_frame": [1.5, 2.0], "share_outside_model": 0.005},
    "ratio": 3.71,
    "settings": {"tiny": False, "sd15": True, "size": 256, "frames": 4, "steps": 20, "repeats": 2, "k": 1}
    | {"ensemble": 8, "batch": 4, "seed": 0, "device": "cpu"},
    "machine": {"torch": "2.13.0", "threads": 2, "cpu": "x86_64"},
}
EARLIER_HERO = {
    "training_step": [
        {"pixels": 512, "draws": 1, "straightforward": side(5.5, wall_seconds=26.0), "without_encoding": side(5.25)}
        | {"ours": side(2.5), "difference": 0.0, "by_arithmetic": 1.65}
        | {name: {"median": 2.2, "least": 2.1, "greatest": 2.3} for name in ("ratio", "ratio_without_encoding")}
    ],
    "frame": [
        {"pixels": 256, "steps": 25, "bare": side(1.5), "ours": side(2.0), "straightforward": side(6.0)}
        | {"difference": 0.0, "straightforward_steps_timed": 2, "by_arithmetic": 1.44}
        | {name: {"median": 1.33, "least": 1.3, "greatest": 1.4} for name in ("ratio", "ratio_straightforward")}
    ],
    "problems": [],
    "settings": {"model": "tiny", "training": [[512, 1]], "frames": [256], "steps": 25, "rank": 16, "turns": 1}
    | {"blocks": None, "device": "cpu", "dtype": "float32", "threads": 1, "seed": 0},
    "machine": MACHINE,
}
MEMORY = {
    "date": "2026-01-02",
    "rows": [
        {"model": "FLUX.1-dev", "weights": "nf4", "resolution": size, "rank": 32, "computed_bytes": size * 2 * 10**7}
        | {"parts": {report_speed.CONTEXT_PART: 10**9}, "of_which_assumed_bytes": 10**9}
        | ({"limit_bytes": 16 * 10**9, "within_limit": True, "counted_bytes": 7 * 10**9} if size == 512 else {})
        for size in (512, 768)
    ],
}


def lines_with(page: str, text: str) -> list[list[str]]:
    """Cells of the tables' lines that hold a text."""
    return [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if text in line and "|" in line
    ]


def commands_of(page: str) -> list[list[str]]:
    return [shlex.split(command) for command in re.findall(r"`zero2hero ([^`]*)`", page)]


# ---- turns and ratios ----


class FakeClock(Clock):
    """Advances only when it is told to."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.time = 0.0

    def __call__(self) -> float:
        return self.time

    def wall(self) -> float:
        return 10 * self.time


def test_sides_run_in_turns_that_change_their_order() -> None:
    clock, order = FakeClock(), []

    def spend(name: str, seconds: float) -> Side:
        def run(watch: PartTimer) -> None:
            order.append(name)
            with watch.part("first half"):
                clock.time += seconds / 2
            clock.time += seconds / 2

        return Side(run, runs=2 if name == "ours" else 1, units=4.0)

    found = take_turns({"plain": spend("plain", 8.0), "ours": spend("ours", 1.0)}, clock, 2)
    assert order == ["plain", "ours", *("plain", "ours", "ours"), *("ours", "ours", "plain")]
    assert found["plain"] == {"seconds": 2, "all_seconds": [2, 2], "wall_seconds": 20, "parts": {"first half": 1}}
    assert found["ours"]["all_seconds"] == [0.5, 0.5] and found["ours"]["parts"] == {"first half": 0.25}
    assert ratio(found, "plain", "ours") == {"median": 4, "least": 4, "greatest": 4, "of_medians": 4}


def test_a_ratio_is_taken_within_the_turns() -> None:
    sides = {"a": {"seconds": 5, "all_seconds": [6.0, 4.0]}, "b": {"seconds": 1.5, "all_seconds": [2.0, 1.0]}}
    assert ratio(sides, "a", "b") == {"median": 3.5, "least": 3.0, "greatest": 4.0, "of_medians": 5 / 1.5}


def test_one_thread_counts_processor_seconds_and_more_the_wall() -> None:
    before = torch.get_num_threads()
    with clocks.cpu_threads(1):
        assert Clock("cpu").kind == "processor"
    with clocks.cpu_threads(2):
        assert Clock("cpu").kind == "wall"
    assert torch.get_num_threads() == before


def test_calls_of_methods_are_counted_and_the_object_is_as_before() -> None:
    clock = FakeClock()

    class Model:
        def run(self, seconds: float) -> float:
            clock.time += seconds
            return seconds

    model, watch = Model(), PartTimer(clock)
    with watch.calls(model, run="a pass"):
        assert model.run(2.0) == 2.0 and model.run(1.0) == 1.0
    model.run(5.0)
    assert watch.seconds == {"a pass": 3.0} and vars(model) == {}


def test_times_without_model_calls_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("our_frames", "straightforward_frames"):
        monkeypatch.setattr(zero_speed, name, lambda backbone, frames, *_: frames)
    with pytest.raises(Zero2HeroError, match="expected model calls and finite images"):
        zero_speed.zero_rows(ZeroSpeed("tiny", (64,), frames=1, steps=1, turns=1), lambda row: None)


def test_sides_that_do_not_agree_are_a_problem() -> None:
    assert hero_speed.disagreement(TRAINING) is None and hero_speed.disagreement(ZERO) is None
    assert hero_speed.disagreement(TRAINING | {"difference": 1e-5}) is None
    said = hero_speed.disagreement(TRAINING | {"difference": 0.01})
    assert said == (
        "tiny, training step, 256 px, 4 noise levels: the two sides differ by 1.0e-02; the times are worth nothing."
    )
    assert "differ" in str(hero_speed.disagreement(TRAINING | {"difference": float("nan")}))


def test_a_row_whose_sides_do_not_agree_is_no_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(settings: HeroSpeed, tell: Any) -> list[dict[str, Any]]:
        made = [TRAINING | {"difference": 0.01}, FRAME | {"difference": 0.0}]
        for one in made:
            tell(one)
        return made

    monkeypatch.setattr(hero_speed, "hero_rows", rows)
    assert cli.main(["bench", "speed", "--out", str(tmp_path), "--part", "hero"]) == 1
    assert "the two sides differ by 1.0e-02" in capsys.readouterr().err
    (report,) = stored.read_reports(tmp_path, "speed")
    assert [one["what"] for one in report["rows"]] == ["frame"]


# ---- the sections ----


def test_the_page_says_seconds_ratios_and_goals() -> None:
    page = report_speed.speed_section([{"rows": [ZERO, TRAINING]}, {"rows": [FRAME]}], ["plots/a.png"])
    zero, training, frame = (lines_with(page, text)[0] for text in ("20 steps", "4 noise levels", "25 steps"))
    name = "tiny models, 256 px, 4 frames, 20 steps"
    assert zero == [name, "CPU, 1 thread", "8.00", "1.00", "8.00 (6.00 to 9.00)", "1.2%", "at least 8: met"]
    assert training[2:5] == ["4.00", "2.50", "2.00"]
    assert training[5:] == ["2.50 (2.00 to 3.00)", "1.88 (1.25 to 2.50)", "2.40", "at least 1.5: met"]
    assert frame[2:] == ["4.00", "1.00", "1.25", "1.25 (one turn)", "3.20 (one turn)", "-", "at most 1.25: met"]
    made = "zero2hero bench speed --out benchmarks --part hero --model tiny --size 256 --draws 4"
    assert (
        f"- tiny models, 256 px, 4 noise levels: `{made}`; 5 turns, commit abc1234, torch 2.13.0, 2 CPUs, 2026-01-02"
        in page
    )
    assert "![seconds by part](plots/a.png)" in page


@pytest.mark.parametrize(
    ("made", "bar"),
    [
        (ZERO | {"ratios": {"straightforward / ours": {"median": 7.9, "least": 7.0, "greatest": 9.0}}}, "at least 8"),
        (TRAINING | {"device": "cuda", "ratios": {"straightforward / ours": {"median": 1.9}}}, "at least 2"),
        (FRAME | {"ratios": {"ours / bare base": {"median": 1.26}}}, "at most 1.25"),
    ],
)
def test_a_missed_goal_is_said(made: dict[str, Any], bar: str) -> None:
    assert report_speed.goal(made) == f"{bar}: **missed**"
    less = made | {"settings": made["settings"] | {"blocks": [1, 1]}}
    assert report_speed.goal(less) == f"{bar}: not judged"


def test_what_needs_a_gpu_and_had_none_is_not_measured() -> None:
    page = report_speed.speed_section([])
    rows = lines_with(page, "| GPU |")
    assert len(rows) == 5
    for cells in rows:
        assert set(cells[2:-1]) <= {"not measured", "-"} and cells[-1].endswith(": not measured")
    timed = TRAINING | {"model": "klein", "size": 512, "draws": 1, "device": "cuda"}
    timed["machine"] = MACHINE | {"gpu": "a large one"}
    page = report_speed.speed_section([{"rows": [timed]}])
    assert len(lines_with(page, "| GPU |")) == 4 and lines_with(page, "a large one")[0][-1] == "at least 2: met"


def test_what_was_only_counted_stands_beside_what_was_not_measured() -> None:
    counted = TRAINING | {"model": "klein", "size": 512, "draws": 1, "device": "counted", "sides": {}, "ratios": {}}
    page = report_speed.speed_section([{"rows": [counted | {"by_arithmetic": 1.11}]}])
    rows = lines_with(page, "| GPU |")
    assert len(rows) == 5 and [cells[7] for cells in rows if "klein" in cells[0] and "noise" in cells[0]] == ["1.11"]
    made = "zero2hero bench speed --out benchmarks --part hero --model klein"
    told = next(line for line in page.splitlines() if "; counted: " in line)
    assert f"`{made} --device cuda --size 512 --draws 1`; not measured; counted: `{made} --count --size 512" in told


def test_every_command_on_the_page_makes_its_row_again() -> None:
    reports = [{"rows": [ZERO, TRAINING, FRAME]}, EARLIER_ZERO, EARLIER_HERO]
    rows = report_speed.with_missing(stored.speed_rows(reports))
    page = report_speed.speed_section(reports)
    commands = commands_of(page)
    assert len(commands) == len(rows) == 10  # the earlier frame is the same case as the later one
    for made, words in zip(rows, commands, strict=True):
        assert words == shlex.split(stored.speed_command(made))[1:]
        (job,) = cli_bench_speed._jobs(cli.build_parser().parse_args(words))
        assert (job.model, job.device) == (made["model"], made["device"])
        assert made["size"] in job.sizes
        if "draws" in made:
            assert isinstance(job, HeroSpeed) and job.training == ((made["size"], made["draws"]),)
        expected = {name: made["settings"].get(name) for name in job.told}
        assert json.loads(json.dumps(job.told)) == json.loads(json.dumps(expected))


def test_earlier_reports_are_read_with_their_figures() -> None:
    zero, training, frame = stored.speed_rows([EARLIER_ZERO, EARLIER_HERO])
    assert zero["sides"]["straightforward"]["parts"] == {"inversion": 2.0, "sampling": 4.0}  # of one of four frames
    assert zero["ratios"]["straightforward / ours"] | {"of_medians": 0} == {
        "median": 3.75, "least": 3.5, "greatest": 4.0, "of_medians": 0
    }  # fmt: skip
    page = report_speed.speed_section([EARLIER_HERO, EARLIER_ZERO])
    cells = lines_with(page, "SD 1.5's size, 256 px, 4 frames, 20 steps")[0]
    assert cells[1:] == ["CPU, 2 threads", "6.50", "1.75", "3.75 (3.50 to 4.00)", "0.5%", "at least 8: **missed**"]
    assert lines_with(page, "512 px, 1 noise")[0][2:6] == ["5.50", "5.25", "2.50", "2.20 (one turn)"]
    assert (training["size"], frame["size"]) == (512, 256)
    assert frame["sides"].keys() == {"bare base", "ours", "straightforward"}


def test_a_later_run_replaces_equal_rows_and_leaves_the_others() -> None:
    later = FRAME | {"date": "2026-02-02", "commit": "later"}
    joined = stored.join_speed(EARLIER_HERO, [later])
    assert [one["commit"] for one in joined["rows"]] == ["unknown", "later"]  # the earlier frame had the same settings
    newest = stored.speed_rows([{"rows": [later]}, {"rows": [FRAME, TRAINING]}])
    assert [one["commit"] for one in newest] == ["abc1234", "later"]
    slower = later | {"settings": later["settings"] | {"steps": 50}}
    assert len(stored.join_speed(joined, [slower])["rows"]) == 3


def test_what_is_stored_in_the_repository_is_readable(repository: Path) -> None:
    speed, memory = (stored.read_reports(repository / "benchmarks", kind) for kind in ("speed", "memory"))
    assert speed and memory
    for made in stored.speed_rows(speed):
        assert report_speed.case_name(made) in report_speed.speed_section(speed)
        assert all(made["ratios"].values()) and made["model"] in MODELS[made["part"]]
    assert "FLUX.1-dev | nf4 | 512 | 32" in report_speed.memory_section(memory)


def test_the_memory_page_says_what_is_computed_and_what_is_not_measured() -> None:
    page = report_speed.memory_section([MEMORY], ["plots/m.png"])
    assert lines_with(page, "FLUX.1-dev")[0] == ["FLUX.1-dev", "nf4", "10.2", "15.4"]
    limit = lines_with(page, "16:")[0]
    assert limit[2:] == ["512", "32", "10.2", "8.0", "not measured", "16: met as computed, not measured"]
    assert "1 of them were counted too: computed is 1.28 to 1.28 times that." in page and "plots/m.png" in page
    for words in commands_of(page):
        assert cli.build_parser().parse_args(words).func is cli_bench_speed.run_memory
    assert "Nothing is stored yet" in report_speed.memory_section([])


def test_what_a_gpu_measured_decides_about_a_limit() -> None:
    case = {name: MEMORY["rows"][0][name] for name in ("model", "weights", "resolution", "rank", "computed_bytes")}
    for reserved, verdict in ((15, "16: met"), (17, "16: **missed**")):
        found = {"reserved_bytes": reserved * 10**9, "device": "a GPU"}
        cells = lines_with(report_speed.memory_section([MEMORY, {"rows": [case | {"measured": found}]}]), "16:")[0]
        assert cells[-2:] == [f"{reserved}.0 (a GPU)", verdict] and cells[5] == "8.0"
    none = {"rows": [case | {"measured": {"out_of_memory": True, "device": "a GPU"}}]}
    assert lines_with(report_speed.memory_section([MEMORY, none]), "16:")[0][-2] == "out of memory (a GPU)"


def test_parts_make_up_the_whole() -> None:
    split = side(4.0, parts={"reference": 1.0, "masks": 0.5, "matching": 0.5})
    assert plots_speed.parts_of(split) == {"reference inversion": 1.0, "matching": 1.0, "rest": 2.0}
    assert plots_speed.parts_of(side(4.0, parts={"a": 3.0, "b": 5.0})) == {"a": 1.5, "b": 2.5}
    assert plots_speed.parts_of(side(4.0)) == {"rest": 4.0}


def test_plots_of_speed_and_memory(tmp_path: Path) -> None:
    links = plots_speed.draw_speed(tmp_path / "plots", [{"rows": [ZERO, TRAINING]}, EARLIER_ZERO])
    links += plots_speed.draw_memory(tmp_path / "plots", [MEMORY])
    assert links == [f"plots/{name}.png" for name in ("speed_zero_frame", "speed_hero_training", "memory_rank32")]
    assert all((tmp_path / link).stat().st_size > 5000 for link in links)
    assert plots_speed.draw_speed(tmp_path, []) == plots_speed.draw_memory(tmp_path, []) == []


# ---- the commands ----


def test_the_command_times_both_stages_and_stores_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "speed", "--out", str(tmp_path), "--size", "64", "--steps", "2", "--turns", "2", "--frames", "2"]
    words += ["--ensemble", "1", "--rank", "2", "--json", str(tmp_path / "report.json")]
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert "tiny models, 64 px, 2 frames, 2 steps, frame: straightforward" in shown and "goal at least 8: " in shown
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    zero, training, frame = report["rows"]
    assert report["problems"] == [] and zero["mean_absolute_difference"] < 0.5
    assert training["difference"] < 1e-4 and frame["difference"] < 1e-4
    assert training["by_arithmetic"] > 1 and frame["by_arithmetic"] > 1
    assert set(zero["sides"]["ours"]["parts"]) >= {"features", "matching", "reference", "inversion", "sampling"}
    assert set(training["sides"]["ours"]["parts"]) == {"condition passes", "noise passes"}
    assert set(training["sides"]["straightforward"]["parts"]) == {"encoding", "masked pass"}
    for made in (zero, training, frame):
        assert made["machine"]["torch"] == torch.__version__ and made["machine"]["cpu_count"] and made["commit"]
        assert made["machine"]["threads"] == 1 and made["clock"] == "processor"
        for timed in made["sides"].values():
            assert len(timed["all_seconds"]) == 2 and 0 < sum(timed["parts"].values()) <= 1.5 * timed["seconds"]
        for found in made["ratios"].values():
            assert found["least"] <= found["median"] <= found["greatest"]
    page = report_speed.speed_section(stored.read_reports(tmp_path, "speed"))
    for made in (zero, training, frame):
        name = report_speed.case_name(made)
        assert lines_with(page, f"| {name} |") and f"- {name}: `{stored.speed_command(made)}`" in page
    assert (tmp_path / "RESULTS.md").exists()
    files = sorted(path.name for path in (tmp_path / "results").iterdir())
    assert files == ["speed_hero_tiny_cpu.json", "speed_zero_tiny_cpu.json"]


@pytest.mark.parametrize(("dtype", "blocks"), [("float32", None), ("bfloat16", (1, 1))])
def test_the_way_of_the_real_sizes_runs(
    monkeypatch: pytest.MonkeyPatch, dtype: str, blocks: tuple[int, int] | None
) -> None:
    """On small ones: random weights, an autoencoder of its own, another precision, fewer blocks."""
    from diffusers import AutoencoderKL

    levels = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    levels |= {"block_out_channels": (8,) * 4, "norm_num_groups": 4}
    monkeypatch.setattr(real_sizes, "build_vae", lambda channels: AutoencoderKL(latent_channels=channels, **levels))
    size = ModelSize("small", "flux2", 1, 2, 128, 2, 384, 64, 128, text_tokens=16)
    monkeypatch.setitem(real_sizes.DIT_SIZES, "klein", size)
    settings = HeroSpeed("klein", ((32, 2),), (32,), steps=2, turns=1, rank=2, dtype=dtype, blocks=blocks)
    told: list[dict[str, Any]] = []
    rows = hero_speed.hero_rows(settings, told.append)
    assert rows == told and [made["what"] for made in rows] == ["training step", "frame"]
    for made in rows:
        assert hero_speed.disagreement(made) is None
        assert ("by_arithmetic" in made) is (blocks is None)
        assert report_speed.goal(made).endswith(": not judged") is (blocks is not None)
    assert ("only 1 + 1 blocks" in report_speed.case_name(rows[0])) is (blocks is not None)


def test_counting_takes_no_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "speed", "--out", str(tmp_path), "--count", "--size", "64", "--draws", "1", "2", "--rank", "2"]
    assert cli.main(words) == 0
    assert "not measured" in capsys.readouterr().out
    (path,) = (tmp_path / "results").iterdir()
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert path.name == "speed_hero_tiny_counted.json"
    assert [(made["what"], made.get("draws"), made["sides"]) for made in rows] == [
        ("training step", 1, {}), ("training step", 2, {}), ("frame", None, {})
    ]  # fmt: skip
    assert rows[1]["by_arithmetic"] > rows[0]["by_arithmetic"] > 1
    counts = rows[0]["multiply_adds"]
    assert rows[0]["by_arithmetic"] == counts["straightforward"] / counts["ours"]


def test_the_command_says_what_memory_is_computed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "memory", "--out", str(tmp_path), "--rank", "32", "--size"]
    assert cli.main([*words, "512"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert (
        len(shown) == 5 and "FLUX.1-dev, nf4, 512 px, rank 32: computed 12.9 GB, not counted, not measured" in shown[0]
    )
    path = tmp_path / "results" / "memory_computed.json"
    report = json.loads(path.read_text(encoding="utf-8"))
    assert "NOT measured" in report["computed"] and len(report["rows"]) == 5 and report["commit"]
    assert [made["within_limit"] for made in report["rows"] if "limit_bytes" in made] == [True] * 3
    assert cli.main([*words, "256", "512", "--model", "klein", "--weights", "nf4", "--quiet"]) == 0
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert len(rows) == 6 and len({stored.memory_key(made) for made in rows}) == 6
    page = report_speed.memory_section(stored.read_reports(tmp_path, "memory"))
    assert "256 px, rank 32 | 512 px, rank 32" in page and "Not counted." in page


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["speed", "--model", "sd14"], "argument --model: invalid choice: 'sd14'"),
        (["speed", "--part", "zero", "--model", "klein"], "--model: expected some of tiny, sd15 for --part zero, got"),
        (["speed", "--part", "zero", "--count"], "--count: counts Hero-Stage only"),
        (["speed", "--size", "96"], "--size: Zero-Stage expects multiples of 64 pixels from 64 up, got 96"),
        (["speed", "--part", "hero", "--size", "40"], "--size: Hero-Stage expects multiples of 16"),
        (["speed", "--part", "hero", "--blocks", "1", "1"], "--model tiny: expected no --blocks"),
        (["speed", "--turns", "0"], "--turns: expected a whole number from 1 up"),
        (["memory", "--measure", "--device", "cpu"], "--measure: expected --device cuda, got cpu"),
        (["memory", "--model", "flux1", "--weights", "bf16"], "--weights: expected some of"),
        (["memory", "--size", "100"], "multiples of 16"),
        (["memory", "--model", "tiny"], "invalid choice"),
    ],
)
def test_bad_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert cli.main(["bench", *words, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not list((tmp_path / "results").glob("*.json"))


@pytest.mark.parametrize("words", [["speed", "--device", "cuda"], ["memory", "--measure"]])
def test_without_a_gpu_nothing_is_made_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["bench", *words, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "expected a CUDA device, found none here" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_settings_check_themselves() -> None:
    with pytest.raises(InputError, match="--frames: expected a value from 1"):
        ZeroSpeed("tiny", (64,), frames=0, steps=1, turns=1)
    with pytest.raises(InputError, match="--rank: expected"):
        HeroSpeed("tiny", ((64, 1),), (64,), steps=1, turns=1, rank=0)
