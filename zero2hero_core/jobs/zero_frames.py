"""Initial pictures: in folders, where Zero-Stage or propagation left them, or in the video of any other tool; and the
clip that they belong to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..checks import InputError, setting
from ..video.resize import resize_frames
from ..video.source import FrameSource, open_frames, read_image
from .clip import TINY_SIZE, Clip, ClipRequest, Pictures, open_clip
from .frames import FRAMES
from .listener import Notes
from .state import file_digest

STATES = ("zero.json", "propagate.json")  # of the jobs that make initial pictures


class ZeroFrames:
    """Frames that `zero2hero zero` or `propagate` wrote, by their index in the original clip; or those of another
    tool: a video, or a folder of pictures, which `bind` tells the indices of. Of several, the first that has a frame
    counts."""

    def __init__(self, names: Sequence[str], name: str = "zero"):
        self.folders, self._name = [Path(folder) for folder in names], setting(name)
        self._videos: dict[Path, FrameSource] = {}
        self._places: dict[Path, dict[int, int]] = {}
        for folder in self.folders:
            if (folder / FRAMES).is_dir():
                continue
            try:
                self._videos[folder] = open_frames(str(folder), multiple=1)
            except InputError as error:
                raise InputError(
                    f"{self._name} {folder}: expected a folder that `zero2hero zero` or `zero2hero propagate` wrote, "
                    f"with {FRAMES}/ in it, or a video or a folder of pictures ({error.text.rstrip('.')})."
                ) from error
        self.state = _read_state(self.folders[0])

    @property
    def foreign(self) -> bool:
        """Whether the frames are another tool's."""
        return bool(self._videos)

    def bind(self, indices: Sequence[int]) -> None:
        """Tell which frames of the clip a video holds: as many as these chosen ones, or the whole clip.

        Raises: InputError when it has fewer frames than it would need.
        """
        for folder, source in self._videos.items():
            if len(source) == len(indices):
                self._places[folder] = {index: place for place, index in enumerate(indices)}
            elif len(source) > max(indices):
                self._places[folder] = {index: index for index in range(len(source))}
            else:
                raise InputError(
                    f"{self._name} {folder}: expected {len(indices)} frames, one for each chosen one, or the whole "
                    f"clip, got {len(source)}; choose the frames that it shows ({setting('start')}, {setting('stop')}, "
                    f"{setting('stride')})."
                )

    @property
    def size_hw(self) -> tuple[int, int] | None:
        """(H, W) of the frames, where their run told it."""
        size = self.state.get("size")
        return (size[1], size[0]) if isinstance(size, list) and len(size) == 2 else None

    def has(self, index: int) -> bool:
        """Whether there is such a frame."""
        return self._place(index) is not None

    def _place(self, index: int) -> Path | tuple[Path, int] | None:
        """File of a frame, or a video and the place in it."""
        for folder in self.folders:
            if folder in self._videos:
                place = self._places.get(folder, {}).get(index)
                if place is not None:
                    return folder, place
            elif (path := folder / FRAMES / f"frame_{index:06d}.png").exists():
                return path
        return None

    def need(self, indices: list[int]) -> None:
        """Raise `InputError` that names how many and which frames are missing."""
        missing = [index for index in indices if not self.has(index)]
        if missing:
            where = ", ".join(str(folder) for folder in self.folders)
            raise InputError(
                f"{self._name}: expected {len(indices)} frames in {where}, but {len(missing)} are missing, the "
                f"first is frame {missing[0]}; run `zero2hero zero` for the same frames ({setting('start')}, "
                f"{setting('stop')}, {setting('stride')})."
            )

    def read(self, index: int, size_hw: tuple[int, int]) -> torch.Tensor:
        """A frame (3, H, W) at the wanted size; its shape must be the clip's."""
        place = self._place(index)
        if place is None:
            raise InputError(f"{self._name}: frame {index} is missing; run `zero2hero zero` for it.")
        if isinstance(place, Path):
            path, picture = place, read_image(place)
        else:
            path, picture = place[0], self._videos[place[0]].frames([place[1]])[0]
        h, w = picture.shape[-2:]
        if abs(w * size_hw[0] / (h * size_hw[1]) - 1) > 0.02:
            raise InputError(
                f"{path}: expected the shape of the frames ({size_hw[1]} x {size_hw[0]}), got {w} x {h}; choose the "
                f"same clip, {setting('size')} and {setting('policy')} as for `zero2hero zero`."
            )
        return resize_frames(picture[None], size_hw)[0]

    def pictures(self, size_hw: tuple[int, int], indices: Sequence[int]) -> Pictures:
        """The frames of these indices that are there, (3, H, W) at the wanted size."""
        return Pictures([i for i in indices if self.has(i)], lambda index: self.read(index, size_hw))


def _read_state(folder: Path) -> dict[str, Any]:
    path = next((folder / name for name in STATES if (folder / name).exists()), None)
    if path is None:
        return {}
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); make these frames again.") from error
    return state if isinstance(state, dict) else {}


def open_hero_clip(request: ClipRequest, zero: ZeroFrames, multiple: int, notes: Notes, *, tiny: bool) -> Clip:
    """The chosen frames, at the size of the Zero-Stage frames unless the request says another."""
    size = request.size or zero.size_hw or (TINY_SIZE if tiny else None)
    if (policy := zero.state.get("policy", request.policy)) != request.policy:
        raise InputError(f"{setting('policy')}: expected {policy}, as for `zero2hero zero`, got {request.policy}.")
    clip = open_clip(replace(request, size=size), multiple, notes)
    zero.bind(clip.indices)
    if zero.state.get("video sha256", digest := file_digest(request.video)) != digest:
        notes.add(f"the Zero-Stage frames were made from another file than {setting('video')}")
    if zero.size_hw not in (None, clip.size_hw):
        h, w = clip.size_hw
        notes.add(f"the Zero-Stage frames are resized to {w} x {h}")
    return clip
