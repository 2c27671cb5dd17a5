"""Where the clips of tables come from: the requests that make them, and the tables of clips that a suite has not by
itself: somebody's footage, and objects that Blender renders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...checks import InputError, setting
from ..dataset.info import clip_name
from ..dataset.requests import (
    GENERAL_EDITS,
    BlenderRequest,
    ChosenFrames,
    ColorizationRequest,
    ScenesRequest,
    TaskRequest,
)
from .specs import Spec
from .suites import ASK, GENERAL, GREY, METHOD_ROWS, OF_METHODS, TEST, VALIDATION, Suite, Table

OWN, BLENDER = "own-clips", "blender"
RENDERED: dict[str, dict[str, Any]] = {
    TEST: {},
    VALIDATION: {"split": "validation"},
    GENERAL: {"edits": GENERAL_EDITS, "whole_truth": False},
}
OWN_ROWS: tuple[str, ...] = ("Original", "Pixel swap", "Optical flow (DIS)", "Optical flow (RAFT)")
OWN_ROWS += ("Difference, carried", "EbSynth")
OWN_ROWS += ("Propagation", "Zero-Stage", "Hero-Stage")
OWN_FRAMES: dict[str, Any] = {"stride": 5, "maximum": 16, "size": (256, 256), "policy": "crop"}
BLENDER_OBJECTS = ("car", "chair", "dog", "house", "teapot")  # in the order of their tasks' names
BLENDER_SIZE = 256  # what the tiny models were made for


def own_task(video: str) -> str:
    """Name of the task that is made of somebody's clip."""
    return f"own-{clip_name(video)}"


def own_clips(videos: Sequence[str]) -> Table:
    """Grey and back to colour on real footage, for which the tiny models were not made.

    Raises: InputError when two videos would have one name.
    """
    names = [own_task(video) for video in videos]
    for place, name in enumerate(names):
        if name in names[:place]:
            twice = videos[names.index(name)]
            raise InputError(
                f"{setting('own_clips')}: expected different names, got {twice} and {videos[place]}; rename one."
            )
    known = METHOD_ROWS | {"EbSynth": Spec("ebsynth")}
    rows = {label: known[label] for label in OWN_ROWS}
    ask = "How much of the colour comes back on real footage? (The tiny models have never seen any.)"
    title = "Grey to colour, real clips"
    options = ("--own-clips", *(Path(video).name for video in videos))
    more: dict[str, Any] = {"clips": len(videos), "videos": tuple(videos), "options": options}
    return Table(OWN, title, ask, rows, "Hero-Stage", "own-", measures=OF_METHODS, **more)


def blender_clips(suite: Suite) -> Table:
    """Objects that Blender renders, in two appearances (Color-Edit of the paper); no tiny model has seen any."""
    clips = next(table.clips for table in suite.tables if table.tasks == TEST)
    title, options = "Blender-Color-Edit", ("--blender", "PYTHON")
    more: dict[str, Any] = {"clips": clips, "options": options, "measures": OF_METHODS}
    return Table(BLENDER, title, ASK, METHOD_ROWS, "Hero-Stage", "blender-", **more)


def task_requests(suite: Suite, tables: Sequence[Table], tasks: Path, blender: str | None = None) -> list[TaskRequest]:
    """What makes the tasks that tables need in the folder `tasks`, in the order of the work.

    Args: blender: a Python that has Blender as a module.
    """
    counts: dict[str, int] = {}
    for table in (table for table in tables if not table.edits):
        counts[table.tasks] = max(table.clips, counts.get(table.tasks, 0))
    if GREY in counts:  # they are made of the test clips
        counts[TEST] = max(counts[GREY], counts.get(TEST, 0))

    def scenes(name: str, clips: int, **edits: Any) -> ScenesRequest:
        return ScenesRequest(tasks, resume=True, clips=clips, **{**RENDERED[name], **edits, **suite.scenes})

    def grey_clip(name: str, clip: ChosenFrames) -> ColorizationRequest:
        return ColorizationRequest(tasks, resume=True, clip=clip, name=name)

    requests: list[TaskRequest] = [scenes(name, counts[name]) for name in RENDERED if name in counts]
    requests += [scenes(table.tasks, table.clips, edits=table.edits) for table in tables if table.edits]
    for index in range(counts.get(GREY, 0)):
        content = ChosenFrames(str(tasks / f"{TEST}{index:04d}" / "content"))
        requests.append(grey_clip(f"{GREY}{index:04d}", content))
    if BLENDER in (table.name for table in tables) and blender is not None:
        objects = BLENDER_OBJECTS[: counts["blender-"]]
        requests.append(BlenderRequest(tasks, resume=True, objects=objects, size=BLENDER_SIZE, python=blender))
    videos = [video for table in tables for video in table.videos]
    return requests + [grey_clip(own_task(video), ChosenFrames(video, **OWN_FRAMES)) for video in videos]
