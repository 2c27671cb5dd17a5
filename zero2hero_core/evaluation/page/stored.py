"""Stored reports of speed and memory, joined with those of later runs; the commands that make their rows again.

A row of a speed report: {"part": "zero" or "hero", "model", "device", "what": "frame" or "training step", "size",
"draws" (of a training step), "settings", "sides": name -> {"seconds", "all_seconds", "parts" ...}, "ratios": name ->
{"median", "least", "greatest"}, "difference" (of the results), "machine", "commit", "date" ...}. A row of a memory
report: {"model", "weights", "resolution", "rank", "computed_bytes", "counted_bytes", "measured" ...}.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..speed.memory_cases import MODELS as MEMORY_MODELS
from ..speed.memory_cases import MemoryCases
from ..speed.speed_settings import DECIDE, MODELS, defaults

Row = dict[str, Any]
Box = tuple[tuple[Any, ...], ...]  # values along each axis; stands for all their combinations
COMMAND = "zero2hero bench {} --out benchmarks"
OPTIONS = ("frames", "steps", "turns", "rank", "k", "ensemble", "batch", "dtype", "blocks", "threads", "seed")


def read_reports(out: Path, kind: str) -> list[dict[str, Any]]:
    """Reports of a kind, "speed" or "memory", in out/results, by name."""
    paths = sorted((out / "results").glob(f"{kind}_*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def speed_rows(stored: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Rows of all reports in the order of the page; of rows for the same case the newest."""
    rows = [row for report in stored for row in report["rows"]]
    newest = {speed_key(row): row for row in sorted(rows, key=lambda row: row["date"])}
    return sorted(newest.values(), key=page_order)


def speed_key(row: Row) -> tuple[Any, ...]:
    """Equal for rows of the same case."""
    chosen = [row["settings"][name] for name in DECIDE[row["part"], row["what"]]]
    values = (tuple(value) if isinstance(value, list) else value for value in chosen)  # a file has lists
    return (row["part"], row["model"], row["device"], row["what"], row["size"], row.get("draws"), *values)


def page_order(row: Row) -> tuple[Any, ...]:
    """Sorts rows for the page: Zero-Stage first, training before frames, small models before large ones."""
    models = MODELS[row["part"]]
    return (row["part"] != "zero", row["what"] == "frame", models.index(row["model"]), row["size"], row.get("draws", 0))


def join_speed(known: Mapping[str, Any] | None, rows: list[Row]) -> dict[str, Any]:
    """A report of new rows and of those of an earlier report that they do not replace."""
    new = {speed_key(row) for row in rows}
    others = [row for row in (known["rows"] if known else []) if speed_key(row) not in new]
    return {"what": "seconds, ours and straightforward, in turns in one process", "rows": [*others, *rows]}


def speed_command(row: Row) -> str:
    """The command line that makes a row again."""
    known = defaults(row["part"], row["model"], row["device"])
    words = [COMMAND.format("speed"), "--part", row["part"], "--model", row["model"]]
    if row["device"] == "counted":
        words.append("--count")
    elif row["device"] != "cpu":
        words += ["--device", row["device"]]
    words += ["--size", str(row["size"])]
    if "draws" in row:
        words += ["--draws", str(row["draws"])]
    for name in OPTIONS:
        value = row["settings"].get(name, known.get(name))
        if value != known.get(name):
            words += [f"--{name}", *(map(str, value) if isinstance(value, list | tuple) else [str(value)])]
    return " ".join(words)


# ---- memory ----


def memory_rows(stored: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Rows of all reports, one per case: what is computed from the newest, counted and measured where they are."""
    joined: dict[tuple[Any, ...], Row] = {}
    for report in sorted(stored, key=lambda report: report.get("date", "")):
        for row in report["rows"]:
            joined.setdefault(memory_key(row), {}).update(row)
    return list(joined.values())


def memory_key(row: Row) -> tuple[Any, ...]:
    """Equal for rows of the same case."""
    return row["model"], row["weights"], row["resolution"], row["rank"]


def join_memory(known: Mapping[str, Any] | None, report: dict[str, Any]) -> dict[str, Any]:
    """A report with those rows of an earlier one that it does not replace."""
    new = {memory_key(row) for row in report["rows"]}
    others = [row for row in (known["rows"] if known else []) if memory_key(row) not in new]
    return report | {"rows": [*others, *report["rows"]]}


def memory_commands(rows: Iterable[Row], *options: str) -> list[str]:
    """The command lines that make the cases of rows, and no others.

    Args: options: what to do beside computing: --count, or --measure and where.
    """
    names = {size.name: name for name, (size, _) in MEMORY_MODELS.items()}
    boxes: list[Box] = [
        ((names[row["model"]],), (row["weights"],), (row["resolution"],), (row["rank"],)) for row in rows
    ]
    for axis in (3, 2, 1):
        boxes = _merged(boxes, axis)
    forms = {name: tuple(sorted(forms)) for name, (_, forms) in MEMORY_MODELS.items()}
    whole = [(model, () if kinds == forms[model[0]] else kinds, *rest) for model, kinds, *rest in boxes]
    default = MemoryCases()
    known = {"model": default.models, "weights": (), "size": default.sizes, "rank": default.ranks}
    commands = []
    for box in _merged(whole, 0):
        words = [COMMAND.format("memory")]
        for (name, usual), values in zip(known.items(), box, strict=True):
            words += [f"--{name}", *map(str, values)] if values != usual else []
        commands.append(" ".join([*words, *options]))
    return commands


def _merged(boxes: Iterable[Box], axis: int) -> list[Box]:
    """Boxes of cases that differ along one axis only become one.

    Example: (a) x (1), (a) x (2), (b) x (1), along axis 1: (a) x (1, 2), (b) x (1).
    """
    merged: dict[Box, set[Any]] = {}
    for box in boxes:
        merged.setdefault((*box[:axis], *box[axis + 1 :]), set()).update(box[axis])
    return [(*rest[:axis], tuple(sorted(values)), *rest[axis:]) for rest, values in merged.items()]
