"""Frame sources: a video file, a folder or a glob of images, or frames in memory, behind one small interface.

Counts are exact: a video is decoded once when it is opened (as far as `stop` and `maximum` need), because neither the
frame count nor the index of a container can be trusted; damage that the decoder notices is reported then. Frames come
in presentation order, edit lists applied. The rate is the nominal one where all timestamps keep to it, else (variable
frame rate) the average over the chosen span. Time 0 is where a player starts the file.
Pixel conventions, colour and alpha: see `resize.py`.
"""

from __future__ import annotations

import operator
import os
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path

import av
import torch
from av.container import InputContainer

from zero2hero_core import resize as pictures
from zero2hero_core.checks import InputError, Zero2HeroError, check_images, check_index
from zero2hero_core.resize import Policy, frame_to_rgb, read_image, read_mask, resize_frames

__all__ = ["FrameSource", "frame_rate", "open_frames", "read_image", "read_mask", "resize_frames"]

DEFAULT_IMAGE_RATE = Fraction(24)
_ReadFrame = Callable[[int], torch.Tensor]


class _Clip(ABC):
    """The original behind a source: what is known of it, and how to get frame i, (3, H, W), at its native size."""

    path: Path | None = None
    has_audio = False

    def __init__(self, native_hw: tuple[int, int], times: list[Fraction], rate: Fraction) -> None:
        self.native_hw, self.times, self.rate = native_hw, times, rate

    @abstractmethod
    def reader(self) -> AbstractContextManager[_ReadFrame]:
        """Open a decoder of its own; it likes to go forward."""


class FrameSource:
    """The chosen frames of a clip: a length, an index, a rate. Frames are decoded when they are asked for.

    Attributes:
        fps: frames per second of the chosen frames (the rate of the original divided by the stride).
        size_hw: (H, W) of every frame that comes out.
        source_path: the file or folder, None for frames in memory.
        has_audio: whether the file has an audio track.
    """

    def __init__(self, clip: _Clip, picks: range, size_hw: tuple[int, int], policy: Policy) -> None:
        self.fps = clip.rate / picks.step
        self.size_hw = size_hw
        self.source_path = clip.path
        self.has_audio = clip.has_audio
        self._clip, self._picks, self._policy = clip, picks, policy
        self._open = ExitStack()
        self._read: _ReadFrame | None = None  # for random access; iterators have their own

    def __len__(self) -> int:
        return len(self._picks)

    def __getitem__(self, index: int) -> torch.Tensor:
        """Return frame `index` (0 to len - 1) as (3, H, W) float32 in [0, 1]. Raises: InputError."""
        original = self.index_of(index)
        if self._read is None:
            self._read = self._open.enter_context(self._clip.reader())
        return self._sized(self._read(original))

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yield every frame in order as (3, H, W) float32 in [0, 1], one at a time; nothing is kept."""
        with self._clip.reader() as read:
            for original in self._picks:
                yield self._sized(read(original))

    def frames(self, indices: Iterable[int]) -> torch.Tensor:
        """Return the frames at `indices` (any order, repeats allowed) as (N, 3, H, W) float32 in [0, 1].

        Raises: InputError when an index is outside 0 to len - 1 or there are none.
        """
        wanted = list(indices)
        places: dict[int, list[int]] = {}
        for place, index in enumerate(wanted):
            self.index_of(index)
            places.setdefault(operator.index(index), []).append(place)
        if not wanted:
            raise InputError("indices: expected at least one frame index, got none.")
        batch = torch.empty((len(wanted), 3, *self.size_hw))
        for index in sorted(places):  # decoders like to go forward
            batch[places[index]] = self[index]
        return batch

    def index_of(self, index: int) -> int:
        """Return where frame `index` stands in the original, counted from 0. Raises: InputError."""
        try:
            number = operator.index(index)
        except TypeError as error:
            raise InputError(f"index: expected a whole number, got {index!r}; use frames(...) for several.") from error
        return self._picks[check_index("index", number, len(self._picks))]

    def time_of(self, index: int) -> float:
        """Return the presentation time of frame `index` in seconds of the original. Raises: InputError."""
        return float(self._clip.times[self.index_of(index)])

    def close(self) -> None:
        """Free the decoder of random access; it opens again when needed."""
        self._read = None
        self._open.close()

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _sized(self, frame: torch.Tensor) -> torch.Tensor:
        return resize_frames(frame[None], self.size_hw, self._policy)[0]


def open_frames(
    source: str | os.PathLike[str] | torch.Tensor,
    *,
    start: int = 0,
    stop: int | None = None,
    stride: int = 1,
    maximum: int | None = None,
    size: int | tuple[int, int] | None = None,
    policy: Policy = "resize",
    multiple: int = 8,
    fps: Fraction | float | None = None,
) -> FrameSource:
    """Open frames start, start + stride, ... before `stop`, at most `maximum` of them.

    Args:
        source: a video file, an image file, a folder of images or a glob of images (natural order: 2 before 10; other
            files are passed over), or a tensor (N, 3, H, W) in [0, 1], which is not copied.
        start, stop, stride: range of original frame indices; `stop` None or beyond the end means the end.
        maximum: upper bound on the number of frames.
        size, multiple: None keeps the size, an int is the short side, or (H, W); see `target_size` for the rounding.
        policy: "resize", "crop" or "pad", see `resize_frames`.
        fps: rate of images and tensors, 24 if not given; a video has its own.
    Raises: InputError when the source or an argument cannot be used; of a damaged video it tells how much is readable.
    """
    pictures.check_policy(policy)
    limit = _scan_limit(start, stop, stride, maximum)
    rate = DEFAULT_IMAGE_RATE if fps is None else frame_rate(fps)
    clip: _Clip
    if isinstance(source, torch.Tensor):
        check_images("source", source)
        picks = _pick(len(source), start, limit, stride)
        clip = _tensor_clip(source, rate)
    elif not isinstance(source, (str, os.PathLike)):
        raise InputError(f"source: expected a path or a tensor (N, 3, H, W), got {type(source).__name__}.")
    elif pictures.names_images(path := Path(source)):
        files = pictures.image_files(path)
        picks = _pick(len(files), start, limit, stride)
        clip = _image_clip(path, files, picks, rate)
    else:
        if fps is not None:
            raise InputError(f"fps: expected nothing for a video ({path.name} has a rate of its own), got {fps}.")
        video = _VideoClip(pictures.existing_file(path, "video, image or folder of images"), limit)
        picks = _pick(len(video.pts), start, limit, stride)
        video.rate = video.rate_of(picks)
        clip = video
    return FrameSource(clip, picks, pictures.target_size(clip.native_hw, size, multiple), policy)


def frame_rate(fps: Fraction | float) -> Fraction:
    """Return `fps` as a Fraction; a float becomes the nearest n/d with d up to 1001 (29.97003 is 30000/1001).

    Raises: InputError unless 0 < fps <= 1000.
    """
    if isinstance(fps, bool) or not isinstance(fps, (int, float, Fraction)) or not 0 < fps <= 1000:
        raise InputError(f"fps: expected frames per second above 0, up to 1000, got {fps!r}.")
    return Fraction(fps).limit_denominator(1001) if isinstance(fps, float) else Fraction(fps)


def _scan_limit(start: int, stop: int | None, stride: int, maximum: int | None) -> int | None:
    """Check the range arguments; return the index before which all wanted frames lie, None for the end of the clip."""
    for name, value, low in (("start", start, 0), ("stop", stop, 1), ("stride", stride, 1), ("maximum", maximum, 1)):
        optional = name in ("stop", "maximum")
        if (value is None and optional) or (isinstance(value, int) and not isinstance(value, bool) and value >= low):
            continue
        raise InputError(f"{name}: expected a whole number from {low} up{' or nothing' * optional}, got {value!r}.")
    if stop is not None and stop <= start:
        raise InputError(f"stop: expected more than start ({start}), got {stop}; no frame lies between them.")
    ends = [] if stop is None else [stop]
    if maximum is not None:
        ends.append(start + (maximum - 1) * stride + 1)
    return min(ends, default=None)


def _pick(count: int, start: int, limit: int | None, stride: int) -> range:
    if count == 0:
        raise InputError("source: expected at least one frame, got none.")
    if start >= count:
        raise InputError(f"start: expected 0 to {count - 1} (the clip has {count} frames), got {start}.")
    return range(start, count if limit is None else min(count, limit), stride)


class _StillClip(_Clip):
    """Frames that can be had one by one through a function."""

    def __init__(self, native_hw: tuple[int, int], count: int, rate: Fraction, read: _ReadFrame) -> None:
        super().__init__(native_hw, [index / rate for index in range(count)], rate)
        self._read = read

    def reader(self) -> AbstractContextManager[_ReadFrame]:
        return nullcontext(self._read)


def _tensor_clip(tensor: torch.Tensor, rate: Fraction) -> _Clip:
    low, high = (float(value) for value in torch.aminmax(tensor))
    if not (low >= 0 and high <= 1):
        raise InputError(f"source: expected values in [0, 1], got {low:g} to {high:g}; rescale or clamp the frames.")
    height, width = tensor.shape[-2:]
    return _StillClip((height, width), len(tensor), rate, lambda index: tensor[index].float())


def _image_clip(path: Path, files: list[Path], picks: range, rate: Fraction) -> _Clip:
    native_hw = pictures.common_image_size([files[index] for index in picks])
    clip = _StillClip(native_hw, len(files), rate, lambda index: read_image(files[index]))
    clip.path = path if path.exists() else files[0].parent
    return clip


class _VideoClip(_Clip):
    """A video file and what decoding it once has shown, up to frame `limit` if that is given."""

    def __init__(self, path: Path, limit: int | None) -> None:
        self.path: Path = path
        self.pts: list[int | None] = []  # one timestamp per frame, in presentation order
        self.keys: list[int] = []  # indices of the key frames; empty when the file cannot be searched
        container, stream = pictures.open_video(path)
        with container:
            self._tick = stream.time_base or Fraction(1, 1000)
            native_hw = self._scan(container, stream, path, limit)
            rates = (stream.guessed_rate, stream.average_rate, stream.base_rate)
            self._nominal = [Fraction(rate) for rate in rates if rate] or [DEFAULT_IMAGE_RATE]
            self.has_audio = bool(container.streams.audio)
            zero = pictures.start_time(container)
        known = [pts for pts in self.pts if pts is not None]
        times = [pts * self._tick - zero for pts in known]
        if len(known) < len(self.pts) or any(b <= a for a, b in pairwise(known)):
            self.keys = []  # no usable timestamps (raw streams, some AVI): count the frames, never seek
            times = [index / self._nominal[0] for index in range(len(self.pts))]
        super().__init__(native_hw, times, self._nominal[0])

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
    ) -> tuple[int, int]:
        coded_hw, native_hw, problem = (0, 0), (0, 0), ""
        try:
            for frame in pictures.decode(container, stream):
                if not self.pts:
                    height, width = frame_to_rgb(frame).shape[-2:]  # upright
                    coded_hw, native_hw = (frame.height, frame.width), (height, width)
                if frame.is_corrupt or (frame.height, frame.width) != coded_hw:
                    problem = "a damaged frame" if frame.is_corrupt else f"{frame.width} x {frame.height} pixels"
                    break
                if frame.key_frame:
                    self.keys.append(len(self.pts))
                self.pts.append(frame.pts)
                if len(self.pts) == limit:
                    break
            else:
                end = (self.pts[-1] or 0) * self._tick if self.pts else Fraction(0)
                problem = pictures.missing_part(container, stream, path, len(self.pts), end)
        except av.error.FFmpegError as error:
            problem = str(error.strerror)
        count = len(self.pts)
        if problem or not count:
            part = f"or use the good part only: stop {count} or less" if count else "or check what kind of file it is"
            raise InputError(
                f"{path}: damaged or incomplete: {count} frames can be decoded, then: {problem or 'the file ends'}. "
                f"Get an intact copy, {part}."
            )
        return native_hw

    @contextmanager
    def reader(self) -> Iterator[_ReadFrame]:
        reader = _VideoReader(self)
        try:
            yield reader.read
        finally:
            reader.close()


class _VideoReader:
    """One open decoder; it goes forward, or seeks to the key frame before the wanted frame and decodes from there."""

    def __init__(self, clip: _VideoClip) -> None:
        self._clip = clip
        self._held: av.VideoFrame | None = None
        self._restart()

    def _restart(self) -> None:
        self._container, self._stream = pictures.open_video(self._clip.path, strict=False)
        self._frames = pictures.decode(self._container, self._stream)
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
        return frame_to_rgb(self._held)

    def _seek(self, index: int, keys: list[int]) -> None:
        """Stand on a key frame at or before `index`; containers may land late, so try earlier ones, then the start."""
        pts = self._clip.pts
        for key in reversed(keys):
            self._container.seek(pts[key] or 0, stream=self._stream)
            frames = pictures.decode(self._container, self._stream)
            first = next((frame for frame in frames if frame.key_frame), None)
            landed = pts.index(first.pts) if first is not None and first.pts in pts else index + 1
            if first is not None and landed <= index:
                self._frames, self._next = chain([first], frames), landed
                return
        self.close()
        self._restart()
