"""Stored reports of speed and memory: read in every form that has been written, joined with those of later runs.

A row of a speed report: {"part": "zero" or "hero", "model", "device", "what": "frame" or "training step", "size",
"draws" (of a training step), "settings", "sides": name -> {"seconds", "all_seconds", "parts" ...}, "ratios": name ->
{"median", "least", "greatest"}, "machine", "commit", "date" ...}. A row of a memory report: {"model", "weights",
"resolution", "rank", "computed_bytes", "counted_bytes", "measured" ...}.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .clocks import ratio
from .speed_settings import MODELS, defaults

Row = dict[str, Any]
COMMAND = "zero2hero bench {} --out benchmarks"
OPTIONS = ("frames", "steps", "turns", "rank", "k", "ensemble", "batch", "dtype", "blocks", "threads", "seed")


def read_reports(out: Path, kind: str) -> list[dict[str, Any]]:
    """Reports of a kind, "speed" or "memory", in out/results, by name."""
    paths = sorted((out / "results").glob(f"{kind}_*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def speed_rows(stored: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Rows of all reports in the order of the page; of rows for the same case the newest."""
    rows = [row for report in stored for row in _rows_of(report)]
    newest = {speed_key(row): row for row in sorted(rows, key=lambda row: row["date"])}
    return sorted(newest.values(), key=page_order)


def speed_key(row: Row) -> tuple[Any, ...]:
    """Equal for rows of the same case."""
    settings = row["settings"]
    told = (settings.get("frames"), settings["steps"], str(settings.get("blocks")))
    return (row["part"], row["model"], row["device"], row["what"], row["size"], row.get("draws"), *told)


def page_order(row: Row) -> tuple[Any, ...]:
    """Sorts rows for the page: Zero-Stage first, training before frames, small models before large ones."""
    models = MODELS[row["part"]]
    return (row["part"] != "zero", row["what"] == "frame", models.index(row["model"]), row["size"], row.get("draws", 0))


def join_speed(known: Mapping[str, Any] | None, rows: list[Row]) -> dict[str, Any]:
    """A report of new rows and of those of an earlier report that they do not replace."""
    new = {speed_key(row) for row in rows}
    kept = [row for row in (_rows_of(known) if known else []) if speed_key(row) not in new]
    return {"what": "seconds, ours and straightforward, in turns in one process", "rows": [*kept, *rows]}


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


# ---- the forms that were written before `zero2hero bench speed` ----


def _rows_of(report: Mapping[str, Any]) -> list[Row]:
    if "rows" in report:
        return list(report["rows"])
    return _earlier_hero(report) if "training_step" in report else [_earlier_zero(report)]


def _earlier_zero(report: Mapping[str, Any]) -> Row:
    """One size of Zero-Stage; parts were taken of the whole clip, and of the straightforward side only."""
    settings = report["settings"]
    sides = {}
    for name in ("straightforward", "ours"):
        side = report[name]
        parts = side.get("seconds_of_parts_last_run", {})
        sides[name] = {
            "seconds": side["seconds_per_frame"],
            "all_seconds": side["all_seconds_per_frame"],
            "outside_model": side["share_outside_model"],
            "parts": {part: seconds / settings["frames"] for part, seconds in parts.items()},
        }
    row = _earlier(report, "zero", "tiny" if settings["tiny"] else "sd15", "wall")
    row["settings"] |= {"turns": settings["repeats"]}
    row |= {"what": "frame", "size": settings["size"], "sides": sides}
    return row | {"ratios": {"straightforward / ours": ratio(sides, "straightforward", "ours")}}


def _earlier_hero(report: Mapping[str, Any]) -> list[Row]:
    """Cases of training and of frames."""
    names = {"bare": "bare base", "without_encoding": "without encoding"}
    ratios = {
        "training step": {"ratio": "straightforward / ours", "ratio_without_encoding": "without encoding / ours"},
        "frame": {"ratio": "ours / bare base", "ratio_straightforward": "straightforward / ours"},
    }
    rows = []
    for what, known in (("training step", report["training_step"]), ("frame", report["frame"])):
        for case in known:
            row = _earlier(report, "hero", report["settings"]["model"], "processor") | {"what": what}
            del row["settings"]["frames"]  # meant sizes
            row |= {name: case[name] for name in ("draws", "difference", "by_arithmetic") if name in case}
            timed = {name: part for name, part in case.items() if isinstance(part, dict) and "all_seconds" in part}
            sides = {names.get(name, name): part for name, part in timed.items()}
            row |= {"size": case["pixels"], "sides": sides}
            rows.append(row | {"ratios": {said: case[name] for name, said in ratios[what].items()}})
    return rows


def _earlier(report: Mapping[str, Any], part: str, model: str, clock: str) -> Row:
    settings = {name: value for name, value in report["settings"].items() if name in OPTIONS}
    settings["threads"] = report["machine"]["threads"]
    row = {"part": part, "model": model, "device": report["settings"]["device"], "settings": settings}
    return row | {"clock": clock, "machine": report["machine"], "commit": "unknown", "date": ""}


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
    kept = [row for row in (known["rows"] if known else []) if memory_key(row) not in new]
    return report | {"rows": [*kept, *report["rows"]]}
