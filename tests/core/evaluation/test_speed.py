"""Speed and memory: turns and ratios by hand, sections from stored reports, the commands on the smallest sizes."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from zero2hero_core.checks import InputError, Zero2HeroError
from zero2hero_core.cli import bench_speed as cli_bench_speed
from zero2hero_core.cli import main as cli
from zero2hero_core.evaluation.page import plots_speed, report_speed, stored
from zero2hero_core.evaluation.speed import clocks, hero_speed, real_sizes, straightforward, zero_flops, zero_speed
from zero2hero_core.evaluation.speed.clocks import Clock, PartTimer, Side, disagreement, ratio, take_turns
from zero2hero_core.evaluation.speed.memory_cases import MemoryCases
from zero2hero_core.evaluation.speed.speed_settings import HeroSpeed, ZeroSpeed, defaults
from zero2hero_core.evaluation.speed.straightforward_parts import three_level_masks
from zero2hero_core.hero_stage.memory.model_size import ModelSize

MACHINE = {"cpu": "x86_64", "cpu_count": 2, "threads": 1, "python": "3.11.7", "torch": "2.13.0"}


def side(*seconds: float, **more: Any) -> dict[str, Any]:
    return {"seconds": sorted(seconds)[len(seconds) // 2], "all_seconds": list(seconds), "parts": {}} | more


def row(part: str, what: str, sides: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A stored row of the tiny models on a CPU, at the size of the defaults."""
    known = defaults(part, "tiny")
    settings = {name: value for name, value in known.items() if name not in ("sizes", "training")}
    found = {"part": part, "model": "tiny", "device": "cpu", "what": what, "size": 256, "settings": settings}
    found |= {"sides": sides, "clock": "processor", "machine": MACHINE, "commit": "abc1234", "date": "2026-01-02T03:04"}
    found["difference"] = 1e-6
    pairs = (("straightforward", "ours"), ("without encoding", "ours"), ("ours", "bare base"))
    found["ratios"] = {f"{a} / {b}": ratio(sides, a, b) for a, b in pairs if a in sides and b in sides}
    return found | more


ZERO = row("zero", "frame", {"straightforward": side(6.0, 9.0, 8.0), "ours": side(1.0, 1.0, 1.0, outside_model=0.012)})
ZERO["by_arithmetic"] = 5.1
STEP = {"straightforward": side(3.0, 4.0), "without encoding": side(2.5, 2.5), "ours": side(1.0, 2.0)}
TRAINING = row("hero", "training step", STEP, draws=4, by_arithmetic=2.4)
FRAME = row("hero", "frame", {"bare base": side(1.0), "ours": side(1.25), "straightforward": side(4.0)})
MEMORY = {
    "date": "2026-01-02",
    "rows": [
        {"model": "FLUX.1-dev", "weights": "nf4", "resolution": size, "rank": 32, "computed_bytes": size * 2 * 10**7}
        | {"of_which_assumed_bytes": 10**9}
        | ({"limit_bytes": 16 * 10**9, "counted_bytes": 7 * 10**9} if size == 512 else {})
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
    assert ratio(found, "plain", "ours") == {"median": 4, "least": 4, "greatest": 4}


def test_a_ratio_is_taken_within_the_turns() -> None:
    sides = {"a": {"seconds": 5, "all_seconds": [6.0, 4.0]}, "b": {"seconds": 1.5, "all_seconds": [2.0, 1.0]}}
    assert ratio(sides, "a", "b") == {"median": 3.5, "least": 3.0, "greatest": 4.0}


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
    assert disagreement(TRAINING) is None and disagreement(ZERO) is None
    assert disagreement(TRAINING | {"difference": 1e-5}) is None
    assert disagreement({"sides": {}, "by_arithmetic": 1.1}) is None  # only counted
    said = disagreement(TRAINING | {"difference": 0.01})
    assert said == (
        "tiny, training step, 256 px, 4 noise levels: the two sides differ by 1.0e-02; the times are worth nothing."
    )
    assert "tiny, frame, 256 px: the two sides differ by 2.0e-04" in str(disagreement(ZERO | {"difference": 2e-4}))
    assert disagreement(ZERO | {"difference": 2e-4, "device": "cuda"}) is None
    assert "differ" in str(disagreement(ZERO | {"difference": 2e-3, "device": "cuda"}))
    for made in (ZERO, TRAINING):
        assert "differ" in str(disagreement(made | {"difference": float("nan")}))


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


@pytest.mark.parametrize(
    "broken",
    [
        {"start": lambda latents, reference: latents},  # no AdaIN
        {"noise": lambda seed, index: torch.Generator().manual_seed(index + 1)},
        {"masks": lambda target, anchor, k: three_level_masks(target, anchor, k + 1)},
    ],
    ids=lambda broken: next(iter(broken)),
)
def test_a_broken_zero_stage_is_no_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, broken: dict[str, Any]
) -> None:
    """Each of these moves the pictures little, and by more than rounding does."""
    names = {"start": "adain", "noise": "_stream", "masks": "three_level_masks"}
    for name, wrong in broken.items():
        monkeypatch.setattr(straightforward, names[name], wrong)
    words = ["bench", "speed", "--out", str(tmp_path), "--part", "zero", "--size", "64", "--steps", "2", "--turns", "1"]
    assert cli.main([*words, "--frames", "2", "--ensemble", "1", "--json", str(tmp_path / "report.json")]) == 1
    assert "tiny, frame, 64 px: the two sides differ by " in capsys.readouterr().err
    (report,) = stored.read_reports(tmp_path, "speed")
    assert report["rows"] == []
    (made,) = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["rows"]
    assert 2e-4 < made["difference"] < 0.1


# ---- the sections ----


def test_the_page_says_seconds_ratios_and_goals() -> None:
    page = report_speed.speed_section([{"rows": [ZERO, TRAINING]}, {"rows": [FRAME]}], ["plots/a.png"])
    zero, training, frame = (lines_with(page, text)[0] for text in ("20 steps", "4 noise levels", "25 steps"))
    name = "tiny models, 256 px, 4 frames, 20 steps"
    assert zero == [name, "CPU, 1 thread", "8.00", "1.00", "8.00 (6.00 to 9.00)", "5.10", "1.2%", "at least 8: met"]
    assert training[2:5] == ["4.00", "2.50", "2.00"]
    assert training[5:] == ["2.50 (2.00 to 3.00)", "1.88 (1.25 to 2.50)", "2.40", "at least 1.5: met"]
    assert frame[2:] == ["4.00", "1.00", "1.25", "1.25 (one turn)", "3.20 (one turn)", "-", "at most 1.25: met"]
    made = "zero2hero bench speed --out benchmarks --part hero --model tiny --size 256 --draws 4"
    assert (
        f"- tiny models, 256 px, 4 noise levels: `{made}`; 3 turns, commit abc1234, torch 2.13.0, 2 CPUs, 2026-01-02"
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
    timed |= {"machine": MACHINE | {"gpu": "a large one"}, "settings": defaults("hero", "klein", "cuda")}
    page = report_speed.speed_section([{"rows": [timed]}])
    assert len(lines_with(page, "| GPU |")) == 4 and lines_with(page, "a large one")[0][-1] == "at least 2: met"
    other = timed | {"settings": timed["settings"] | {"rank": 8, "threads": 2}}
    page = report_speed.speed_section([{"rows": [other]}])
    assert len(lines_with(page, "| GPU |")) == 5  # what was timed is not the case that a goal is for
    (cells,) = lines_with(page, "a large one")
    assert cells[:2] == ["FLUX.2-klein-4B's size, 512 px, 1 noise level, rank 8", "a large one, 2 CPU threads"]


def test_what_was_only_counted_stands_beside_what_was_not_measured() -> None:
    counted = TRAINING | {"model": "klein", "size": 512, "draws": 1, "device": "counted", "sides": {}, "ratios": {}}
    counted |= {"by_arithmetic": 1.11, "settings": defaults("hero", "klein")}
    page = report_speed.speed_section([{"rows": [counted]}])
    rows = lines_with(page, "| GPU |")
    assert len(rows) == 5 and [cells[7] for cells in rows if "klein" in cells[0] and "noise" in cells[0]] == ["1.11"]
    made = "zero2hero bench speed --out benchmarks --part hero --model klein"
    told = next(line for line in page.splitlines() if "; counted: " in line)
    assert f"`{made} --device cuda --size 512 --draws 1`; not measured; counted: `{made} --count --size 512" in told


def changed(made: dict[str, Any], **options: Any) -> dict[str, Any]:
    return made | {"settings": made["settings"] | options}


def check_commands(reports: list[dict[str, Any]]) -> int:
    """Every command on the page of speed makes its row again; returns how many there are."""
    rows = report_speed.with_missing(stored.speed_rows(reports))
    commands = iter(commands_of(report_speed.speed_section(reports)))
    for made in rows:
        words = next(commands)
        assert words == shlex.split(stored.speed_command(made))[1:]
        if "counted_by" in made:  # stands behind it, in the same line
            assert next(commands) == shlex.split(made["counted_by"])[1:]
        (job,) = cli_bench_speed._cases(cli.build_parser().parse_args(words))
        assert (job.model, job.device) == (made["model"], made["device"])
        assert made["size"] in job.sizes
        if "draws" in made:
            assert isinstance(job, HeroSpeed) and job.training == ((made["size"], made["draws"]),)
        expected = {name: made["settings"].get(name) for name in job.told}
        assert json.loads(json.dumps(job.told)) == json.loads(json.dumps(expected))
    assert not list(commands)
    return len(rows)


OTHERS = [
    (changed(ZERO, k=-1), "4 frames, 20 steps, k = -1 (all tokens)"),
    (changed(ZERO, k=10), "4 frames, 20 steps, k = 10"),
    (changed(ZERO, ensemble=1), "4 frames, 20 steps, 1 noise draw"),
    (changed(ZERO, batch=2), "4 frames, 20 steps, 2 frames at once"),
    (changed(ZERO, frames=8), "8 frames, 20 steps"),
    (changed(ZERO, threads=2), "4 frames, 20 steps"),
    (changed(TRAINING, rank=128), "4 noise levels, rank 128"),
    (changed(FRAME, dtype="bfloat16"), "25 steps, bfloat16"),
    (changed(FRAME, steps=50), "50 steps"),
]


def test_another_option_is_another_row_and_the_page_says_which() -> None:
    plain, others = [ZERO, TRAINING, FRAME], [made for made, _ in OTHERS]
    joined = stored.join_speed({"rows": plain}, others)
    assert joined["rows"] == [*plain, *others]
    page = report_speed.speed_section([joined])
    for _, words in OTHERS:
        assert lines_with(page, f"| tiny models, 256 px, {words} |"), words
    told = [(one["what"], report_speed.case_name(one), report_speed.machine_name(one)) for one in joined["rows"]]
    assert len(set(told)) == len(told)
    assert lines_with(page, "| CPU, 2 threads |")[0][0] == "tiny models, 256 px, 4 frames, 20 steps"


def test_what_decides_no_result_makes_no_other_row() -> None:
    later = [changed(ZERO, turns=9, seed=4), changed(TRAINING, steps=50), changed(FRAME, turns=9)]
    assert stored.join_speed({"rows": [ZERO, TRAINING, FRAME]}, later)["rows"] == later
    fewer = changed(TRAINING, blocks=(1, 2))
    loaded = json.loads(json.dumps(fewer))  # a file has lists where a run has tuples
    assert stored.speed_key(loaded) == stored.speed_key(fewer) != stored.speed_key(TRAINING)


def test_every_command_on_the_page_makes_its_row_again() -> None:
    others = [made for made, _ in OTHERS if made["settings"]["dtype"] == "float32"]  # tiny models have no other
    assert check_commands([{"rows": [ZERO, TRAINING]}, {"rows": [FRAME, *others]}]) == 16


def test_a_later_run_replaces_equal_rows_and_leaves_the_others() -> None:
    later = FRAME | {"date": "2026-02-02", "commit": "later"}
    joined = stored.join_speed({"rows": [TRAINING, FRAME]}, [later])
    assert [one["commit"] for one in joined["rows"]] == ["abc1234", "later"]
    newest = stored.speed_rows([{"rows": [later]}, {"rows": [FRAME, TRAINING]}])
    assert [one["commit"] for one in newest] == ["abc1234", "later"]


def test_what_is_stored_in_the_repository_makes_a_page(repository: Path) -> None:
    speed, memory = (stored.read_reports(repository / "benchmarks", kind) for kind in ("speed", "memory"))
    check_commands(speed)
    rows = stored.speed_rows(speed)
    assert all(disagreement(made) is None and all(made["ratios"].values()) for made in rows)
    told = [(made["what"], report_speed.case_name(made), report_speed.machine_name(made)) for made in rows]
    assert len(set(told)) == len(told)
    assert "FLUX.1-dev | nf4 | 512 | 32" in report_speed.memory_section(memory)


def test_the_memory_page_says_what_is_computed_and_what_is_not_measured() -> None:
    page = report_speed.memory_section([MEMORY], ["plots/m.png"])
    assert lines_with(page, "FLUX.1-dev")[0] == ["FLUX.1-dev", "nf4", "10.2", "15.4"]
    limit = lines_with(page, "16:")[0]
    assert limit[2:] == ["512", "32", "10.2", "8.0", "not measured", "16: met as computed, not measured"]
    assert "1 of them were counted too: computed is 1.28 to 1.28 times that." in page and "plots/m.png" in page
    flux, measure = "`zero2hero bench memory --out benchmarks --model flux1 --weights nf4", "--measure --device cuda`"
    assert f"Counted by {flux} --size 512 --rank 32 --count`.\n" in page
    assert f"Only computed, by {flux} --size 768 --rank 32`.\n" in page
    assert f"Not measured; with a GPU: {flux} --size 512 --rank 32 {measure}.\n" in page and "Measured by" not in page
    assert "Nothing is stored yet" in report_speed.memory_section([])


def case(model: str, weights: str, resolution: int, rank: int) -> dict[str, Any]:
    return {"model": model, "weights": weights, "resolution": resolution, "rank": rank}


def test_the_commands_of_memory_make_the_cases_that_are_shown() -> None:
    """All in one command where they are a product, else in as few as are products; no case that is not shown."""
    whole = MemoryCases()
    rows = [
        case(size.name, form, pixels, rank) for size, form in whole.forms for pixels in whole.sizes for rank in (32,)
    ]
    assert stored.memory_commands(rows) == ["zero2hero bench memory --out benchmarks --rank 32"]
    both = rows + [row | {"rank": 128} for row in rows]
    assert stored.memory_commands(both, "--count") == ["zero2hero bench memory --out benchmarks --count"]
    klein, flux = "FLUX.2-klein-4B", "FLUX.1-dev"
    uneven = [case(klein, "nf4", 256, 8), case(klein, "bf16", 512, 8), case(flux, "nf4", 512, 8)]
    uneven += [case(klein, "nf4", 512, 8), case(flux, "nf4", 512, 16), case(flux, "fp8", 512, 16)]
    for chosen in (rows, both, both[:7], uneven, []):
        made: list[tuple[Any, ...]] = []
        for command in stored.memory_commands(chosen):
            args = cli.build_parser().parse_args(shlex.split(command)[1:])
            cases = cli_bench_speed._memory_cases(args)
            made += [(s.name, form, p, r) for s, form in cases.forms for p in cases.sizes for r in cases.ranks]
        assert sorted(made) == sorted(tuple(row.values()) for row in chosen)
    assert len(stored.memory_commands(uneven)) == 4


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
    links = plots_speed.draw_speed(tmp_path / "plots", [{"rows": [ZERO, TRAINING]}, {"rows": [changed(ZERO, k=10)]}])
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
    assert (
        "tiny models, 64 px, 2 frames, 2 steps, 1 noise draw, frame: straightforward" in shown
        and "goal at least 8: " in shown
    )
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    zero, training, frame = report["rows"]
    assert report["problems"] == []
    assert zero["difference"] < 1e-6 and training["difference"] < 1e-4 and frame["difference"] < 1e-4
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
        assert disagreement(made) is None
        assert made["by_arithmetic"] > 1
        assert report_speed.goal(made).endswith(": not judged") is (blocks is not None)
    assert ("only 1 + 1 blocks" in report_speed.case_name(rows[0])) is (blocks is not None)


def test_counting_takes_no_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "speed", "--out", str(tmp_path), "--count", "--size", "64", "--draws", "1", "2", "--rank", "2"]
    assert cli.main(words) == 0
    assert "not measured" in capsys.readouterr().out
    paths = sorted((tmp_path / "results").iterdir())
    assert [path.name for path in paths] == ["speed_hero_tiny_counted.json", "speed_zero_tiny_counted.json"]
    rows, (zero,) = (json.loads(path.read_text(encoding="utf-8"))["rows"] for path in paths)
    assert (zero["what"], zero["size"], zero["sides"]) == ("frame", 64, {}) and zero["by_arithmetic"] > 2
    assert [(made["what"], made.get("draws"), made["sides"]) for made in rows] == [
        ("training step", 1, {}), ("training step", 2, {}), ("frame", None, {})
    ]  # fmt: skip
    assert rows[1]["by_arithmetic"] > rows[0]["by_arithmetic"] > 1
    counts = rows[0]["multiply_adds"]
    assert rows[0]["by_arithmetic"] == counts["straightforward"] / counts["ours"]


def test_calls_of_the_model_are_those_that_are_counted() -> None:
    """Both sides of Zero-Stage run, and every sample that goes through the model is noted."""
    settings = ZeroSpeed("tiny", (64,), frames=3, steps=2, turns=1, ensemble=2, batch=2)
    backbone = real_sizes.load_zero_model("tiny", "cpu")
    frames = real_sizes.smooth_frames(3, 64, 0)
    sides = {"straightforward": zero_speed.straightforward_frames, "ours": zero_speed.our_frames}
    for name, wanted in zero_flops.model_calls(settings).items():
        seen = {"unet": 0, "encode": 0, "decode": 0}

        def note(part: str, plain: Any, seen: dict[str, int] = seen) -> Any:
            def noted(given: torch.Tensor, *rest: Any, **more: Any) -> Any:
                seen[part] += len(given)
                return plain(given, *rest, **more)

            return noted

        with pytest.MonkeyPatch.context() as patch, torch.no_grad():
            for owner, method, part in (
                (backbone.unet, "forward", "unet"),
                (backbone.vae, "encode", "encode"),
                (backbone.vae, "decode", "decode"),
            ):
                patch.setattr(owner, method, note(part, getattr(owner, method)))
            sides[name](backbone, frames, frames[:1].flip(1), settings, PartTimer(Clock("cpu")))
        assert seen == {
            "unet": wanted["unet"] + wanted["features"],
            "encode": wanted["encode"],
            "decode": wanted["decode"],
        }, name


def test_real_sizes_of_zero_stage_are_counted() -> None:
    costs = zero_flops.pass_costs("sd15", 512, 1)
    assert costs["unet"] == pytest.approx(402e9, rel=0.01)  # 0.8 T operations, as the model is known to take
    assert costs["features"] < 0.6 * costs["unet"] and costs["decode"] > 2 * costs["unet"]
    counted = zero_flops.counted_frame(ZeroSpeed("sd15", (512,), frames=4, steps=20, turns=1), 512, 1)
    assert 4 < counted["by_arithmetic"] < 6


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
    assert [made["computed_bytes"] < made["limit_bytes"] for made in report["rows"] if "limit_bytes" in made] == [
        True
    ] * 3
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
        (["speed", "--part", "hero", "--count", "--blocks", "1", "1"], "--count: counts whole models, got --blocks"),
        (["speed", "--k", "0"], "--k: expected 1 to 256 (or -1 for all) at 256 px, got 0"),
        (["speed", "--k", "-5"], "--k: expected 1 to 256 (or -1 for all) at 256 px, got -5"),
        (["speed", "--size", "128", "64", "--k", "17"], "--k: expected 1 to 16 (or -1 for all) at 64 px, got 17"),
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
    with pytest.raises(InputError, match="frames: expected a value from 1"):
        ZeroSpeed("tiny", (64,), frames=0, steps=1, turns=1)
    with pytest.raises(InputError, match="rank: expected"):
        HeroSpeed("tiny", ((64, 1),), (64,), steps=1, turns=1, rank=0)
    for k in (-1, 1, 16):
        assert ZeroSpeed("tiny", (64,), frames=1, steps=1, turns=1, k=k).k == k
