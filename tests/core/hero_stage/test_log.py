"""The log of a training run: what is written is read back, what a resumed run must not keep goes, and the plot shows
the curves."""

from __future__ import annotations

import errno
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageColor

from zero2hero_core.checks import InputError, Zero2HeroError
from zero2hero_core.hero_stage.training.log import COLOURS, COLUMNS, PLOT_SIZE, EarlyStop, TrainingLog, smoothed

HEADER = "step,loss,learning_rate,seconds,psnr_anchor,psnr_truth,psnr_zero\n"


def filled(folder: Path, steps: int = 6) -> TrainingLog:
    """A log with one row a step and evaluations at 0, 2, 4 ..."""
    log = TrainingLog(folder)
    log.append(0, psnr_anchor=15.0, psnr_truth=14.0, psnr_zero=16.0)
    for step in range(1, steps + 1):
        log.append(step, loss=1 / step, learning_rate=1e-4, seconds=0.5 * step)
        if step % 2 == 0:
            log.append(step, psnr_anchor=15.0 + step, psnr_truth=14.0 + step / 2)
    return log


def test_rows_come_back_with_what_they_know(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path)
    assert log.rows() == [] and list(tmp_path.iterdir()) == []
    log.append(0, psnr_anchor=20.5, psnr_zero=19.25)
    log.append(1, loss=0.123456789, learning_rate=1e-4, seconds=3.5)
    log.append(2, loss=math.nan, psnr_truth=math.inf)
    rows = TrainingLog(tmp_path).rows()
    assert rows[:2] == [
        {"step": 0, "psnr_anchor": 20.5, "psnr_zero": 19.25},
        {"step": 1, "loss": 0.123456789, "learning_rate": 1e-4, "seconds": 3.5},
    ]
    assert math.isnan(rows[2]["loss"]) and rows[2]["psnr_truth"] == math.inf
    assert all(type(value) is float for row in rows for value in row.values())


def test_the_file_is_plain_csv_with_the_documented_header(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path)
    log.append(3, loss=0.5, learning_rate=1e-4)
    log.append(3, psnr_anchor=21.0)
    assert log.path.read_text() == HEADER + "3,0.5,0.0001,,,,\n3,,,,21,,\n"
    assert ",".join(COLUMNS) + "\n" == HEADER


def test_every_row_is_in_the_file_at_once(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path)
    for step in range(3):
        log.append(step, loss=1.0)
        assert len(log.path.read_text().splitlines()) == step + 2


def test_truncation_drops_the_rows_after_the_checkpoint_and_the_run_goes_on(tmp_path: Path) -> None:
    before = filled(tmp_path).rows()
    resumed = TrainingLog(tmp_path)
    assert resumed.truncate(4) == 3  # 5, 6 and the evaluation at 6
    assert resumed.rows() == [row for row in before if row["step"] <= 4]
    resumed.append(5, loss=1 / 5, learning_rate=1e-4, seconds=2.5)
    resumed.append(6, loss=1 / 6, learning_rate=1e-4, seconds=3.0)
    resumed.append(6, psnr_anchor=21.0, psnr_truth=17.0)
    assert resumed.rows() == before


def test_truncation_where_nothing_is_later_changes_nothing(tmp_path: Path) -> None:
    assert TrainingLog(tmp_path).truncate(10) == 0 and list(tmp_path.iterdir()) == []
    log = filled(tmp_path)
    before = log.path.read_bytes()
    assert log.truncate(6) == 0 and log.path.read_bytes() == before
    assert log.truncate(-1) == 10 and log.path.read_text() == HEADER


def test_a_step_back_without_truncation_is_refused(tmp_path: Path) -> None:
    log = filled(tmp_path)
    before = log.path.read_bytes()
    for again in (log, TrainingLog(tmp_path)):
        with pytest.raises(InputError, match=r"a step from 6 up.* got 5; truncate"):
            again.append(5, loss=1.0)
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match=r"a step from 0 up.* got -1"):
        TrainingLog(tmp_path / "other").append(-1)
    assert log.path.read_bytes() == before


@pytest.mark.parametrize("rest", ["7,0.1", "7,0.1,0.0001,3.5,,,", "\0\0\0"])
def test_half_a_last_line_is_not_read_and_goes_with_the_next_write(tmp_path: Path, rest: str) -> None:
    log = filled(tmp_path)
    whole, before = log.path.read_bytes(), log.rows()
    log.path.write_bytes(whole + rest.encode())
    fresh = TrainingLog(tmp_path)
    assert fresh.rows() == before
    fresh.append(7, loss=0.25)
    assert fresh.path.read_bytes() == whole + b"7,0.25,,,,,\n"
    log.path.write_bytes(whole + rest.encode())
    assert TrainingLog(tmp_path).truncate(6) == 0 and log.path.read_bytes() == whole


@pytest.mark.parametrize("start", ["", "step,lo"])
def test_a_file_without_a_whole_header_line_is_begun_anew(tmp_path: Path, start: str) -> None:
    (tmp_path / "log.csv").write_text(start)
    log = TrainingLog(tmp_path)
    assert log.rows() == []
    log.append(1, loss=0.5)
    assert log.path.read_text() == HEADER + "1,0.5,,,,,\n"


def test_line_ends_of_a_spreadsheet_are_read(tmp_path: Path) -> None:
    log = filled(tmp_path)
    before = log.rows()
    log.path.write_bytes(log.path.read_bytes().replace(b"\n", b"\r\n"))
    again = TrainingLog(tmp_path)
    assert again.rows() == before
    again.truncate(4)
    assert again.rows() == before[:-3]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2,0.5", "expected 7 values, got 2"),
        ("", "expected 7 values, got 1"),
        ("2,abc,,,,,", "expected a number for loss, got 'abc'"),
        (",0.5,,,,,", "expected a whole number for step, got ''"),
        ("2.5,0.5,,,,,", "expected a whole number for step, got '2.5'"),
        ("0,0.5,,,,,", "expected a step from 1 up, got 0"),
        ("\ufffd\0,0.5,,,,,", "expected a whole number for step"),
    ],
)
def test_a_damaged_line_is_named_by_its_number(tmp_path: Path, line: str, message: str) -> None:
    text = HEADER + f"1,0.5,,,,,\n{line}\n3,0.5,,,,,\n"
    (tmp_path / "log.csv").write_text(text, encoding="utf-8")
    log = TrainingLog(tmp_path)
    actions: list[Any] = [
        log.rows,
        lambda: log.append(9),
        lambda: log.truncate(1),
        lambda: log.plot(tmp_path / "p.png"),
    ]
    for action in actions:
        with pytest.raises(InputError, match="log.csv, line 3: " + message):
            action()
    assert log.path.read_text(encoding="utf-8") == text and len(list(tmp_path.iterdir())) == 1


def test_bytes_that_are_no_text_are_a_damaged_line(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(HEADER.encode() + b"1,\xff\xfe,,,,,\n")
    with pytest.raises(InputError, match="line 2: expected a number for loss"):
        TrainingLog(tmp_path).rows()


def test_a_foreign_header_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("epoch;loss\n1;2\n")
    with pytest.raises(InputError, match=r"log.csv, line 1: expected the header step,loss.*got 'epoch;loss'"):
        TrainingLog(tmp_path).append(1)


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; create it first"):
        TrainingLog(tmp_path / "run").append(1, loss=0.5)


def test_a_failing_disk_loses_neither_the_log_nor_the_old_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = filled(tmp_path)
    log.plot(tmp_path / "plot.png")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(Zero2HeroError, match="no space left"):
            log.truncate(2)
        with pytest.raises(Zero2HeroError, match="no space left"):
            log.plot(tmp_path / "plot.png")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    log.append(7, loss=0.5)
    assert log.rows()[-1] == {"step": 7, "loss": 0.5}


def painted(picture: np.ndarray, colour: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels in that colour, below the legend."""
    near = np.abs(picture.astype(int) - ImageColor.getrgb(colour)).max(-1) < 40
    near[:40] = False
    y, x = np.nonzero(near)
    return y, x


def test_the_plot_shows_a_falling_loss_at_the_left_and_a_rising_psnr_at_the_right(tmp_path: Path) -> None:
    log = filled(tmp_path, steps=40)
    log.plot(tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        assert (image.format, image.size) == ("PNG", PLOT_SIZE)
        picture = np.asarray(image.convert("RGB"))
    middle = PLOT_SIZE[0] // 2
    for name, rises in (("loss", False), ("psnr_anchor", True), ("psnr_truth", True)):
        y, x = painted(picture, COLOURS[name])
        assert len(y) > 300 and ((x > middle).all() if name.startswith("psnr") else (x < middle).all())
        first, last = y[x < x.min() + 30].mean(), y[x > x.max() - 30].mean()
        assert (first - last if rises else last - first) > 60  # y runs downwards
    y, x = painted(picture, COLOURS["psnr_zero"])
    level = np.bincount(y[x > middle]).argmax()
    assert (x[y == level] > middle).sum() > 150  # a dashed level across the panel
    assert len(painted(picture, COLOURS["raw"])[0]) > 100
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["log.csv", "plot.png"]


def test_a_plot_of_one_kind_of_rows_leaves_the_other_panel_without_curves(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path)
    log.append(1, loss=0.5)
    log.append(2, loss=0.0)  # no place on a log scale
    log.append(3, loss=math.nan, psnr_truth=math.inf)
    log.append(4, loss=0.25)
    log.plot(tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        picture = np.asarray(image.convert("RGB"))
    assert len(painted(picture, COLOURS["loss"])[0]) > 300
    assert all(len(painted(picture, COLOURS[name])[0]) == 0 for name in ("psnr_anchor", "psnr_truth"))


def panels(log: TrainingLog, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The axes of a log's plot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    seen: list[Any] = []
    draw = FigureCanvasAgg.print_png

    def keep(canvas: Any, *args: Any, **named: Any) -> None:
        seen.append(canvas.figure)
        draw(canvas, *args, **named)

    with monkeypatch.context() as patched:
        patched.setattr(FigureCanvasAgg, "print_png", keep)
        log.plot(log.path.with_name("plot.png"))
    (figure,) = seen
    return list(figure.axes)


def curves(panel: Any) -> dict[str, tuple[list[float], list[float]]]:
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in panel.get_lines()}


def test_the_plot_holds_the_rows_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, quality = panels(filled(tmp_path, steps=6), monkeypatch)
    steps, losses = [1, 2, 3, 4, 5, 6], [pytest.approx(1 / step) for step in range(1, 7)]
    shown = curves(loss)
    assert list(shown) == ["each step", "smoothed"]
    assert shown["each step"] == (steps, losses)
    assert shown["smoothed"] == (steps, pytest.approx(smoothed([1 / step for step in steps], 5.0)))
    assert loss.get_yscale() == "log" and quality.get_yscale() == "linear"
    assert curves(quality) == {
        "anchor": ([0, 2, 4, 6], [15, 17, 19, 21]),
        "frames with truth": ([0, 2, 4, 6], [14, 15, 16, 17]),
        "Zero-Stage": ([0, 0, 6], [16, 16, 16]),
    }
    labels = {"loss (MSE of the velocity)", "PSNR (dB)"}
    assert {loss.get_ylabel(), quality.get_ylabel()} == labels
    for panel in (loss, quality):
        assert panel.get_xlabel() == "training step" and panel.get_xlim() == pytest.approx((-0.12, 6.12))
        assert [text.get_text() for text in panel.get_legend().get_texts()] == list(curves(panel))
    styles = {line.get_label(): (line.get_linestyle(), line.get_marker()) for line in quality.get_lines()}
    assert styles == {"anchor": ("-", "o"), "frames with truth": ("-", "o"), "Zero-Stage": ("--", "None")}


def test_the_plot_smooths_over_a_twentieth_of_a_long_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = TrainingLog(tmp_path)
    values = [2.0 + (step % 2) for step in range(200)]
    for step, value in enumerate(values):
        log.append(step, loss=value)
    loss, quality = panels(log, monkeypatch)
    assert curves(loss)["smoothed"][1] == pytest.approx(smoothed(values, 10.0))
    assert curves(quality) == {} and quality.get_legend() is None
    assert [text.get_text() for text in quality.texts] == ["nothing logged yet"]
    assert loss.get_lines()[0].get_marker() == ""  # points are for four steps and fewer


def test_the_plot_leaves_out_what_has_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = TrainingLog(tmp_path)
    log.append(1, loss=0.5)
    log.append(2, loss=0.0)
    log.append(3, loss=math.nan, psnr_truth=math.inf)
    log.append(4, loss=0.25, psnr_truth=20.0)
    loss, quality = panels(log, monkeypatch)
    assert curves(loss)["each step"] == ([1, 4], [0.5, 0.25])
    assert curves(quality) == {"frames with truth": ([4], [20.0])}
    assert loss.get_lines()[0].get_marker() == "."


def test_plotting_leaves_pyplot_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    filled(tmp_path).plot(tmp_path / "plot.png")
    assert "matplotlib.figure" in sys.modules and "matplotlib.pyplot" not in sys.modules


def test_a_plot_that_cannot_be_made_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="at least one row"):
        TrainingLog(tmp_path).plot(tmp_path / "plot.png")
    log = filled(tmp_path)
    with pytest.raises(InputError, match=r"ends in \.png"):
        log.plot(tmp_path / "plot.jpg")
    with pytest.raises(InputError, match="create it first"):
        log.plot(tmp_path / "missing" / "plot.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match="pip install matplotlib"):
        log.plot(tmp_path / "plot.png")


def test_smoothing_by_hand() -> None:
    half = 1 / math.log(2)  # the weight halves at every place
    assert smoothed([4.0, 1.0, 0.0], half) == pytest.approx([4.0, (2 + 1) / 1.5, (1 + 0.5) / 1.75])
    assert smoothed([3.0] * 50, 10) == pytest.approx([3.0] * 50)
    assert smoothed([], 10) == []


def test_a_run_stops_after_patience_evaluations_without_improvement() -> None:
    stop = EarlyStop(patience=2)
    assert [stop.update(psnr) for psnr in (20.0, 21.0, 20.5, 21.5, 21.5, 21.4)] == [False] * 5 + [True]
    assert (stop.best, stop.waited) == (21.5, 2)
    assert not stop.update(22.0)  # who goes on and improves, waits anew


def test_an_improvement_has_to_exceed_min_delta_and_small_ones_add_up() -> None:
    stop = EarlyStop(patience=2, min_delta=0.5)
    assert [stop.update(psnr) for psnr in (20.0, 20.5, 20.6, 20.9, 21.1)] == [False, False, False, False, True]
    assert stop.best == 20.6


def test_nan_is_no_improvement_not_even_as_the_first() -> None:
    stop = EarlyStop(patience=2)
    assert [stop.update(psnr) for psnr in (math.nan, -3.0, math.nan, math.nan)] == [False, False, False, True]
    assert stop.best == -3.0
    assert EarlyStop(patience=1).update(math.nan)


def test_a_resumed_run_stops_where_the_unbroken_one_does() -> None:
    values = [20.0, 22.0, 21.0, 21.9, 21.8, 23.0]
    unbroken = EarlyStop(patience=3)
    expected = [unbroken.update(psnr) for psnr in values]
    assert expected == [False, False, False, False, True, False]
    for cut in range(len(values)):
        first, second = EarlyStop(patience=3), EarlyStop(patience=3)
        answers = [first.update(psnr) for psnr in values[:cut]]
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert answers + [second.update(psnr) for psnr in values[cut:]] == expected


def test_wrong_settings_of_early_stop_are_refused() -> None:
    for patience, min_delta in ((0, 0.0), (1, -0.1), (1, math.nan)):
        with pytest.raises(InputError, match="expected"):
            EarlyStop(patience, min_delta)
    with pytest.raises(InputError, match="best and waited"):
        EarlyStop(1).load_state_dict({"best": 20.0})
