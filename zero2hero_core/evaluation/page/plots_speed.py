"""Plots of speed and memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..speed.memory_cases import GB
from .plots import new_axes, save_figure
from .report_speed import case_name, counted_total, machine_name, measured_bytes, seconds
from .stored import Row, memory_rows, speed_rows

# One name for what both sides do.
PARTS = {"reference": "reference inversion", "masks": "matching", "masked passes": "masked pass"}
REST = "rest"
SIDES = ("straightforward", "without encoding", "bare base", "ours")


def draw_speed(folder: Path, stored: list[dict[str, Any]]) -> list[str]:
    """Seconds by part as stacked bars, a picture for each thing that is timed; links from the folder above."""
    rows = [row for row in speed_rows(stored) if row["sides"]]
    kinds = (
        ("speed_zero_frame", "zero", "frame", "Zero-Stage: a frame", REST),
        ("speed_hero_training", "hero", "training step", "Hero-Stage: a training step", "backward pass and update"),
        ("speed_hero_frame", "hero", "frame", "Hero-Stage: a restored frame", REST),
    )
    links = []
    for file, part, what, title, rest in kinds:
        chosen = [row for row in rows if (row["part"], row["what"]) == (part, what)]
        if chosen:
            links.append(save_figure(_parts(title, rest, chosen), folder, file))
    return links


def _parts(title: str, rest: str, rows: Sequence[Row]) -> Any:
    """Bars of the sides of each row, as long as their share of the straightforward side's time; rest: what is left."""
    bars = [(row, side) for row in rows for side in SIDES if side in row["sides"]]
    size = (9, 1.2 + 0.36 * len(bars) + 0.3 * len(rows))
    figure, axes = new_axes(title, "share of the straightforward way's time", size=size)
    colours: dict[str, str] = {}
    places, place = [], 0.0
    for number, (row, side) in enumerate(bars):
        place += 1.6 if number and bars[number - 1][0] is not row else 1.0
        places.append(place)
        whole, left = row["sides"]["straightforward"]["seconds"], 0.0
        for name, spent in parts_of(row["sides"][side]).items():
            shown = name not in colours and name != REST
            colours.setdefault(name, "0.75" if name == REST else f"C{len([c for c in colours if c != REST]) % 10}")
            axes.barh(place, spent / whole, left=left, color=colours[name], label=name if shown else None)
            left += spent / whole
        axes.text(left + 0.01, place, f"{seconds(row['sides'][side]['seconds'])} s", va="center", fontsize=7)
    axes.set_yticks(places, [f"{case_name(row)}, {machine_name(row)}: {side}" for row, side in bars], fontsize=7)
    axes.invert_yaxis()
    if REST in colours:
        axes.barh(places[0], 0, color=colours[REST], label=f"{rest}, or not split")
    axes.margins(x=0.1)
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure


def parts_of(side: dict[str, Any]) -> dict[str, float]:
    """Seconds by part, with what is left over as the rest; parts shrink where they are more than the whole, for that is
    a median and they are means."""
    parts: dict[str, float] = {}
    for name, spent in side.get("parts", {}).items():
        known = PARTS.get(name, name)
        parts[known] = parts.get(known, 0.0) + spent
    total, whole = sum(parts.values()), side["seconds"]
    if total > whole:
        return {name: spent * whole / total for name, spent in parts.items()}
    return parts | {REST: whole - total}


def draw_memory(folder: Path, stored: list[dict[str, Any]]) -> list[str]:
    """Memory by resolution, a picture for each rank; links from the folder above."""
    rows = memory_rows(stored)
    links = []
    for rank in sorted({row["rank"] for row in rows}):
        chosen = [row for row in rows if row["rank"] == rank]
        if len({row["resolution"] for row in chosen}) > 1:
            links.append(save_figure(_by_resolution(rank, chosen), folder, f"memory_rank{rank}"))
    return links


def _by_resolution(rank: int, rows: Sequence[Row]) -> Any:
    figure, axes = new_axes(f"Memory of a training step, rank {rank}", "side of the picture, pixels", "GB")
    for number, form in enumerate(dict.fromkeys((row["model"], row["weights"]) for row in rows)):
        mine = sorted(
            (row for row in rows if (row["model"], row["weights"]) == form), key=lambda row: row["resolution"]
        )
        sizes, colour = [row["resolution"] for row in mine], f"C{number}"
        axes.plot(sizes, [row["computed_bytes"] / GB for row in mine], color=colour, label=", ".join(form))
        counted = [(row["resolution"], counted_total(row) / GB) for row in mine if "counted_bytes" in row]
        measured = [(row["resolution"], found / GB) for row in mine if (found := measured_bytes(row)) is not None]
        for points, marker in ((counted, "o"), (measured, "x")):
            if points:
                axes.plot(*zip(*points, strict=True), marker, color=colour, fillstyle="none")
    axes.set_ylim(bottom=0)
    axes.plot([], [], "k-", label="computed")
    axes.plot([], [], "ko", fillstyle="none", label="counted")
    axes.plot([], [], "kx", label="measured" if any(map(measured_bytes, rows)) else "not measured")
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure
