"""One video file as a clip: decoded once to know its frames, then read at any place. Promises: `source.py`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path

import av
import torch
from av.container import InputContainer

from ..checks import InputError, Zero2HeroError
from .decode import FrameDecoder, display_matrix, frame_to_rgb, missing_part, open_video, sound_track, start_time
from .notes import INCOMPLETE, INTERLACED, file_notes, frame_notes

DEFAULT_IMAGE_RATE = Fraction(24)
ReadFrame = Callable[[int], torch.Tensor]
Shape = tuple[int, int, tuple[int, ...]]  # height and width as coded, display matrix


class Clip(ABC):
    """The original behind a source: what is known of it, and how to get frame i, (3, H, W), at its native size."""

    path: Path | None = None
    has_audio = False

    def __init__(self, native_hw: tuple[int, int], times: list[Fraction], rate: Fraction) -> None:
        self.native_hw, self.times, self.rate = native_hw, times, rate
        self.notes: list[str] = []

    @abstractmethod
    def reader(self) -> AbstractContextManager[ReadFrame]:
        """Open a decoder of its own; it likes to go forward."""


@contextmanager
def file_named(path: Path) -> Iterator[None]:
    """Within the block, an `InputError` about a picture says which file it is in."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _changed(path: Path, index: int, before: Shape, now: Shape) -> str:
    """What is wrong with a clip whose frames from `index` on are of another size or turned otherwise."""
    (old_h, old_w, _), (new_h, new_w, _) = before, now
    if (old_h, old_w) == (new_h, new_w):
        return (
            f"{path}: expected all frames turned alike, but frame {index} is turned otherwise than those before it; "
            f"bring the video to one orientation first, or use the part before: stop {index} or less."
        )
    return (
        f"{path}: expected {old_w} x {old_h} pixels like the frames before, but frame {index} has {new_w} x {new_h}; "
        f"scale the video to one size first, or use the part before: stop {index} or less."
    )


class VideoClip(Clip):
    """A video file and what decoding it once has shown, up to frame `limit` if that is given."""

    def __init__(self, path: Path, limit: int | None) -> None:
        self.path: Path = path
        self.pts: list[int | None] = []  # one timestamp per frame, in presentation order
        self.keys: list[int] = []  # indices of the key frames; empty when the file cannot be searched
        container, stream = open_video(path)
        with container:
            self._tick = stream.time_base or Fraction(1, 1000)
            native_hw, notes = self._scan(container, stream, path, limit)
            rates = (stream.guessed_rate, stream.average_rate, stream.base_rate)
            self._nominal = [Fraction(rate) for rate in rates if rate] or [DEFAULT_IMAGE_RATE]
            self.has_audio = sound_track(container) is not None
            zero = start_time(container)
        known = [pts for pts in self.pts if pts is not None]
        times = [pts * self._tick - zero for pts in known]
        if len(known) < len(self.pts) or any(b <= a for a, b in pairwise(known)):
            self.keys = []  # no usable timestamps (raw streams, some AVI): count the frames, never seek
            times = [index / self._nominal[0] for index in range(len(self.pts))]
        super().__init__(native_hw, times, self._nominal[0])
        self.notes = notes

    def rate_of(self, picks: range) -> Fraction:
        """Return the first nominal rate that every timestamp keeps to within a tick, else the average over `picks`."""
        first = self.times[0]
        for rate in self._nominal:
            if all(abs(time - first - index / rate) <= self._tick for index, time in enumerate(self.times)):
                return rate
        low, high = (picks[0], picks[-1]) if len(picks) > 1 else (0, len(self.times) - 1)
        return (high - low) / (self.times[high] - self.times[low])

    def _scan(
        self, container: InputContainer, stream: av.VideoStream, path: Path, limit: int | None
    ) -> tuple[tuple[int, int], list[str]]:
        """Decode once: fills `pts` and `keys`; returns (H, W) of upright frames, and notes."""
        notes = file_notes(container, stream)
        native_hw, interlaced, problem = (0, 0), False, ""
        shape: Shape = (0, 0, ())
        decoder = FrameDecoder(container, stream)
        try:
            for frame in decoder:
                here = (frame.height, frame.width, display_matrix(frame))
                if not self.pts:
                    with file_named(path):
                        height, width = frame_to_rgb(frame).shape[-2:]  # upright
                    native_hw, shape = (height, width), here
                    notes += frame_notes(frame, stream)
                if decoder.is_damaged(frame):
                    problem = "a damaged frame"
                    break
                if here != shape:
                    raise InputError(_changed(path, len(self.pts), shape, here))
                if decoder.is_key(frame):
                    self.keys.append(len(self.pts))
                interlaced |= frame.interlaced_frame
                self.pts.append(frame.pts)
                if len(self.pts) == limit:
                    break
            else:
                problem = missing_part(container, path)
        except av.error.FFmpegError as error:
            problem = str(error.strerror)
        count = len(self.pts)
        if problem or not count:
            part = f"or use the good part only: stop {count} or less" if count else "or check what kind of file it is"
            raise InputError(
                f"{path}: damaged or incomplete: {count} frames can be decoded, then: {problem or 'the file ends'}. "
                f"Get an intact copy, {part}."
            )
        return native_hw, notes + [INTERLACED] * interlaced + [INCOMPLETE] * decoder.incomplete

    @contextmanager
    def reader(self) -> Iterator[ReadFrame]:
        """A decoder of its own; closed at the end of the block."""
        reader = _VideoReader(self)
        try:
            yield reader.read
        finally:
            reader.close()


class _VideoReader:
    """One open decoder; it goes forward, or seeks to the key frame before the wanted frame and decodes from there."""

    def __init__(self, clip: VideoClip) -> None:
        self._clip = clip
        self._held: av.VideoFrame | None = None
        self._restart()

    def _restart(self) -> None:
        self._container, self._stream = open_video(self._clip.path, strict=False)
        self._frames = iter(FrameDecoder(self._container, self._stream))
        self._next = 0

    def close(self) -> None:
        self._container.close()

    def read(self, index: int) -> torch.Tensor:
        keys, pts, path = self._clip.keys, self._clip.pts, self._clip.path
        near = bisect_right(keys, index)  # keys[:near] are not behind the wanted frame
        try:
            if index < self._next - 1 or (near and keys[near - 1] > self._next):
                self._seek(index, keys[max(0, near - 3) : near])
            while self._next <= index or self._held is None:
                self._held = next(self._frames, None)
                if self._held is None or self._held.pts != pts[self._next]:
                    raise Zero2HeroError(f"{path}: frame {self._next} is gone; the file changed after it was opened.")
                self._next += 1
        except av.error.FFmpegError as error:
            raise Zero2HeroError(f"{path}: reading frame {index} failed ({error.strerror}).") from error
        with file_named(path):
            return frame_to_rgb(self._held)

    def _seek(self, index: int, keys: list[int]) -> None:
        """Stand on a key frame at or before `index`; containers may land late, so try earlier ones, then the start."""
        pts = self._clip.pts
        for key in reversed(keys):
            self._container.seek(pts[key] or 0, stream=self._stream)
            decoder = FrameDecoder(self._container, self._stream)
            frames = iter(decoder)
            first = next((frame for frame in frames if decoder.is_key(frame)), None)
            landed = pts.index(first.pts) if first is not None and first.pts in pts else index + 1
            if first is not None and landed <= index:
                self._frames, self._next = chain([first], frames), landed
                return
        self.close()
        self._restart()
