"""Which frames of a video are loaded, whether they fit, and the frames of what is saved."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import torch

from ...zero2hero_core.checks import InputError
from ...zero2hero_core.video.audio import silence_reason
from ...zero2hero_core.video.source import FrameSource, frame_rate, open_frames
from ..convert.audio import read_audio
from ..convert.checks import check_choice
from ..convert.pictures import size_hw_of, to_core
from ..host.notes import Notes
from ..host.services import Progress, free_memory, video_file

SHARE = 0.8  # of the free memory that loaded frames may take; the rest of the graph needs some, too
FITS: dict[str, Literal["resize", "crop", "pad"]] = {"stretch": "resize", "crop": "crop", "pad": "pad"}


@dataclass(frozen=True)
class Selection:
    """Frames of a source.

    indices: places in it, in order, repeats allowed; fps: their rate; begin, end: seconds; even: whether they come at
    equal distances, see `FrameSource`.
    """

    source: FrameSource
    indices: list[int]
    fps: Fraction
    begin: float
    end: float
    even: bool = True

    def tell(self, notes: Notes) -> None:
        """Say what the user should know before the frames are worked on."""
        for text in self.source.notes:
            notes.warn(text)
        if not self.even:
            notes.warn(
                "the video has a variable frame rate, and an IMAGE batch has one rate only: sound and picture drift "
                f"apart; set force_rate, to {float(round(self.fps))} for example, to keep them in step"
            )

    def audio(self) -> dict[str, Any] | None:
        """The sound that belongs to the frames, None where there is none."""
        path = self.source.source_path
        return read_audio(path, self.begin, self.end) if path is not None and self.source.has_audio else None

    def read(self) -> torch.Tensor:
        """Decode into one IMAGE (B, H, W, 3), the only copy. Raises: InputError when it does not fit."""
        check_memory(len(self.indices), self.source.size_hw)
        frames = torch.empty(len(self.indices), *self.source.size_hw, 3)
        progress = Progress(len(self.indices))
        for place, index in enumerate(self.indices):
            frames[place] = self.source[index].movedim(0, -1)
            progress.step()
        return frames


def select(
    path: Path, *, force_rate: float, start: int, maximum: int, stride: int, size: Any, fit: str, multiple: int
) -> Selection:
    """Choose frames `start`, `start` + `stride` ..., at most `maximum`, of a video brought to `force_rate` first.

    Args: force_rate, maximum: 0 for the video's own rate, and for all; size, multiple: see `open_frames`; fit: a key of
    FITS.
    Raises: InputError.
    """
    check_choice("fit", fit, FITS)
    shape: dict[str, Any] = {"size": size, "multiple": multiple, "policy": FITS[fit]}
    if force_rate == 0:
        source = open_frames(path, start=start, stride=stride, maximum=maximum or None, **shape)
        begin, end = source.time_of(0), source.time_of(len(source) - 1) + float(1 / source.fps)
        return Selection(source, list(range(len(source))), source.fps, begin, end, source.even)
    source, rate = open_frames(path, **shape), frame_rate(force_rate)
    indices = at_rate([source.time_of(index) for index in range(len(source))], source.fps, rate)
    if start >= len(indices):
        raise InputError(f"start: expected 0 to {len(indices) - 1} ({len(indices)} frames at {rate} fps), got {start}.")
    frames = indices[start::stride][: maximum or None]
    begin, fps = source.time_of(0) + float(start / rate), rate / stride
    return Selection(source, frames, fps, begin, begin + float(len(frames) / fps))


def at_rate(times: list[float], fps: Fraction, rate: Fraction) -> list[int]:
    """Return for each tick of `rate` the index of the frame that a player shows then; the duration stays.

    Args: times: presentation time of each frame in seconds, rising; fps: rate of the frames (length of the last one).
    Example: 4 frames at 24 fps brought to 12 fps: [0, 2]; 2 frames at 12 fps brought to 24 fps: [0, 0, 1, 1].
    """
    count = max(1, round((times[-1] - times[0] + 1 / fps) * rate))
    slack = 0.1 / fps  # Matroska rounds times to milliseconds: a frame that is due must not be missed for that
    return [max(0, bisect_right(times, times[0] + tick / rate + slack) - 1) for tick in range(count)]


def size_of(short_side: int, width: int, height: int) -> int | tuple[int, int] | None:
    """Return the `size` for `open_frames`; 0 means not given. Raises: InputError when one of width and height is."""
    if (width == 0) != (height == 0):
        missing = "width" if width == 0 else "height"
        raise InputError(f"{missing}: expected both width and height or none of them, got 0; set it, too.")
    return (height, width) if width else (short_side or None)


def check_memory(count: int, size_hw: tuple[int, int]) -> None:
    """Raise `InputError` unless that many float RGB frames fit into the free main memory."""
    height, width = size_hw
    each, free = height * width * 12, free_memory("cpu")
    if count * each > SHARE * free:
        fitting = int(SHARE * free / each)
        remedy = f"set maximum to {fitting} or less, or take a stride or" if fitting else "set"
        raise InputError(
            f"file: {count} frames of {width} x {height} need {count * each / 1e9:.1f} GB of memory and "
            f"{free / 1e9:.1f} GB are free; {remedy} a smaller short_side."
        )


@dataclass(frozen=True)
class Clip:
    """What is to be saved.

    frames: (3, H, W) each; sound: a file, an AUDIO, or None; times: of a variable frame rate, in seconds, from 0.
    """

    frames: Iterable[torch.Tensor]
    count: int
    size_hw: tuple[int, int]
    fps: Fraction
    sound: Path | dict[str, Any] | None
    times: list[float] | None = None


def clip_of(frames: Any, fps: float, audio: dict[str, Any] | None) -> Clip:
    """An IMAGE at `fps`, or a VIDEO at its own rate with its own sound; `audio` replaces the sound."""
    if isinstance(frames, torch.Tensor):
        images = to_core(frames, "frames")
        return Clip(images, len(images), size_hw_of(images), frame_rate(fps), audio)
    path = video_file(frames)
    if path is not None:  # read it frame by frame; the host would hold all of them
        source = open_frames(path, multiple=1)
        sound = path if source.has_audio and not silence_reason(path, 0.0, None) else None
        begin = source.time_of(0)
        times = None if source.even else [source.time_of(index) - begin for index in range(len(source))]
        return Clip(source, len(source), source.size_hw, source.fps, audio or sound, times)
    parts = frames.get_components()
    images = to_core(parts.images, "frames")
    rate = Fraction(parts.frame_rate)
    return Clip(images, len(images), size_hw_of(images), rate, audio or parts.audio)
