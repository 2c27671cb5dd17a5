"""Render a clip in a Blender process of its own and make a task of it. An interrupted run is taken up where it stopped.

The process's pictures and depth maps gather in a hidden folder beside the task; it goes away when the task is there.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...checks import InputError, Zero2HeroError, check_range, setting
from ...files.whole import explained
from ...video.source import read_image
from ..dataset.correspondence import FrameCorrespondence
from ..dataset.info import TaskInfo
from ..dataset.writer import TaskWriter
from .job import JOB, LOG, RenderJob, geometry_name, picture_name
from .matches import coverage, match_frames
from .objects import OBJECTS

FPS = 8
VERSION_FILE = "blender.json"
INSTALL = f"bpy needs Python 3.11: `python3.11 -m pip install bpy`, then give that Python as {setting('python')}"
# Loads this folder as a package by itself, so that nothing else of our environment gets onto the other Python's path.
_START = """
import importlib, importlib.util, sys
package, folder = sys.argv[1:]
spec = importlib.util.spec_from_file_location(
    "zero2hero_blender", package + "/__init__.py", submodule_search_locations=[package])
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
spec.loader.exec_module(module)
importlib.import_module("zero2hero_blender.worker").main(folder)
"""


def check_job(job: RenderJob) -> None:
    """Raise `InputError` unless the job can be rendered."""
    if job.object not in OBJECTS:
        raise InputError(f"object: expected one of {', '.join(OBJECTS)}, got {job.object!r}.")
    for name, low, high in (("size", 16, 4096), ("frames", 2, 10_000), ("samples", 1, 65_536), ("threads", 0, 1024)):
        check_range(name, getattr(job, name), low, high)


def task_info(job: RenderJob) -> TaskInfo:
    """Return what the task of a job is. Raises: InputError when the job cannot be rendered."""
    check_job(job)
    return TaskInfo(
        kind="blender-color-edit",
        name=f"blender-{job.object}",
        appearance=OBJECTS[job.object]().edit,
        anchor=0,
        frames=job.frames,
        size_hw=(job.size, job.size),
        fps=Fraction(FPS),
        truth_frames=tuple(range(job.frames)),
        has_masks=True,
        has_correspondence=True,
        seed=job.seed,
        source={"renderer": "blender cycles", "object": job.object, "samples": job.samples},
    )


def write_clip(
    writer: TaskWriter,
    job: RenderJob,
    python: str,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Render a clip and write it: frames, masks, reference, truth, matches, cameras.json.

    Args:
        python: a Python interpreter that can import `bpy`.
        resume: take up a run that was interrupted; overwrite: throw it away.
        progress: called after each rendered frame.
    Returns: version of Blender and mean seconds of a frame's parts.
    Raises: InputError when `python` has no Blender or an unfinished run differs; Zero2HeroError when Blender fails.
    """
    folder = writer.folder.with_name(f".{writer.folder.name}.work")
    _prepare(folder, job, resume, overwrite)
    try:
        facts = run_blender(folder, python, progress)
    except InputError:
        if not _begun(folder):
            shutil.rmtree(folder, ignore_errors=True)
        raise
    _write_task(writer, job, folder, facts["blender"])
    shutil.rmtree(folder, ignore_errors=True)
    return facts


def run_blender(folder: Path, python: str, progress: Callable[[], object]) -> dict[str, Any]:
    """Render what is missing of the job in `folder`. Returns and raises: as `write_clip`."""
    version, seconds = "", []
    with _process(folder, python) as messages:
        for message in messages:
            if "missing" in message:
                raise InputError(
                    f"{setting('python')} {python}: expected a Python that has bpy, got: {message['missing']}; "
                    f"{INSTALL}."
                )
            if "blender" in message:
                version = message["blender"]
                _check_version(folder / VERSION_FILE, version)
            elif "frame" in message:
                seconds.append(message["seconds"])
                progress()
    rendered = [row for row in seconds if len(row) == 3]
    mean = (
        {part: round(sum(row[part] for row in rendered) / len(rendered), 3) for part in rendered[0]} if rendered else {}
    )
    return {"blender": version, "rendered": len(rendered), "seconds_per_frame": mean}


@contextmanager
def _process(folder: Path, python: str) -> Iterator[Iterator[dict[str, Any]]]:
    """The Blender process's messages; it ends with the block."""
    program = str(Path(python).absolute()) if Path(python).exists() else python  # the process works in another folder
    command = [program, "-c", _START, str(Path(__file__).parent), str(folder.absolute())]
    with (folder / LOG).open("w", encoding="utf-8") as log:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, cwd=folder, encoding="utf-8"
            )
        except OSError as error:
            raise InputError(f"{setting('python')} {python}: cannot be run ({error.strerror}); {INSTALL}.") from error
    with process, ExitStack() as unfinished:
        assert process.stdout is not None
        unfinished.callback(process.terminate)
        yield (json.loads(line) for line in process.stdout)
        unfinished.pop_all()  # it ends by itself
    if process.returncode:
        last = (folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise Zero2HeroError(
            f"Blender stopped with status {process.returncode}: {last[0]} (all of it: {folder / LOG}); what is "
            f"rendered was kept, go on with {setting('resume')}."
        )


def _prepare(folder: Path, job: RenderJob, resume: bool, overwrite: bool) -> None:
    if overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    if _begun(folder):
        if not resume:
            raise InputError(
                f"{folder}: an unfinished run lies there; add {setting('resume')} to go on with it, or "
                f"{setting('overwrite')}."
            )
        before, now = asdict(RenderJob.read(folder)), asdict(job)
        if different := [name for name in now if before[name] != now[name] and name != "threads"]:
            raise InputError(
                f"{setting('resume')}: the run differs from the one begun in {', '.join(different)}; give the "
                f"options of that run, or start again with {setting('overwrite')}."
            )
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        job.write(folder)


def _begun(folder: Path) -> bool:
    """Whether an earlier run has left a picture."""
    return (folder / JOB).is_file() and any(folder.glob("look*.png"))


def _check_version(path: Path, version: str) -> None:
    """Note the version of Blender; frames of one clip come from one version."""
    if path.is_file() and (before := json.loads(path.read_text(encoding="utf-8"))["blender"]) != version:
        raise InputError(
            f"{setting('resume')}: the run was begun with Blender {before}, this is {version}; use that one, or "
            f"start again with {setting('overwrite')}."
        )
    path.write_text(json.dumps({"blender": version}), encoding="utf-8")


def _write_task(writer: TaskWriter, job: RenderJob, folder: Path, version: str) -> None:
    cameras = job.cameras()
    anchor_depth = np.load(folder / geometry_name(0))["depth"]
    for index, camera in enumerate(cameras):
        first, second = (read_image(folder / picture_name(index, look)) for look in (0, 1))
        geometry = np.load(folder / geometry_name(index))
        depth = geometry["depth"]
        writer.content(index, first)
        writer.truth(index, second)
        writer.mask(index, torch.from_numpy(coverage(geometry["part"]))[None])
        if index == 0:
            writer.reference(second)
            continue
        there = match_frames(cameras[0], anchor_depth, camera, depth)
        back = match_frames(camera, depth, cameras[0], anchor_depth)
        writer.correspondence(index, FrameCorrespondence(*(torch.from_numpy(values) for values in (*there, *back))))
    convention = "x right, y down, z forward; pixels, centres at + 0.5; p is seen at intrinsics (world_to_camera p)"
    frames = [camera.to_json() for camera in cameras]
    writer.extra("cameras.json", {"convention": convention, "blender": version, "frames": frames})
