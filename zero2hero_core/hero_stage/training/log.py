"""What a training run leaves for people: `log.csv` and a plot of it; and the rule that ends a run without progress.

`log.csv` has one header line and one line for every row, in the order of the steps:

| column | meaning |
|---|---|
| step | training steps done so far; 0 is the state before the first |
| loss | training loss of this step, mean squared error of the velocity |
| learning_rate | learning rate of this step |
| seconds | training time so far |
| psnr_anchor | PSNR of the restored anchor against the reference, dB |
| psnr_truth | mean PSNR of the evaluated frames against the truth, dB |
| psnr_zero | the same for the Zero-Stage frames that the restoring starts from, dB |

A row holds what is known at its step; all else stays empty. An evaluation may fill a row of its own at a step that has
one already. Numbers keep nine significant digits.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...checks import InputError
from ...files.whole import check_parent, explained, whole_file

COLUMNS = ("step", "loss", "learning_rate", "seconds", "psnr_anchor", "psnr_truth", "psnr_zero")
PLOT_SIZE = (1000, 400)  # width, height in pixels
COLOURS = {
    "raw": "#a6cee3",
    "loss": "#1f4e9c",
    "psnr_anchor": "#e07b00",
    "psnr_truth": "#1a7f37",
    "psnr_zero": "#777777",
}
_LABELS = {"psnr_anchor": "anchor", "psnr_truth": "frames with truth", "psnr_zero": "Zero-Stage"}
_HEADER = ",".join(COLUMNS)


class TrainingLog:
    """The rows of one run, in `folder`/log.csv. Nothing is written before the first row; one object writes at a time.

    A row is appended and handed to the system at once, all other writing goes through a temporary file. A last line
    without its line end (the machine stopped while it was written) is not read, and the next write drops it.

    Attributes: path: the file.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder) / "log.csv"
        self._last: int | None = None  # step of the last row, -1 without rows; None: the file has to be looked at

    def append(
        self,
        step: int,
        *,
        loss: float | None = None,
        learning_rate: float | None = None,
        seconds: float | None = None,
        psnr_anchor: float | None = None,
        psnr_truth: float | None = None,
        psnr_zero: float | None = None,
    ) -> None:
        """Add a row; the columns are those of the module's table.

        Raises: InputError when `step` is negative or lies before the last row, when the file is damaged or cannot be
        written; Zero2HeroError when the disk is full.
        """
        if self._last is None:
            self._last = self._prepare()
        if step < max(self._last, 0):
            raise InputError(
                f"{self.path}: expected a step from {max(self._last, 0)} up, the last one logged, got {step}; "
                "truncate the log to the step of the checkpoint when a run resumes."
            )
        values = (loss, learning_rate, seconds, psnr_anchor, psnr_truth, psnr_zero)
        cells = [f"{step:d}", *("" if value is None else f"{value:.9g}" for value in values)]
        last, self._last = self._last, None  # a failing write may leave half a line
        with explained(self.path), open(self.path, "ab") as file:
            file.write((",".join(cells) + "\n").encode("ascii"))
        self._last = max(last, step)

    def truncate(self, step: int) -> int:
        """Drop the rows after `step`, for a run that resumes from a checkpoint at that step; -1 drops all.

        Returns: how many rows were dropped.
        Raises: InputError when the file is damaged (it stays as it is) or cannot be written; Zero2HeroError when the
        disk is full.
        """
        lines, rows, clean = self._read()
        count = sum(row["step"] <= step for row in rows)  # steps never fall: these are the first ones
        if count < len(rows) or (self.path.exists() and not clean):
            self._store(lines[:count])
        self._last = None
        return len(rows) - count

    def rows(self) -> list[dict[str, float]]:
        """All rows, each with the columns that it knows; "step" is always there. No file gives no rows.

        Raises: InputError with the line number when the file is damaged.
        """
        return self._read()[1]

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw loss and PSNR by step as a PNG of 1000 x 400 pixels; an older picture is replaced.

        The thick loss is an exponential mean over about a twentieth of the run. Losses that are not positive and values
        that are not finite are left out.

        Raises: InputError when there are no rows, the log is damaged, `path` cannot be written, or matplotlib is
        missing; Zero2HeroError when the disk is full.
        """
        rows, target = self.rows(), Path(path)
        if target.suffix.lower() != ".png":
            raise InputError(f"{target}: expected a name that ends in .png.")
        if not rows:
            raise InputError(f"{self.path}: expected at least one row to plot, got none; train a step first.")
        _replace(target, _draw(rows))

    def _read(self) -> tuple[list[str], list[dict[str, float]], bool]:
        """Lines without the header, the same as rows, and whether the file ends as it should."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return [], [], False
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror}).") from error
        *lines, rest = data.decode("utf-8", errors="replace").replace("\r\n", "\n").split("\n")
        if not lines:
            return [], [], False
        if lines[0] != _HEADER:
            raise InputError(f"{self.path}, line 1: expected the header {_HEADER}, got {lines[0][:100]!r}.")
        rows: list[dict[str, float]] = []
        for number, line in enumerate(lines[1:], start=2):
            rows.append(_parse(line, f"{self.path}, line {number}", rows[-1]["step"] if rows else 0))
        return lines[1:], rows, not rest

    def _prepare(self) -> int:
        """Make the file ready for another line; returns the last step, -1 if there is none."""
        lines, rows, clean = self._read()
        if not clean:
            self._store(lines)
        return int(rows[-1]["step"]) if rows else -1

    def _store(self, lines: Sequence[str]) -> None:
        _replace(self.path, "".join(f"{line}\n" for line in (_HEADER, *lines)).encode("utf-8"))


class EarlyStop:
    """Says when a run no longer improves: after `patience` evaluations in a row, none of which was more than
    `min_delta` dB better than the best before.

    Attributes: best: the best PSNR so far in dB, None before the first; waited: evaluations since.
    Raises: InputError when `patience` is below 1 or `min_delta` is negative.
    """

    def __init__(self, patience: int, min_delta: float = 0.0) -> None:
        if patience < 1:
            raise InputError(f"patience: expected at least 1 evaluation, got {patience}.")
        if not min_delta >= 0:
            raise InputError(f"min_delta: expected 0 dB or more, got {min_delta}.")
        self.patience, self.min_delta = patience, min_delta
        self.best: float | None = None
        self.waited = 0

    def update(self, psnr: float) -> bool:
        """Take the PSNR (dB) of an evaluation; returns True when the run should stop. NaN is no improvement."""
        floor = -math.inf if self.best is None else self.best + self.min_delta
        if psnr > floor:
            self.best, self.waited = psnr, 0
        else:
            self.waited += 1
        return self.waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside its settings."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`; patience and min_delta stay those of this object. Raises: InputError."""
        if set(state) != {"best", "waited"}:
            raise InputError(f"early stop: expected the state best and waited, got {sorted(state)}.")
        self.best, self.waited = state["best"], state["waited"]


def smoothed(values: Sequence[float], span: float) -> list[float]:
    """Exponential mean of the values so far, those about `span` places back weighing 1/e, without a pull towards 0 at
    the start: the weights of every mean add up to 1."""
    decay = math.exp(-1 / span)
    total = weight = 0.0
    means = []
    for value in values:
        total, weight = decay * total + value, decay * weight + 1
        means.append(total / weight)
    return means


def _parse(line: str, place: str, previous: float) -> dict[str, float]:
    """One line as a row; `place` names it in errors, `previous` is the step of the line before."""
    cells = line.split(",")
    if len(cells) != len(COLUMNS):
        raise InputError(f"{place}: expected {len(COLUMNS)} values, got {len(cells)}; repair or remove the line.")
    row: dict[str, float] = {}
    for name, cell in zip(COLUMNS, cells, strict=True):
        try:
            if cell or name == "step":
                row[name] = float(int(cell) if name == "step" else cell)
        except ValueError as error:
            kind = "a whole number" if name == "step" else "a number"
            raise InputError(
                f"{place}: expected {kind} for {name}, got {cell!r}; repair or remove the line."
            ) from error
    if row["step"] < previous:
        raise InputError(
            f"{place}: expected a step from {previous:.0f} up, got {row['step']:.0f}; repair or remove the line."
        )
    return row


def _replace(target: Path, data: bytes) -> None:
    """Write a whole file under a temporary name, then give it its own."""
    check_parent(target)
    with whole_file(target) as temporary:
        temporary.write_bytes(data)


def _points(rows: Sequence[dict[str, float]], name: str, above: float = -math.inf) -> tuple[list[float], list[float]]:
    """Steps and values of a column, where it is known, finite and greater than `above`."""
    cells = [(row["step"], row[name]) for row in rows if name in row]
    points = [(step, value) for step, value in cells if math.isfinite(value) and value > above]
    return [step for step, _ in points], [value for _, value in points]


def _draw(rows: Sequence[dict[str, float]]) -> bytes:
    """The plot as the bytes of a PNG. No pyplot: nothing is left behind in matplotlib's global state."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise InputError(
            f"The plot needs matplotlib, which cannot be imported here ({error}): pip install matplotlib"
        ) from error
    dpi = 100
    figure = Figure(figsize=(PLOT_SIZE[0] / dpi, PLOT_SIZE[1] / dpi), dpi=dpi, layout="constrained", facecolor="white")
    canvas = FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _draw_loss(left, rows)
    _draw_psnr(right, rows)
    end = max(rows[-1]["step"], 1)
    for panel in (left, right):
        panel.set_xlabel("training step")
        panel.set_xlim(-0.02 * end, 1.02 * end)
        panel.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
        panel.grid(True, which="major", color="#e4e4e4", linewidth=0.8)
        panel.set_axisbelow(True)
        if panel.has_data():  # the legend stands above, where it hides no curve
            panel.legend(
                loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, borderpad=0, columnspacing=1.2
            )
        else:
            panel.set_yticks([])
            panel.text(0.5, 0.5, "nothing logged yet", ha="center", va="center", transform=panel.transAxes)
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    return buffer.getvalue()


def _draw_loss(panel: Any, rows: Sequence[dict[str, float]]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    panel.set_ylabel("loss (MSE of the velocity)")
    steps, losses = _points(rows, "loss", above=0)
    if not steps:
        return
    span = max(len(losses) / 20, 5.0)
    panel.plot(
        steps, losses, color=COLOURS["raw"], linewidth=1, marker="." if len(steps) < 5 else "", label="each step"
    )
    panel.plot(steps, smoothed(losses, span), color=COLOURS["loss"], linewidth=2, label="smoothed")
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # a run often stays within one power of ten
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())


def _draw_psnr(panel: Any, rows: Sequence[dict[str, float]]) -> None:
    panel.set_ylabel("PSNR (dB)")
    for name in ("psnr_anchor", "psnr_truth", "psnr_zero"):
        steps, values = _points(rows, name)
        if not steps:
            continue
        style: dict[str, Any] = {"marker": "o", "markersize": 4}
        if name == "psnr_zero":  # a level to compare with, not a curve of this run
            style = {"linestyle": "--"}
            steps, values = [rows[0]["step"], *steps, rows[-1]["step"]], [values[0], *values, values[-1]]
        panel.plot(steps, values, color=COLOURS[name], linewidth=1.8, label=_LABELS[name], **style)
