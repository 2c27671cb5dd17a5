"""What Zero-Stage and Hero-Stage cost: seconds beside a straightforward rendering, and memory of training; stored, and
shown on the page."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..checks import InputError, setting
from ..files.json_file import write_json
from ..files.lock import locked_folder
from ..jobs.listener import Listener
from .page import stored
from .page.report import write_page
from .page.report_speed import memory_text, row_text
from .speed import hero_flops, hero_speed, zero_speed
from .speed.clocks import disagreement
from .speed.hero_memory import memory_report
from .speed.memory_cases import MemoryCases
from .speed.speed_settings import COUNTED, HeroSpeed, ZeroSpeed


@dataclass(frozen=True)
class SpeedRequest:
    """out: folder of the page and of results. cases: what to time. count: multiply-adds, and take no times."""

    out: Path
    cases: tuple[ZeroSpeed | HeroSpeed, ...]
    count: bool = False


@dataclass(frozen=True)
class MemoryRequest:
    """out: folder of the page and of results. cases: what to compute, count or measure."""

    out: Path
    cases: MemoryCases


def make_speed(request: SpeedRequest, listener: Listener) -> dict[str, Any]:
    """Time, store, write the page.

    Returns: the report. A row whose sides do not compute the same is a problem and is not stored.
    Raises: InputError where the GPU that is asked for is not here.
    """
    started = time.perf_counter()
    for case in request.cases:
        _check_cuda(f"{setting('device')} cuda", case.device)
    report: dict[str, Any] = {"command": "bench speed", "rows": [], "problems": []}

    def tell(row: dict[str, Any]) -> None:
        listener.say(row_text(row))
        if wrong := disagreement(row):
            report["problems"].append(wrong)

    with locked_folder(request.out, "zero2hero bench speed"):
        for case in request.cases:
            if isinstance(case, ZeroSpeed):
                part = "zero"
                rows = (zero_speed.counted_rows if request.count else zero_speed.zero_rows)(case, tell)
            else:
                part = "hero"
                rows = (hero_flops.counted_rows if request.count else hero_speed.hero_rows)(case, tell)
            place = COUNTED if request.count else case.device
            path = _results(request.out) / f"speed_{part}_{case.model}_{place}.json"
            write_json(path, stored.join_speed(_read(path), [row for row in rows if not disagreement(row)]))
            report["rows"] += rows
        return _finish(request.out, report, started)


def make_memory(request: MemoryRequest, listener: Listener) -> dict[str, Any]:
    """Compute, count or measure, store, write the page.

    Returns: the report.
    Raises: InputError where the GPU that is asked for is not here.
    """
    started = time.perf_counter()
    if request.cases.measure:
        _check_cuda(setting("measure"), request.cases.device)
    with locked_folder(request.out, "zero2hero bench memory"):
        path = _results(request.out) / f"memory_{request.cases.kind}.json"
        report = memory_report(request.cases, lambda row: listener.say(memory_text(row)))
        write_json(path, stored.join_memory(_read(path), report))
        return _finish(request.out, {"command": "bench memory", **report}, started)


def _check_cuda(name: str, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError(f"{name}: expected a CUDA device, found none here.")


def _results(out: Path) -> Path:
    folder = out / "results"
    folder.mkdir(exist_ok=True)
    return folder


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _finish(out: Path, report: dict[str, Any], started: float) -> dict[str, Any]:
    write_page(out)
    return report | {"seconds": {"total": round(time.perf_counter() - started, 1)}}
