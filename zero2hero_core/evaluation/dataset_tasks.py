"""Makes tasks with a known answer: one folder a clip, and the list of all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any

from ..checks import InputError, setting
from ..files.guard import Reading, Results, check_apart
from ..files.lock import locked_folder
from ..jobs.clip import check_paths
from ..jobs.folder import check_folder
from ..jobs.listener import Listener
from ..jobs.state import file_digest
from ..tiny.scenes.scene import Scene, split_seed
from ..video.resize import resize_frames
from ..video.source import FrameSource, open_frames, read_image
from .blender.job import RenderJob
from .blender.render import task_info, write_clip
from .dataset.info import TaskInfo, clip_name
from .dataset.kinds import write_colorization, write_general, write_rendered
from .dataset.requests import (
    BlenderRequest,
    ChosenFrames,
    ColorizationRequest,
    GeneralEditRequest,
    ScenesRequest,
    TaskRequest,
)
from .dataset.writer import INDEX, TaskWriter, is_made, remove_unfinished, write_index

RENDERED_FPS = 8
RESULTS = Results((INDEX,))  # beside the folder of a task, whose name is known later
SAME_ASPECT = 0.01  # aspect ratios closer than this (relative) count as equal


def make_tasks(request: TaskRequest, listener: Listener, readings: Sequence[Reading] = ()) -> dict[str, Any]:
    """Make the tasks that are asked for.

    Args: readings: what the request reads, which no task may replace.
    Returns: the report.
    Raises: InputError for what cannot be made.
    """
    if isinstance(request, ColorizationRequest):
        return _make_colorization(request, listener, readings)
    if isinstance(request, GeneralEditRequest):
        return _make_general_edit(request, listener, readings)
    if isinstance(request, ScenesRequest):
        return _make_scenes(request, listener, readings)
    if isinstance(request, BlenderRequest):
        return _make_blender(request, listener, readings)
    raise TypeError(f"no tasks of a {type(request).__name__}")


class TaskFolder:
    """The tasks of one request: what is kept, the list of all tasks, the report. Use it in a `with` block.

    Args: total: frames of all tasks, for the progress.
    """

    def __init__(self, request: TaskRequest, listener: Listener, readings: Sequence[Reading], total: int) -> None:
        check_folder(request.out, may_exist=True)
        self.request, self.listener, self.readings, self.total = request, listener, readings, total
        self._started, self._done = time.perf_counter(), 0
        self.tasks: list[dict[str, Any]] = []

    def __enter__(self) -> TaskFolder:
        with ExitStack() as stack:
            stack.enter_context(locked_folder(self.request.out, f"zero2hero {self.request.command}"))
            remove_unfinished(self.request.out)
            self._advance(0)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def _advance(self, frames: int = 1) -> None:
        self._done += frames
        self.listener.progress("frames", self._done, self.total)

    def make(self, info: TaskInfo, write: Callable[..., dict[str, Any] | None], *material: Any, **options: Any) -> None:
        """Make one task with `write(writer, *material, progress=...)`, unless `resume` finds it made."""
        out = self.request.out
        check_apart(out, RESULTS | Results(folders=(info.name,)), self.readings)
        reused = self.request.resume and is_made(out / info.name, info)
        facts = None
        if reused:
            self._advance(info.frames)
        else:
            with TaskWriter(out, info, overwrite=self.request.overwrite) as writer:
                facts = write(writer, *material, progress=self._advance, **options)
        row = {
            "name": info.name,
            "folder": str(out / info.name),
            "kind": info.kind,
            "appearance": info.appearance,
            "frames": info.frames,
            "truth_frames": len(info.truth_frames),
            "size": [info.size_hw[1], info.size_hw[0]],
            "reused": reused,
        }
        self.tasks.append(row | (facts or {}))

    def report(self) -> dict[str, Any]:
        """List all tasks of the folder in zero.json; return what was done."""
        out = self.request.out
        with locked_folder(out, f"zero2hero {self.request.command}"):
            write_index(out)
        reused = sum(row["reused"] for row in self.tasks)
        from_before = f" ({reused} from before)" if reused else ""
        self.listener.say(f"{len(self.tasks)} tasks{from_before}: {out}")
        return {
            "command": self.request.command,
            "out": str(out),
            "index": str(out / INDEX),
            "tasks": self.tasks,
            "seconds": {"total": round(time.perf_counter() - self._started, 3)},
        }


def _make_colorization(request: ColorizationRequest, listener: Listener, readings: Sequence[Reading]) -> dict[str, Any]:
    frames = _open(request.clip, listener)
    anchor, source = _anchor_of(request.clip, frames, request.anchor)
    truth_frames = tuple(range(len(frames)))
    info = _clip_info("colorization", request.name, "colour", request.clip, frames, anchor, truth_frames, source)
    with TaskFolder(request, listener, readings, info.frames) as tasks:
        tasks.make(info, write_colorization, frames)
    return tasks.report()


def _make_general_edit(request: GeneralEditRequest, listener: Listener, readings: Sequence[Reading]) -> dict[str, Any]:
    frames, reference = _open(request.clip, listener), read_image(request.reference)
    anchor, source = _anchor_of(request.clip, frames, request.anchor)
    source |= {"reference sha256": file_digest(request.reference)}
    info = _clip_info("general-edit", request.name, request.appearance, request.clip, frames, anchor, (anchor,), source)
    (height, width), (h, w) = frames.size_hw, reference.shape[-2:]
    if abs((w * height) / (h * width) - 1) > SAME_ASPECT:
        raise InputError(
            f"{setting('reference')}: expected the frames' aspect ratio ({width} x {height}), got {w} x {h}; edit the "
            "anchor without cropping it."
        )
    reference = resize_frames(reference[None], frames.size_hw)[0]
    with TaskFolder(request, listener, readings, info.frames) as tasks:
        tasks.make(info, write_general, frames, reference)
    return tasks.report()


def _open(clip: ChosenFrames, listener: Listener) -> FrameSource:
    check_paths(clip.video)
    source = open_frames(
        clip.video,
        start=clip.start,
        stop=clip.stop,
        stride=clip.stride,
        maximum=clip.maximum,
        size=clip.size,
        policy=clip.policy,
    )
    for text in source.notes:
        listener.note(text)
    return source


def _anchor_of(clip: ChosenFrames, frames: FrameSource, anchor: int | None) -> tuple[int, dict[str, Any]]:
    """The anchor's place among the chosen frames, and where they come from.

    Args: anchor: its index in the original clip; None for the first chosen frame.
    """
    indices = [frames.index_of(place) for place in range(len(frames))]
    anchor = indices[0] if anchor is None else anchor
    if anchor not in indices:
        raise InputError(
            f"{setting('anchor')}: expected one of the chosen frames ({indices[0]} to {indices[-1]}, stride "
            f"{clip.stride}), got {anchor}."
        )
    source = {
        "clip": Path(clip.video).name,
        "clip sha256": file_digest(clip.video),
        "start": indices[0],
        "stride": clip.stride,
        "policy": clip.policy,
    }
    return indices.index(anchor), source


def _clip_info(
    kind: str,
    name: str | None,
    appearance: str,
    clip: ChosenFrames,
    frames: FrameSource,
    anchor: int,
    truth_frames: tuple[int, ...],
    source: dict[str, Any],
) -> TaskInfo:
    """What the task of a user's clip is."""
    return TaskInfo(
        kind=kind,
        name=name or clip_name(clip.video),
        appearance=appearance,
        anchor=anchor,
        frames=len(frames),
        size_hw=frames.size_hw,
        fps=frames.fps,
        truth_frames=truth_frames,
        has_masks=False,
        has_correspondence=False,
        source=source,
    )


def _make_scenes(request: ScenesRequest, listener: Listener, readings: Sequence[Reading]) -> dict[str, Any]:
    kind = "color-edit" if request.whole_truth else "general-edit"
    with TaskFolder(request, listener, readings, request.frame_count) as tasks:
        for index in count(request.first):
            if len(tasks.tasks) == request.clips:
                break
            scene = Scene(split_seed(request.split, index), request.frames, request.size)
            if scene.edit not in request.edits:
                continue
            info = TaskInfo(
                kind=kind,
                name=f"{kind}-{request.split}-{index:04d}",
                appearance=scene.edit,
                anchor=0,
                frames=request.frames,
                size_hw=(request.size, request.size),
                fps=Fraction(RENDERED_FPS),
                truth_frames=tuple(range(request.frames)) if request.whole_truth else (0,),
                has_masks=True,
                has_correspondence=request.matches,
                seed=scene.seed,
                source={
                    "renderer": "zero2hero scenes",
                    "split": request.split,
                    "index": index,
                    "edit": scene.edit,
                },
            )
            tasks.make(info, write_rendered, scene)
    return tasks.report()


def _make_blender(request: BlenderRequest, listener: Listener, readings: Sequence[Reading]) -> dict[str, Any]:
    with TaskFolder(request, listener, readings, request.frame_count) as tasks:
        for name in request.objects:
            job = RenderJob(name, request.size, request.frames, request.samples, request.threads, request.seed)
            again = {"resume": request.resume, "overwrite": request.overwrite}
            tasks.make(task_info(job), write_clip, job, request.python, **again)
    return tasks.report()
