"""What the plots of the page show: the lines, bars, labels and limits of their axes, not only that a file is there."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from zero2hero_core.evaluation.page import plots, plots_speed
from zero2hero_core.evaluation.page.stored import Row

Figures = dict[str, Any]  # name of the file without its end -> axes


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Figures:
    """The axes of every figure that is saved, by its name; it is saved nevertheless."""
    seen: Figures = {}
    save = plots.save_figure

    def keep(figure: Any, folder: Path, name: str) -> str:
        (seen[name],) = figure.axes
        return save(figure, folder, name)

    monkeypatch.setattr(plots, "save_figure", keep)
    monkeypatch.setattr(plots_speed, "save_figure", keep)
    return seen


def lines(axes: Any) -> dict[str, tuple[list[float], list[float]]]:
    """Label -> places and values of the lines; matplotlib's own labels begin with an underscore."""
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()}


def legend(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def titles(axes: Any) -> tuple[str, str, str]:
    return axes.get_title(), axes.get_xlabel(), axes.get_ylabel()


def quality_row(by_frame: dict[str, float], curve: dict[str, float], inside: float) -> dict[str, Any]:
    return {"by frame": by_frame, "curve": curve, "values": {"psnr inside": {"mean": inside}}}


def quality_table(name: str, rows: dict[str, Any], measure: str = "psnr") -> dict[str, Any]:
    return {"name": name, "title": f"Table of {name}", "measures": [measure], "rows": rows}


# ---- quality ----


def test_psnr_by_frame_leaves_the_anchor_and_equal_frames_out(drawn: Figures, tmp_path: Path) -> None:
    frames = {"10": 20.5, "0": 60.0, "1": 30.0, "2": 99.0, "-3": 28.0}
    rows = {"ours": quality_row(frames, {}, 0), "few": quality_row({"1": 30.0, "2": 29.0}, {}, 0)}
    links = plots.draw_plots(tmp_path / "plots", "small", [quality_table("methods", rows)])
    assert links == {"methods": ["plots/small_methods_frames.png"]} and (tmp_path / links["methods"][0]).is_file()
    axes = drawn["small_methods_frames"]
    assert titles(axes) == ("Table of methods", "frames from the anchor", "PSNR, dB")
    assert lines(axes) == {"ours": ([-3, 1, 10], [28.0, 30.0, 20.5])}
    assert legend(axes) == ["ours"]


def test_psnr_by_frame_is_of_psnr_only(drawn: Figures, tmp_path: Path) -> None:
    rows = {"ours": quality_row({str(n): 0.9 for n in range(9)}, {}, 0)}
    assert plots.draw_plots(tmp_path, "small", [quality_table("methods", rows, "ssim")]) == {} and drawn == {}


def test_a_curve_has_the_steps_in_their_order(drawn: Figures, tmp_path: Path) -> None:
    rows = {
        "rank 4": quality_row({}, {"0": 15.0, "100": 19.0, "200": 20.0}, 0),
        "rank 32": quality_row({}, {"0": 15.0, "200": 22.0}, 0),
        "untrained": quality_row({}, {}, 0),
    }
    assert plots.draw_plots(tmp_path / "p", "full", [quality_table("training", rows)]) == {
        "training": ["p/full_training_curve.png"]
    }
    axes = drawn["full_training_curve"]
    assert titles(axes) == ("PSNR by training step", "step", "PSNR, dB")
    assert lines(axes) == {
        "rank 4": ([0, 100, 200], [15.0, 19.0, 20.0]),
        "rank 32": ([0, 200], [15.0, 22.0]),
    }
    assert legend(axes) == ["rank 4", "rank 32"]


def test_numbers_are_a_line_and_the_rest_are_levels(drawn: Figures, tmp_path: Path) -> None:
    rows = {
        label: quality_row({}, {}, value)
        for label, value in (("k = 16", 23.0), ("k = 2", 21.0), ("k = 4", 22.5), ("adaptive", 24.0))
    }
    assert plots.draw_plots(tmp_path / "p", "small", [quality_table("k", rows), quality_table("pairs", rows)]) == {
        "k": ["p/small_k_numbers.png"]
    }
    axes = drawn["small_k_numbers"]
    assert titles(axes) == ("Table of k", "reference tokens a query", "PSNR inside the object, dB")
    curve, level = axes.get_lines()
    assert (list(curve.get_xdata()), list(curve.get_ydata())) == ([2, 4, 16], [21.0, 22.5, 23.0])
    assert list(level.get_ydata()) == [24.0, 24.0] and level.get_linestyle() == "--"
    assert legend(axes) == ["adaptive"] and axes.get_xscale() == "log"
    assert level.get_color() != curve.get_color()


def test_numbers_alone_need_no_legend(drawn: Figures, tmp_path: Path) -> None:
    rows = {f"{n} steps": quality_row({}, {}, n / 10) for n in (20, 5)}
    plots.draw_plots(tmp_path, "small", [quality_table("steps", rows)])
    axes = drawn["small_steps_numbers"]
    assert axes.get_xlabel() == "DDIM steps" and axes.get_legend() is None
    assert list(axes.get_lines()[0].get_xdata()) == [5, 20]


# ---- speed and memory ----


def speed_row(part: str, what: str, sides: dict[str, Any], **more: Any) -> Row:
    known = plots_speed_defaults(part)
    row = {"part": part, "model": "tiny", "device": "cpu", "what": what, "size": 256, "settings": known, "sides": sides}
    return row | {"machine": {"cpu": "x86_64"}, "date": "2026-01-02", "ratios": {}} | more


def plots_speed_defaults(part: str) -> dict[str, Any]:
    from zero2hero_core.evaluation.speed.speed_settings import defaults

    return {name: value for name, value in defaults(part, "tiny").items() if name not in ("sizes", "training")}


def side(seconds: float, **parts: float) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "all_seconds": [seconds],
        "parts": {name.replace("_", " "): s for name, s in parts.items()},
    }


def bars(axes: Any) -> list[tuple[float, float, float]]:
    """Start, end and height of every bar that has a length."""
    found = [(bar.get_x(), bar.get_x() + bar.get_width(), bar.get_y() + bar.get_height() / 2) for bar in axes.patches]
    return [bar for bar in found if bar[1] > bar[0]]


def test_bars_are_shares_of_the_straightforward_time(drawn: Figures, tmp_path: Path) -> None:
    sides = {"ours": side(2.0, masks=0.5), "straightforward": side(8.0, reference=2.0, matching=2.0, masked_passes=3.0)}
    rows = [speed_row("zero", "frame", sides), speed_row("zero", "frame", {}, model="sd15", device="counted")]
    assert plots_speed.draw_speed(tmp_path / "p", [{"rows": rows}]) == ["p/speed_zero_frame.png"]
    axes = drawn["speed_zero_frame"]
    assert titles(axes) == ("Zero-Stage: a frame", "share of the straightforward way's time", "")
    places = list(axes.get_yticks())
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert [name.rpartition(": ")[2] for name in names] == ["straightforward", "ours"]
    assert all(name.startswith("tiny") and "256 px" in name and "CPU" in name for name in names)
    first = [(0.0, 0.25, places[0]), (0.25, 0.5, places[0]), (0.5, 0.875, places[0]), (0.875, 1.0, places[0])]
    second = [(0.0, 0.0625, places[1]), (0.0625, 0.25, places[1])]
    assert bars(axes) == [pytest.approx(bar) for bar in first + second]
    colours = [bar.get_facecolor() for bar in axes.patches if bar.get_width() > 0]
    assert len(set(colours[:4])) == 4
    assert colours[4] == colours[1] and colours[5] == colours[3]  # matching, and the rest
    assert legend(axes) == ["reference inversion", "matching", "masked pass", "rest, or not split"]
    texts = {text.get_text(): text.get_position() for text in axes.texts}
    assert texts == {
        "8.00 s": pytest.approx((1.01, places[0])),
        "2.00 s": pytest.approx((0.26, places[1])),
    }
    assert axes.yaxis_inverted()


def test_cases_stand_apart_and_each_thing_has_its_picture(drawn: Figures, tmp_path: Path) -> None:
    step = {"straightforward": side(4.0), "without encoding": side(3.0), "ours": side(1.0), "bare base": side(0.5)}
    rows = [
        speed_row("hero", "training step", step, draws=1),
        speed_row("hero", "training step", step, draws=4),
        speed_row("hero", "frame", {"straightforward": side(2.0), "ours": side(1.0)}),
    ]
    links = plots_speed.draw_speed(tmp_path / "p", [{"rows": rows}])
    assert links == ["p/speed_hero_training.png", "p/speed_hero_frame.png"]
    assert drawn["speed_hero_frame"].get_title() == "Hero-Stage: a restored frame"
    axes = drawn["speed_hero_training"]
    places = list(axes.get_yticks())
    gaps = [round(b - a, 3) for a, b in pairwise(places)]
    assert gaps == [1.0, 1.0, 1.0, 1.6, 1.0, 1.0, 1.0]
    names = [text.get_text().rpartition(": ")[2] for text in axes.get_yticklabels()]
    assert names == ["straightforward", "without encoding", "bare base", "ours"] * 2
    assert [bar[1] for bar in bars(axes)] == pytest.approx([1, 0.75, 0.125, 0.25] * 2)
    assert legend(axes) == ["backward pass and update, or not split"]


def memory_row(resolution: int, rank: int = 32, weights: str = "nf4", **more: Any) -> Row:
    row = {"model": "FLUX.1-dev", "weights": weights, "resolution": resolution, "rank": rank}
    return row | {"computed_bytes": resolution * 10**7, "of_which_assumed_bytes": 10**9} | more


def test_memory_is_in_gigabytes_by_resolution(drawn: Figures, tmp_path: Path) -> None:
    rows = [
        memory_row(1024),
        memory_row(512, counted_bytes=4 * 10**9, measured={"reserved_bytes": 6 * 10**9}),
        memory_row(512, weights="bf16"),
        memory_row(512, rank=4),  # one size: no picture
    ]
    assert plots_speed.draw_memory(tmp_path / "p", [{"rows": rows}]) == ["p/memory_rank32.png"]
    axes = drawn["memory_rank32"]
    assert titles(axes) == ("Memory of a training step, rank 32", "side of the picture, pixels", "GB")
    assert axes.get_ylim()[0] == 0
    by_label = lines(axes)
    assert by_label["FLUX.1-dev, nf4"] == ([512, 1024], pytest.approx([5.12, 10.24]))
    assert by_label["FLUX.1-dev, bf16"] == ([512], pytest.approx([5.12]))
    marks = {line.get_marker(): line for line in axes.get_lines() if line.get_label().startswith("_")}
    assert {mark: (list(line.get_xdata()), list(line.get_ydata())) for mark, line in marks.items()} == {
        "o": ([512], [5.0]),  # with the context that the computed bytes assume
        "x": ([512], [6.0]),
    }
    curve = next(line for line in axes.get_lines() if line.get_label() == "FLUX.1-dev, nf4")
    assert {line.get_color() for line in marks.values()} == {curve.get_color()}
    assert legend(axes) == ["FLUX.1-dev, nf4", "FLUX.1-dev, bf16", "computed", "counted", "measured"]


def test_memory_says_when_nothing_was_measured(drawn: Figures, tmp_path: Path) -> None:
    plots_speed.draw_memory(tmp_path, [{"rows": [memory_row(512), memory_row(768)]}])
    assert legend(drawn["memory_rank32"])[-1] == "not measured"
