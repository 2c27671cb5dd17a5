"""Tasks of the evaluation on disk, one folder a clip, and their reader.

    NAME/content/frame_0000.png ...               the clip
    NAME/style/frame_AAAA_APPEARANCE.png          the reference: frame AAAA, the anchor, after the edit
    NAME/mask/frame_0000.png ...                  what was edited, white inside (where it is known)
    NAME/target/frame_0000.png ...                the truth of the frames that have one
    NAME/correspondence/frame_0000.safetensors    where pixels lie in other frames (rendered clips)
    NAME/task.json                                what all this is: `TaskInfo`

Folders and file names are those that the code of the Zero-to-Hero authors reads below `_input/_data`; task.json and the
correspondences are ours. Frames count from 0 in the task, wherever the clip was cut out of its video.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from ...checks import InputError
from ...video.image_reader import IMAGE_SUFFIXES, common_image_size, image_size
from ...video.source import FrameSource, open_frames, read_image, read_mask
from .correspondence import FrameCorrespondence, load_frame_correspondence
from .info import TaskInfo

INFO = "task.json"
CONTENT, STYLE, MASK, TARGET, CORRESPONDENCE = "content", "style", "mask", "target", "correspondence"


def frame_name(index: int) -> str:
    """Return the file name of frame `index`."""
    return f"frame_{index:04d}.png"


def reference_name(anchor: int, appearance: str) -> str:
    """Return the file name of the anchor in another appearance."""
    return f"frame_{anchor:04d}_{appearance}.png"


def correspondence_name(index: int) -> str:
    """Return the name of the file about frame `index` and the anchor."""
    return f"frame_{index:04d}.safetensors"


class MaskSource:
    """The masks of a clip: a length and an index, read when they are asked for."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> torch.Tensor:
        """Return mask `index` as (1, H, W) float32 in [0, 1], 1 inside. Raises: InputError, IndexError."""
        return read_mask(self._files[index])

    def frames(self, indices: Iterable[int]) -> torch.Tensor:
        """Return the masks at `indices` as (N, 1, H, W). Raises: InputError, IndexError."""
        return torch.stack([self[index] for index in indices])


@dataclass(frozen=True)
class Task:
    """One clip to edit, with what is known of the answer. Pictures are decoded when they are asked for.

    Attributes:
        folder: where it lies.
        metadata: the content of task.json.
        frames: the clip, N frames (3, H, W) in [0, 1].
        masks: N masks of what was edited, (1, H, W), or None.
        truth: the frames that have a truth, in that appearance; `truth[i]` belongs to frame `truth_frames[i]`. None
            where there is no truth at all.
    """

    folder: Path
    metadata: TaskInfo
    frames: FrameSource
    masks: MaskSource | None
    truth: FrameSource | None

    @property
    def anchor(self) -> int:
        """Index of the frame that was edited."""
        return self.metadata.anchor

    @property
    def truth_frames(self) -> tuple[int, ...]:
        """Indices of the frames that have a truth, ascending."""
        return self.metadata.truth_frames

    @cached_property
    def reference(self) -> torch.Tensor:
        """The anchor after the edit, (3, H, W) in [0, 1]."""
        return read_image(self.folder / STYLE / reference_name(self.anchor, self.metadata.appearance))

    def correspondence(self, index: int) -> FrameCorrespondence:
        """Return where the anchor's pixels lie in frame `index` and the other way round.

        Raises: InputError when the task has none, when `index` is the anchor or outside the clip, or a file is damaged.
        """
        if not self.metadata.has_correspondence or index == self.anchor or not 0 <= index < len(self.frames):
            has = f"frames 0 to {len(self.frames) - 1} but the anchor, {self.anchor}"
            raise InputError(
                f"{self.folder}: expected one of {has if self.metadata.has_correspondence else 'none'}, got frame "
                f"{index}; only rendered clips have correspondences."
            )
        return load_frame_correspondence(self.folder / CORRESPONDENCE / correspondence_name(index), self.frames.size_hw)


def load_task(folder: str | os.PathLike[str]) -> Task:
    """Return the task in `folder`. Names, numbers and sizes of all pictures are checked, their pixels are not read.

    Raises: InputError that names what is missing, what differs, and what to do.
    """
    path = Path(folder)
    info = read_info(path)
    size_hw = _check_pictures(path / CONTENT, [frame_name(i) for i in range(info.frames)])
    if size_hw != info.size_hw:
        raise InputError(f"{path / CONTENT}: expected {_size(info.size_hw)} pixels (task.json), got {_size(size_hw)}.")
    reference = path / STYLE / reference_name(info.anchor, info.appearance)
    parts = [(reference, image_size(reference))]
    masks = truth = None
    if info.has_masks:
        names = [frame_name(i) for i in range(info.frames)]
        parts.append((path / MASK, _check_pictures(path / MASK, names)))
        masks = MaskSource([path / MASK / name for name in names])
    if info.truth_frames:
        parts.append((path / TARGET, _check_pictures(path / TARGET, [frame_name(i) for i in info.truth_frames])))
        truth = open_frames(path / TARGET, multiple=1, fps=info.fps)
    for place, other in parts:
        if other != size_hw:
            raise InputError(f"{place}: expected {_size(size_hw)} pixels like the clip, got {_size(other)}; resize it.")
    return Task(path, info, open_frames(path / CONTENT, multiple=1, fps=info.fps), masks, truth)


def find_tasks(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the task folders in `folder`, by name; `folder` itself when it is one. Raises: InputError for none."""
    path = Path(folder)
    folders = [path] if (path / INFO).is_file() else sorted(file.parent for file in path.glob(f"[!.]*/{INFO}"))
    if not folders:
        raise InputError(f"{path}: expected a task or a folder of tasks ({INFO}); make some with `zero2hero dataset`.")
    return folders


def read_info(folder: Path) -> TaskInfo:
    """Return what stands in task.json. Raises: InputError when it is missing, damaged or of another version."""
    path = folder / INFO
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a folder made by `zero2hero dataset`.")
    try:
        return TaskInfo.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); make the task again.") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def hash_files(folder: Path) -> str:
    """Return the SHA-256 of the names and contents of all files of a task but task.json."""
    digest = hashlib.sha256()
    names = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    for name in sorted(names.keys() - {INFO}):
        content = hashlib.sha256(names[name].read_bytes()).hexdigest()
        digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()


def _check_pictures(folder: Path, names: list[str]) -> tuple[int, int]:
    """(H, W) of the pictures of a folder, which must have these names."""
    there = {file.name for file in folder.glob("[!.]*") if file.suffix.lower() in IMAGE_SUFFIXES}
    if missing := sorted(set(names) - there):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(f"{folder}: expected {names[0]} to {names[-1]}, but {missing[0]}{more} is missing; add it.")
    if extra := sorted(there - set(names)):
        raise InputError(f"{folder}: expected {names[0]} to {names[-1]} only, got also {extra[0]}; remove it.")
    return common_image_size([folder / name for name in names])


def _size(size_hw: tuple[int, int]) -> str:
    return f"{size_hw[1]} x {size_hw[0]}"
