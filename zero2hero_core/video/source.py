"""Frame sources: a video file, a folder or a glob of images, or frames in memory, behind one small interface.

Counts are exact: a video is decoded once when it is opened (as far as `stop` and `maximum` need), because neither the
frame count nor the index of a container can be trusted; damage that the decoder notices is reported then. Frames come
in presentation order, edit lists applied. The rate is the nominal one where all timestamps keep to it, else (variable
frame rate) the average over the chosen span. Time 0 is where a player starts the file.
Pixel conventions: `resize.py`; colour and alpha: `decode.py`.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from fractions import Fraction
from pathlib import Path

import torch

from ..checks import InputError, check_images, check_index
from . import image_reader
from .image_reader import read_image, read_mask
from .resize import Policy, check_policy, resize_frames, target_size
from .video_file import DEFAULT_IMAGE_RATE, Clip, ReadFrame, VideoClip

__all__ = ["FrameSource", "frame_rate", "open_frames", "read_image", "read_mask", "resize_frames"]


class FrameSource:
    """The chosen frames of a clip: a length, an index, a rate. Frames are decoded when they are asked for.

    Attributes:
        fps: frames per second of the chosen frames (the rate of the original divided by the stride).
        size_hw: (H, W) of every frame that comes out.
        source_path: the file or folder, None for frames in memory.
        has_audio: whether the file has an audio track of a known codec.
        notes: what a user should know of the clip before work begins (HDR, interlacing, a cut start ...), a line each.
        even: whether the frames come at equal distances of 1 / `fps`, to within a quarter of one.
    """

    def __init__(self, clip: Clip, picks: range, size_hw: tuple[int, int], policy: Policy) -> None:
        self.fps = clip.rate / picks.step
        self.size_hw = size_hw
        self.source_path = clip.path
        self.has_audio = clip.has_audio
        self.notes = tuple(clip.notes)
        self._clip, self._picks, self._policy = clip, picks, policy
        self._open = ExitStack()
        first = clip.times[picks[0]]
        places = enumerate(clip.times[original] - first for original in picks)
        self.even = all(abs(time * self.fps - index) <= Fraction(1, 4) for index, time in places)
        self._read: ReadFrame | None = None  # for random access; iterators have their own

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
        fps: rate of images and tensors, 24 if not given; a video has its own. An animated image (PNG, WebP) has its
            own unless `fps` is given.
    Raises: InputError when the source or an argument cannot be used; of a damaged video it tells how much is readable.
    """
    check_policy(policy)
    limit = _scan_limit(start, stop, stride, maximum)
    rate = DEFAULT_IMAGE_RATE if fps is None else frame_rate(fps)
    clip: Clip
    if isinstance(source, torch.Tensor):
        check_images("source", source)
        picks = _pick(len(source), start, limit, stride)
        clip = _tensor_clip(source, rate)
    elif not isinstance(source, (str, os.PathLike)):
        raise InputError(f"source: expected a path or a tensor (N, 3, H, W), got {type(source).__name__}.")
    elif image_reader.names_images(path := Path(source)):
        files = image_reader.image_files(path)
        if len(files) == 1 and files[0] == path and image_reader.is_animation(path):
            animated = _AnimatedClip(path, None if fps is None else rate)
            picks = _pick(len(animated.times), start, limit, stride)
            clip = animated
        else:
            picks = _pick(len(files), start, limit, stride)
            clip = _image_clip(path, files, picks, rate)
    else:
        if fps is not None:
            raise InputError(f"fps: expected nothing for a video ({path.name} has a rate of its own), got {fps}.")
        video = VideoClip(image_reader.existing_file(path, "video, image or folder of images"), limit)
        picks = _pick(len(video.pts), start, limit, stride)
        video.rate = video.rate_of(picks)
        clip = video
    return FrameSource(clip, picks, target_size(clip.native_hw, size, multiple), policy)


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


class _StillClip(Clip):
    """Frames that can be had one by one through a function."""

    def __init__(self, native_hw: tuple[int, int], count: int, rate: Fraction, read: ReadFrame) -> None:
        super().__init__(native_hw, [index / rate for index in range(count)], rate)
        self._read = read

    def reader(self) -> AbstractContextManager[ReadFrame]:
        return nullcontext(self._read)


class _AnimatedClip(Clip):
    """The pictures of one animated image file."""

    def __init__(self, path: Path, rate: Fraction | None) -> None:
        self._animation = animation = image_reader.Animation(path)
        count, seconds = len(animation), animation.times[-1]
        times = animation.times[:-1] if rate is None else [index / rate for index in range(count)]
        super().__init__(image_reader.image_size(path), times, rate or (count / seconds).limit_denominator(1001))
        self.path = path

    def reader(self) -> AbstractContextManager[ReadFrame]:
        return self._animation.reader()


def _tensor_clip(tensor: torch.Tensor, rate: Fraction) -> Clip:
    low, high = (float(value) for value in torch.aminmax(tensor))
    if not (low >= 0 and high <= 1):
        raise InputError(f"source: expected values in [0, 1], got {low:g} to {high:g}; rescale or clamp the frames.")
    height, width = tensor.shape[-2:]
    return _StillClip((height, width), len(tensor), rate, lambda index: tensor[index].float())


def _image_clip(path: Path, files: list[Path], picks: range, rate: Fraction) -> Clip:
    native_hw = image_reader.common_image_size([files[index] for index in picks])
    clip = _StillClip(native_hw, len(files), rate, lambda index: read_image(files[index]))
    clip.path = path if path.exists() else files[0].parent
    clip.notes += image_reader.image_notes(files[picks[0]])
    return clip
