"""The clip that a job works on: which frames, the anchor, its edit, masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from ..checks import InputError, setting
from ..files.names import is_pattern
from ..luma import LUMA
from ..video.image_reader import image_notes, names_images
from ..video.resize import Policy
from ..video.source import FrameSource, open_frames, read_image, resize_frames
from .listener import Notes

TINY_SIZE = 256  # what the tiny models were made for
SAME_ASPECT = 0.01  # aspect ratios closer than this (relative) count as equal
SAME_PICTURE = 4.01 / 255  # pictures that differ nowhere by more count as equal
_LUMA = torch.tensor(LUMA).view(3, 1, 1)  # as `read_mask`


@dataclass(frozen=True)
class ClipRequest:
    """Which frames of which clip, at which size. Indices count from 0 in the original clip.

    video: a file, a folder of pictures or a glob. anchor: the frame that was edited; None: `start`. start, stop,
    stride, max_frames: as in `open_frames`. size: short side, or (height, width); None keeps the clip's. policy: how
    frames get another aspect ratio.
    """

    video: str
    anchor: int | None = None
    start: int = 0
    stop: int | None = None
    stride: int = 1
    max_frames: int | None = None
    size: int | tuple[int, int] | None = None
    policy: Policy = "resize"


class Pictures(Mapping[int, torch.Tensor]):
    """Pictures (3, H, W) by index, each read when it is asked for.

    Args: indices: of all pictures. read: gives the picture of an index.
    """

    def __init__(self, indices: Iterable[int], read: Callable[[int], torch.Tensor]):
        self._indices, self._read = dict.fromkeys(indices), read

    def __getitem__(self, index: int) -> torch.Tensor:
        if index not in self._indices:
            raise KeyError(index)
        return self._read(index)

    def __contains__(self, index: object) -> bool:
        return index in self._indices  # without reading the picture

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices)

    def __len__(self) -> int:
        return len(self._indices)


@dataclass(frozen=True)
class Clip:
    """The chosen frames and the anchor.

    source: holds the frames; indices: their places in the original clip; places: their places in the source; anchor:
    (3, H, W) at the frames' size; native_hw: (H, W) of the original; policy: how it became `size_hw`.
    """

    source: FrameSource
    indices: list[int]
    places: list[int]
    anchor: torch.Tensor
    native_hw: tuple[int, int]
    policy: Policy

    @property
    def size_hw(self) -> tuple[int, int]:
        """(H, W) of the frames that are worked on."""
        return self.source.size_hw

    def frames(self, numbers: Sequence[int]) -> torch.Tensor:
        """The chosen frames with these numbers (0 is the first chosen one), (N, 3, H, W)."""
        return self.source.frames([self.places[number] for number in numbers])

    def by_index(self) -> Pictures:
        """The chosen frames (3, H, W) by their places in the original clip."""
        numbers = {index: number for number, index in enumerate(self.indices)}
        return Pictures(self.indices, lambda index: self.frames([numbers[index]])[0])

    def fit(self, picture: torch.Tensor) -> torch.Tensor | None:
        """Pictures (N, C, h, w) of the original's or the frames' aspect ratio at the frames' size, else None."""
        hw = (picture.shape[-2], picture.shape[-1])
        if is_same_aspect(hw, self.native_hw):
            return resize_frames(picture, self.size_hw, self.policy)
        return resize_frames(picture, self.size_hw) if is_same_aspect(hw, self.size_hw) else None


def is_same_aspect(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether two sizes (H, W) have one aspect ratio, or nearly."""
    return abs((a[1] * b[0]) / (a[0] * b[1]) - 1) <= SAME_ASPECT


@contextmanager
def start_is(name: str) -> Iterator[None]:
    """Within the block, errors of `open_frames` about `start` are about this setting."""
    try:
        yield
    except InputError as error:
        if not error.text.startswith("start:"):
            raise
        raise InputError(f"{setting(name)}{error.text.removeprefix('start')}") from error


def open_clip(
    request: ClipRequest, multiple: int, notes: Notes | None = None, numbers: Sequence[int] | None = None
) -> Clip:
    """The frames that the request chooses (or `numbers`, sorted), and the anchor.

    Args: multiple: of which the sides are made multiples. notes: what a user should know of the clip is told there.
    Raises: InputError when the clip cannot be read or has no such frames.
    """
    anchor = request.start if request.anchor is None else request.anchor
    with start_is("anchor" if request.anchor is not None else "start"):
        original = open_frames(request.video, start=anchor, maximum=1, multiple=1)
    with start_is("frames" if numbers else "start"):
        start, stop = (numbers[0], numbers[-1] + 1) if numbers else (request.start, request.stop)
        source = open_frames(
            request.video,
            start=start,
            stop=stop,
            stride=request.stride,
            maximum=request.max_frames,
            size=request.size,
            policy=request.policy,
            multiple=multiple,
        )
    if numbers and numbers[-1] > (last := source.index_of(len(source) - 1)):
        raise InputError(
            f"{setting('frames')}: expected 0 to {last} (the clip has {last + 1} frames), got {numbers[-1]}."
        )
    if notes is not None:
        for text in source.notes:
            notes.add(text)
    places = [index - numbers[0] for index in numbers] if numbers else list(range(len(source)))
    indices = [source.index_of(place) for place in places]
    with original:
        picture = resize_frames(original.frames([0]), source.size_hw, request.policy)[0]
    return Clip(source, indices, places, picture, original.size_hw, request.policy)


def check_also(request: ClipRequest, also: Mapping[int, str]) -> None:
    """Raise `InputError` when the anchor stands among the further edited frames too."""
    anchor = request.start if request.anchor is None else request.anchor
    if anchor in also:
        raise InputError(f"{setting('also')}: frame {anchor} is given twice; give one reference per frame.")


def original_frame(request: ClipRequest, index: int, clip: Clip, name: str) -> torch.Tensor:
    """A frame (3, H, W) of the original clip, chosen or not, at the size of the chosen ones. name: the setting that
    asks for it."""
    with start_is(name), open_frames(request.video, start=index, maximum=1, multiple=1) as source:
        return resize_frames(source.frames([0]), clip.size_hw, clip.policy)[0]


def read_reference(path: str, clip: Clip, notes: Notes) -> torch.Tensor:
    """The reference (3, H, W) at the frames' size; its centre is cut out, and that said, if its shape is another."""
    picture = read_image(path)[None]
    for text in image_notes(path):
        notes.add(f"the reference: {text}")
    frame = clip.fit(picture)
    if frame is None:
        (h, w), (native_h, native_w) = picture.shape[-2:], clip.native_hw
        notes.add(
            f"the reference ({w} x {h}) has another aspect ratio than the clip ({native_w} x {native_h}): "
            "its centre was cut out; edit the anchor without cropping it for an exact match"
        )
        frame = resize_frames(picture, clip.size_hw, "crop")
    if same_picture(frame[0], clip.anchor):
        notes.add("the reference is the anchor itself, so the clip keeps its look")
    return frame[0]


def same_picture(a: torch.Tensor, b: torch.Tensor) -> bool:
    """True when no value of two pictures in [0, 1] differs by more than 4 of 255 levels."""
    return bool((a - b).abs().max() <= SAME_PICTURE)


class Masks:
    """Object masks for the chosen frames: one image for all, or a folder, glob or video with as many as frames.

    Args: name: of the setting that gives them.
    Raises: InputError when their number or aspect ratio is another.
    """

    def __init__(self, path: str, clip: Clip, name: str = "mask"):
        self._clip = clip
        self._source = open_frames(path, multiple=1)
        self._single = len(self._source) == 1 and Path(path).is_file() and names_images(Path(path))
        count, frames, name = len(self._source), len(clip.indices), setting(name)
        if not self._single and count != frames:
            raise InputError(
                f"{name} {path}: expected {frames} masks, one for each chosen frame, or one image for all, got {count}."
            )
        if clip.fit(torch.empty(1, 1, *self._source.size_hw)) is None:
            (h, w), (native_h, native_w) = self._source.size_hw, clip.native_hw
            raise InputError(
                f"{name} {path}: expected the clip's aspect ratio ({native_w} x {native_h}), got {w} x {h}."
            )

    def batch(self, places: Sequence[int]) -> torch.Tensor:
        """Masks (B, 1, H, W) in [0, 1] of the frames at these places."""
        pictures = self._source.frames([0] * len(places) if self._single else places)
        masks = self._clip.fit((pictures * _LUMA).sum(1, keepdim=True).clamp(0, 1))
        assert masks is not None
        return masks

    def empty(self) -> int:
        """How many of the chosen frames have an all-black mask."""
        count = len(self._clip.indices)
        if self._single:
            return 0 if bool(self.batch([0]).any()) else count
        return sum(not bool(self.batch([place]).any()) for place in range(count))

    def tell_empty(self, notes: Notes) -> None:
        """Note that masks are empty, where some are."""
        if text := empty_masks_text(self.empty(), len(self._clip.indices)):
            notes.add(text)


def empty_masks_text(empty: int, count: int) -> str:
    """What is said where `empty` of `count` masks hold nothing; nothing where none does."""
    where = "every frame, so nothing is edited" if empty == count else f"{empty} of {count} frames"
    return f"the mask is empty in {where}" if empty else ""


def check_paths(*names: str | None) -> None:
    """Raise `InputError` for a path that does not exist (globs are left to their reader); None is passed over."""
    for name in names:
        if name is not None and not is_pattern(name) and not Path(name).exists():
            raise InputError(f"{name}: no such file or folder; check the path.")
