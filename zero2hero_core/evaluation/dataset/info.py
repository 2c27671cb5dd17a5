"""What a task is: the content of its task.json."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

from ...checks import InputError

FORMAT, VERSION = "zero2hero-task", 1
KINDS = ("colorization", "color-edit", "general-edit", "blender-color-edit")
FOLDERS = ("content", "style")  # the authors' code finds one folder from another by replacing these words in its path


@dataclass(frozen=True)
class TaskInfo:
    """What stands in task.json.

    Attributes:
        kind: one of `KINDS`.
        name: of the task's folder; letters, digits, "-", "_" and ".".
        appearance: what the edit is called, part of the reference's file name.
        anchor: index of the edited frame; frames: their number; size_hw: (H, W) in pixels; fps: frames per second.
        truth_frames: indices of the frames that have a truth, ascending.
        has_masks, has_correspondence: whether there are such files.
        seed: what the clip was rendered from; None for real footage.
        source: where the clip comes from and how it was made, values that JSON can hold.
        made_by: program and version; sha256: `task.hash_files` of the task.
    Raises: InputError when a value cannot be.
    """

    kind: str
    name: str
    appearance: str
    anchor: int
    frames: int
    size_hw: tuple[int, int]
    fps: Fraction
    truth_frames: tuple[int, ...]
    has_masks: bool
    has_correspondence: bool
    seed: int | None = None
    source: Mapping[str, Any] = field(default_factory=dict)
    made_by: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"kind: expected one of {', '.join(KINDS)}, got {self.kind!r}.")
        for what in ("name", "appearance"):
            check_name(what, getattr(self, what))
        if any(word in self.name for word in FOLDERS):
            raise InputError(
                f"name: expected one without {' and '.join(FOLDERS)}, which are folders, got {self.name!r}."
            )
        if self.frames < 1 or min(self.size_hw) < 1 or len(self.size_hw) != 2 or self.fps <= 0:
            raise InputError(
                "frames, size_hw, fps: expected at least one frame of at least 1 x 1 pixels and a rate above 0, got "
                f"{self.frames}, {self.size_hw}, {self.fps}."
            )
        if not 0 <= self.anchor < self.frames:
            raise InputError(f"anchor: expected 0 to {self.frames - 1}, got {self.anchor}.")
        if sorted({*self.truth_frames} & {*range(self.frames)}) != list(self.truth_frames):
            raise InputError(f"truth_frames: expected ascending indices below {self.frames}, got {self.truth_frames}.")

    def to_json(self) -> dict[str, Any]:
        """Return what JSON can hold; `from_json` gives the same object back."""
        plain = asdict(self) | {"size_hw": list(self.size_hw), "truth_frames": list(self.truth_frames)}
        return {"format": FORMAT, "version": VERSION} | plain | {"fps": str(self.fps), "source": dict(self.source)}

    @classmethod
    def from_json(cls, values: Any) -> TaskInfo:
        """Read what `to_json` gave. Raises: InputError that names the field."""
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise InputError(
                f"expected a task (format {FORMAT}), got something else; make it with `zero2hero dataset`."
            )
        if values.get("version") != VERSION:
            raise InputError(f"version: expected {VERSION}, got {values.get('version')!r}; make the task again.")
        entries = {name: value for name, value in values.items() if name not in ("format", "version")}
        names = {item.name for item in fields(cls)}
        if names != set(entries):
            missing, extra = sorted(names - set(entries)), sorted(set(entries) - names)
            raise InputError(
                f"expected {len(names)} fields; missing: {missing}, unknown: {extra}; make the task again."
            )
        for name, kinds in _KINDS.items():
            if not isinstance(entries[name], kinds) or (isinstance(entries[name], bool) and bool not in kinds):
                raise InputError(f"{name}: expected {kinds[0].__name__}, got {entries[name]!r}; make the task again.")
        for name in ("size_hw", "truth_frames"):
            if not all(isinstance(item, int) and not isinstance(item, bool) for item in entries[name]):
                raise InputError(f"{name}: expected whole numbers, got {entries[name]!r}; make the task again.")
            entries[name] = tuple(entries[name])
        try:
            entries["fps"] = Fraction(entries["fps"])
        except (ValueError, ZeroDivisionError) as error:
            raise InputError(f'fps: expected a number like "24" or "30000/1001", got {entries["fps"]!r}.') from error
        return cls(**entries)


_NULL = type(None)
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("kind", "name", "appearance", "fps", "made_by", "sha256"), (str,)),
    **dict.fromkeys(("anchor", "frames"), (int,)),
    **dict.fromkeys(("size_hw", "truth_frames"), (list,)),
    **dict.fromkeys(("has_masks", "has_correspondence"), (bool,)),
    "seed": (int, _NULL),
    "source": (dict,),
}


def check_name(what: str, name: str) -> str:
    """Return `name` if it can be a task's or an appearance's, else raise `InputError`."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name):
        raise InputError(f"{what}: expected up to 100 letters, digits, - _ and . (no space), got {name!r}.")
    return name


def clip_name(video: str) -> str:
    """A task's name from the file name of a video."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(video).stem).strip("-.") or "clip"
