"""Plots of the tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

NUMBERS = {"k": "reference tokens a query", "steps": "DDIM steps"}  # tables whose rows are numbers


def draw_plots(folder: Path, suite: str, tables: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Draw what the tables hold; returns table -> pictures, as links from the folder above."""
    links: dict[str, list[str]] = {}
    for table in tables:
        for name, draw in (("frames", _by_frame), ("curve", _curve), ("numbers", _numbers)):
            figure = draw(table)
            if figure is not None:
                link = save_figure(figure, folder, f"{suite}_{table['name']}_{name}")
                links.setdefault(table["name"], []).append(link)
    return links


def new_axes(title: str, across: str, up: str = "", size: tuple[float, float] = (7, 4)) -> tuple[Any, Any]:
    """An empty figure with axes. Args: across, up: labels; size: in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size)
    axes = figure.subplots()
    axes.set(title=title, xlabel=across, ylabel=up)
    axes.grid(alpha=0.3)
    return figure, axes


def save_figure(figure: Any, folder: Path, name: str) -> str:
    """Write a figure as folder/name.png; returns its link from the folder above."""
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    return f"{folder.name}/{name}.png"


def _by_frame(table: dict[str, Any]) -> Any:
    """PSNR by distance from the anchor, where all frames were measured."""
    rows = {label: row["by frame"] for label, row in table["rows"].items() if len(row["by frame"]) > 4}
    if not rows or table["measures"][0] != "psnr":
        return None
    figure, axes = new_axes(table["title"], "frames from the anchor", "PSNR, dB")
    for label, values in rows.items():
        points = [(int(frame), value) for frame, value in values.items() if int(frame) and value < 80]
        axes.plot(*zip(*sorted(points), strict=True), label=label, marker=".")
    axes.legend(fontsize=7)
    return figure


def _curve(table: dict[str, Any]) -> Any:
    """PSNR by training step."""
    rows = {label: row["curve"] for label, row in table["rows"].items() if row["curve"]}
    if not rows:
        return None
    figure, axes = new_axes("PSNR by training step", "step", "PSNR, dB")
    for label, values in rows.items():
        axes.plot([int(step) for step in values], list(values.values()), label=label, marker=".")
    axes.legend(fontsize=7)
    return figure


def _numbers(table: dict[str, Any]) -> Any:
    """Quality against a number that rows stand for."""
    if table["name"] not in NUMBERS:
        return None
    points, lines = [], {}
    for label, row in table["rows"].items():
        words = [word for word in label.replace("=", " ").split() if word.isdigit()]
        value = row["values"]["psnr inside"]["mean"]
        if len(words) == 1:
            points.append((int(words[0]), value))
        else:
            lines[label] = value
    figure, axes = new_axes(table["title"], NUMBERS[table["name"]], "PSNR inside the object, dB")
    axes.plot(*zip(*sorted(points), strict=True), marker="o")
    for number, (label, value) in enumerate(lines.items(), 1):
        axes.axhline(value, linestyle="--", color=f"C{number}", label=label)
    axes.set_xscale("log", base=2)
    if lines:
        axes.legend(fontsize=7)
    return figure
