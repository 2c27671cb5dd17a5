"""Where a universal adapter's clips come from: task folders, and footage that gets a look of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..checks import InputError, check_range, setting
from ..hero_stage.training.looks import RandomLook
from ..jobs import pretrain
from ..jobs.clip import Pictures, check_paths
from ..jobs.known_clips import KnownClip
from ..jobs.listener import Listener
from ..jobs.pretrain import PretrainRequest
from ..jobs.state import file_digest
from ..video.source import open_frames
from .dataset.info import clip_name
from .dataset.task import Task, find_tasks, load_task


@dataclass(frozen=True)
class ClipsRequest:
    """Clips whose truth is known.

    clips: folders of tasks (`zero2hero dataset`) that have a truth. footage: any videos; each is cut into stretches of
    `length` frames, and each stretch gets `looks` random changes of look, of which edit and truth are made. size: (H,
    W) or short side of footage. held_out: folders of tasks to measure on. maximum: of the clips, at most so many.
    """

    clips: tuple[str, ...] = ()
    footage: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    maximum: int | None = None
    looks: int = 4
    length: int = 16
    size: int | tuple[int, int] | None = None
    look_seed: int = 0

    def __post_init__(self) -> None:
        check_range(setting("looks"), self.looks, 1, 1000)
        check_range(setting("length"), self.length, 2, 10_000)
        if not (self.clips or self.footage):
            raise InputError(f"{setting('clips')}: expected folders of tasks, or {setting('footage')}, got neither.")


def pretrain_on(request: PretrainRequest, clips: ClipsRequest, listener: Listener) -> dict[str, Any]:
    """Find the clips, then train; returns the report. Raises: InputError; as `pretrain.run`."""
    check_paths(*clips.clips, *clips.footage, *clips.held_out)
    known = [clip for folder in clips.clips for clip in task_clips(folder)]
    known += [clip for video in clips.footage for clip in footage_clips(video, clips)]
    held_out = [clip for folder in clips.held_out for clip in task_clips(folder)]
    return pretrain.run(request, known[: clips.maximum], held_out, listener)


def task_clips(folder: str) -> list[KnownClip]:
    """The tasks of a folder. Raises: InputError for one without the truth of its anchor and another frame."""
    clips = []
    for path in find_tasks(folder):
        task = load_task(path)
        info = task.metadata
        if info.anchor not in info.truth_frames or len(info.truth_frames) < 2:
            raise InputError(
                f"{path}: expected the truth of the anchor (frame {info.anchor}) and of other frames, got that of "
                f"{len(info.truth_frames)}; take tasks with a whole truth."
            )
        clips.append(_task_clip(task))
    return clips


def _task_clip(task: Task) -> KnownClip:
    info, frames, truth = task.metadata, task.frames, task.truth
    assert truth is not None
    places = {index: place for place, index in enumerate(info.truth_frames)}
    truths = Pictures(info.truth_frames, lambda index: truth.frames([places[index]])[0])
    pictures = Pictures(range(info.frames), lambda index: frames.frames([index])[0])
    return KnownClip(info.name, info.sha256, info.anchor, pictures, truths)


def footage_clips(video: str, request: ClipsRequest) -> list[KnownClip]:
    """Stretches of a video, each in some random looks. The anchor is a stretch's first frame.

    Raises: InputError for a video that cannot be read or is shorter than two frames.
    """
    source = open_frames(video, size=request.size, multiple=16)
    if len(source) < 2:
        raise InputError(f"{video}: expected at least 2 frames, got {len(source)}.")
    digest, clips = file_digest(video), []
    for first in range(0, max(1, len(source) - request.length + 1), request.length):
        count = min(request.length, len(source) - first)

        def read(index: int, first: int = first) -> torch.Tensor:
            return source.frames([first + index])[0]

        frames = Pictures(range(count), read)
        for number in range(request.looks):
            seed = (request.look_seed * 1_000_003 + first * 1009 + number) % 2**63
            look = RandomLook(torch.Generator().manual_seed(seed))
            name = f"{clip_name(video)}-{first:06d}-look-{number}"
            content = f"{digest} {source.size_hw} {first} {count} {seed}"
            clips.append(KnownClip(name, content, 0, frames, _looked(frames, look)))
    return clips


def _looked(frames: Mapping[int, torch.Tensor], look: RandomLook) -> Pictures:
    return Pictures(list(frames), lambda index: look(frames[index][None])[0])
