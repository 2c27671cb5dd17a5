"""Write tasks (see `task.py`), each all or nothing, and the list of them that the authors' Zero-Stage code takes."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from ...checks import InputError, ShapeError, setting
from ...files.names import temporary_name
from ...files.whole import explained, write_text
from ...version import __version__
from ...video.image_writer import write_image
from .correspondence import FrameCorrespondence, save_frame_correspondence
from .info import TaskInfo
from .task import (
    CONTENT,
    CORRESPONDENCE,
    INFO,
    MASK,
    STYLE,
    TARGET,
    correspondence_name,
    find_tasks,
    frame_name,
    hash_files,
    read_info,
    reference_name,
)

INDEX = "zero.json"


class TaskWriter:
    """Write one task; use it in a `with` block, at whose end the folder appears. An error leaves nothing behind.

    Args:
        parent: folder of the data set; made when it is missing.
        info: what the task will be; `made_by` and `sha256` are filled in here.
        overwrite: replace a task of that name.
    Raises: InputError when the folder exists and may not be replaced, or at the end when a picture is missing.
    """

    def __init__(self, parent: Path, info: TaskInfo, *, overwrite: bool = False) -> None:
        self.folder, self.info, self._overwrite = parent / info.name, info, overwrite
        check_free(self.folder, overwrite)
        self._temporary = temporary_name(self.folder)

    def __enter__(self) -> TaskWriter:
        with explained(self.folder):
            self._temporary.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def content(self, index: int, picture: torch.Tensor) -> None:
        """Write frame `index` of the clip, (3, H, W) in [0, 1]. Raises: ShapeError, InputError, Zero2HeroError."""
        self._picture(CONTENT, frame_name(index), picture, 3)

    def reference(self, picture: torch.Tensor) -> None:
        """Write the edited anchor, (3, H, W) in [0, 1]. Raises: as `content`."""
        self._picture(STYLE, reference_name(self.info.anchor, self.info.appearance), picture, 3)

    def mask(self, index: int, picture: torch.Tensor) -> None:
        """Write the mask of frame `index`, (1, H, W) in [0, 1], 1 inside. Raises: as `content`."""
        self._picture(MASK, frame_name(index), picture, 1)

    def truth(self, index: int, picture: torch.Tensor) -> None:
        """Write the truth of frame `index`, (3, H, W) in [0, 1]. Raises: as `content`."""
        self._picture(TARGET, frame_name(index), picture, 3)

    def correspondence(self, index: int, matches: FrameCorrespondence) -> None:
        """Write the matches of frame `index` with the anchor. Raises: InputError, Zero2HeroError."""
        save_frame_correspondence(self._place(CORRESPONDENCE) / correspondence_name(index), matches)

    def extra(self, name: str, values: Any) -> None:
        """Write a JSON file beside task.json. Raises: InputError, Zero2HeroError when the disk is full."""
        with explained(self.folder):
            text = json.dumps(values, indent=2, allow_nan=False)
            (self._temporary / name).write_text(text + "\n", encoding="utf-8")

    def _place(self, part: str) -> Path:
        folder = self._temporary / part
        with explained(self.folder):
            folder.mkdir(exist_ok=True)
        return folder

    def _picture(self, part: str, name: str, picture: torch.Tensor, channels: int) -> None:
        expected = (channels, *self.info.size_hw)
        if tuple(picture.shape) != expected:
            raise ShapeError(f"{part}/{name}: expected shape {expected}, got {tuple(picture.shape)}.")
        write_image(self._place(part) / name, picture)

    def _finish(self) -> None:
        info, wanted = self.info, range(self.info.frames)
        parts: dict[str, set[str]] = {
            CONTENT: {frame_name(i) for i in wanted},
            STYLE: {reference_name(info.anchor, info.appearance)},
            MASK: {frame_name(i) for i in wanted if info.has_masks},
            TARGET: {frame_name(i) for i in info.truth_frames},
            CORRESPONDENCE: {correspondence_name(i) for i in wanted if info.has_correspondence and i != info.anchor},
        }
        for part, names in parts.items():
            if different := names ^ {file.name for file in (self._temporary / part).glob("*")}:
                raise InputError(
                    f"{self.folder / part}: {min(different)} is missing or too many; the task is not made."
                )
        done = replace(info, made_by=f"zero2hero {__version__}", sha256=hash_files(self._temporary))
        self.extra(INFO, done.to_json())
        check_free(self.folder, self._overwrite)
        with explained(self.folder):
            old = _set_aside(self.folder) if self.folder.is_dir() else None
            try:
                os.replace(self._temporary, self.folder)
            except OSError:
                if old is not None:
                    os.replace(old, self.folder)
                raise
            if old is not None:
                shutil.rmtree(old, ignore_errors=True)


def _set_aside(folder: Path) -> Path:
    """Move a task that is being replaced out of the way. `remove_unfinished` puts it back where a run dies then."""
    aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.replaced")
    os.replace(folder, aside)
    return aside


def remove_unfinished(parent: Path) -> None:
    """Clear up after runs that died in a folder of tasks: half a task is removed, a whole one that was to be replaced
    and has no successor is put back. Call it with the folder locked."""
    for folder in parent.glob(".*.replaced") if parent.is_dir() else ():
        if found := re.fullmatch(r"\.(.+)\.[0-9a-f]{8}\.replaced", folder.name):
            if (parent / found[1]).exists():
                shutil.rmtree(folder, ignore_errors=True)
            else:
                os.replace(folder, parent / found[1])
    for folder in parent.glob(".*.partial*") if parent.is_dir() else ():
        if folder.is_dir() and re.fullmatch(r"\..+\.[0-9a-f]{8}\.partial(\.\w+)?", folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def check_free(folder: Path, overwrite: bool) -> None:
    """Raise `InputError` unless a task can be made there, or replaced when `overwrite` is set."""
    if not folder.exists():
        return
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / INFO).is_file()):
        raise InputError(
            f"{folder}: expected a task or nothing there, got other files; choose another {setting('out')} or name."
        )
    if not overwrite and any(folder.iterdir()):
        raise InputError(
            f"{folder}: holds a task already; choose another {setting('out')}, or add {setting('resume')} or "
            f"{setting('overwrite')}."
        )


def is_made(folder: Path, info: TaskInfo) -> bool:
    """Return whether `folder` holds the task `info` already.

    Raises: InputError when it holds another one, naming what differs.
    """
    if not (folder / INFO).is_file():
        return False
    before, now = read_info(folder).to_json(), info.to_json()
    changing = {"made_by", "sha256"}
    if different := [name for name in now if before[name] != now[name] and name not in changing]:
        raise InputError(
            f"{folder}: holds a task that differs in {', '.join(different)}; give the options of that run, choose "
            f"another {setting('out')}, or replace it with {setting('overwrite')}."
        )
    return True


def write_index(folder: Path) -> None:
    """Write zero.json in a folder of tasks: an entry for each, as the authors' Zero-Stage reads them.

    Their code looks for the tasks in `_input/_data` and for this list at `_input/_json/zero.json`.
    Raises: InputError, Zero2HeroError when it cannot be written.
    """
    entries = [_index_entry(read_info(task)) for task in find_tasks(folder)]
    target = folder / INDEX
    write_text(target, json.dumps(entries, indent=2) + "\n")


def _index_entry(info: TaskInfo) -> dict[str, Any]:
    return {
        "active": True,
        "exp_name": info.name,
        "appearance": info.appearance,
        "anchor_frame": info.anchor,
        "frame_id": [0, info.frames, 1],
        "resolution": list(info.size_hw),
        "k": [1],
        "gamma": [1.0],
        "tau": [1.0],
    }
