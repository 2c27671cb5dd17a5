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

from ..tensor_file import write_tensors
from .clips import Clip, clip_at
from .measures import measure
from .methods import METHODS, Made, Spec, Tools, run_method

VERSION = 2  # of what is kept: another one is computed again


@dataclass(frozen=True)
class Work:
    """One method on chosen frames of one task; frames None: all of them."""

    task: Path
    spec: Spec
    frames: tuple[int, ...] | None = None


@cache
def weights_digest() -> str:
    """Of the bundled models, which decide every figure."""
    from ..tiny.model import weights_folder

    found = hashlib.sha256()
    for path in sorted(weights_folder().glob("*.safetensors")):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


class Bench:
    """Runs in one process; `run_all` shares work out to several."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tools = Tools(self.pictures)
        self._elsewhere = 0.0  # seconds spent on what other methods made

    def key(self, clip: Clip, spec: Spec, frames: Sequence[int]) -> dict[str, Any]:
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
        """Figures of a piece of work: {"key", "values": measure -> frame -> value, "seconds", "extra"}."""
        clip = clip_at(work.task)
        frames = list(range(len(clip.frames)) if work.frames is None else work.frames)
        return self._run(clip, work.spec, frames)[0]

    def pictures(self, clip: Clip, spec: Spec, frames: Sequence[int]) -> torch.Tensor:
        """Pictures (N, 3, H, W) of a method, made if they are not there."""
        begun = time.process_time()
        _, path = self._run(clip, spec, list(frames))
        self._elsewhere += time.process_time() - begun
        return load_file(path)["pictures"].float() / 255

    def _run(self, clip: Clip, spec: Spec, frames: list[int]) -> tuple[dict[str, Any], Path]:
        key = self.key(clip, spec, frames)
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
        path, pictures = self.folder / "runs" / f"{name}.json", self.folder / "pictures" / f"{name}.safetensors"
        if path.exists() and pictures.exists():
            return json.loads(path.read_text(encoding="utf-8")), pictures
        self.tools.warm(spec)
        begun, before = time.process_time(), self._elsewhere
        made = run_method(self.tools, clip, spec, frames)
        spent = time.process_time() - begun - (self._elsewhere - before)
        self._elsewhere = before
        seconds = made.seconds | {"total": spent}
        found = {"key": key, "name": clip.name, "values": measure(clip, made.pictures, frames), "seconds": seconds}
        self._keep(path, pictures, found | {"extra": made.extra}, made)
        return json.loads(path.read_text(encoding="utf-8")), pictures

    def _keep(self, path: Path, pictures: Path, found: dict[str, Any], made: Made) -> None:
        for place in (path, pictures):
            place.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(pictures, {"pictures": (made.pictures * 255).round().clamp(0, 255).to(torch.uint8)}, {})
        part = path.with_suffix(f".{multiprocessing.current_process().pid}.part")
        part.write_text(json.dumps(found), encoding="utf-8")
        part.replace(path)


@cache
def _bench(folder: Path) -> Bench:
    torch.set_num_threads(1)
    return Bench(folder)


def _job(folder: Path, work: Work) -> dict[str, Any]:
    return _bench(folder).run(work)


def run_all(
    folder: Path, wanted: Iterable[Work], jobs: int, progress: Callable[[], object] = lambda: None
) -> list[dict[str, Any]]:
    """Do all work, `jobs` pieces at a time, each on one CPU thread; results in the order of `wanted`.

    Trainings come last, for they read what Zero-Stage made.
    """
    wanted = list(wanted)
    order = list(METHODS)
    found: dict[int, dict[str, Any]] = {}
    context = multiprocessing.get_context("spawn")  # a forked process would inherit torch's threads half alive
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        for trained in (False, True):
            places = [i for i, work in enumerate(wanted) if (work.spec.method == order[-1]) is trained]
            running = {pool.submit(_job, folder, wanted[place]): place for place in places}
            for done in as_completed(running):
                found[running[done]] = done.result()
                progress()
    return [found[place] for place in range(len(wanted))]
