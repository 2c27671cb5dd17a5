"""Runs methods on tasks, each once: figures and pictures are kept in a folder and found again by what decides them.

FOLDER/tasks/NAME/...            the tasks (`zero2hero dataset`)
FOLDER/runs/DIGEST.json          figures of one method on one task
FOLDER/pictures/DIGEST.safetensors    its pictures, 8 bits a value
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ...files.tensor_file import write_tensors
from ...files.whole import write_text
from ..making import revision
from .clips import TaskClip, clip_at
from .learned import Networks, measure_learned, possible
from .measures import measure
from .methods import run_method
from .specs import Spec, inputs_of
from .tools import Tools

VERSION = 2  # of what is kept: another one is computed again


@dataclass(frozen=True)
class Work:
    """One method on chosen frames of one task; frames None: all of them; learned: measures that its figures are to have
    where they are `possible`, which decide nothing of the pictures."""

    task: Path
    spec: Spec
    frames: tuple[int, ...] | None = None
    learned: tuple[str, ...] = ()


@cache
def weights_digest() -> str:
    """Of the bundled models, which decide every figure."""
    from ...tiny.dit import ADAPTER_FILE
    from ...tiny.unet import weights_folder

    digest = hashlib.sha256()
    for path in sorted(weights_folder().glob("*.safetensors")):
        if path.name == ADAPTER_FILE:  # decides only what begins with it, and says so there
            continue
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class Bench:
    """Runs in one process; `run_all` shares work out to several. amt: see `learned.Networks`."""

    def __init__(self, folder: Path, amt: Path | None = None) -> None:
        self.folder = folder
        self.tools = Tools(self.pictures)
        self.networks = Networks(amt)
        self._elsewhere = 0.0  # seconds spent on what other methods made

    def key(self, clip: TaskClip, spec: Spec, frames: Sequence[int]) -> dict[str, Any]:
        """What decides a result."""
        return {
            "version": VERSION,
            "weights": weights_digest(),
            "task": clip.digest,
            "method": spec.method,
            "settings": spec.settled(),
            "frames": list(frames),
        }

    def run(self, work: Work) -> dict[str, Any]:
        """What a piece of work gave: {"key", "name", "anchor", "values": measure -> frame -> value, "seconds", "curve",
        "commit"}. Learned measures that it lacks are taken of the kept pictures."""
        clip, frames = _of(work)
        path, pictures = self._run(clip, work.spec, frames)
        figures = _read(path)
        lacking = [name for name in possible(clip, frames, work.learned) if name not in figures["values"]]
        if lacking:
            more = measure_learned(self.networks, clip, _pictures(pictures), frames, lacking)
            _write(path, figures | {"values": figures["values"] | more})
        return _read(path)

    def known(self, work: Work) -> bool:
        """Whether it has been done."""
        clip, frames = _of(work)
        return all(path.exists() for path in self._places(self.key(clip, work.spec, frames)))

    def pictures(self, clip: TaskClip, spec: Spec, frames: Sequence[int]) -> torch.Tensor:
        """Pictures (N, 3, H, W) of a method, made if they are not there."""
        begun = time.process_time()
        _, path = self._run(clip, spec, list(frames))
        self._elsewhere += time.process_time() - begun
        return _pictures(path)

    def _places(self, key: dict[str, Any]) -> tuple[Path, Path]:
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
        return self.folder / "runs" / f"{name}.json", self.folder / "pictures" / f"{name}.safetensors"

    def _run(self, clip: TaskClip, spec: Spec, frames: list[int]) -> tuple[Path, Path]:
        key = self.key(clip, spec, frames)
        path, pictures = self._places(key)
        if path.exists() and pictures.exists():
            return path, pictures
        self.tools.warm(spec)
        begun, before = time.process_time(), self._elsewhere
        result = run_method(self.tools, clip, spec, frames)
        spent = time.process_time() - begun - (self._elsewhere - before) - result.measuring
        self._elsewhere = before
        for place in (path, pictures):
            place.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(pictures, {"pictures": (result.pictures * 255).round().clamp(0, 255).to(torch.uint8)}, {})
        figures = {"key": key, "name": clip.name, "anchor": clip.anchor, "commit": revision()}
        figures |= {"values": measure(clip, result.pictures, frames), "seconds": result.seconds | {"total": spent}}
        _write(path, figures | {"curve": result.curve})
        return path, pictures


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _write(path: Path, figures: dict[str, Any]) -> None:
    write_text(path, json.dumps(figures))  # infinities stay what they are


def _pictures(path: Path) -> torch.Tensor:
    return load_file(path)["pictures"].float() / 255


def _of(work: Work) -> tuple[TaskClip, list[int]]:
    clip = clip_at(work.task)
    return clip, list(range(len(clip.frames)) if work.frames is None else work.frames)


@cache
def _bench(folder: Path, amt: Path | None) -> Bench:
    torch.set_num_threads(1)
    return Bench(folder, amt)


def _job(folder: Path, amt: Path | None, work: Work) -> dict[str, Any]:
    return _bench(folder, amt).run(work)


def prerequisites(folder: Path, wanted: Iterable[Work]) -> list[Work]:
    """What work that is still to do needs of other methods, each once."""
    bench, works = Bench(folder), {}
    for work in wanted:
        clip, frames = _of(work)
        others = inputs_of(clip, work.spec, frames)
        for spec, indices in () if others and bench.known(work) else others.values():
            works[json.dumps(bench.key(clip, spec, indices), sort_keys=True)] = Work(work.task, spec, tuple(indices))
    return list(works.values())


def run_all(
    folder: Path,
    wanted: Iterable[Work],
    jobs: int,
    progress: Callable[[], object] = lambda: None,
    amt: Path | None = None,
) -> list[dict[str, Any]]:
    """Do all work, `jobs` pieces at a time, each on one CPU thread; results in the order of `wanted`.

    What others need comes first, so that no two of them make it at once. An error ends everything. amt: see
    `learned.Networks`.
    """
    wanted = list(wanted)
    context = multiprocessing.get_context("spawn")  # a forked process would inherit torch's threads half alive
    pool = ProcessPoolExecutor(jobs, mp_context=context)
    try:
        for done in as_completed([pool.submit(_job, folder, amt, work) for work in prerequisites(folder, wanted)]):
            done.result()
        running = {pool.submit(_job, folder, amt, work): place for place, work in enumerate(wanted)}
        results: dict[int, dict[str, Any]] = {}
        for done in as_completed(running):
            results[running[done]] = done.result()
            progress()
    finally:
        pool.shutdown(cancel_futures=True)
    return [results[place] for place in range(len(wanted))]
