"""What `make_tasks` is asked for: tasks of a user's clip, of rendered scenes, of objects that Blender renders. Imports
nothing heavy."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...video.resize import Policy

GENERAL_EDITS = ("retexture", "style")
ALL_EDITS = ("tint", "recolour", *GENERAL_EDITS)
OBJECTS = ("car", "teapot", "dog", "house", "chair")


@dataclass(frozen=True)
class ChosenFrames:
    """A user's clip and which of its frames, see `open_frames`. size: the short side or (H, W)."""

    video: str
    start: int = 0
    stop: int | None = None
    stride: int = 1
    maximum: int | None = None
    size: int | tuple[int, int] | None = None
    policy: Policy = "resize"


@dataclass(frozen=True)
class TaskRequest:
    """out: folder of the tasks. resume: keep those that are made already; overwrite: replace those of the same name."""

    out: Path
    resume: bool = False
    overwrite: bool = False

    @property
    def command(self) -> str:
        """What the report and the lock of the folder call it."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class ColorizationRequest(TaskRequest):
    """A clip in grey; the reference is one frame in colour. anchor: index of that frame, None for the first chosen;
    name: of the task, None for the clip's."""

    clip: ChosenFrames
    name: str | None = None
    anchor: int | None = None

    @property
    def command(self) -> str:
        """See `TaskRequest`."""
        return "dataset colorize"


@dataclass(frozen=True, kw_only=True)
class GeneralEditRequest(TaskRequest):
    """A clip and the user's edit of its frame `anchor`. reference: a picture; appearance: what the edit is called."""

    clip: ChosenFrames
    reference: str
    anchor: int
    name: str | None = None
    appearance: str = "edit"

    @property
    def command(self) -> str:
        """See `TaskRequest`."""
        return "dataset clip"


@dataclass(frozen=True, kw_only=True)
class ScenesRequest(TaskRequest):
    """Rendered scenes, from scene `first` of a split on those that show one of `edits`. whole_truth: all frames have a
    truth, else the anchor alone. size: side of the frames in pixels; frames: of a clip. matches: write where pixels lie
    in other frames, which takes most of the time."""

    clips: int
    first: int = 0
    split: str = "test"
    size: int = 256
    frames: int = 16
    edits: tuple[str, ...] = ALL_EDITS
    whole_truth: bool = True
    matches: bool = True

    @property
    def command(self) -> str:
        """See `TaskRequest`."""
        return "dataset rendered" if self.whole_truth else "dataset general"

    @property
    def frame_count(self) -> int:
        """Frames of all tasks together."""
        return self.clips * self.frames


@dataclass(frozen=True, kw_only=True)
class BlenderRequest(TaskRequest):
    """Objects that Blender renders. python: a Python that has bpy, Blender as a module; the others: see `RenderJob`."""

    objects: tuple[str, ...] = OBJECTS
    size: int = 512
    frames: int = 16
    samples: int = 16
    seed: int = 0
    threads: int = 0
    python: str = sys.executable

    @property
    def command(self) -> str:
        """See `TaskRequest`."""
        return "dataset blender"

    @property
    def frame_count(self) -> int:
        """Frames of all tasks together."""
        return self.frames * len(self.objects)
