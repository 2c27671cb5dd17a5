"""What the commands on a user's clip read: model, frames, reference, masks; and the checks of their output folder."""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from ..backbones.sd.unet import UNetBackbone
from ..checks import InputError
from ..cli.console import warn
from ..correspondence.match import level_k, top_k_matches
from ..files.guard import content
from ..files.names import check_name, is_pattern
from ..luma import LUMA
from ..video.image_reader import image_files, image_notes, names_images
from ..video.resize import Policy
from ..video.source import FrameSource, open_frames, read_image, resize_frames
from ..zero_stage.stage import ZeroStageSettings

TINY_SIZE = 256
SAME_ASPECT = 0.01  # aspect ratios closer than this (relative) count as equal
_LUMA = torch.tensor(LUMA).view(3, 1, 1)  # as `read_mask`


def note(notes: list[str], text: str) -> None:
    """Say aloud what the user might not expect, and keep it for the report."""
    notes.append(text)
    warn(text)


def check_paths(*names: str | None) -> None:
    """Raise `InputError` for a path that does not exist (globs are left to their reader); None is passed over."""
    for name in names:
        if name is not None and not is_pattern(name) and not Path(name).exists():
            raise InputError(f"{name}: no such file or folder; check the path.")


def check_folder(out: Path, *, may_exist: bool, remedy: str) -> None:
    """Raise `InputError` unless `out` can be made, or is an empty folder, or `may_exist` and it is a folder."""
    check_name(out)
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise InputError(f"--out {out}: expected a folder, but {there} is a file; choose another name.")
    if not os.access(there, os.W_OK):
        raise InputError(f"--out {out}: {there} is not writable; choose another folder.")
    if content(out) and not may_exist:
        raise InputError(f"--out {out}: is not empty; choose another folder or add {remedy}.")


def load_model(args: argparse.Namespace) -> UNetBackbone:
    """The model that --tiny or --model asks for, on the wanted device."""
    if args.tiny:
        from ..tiny import unet as model

        if args.dtype not in ("auto", "float32"):
            raise InputError(f"--dtype: the tiny models compute in float32, got {args.dtype}; leave it out.")
        unused = [
            name
            for name in ("prediction_type", "empty_embedding", "tokenizer")
            if getattr(args, name) not in (None, "auto")
        ]
        if unused:
            raise InputError(
                f"--{unused[0].replace('_', '-')}: the tiny models need none; leave it out or give --model."
            )
        return model.load_tiny(device=pick_device(args.device))
    from ..backbones.sd.loading import load_backbone

    return load_backbone(
        args.model,
        args.device,
        args.dtype,
        prediction_type=args.prediction_type,
        empty_embedding=args.empty_embedding,
        tokenizer=args.tokenizer,
        keep_text_encoder=bool(args.prompt),
    )


def pick_device(name: str) -> torch.device:
    """The device of a name; "auto" is CUDA where there is one. Raises: InputError for one that is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"--device: expected auto, cpu, mps, cuda or cuda:N present here, got '{name}'.") from error


def settings_of(args: argparse.Namespace) -> ZeroStageSettings:
    """The settings that stand in the arguments; what a command has no option for keeps its default."""
    given = vars(args)
    return ZeroStageSettings(**{f.name: given[f.name] for f in fields(ZeroStageSettings) if f.name in given})


def check_k(settings: ZeroStageSettings, grids: Sequence[tuple[int, int]]) -> None:
    """Raise `InputError` when k or the neighbourhood does not fit the three grids, before anything is computed."""
    coarse, middle, fine = (h * w for h, w in grids)
    most = min(4 * coarse + 3, middle, fine // 4)  # what `level_k` allows
    if settings.tokens > most:
        raise InputError(
            f"--k: expected 1 to {most} (or -1 for all) at this frame size, got {settings.k}"
            f"{' (up to 8)' if settings.k == 'adaptive' else ''}; lower it or choose a larger --size."
        )
    for level, size in enumerate(grids):
        anchor = torch.empty(size[0] * size[1], 1)
        top_k_matches(anchor[:0], anchor, level_k(settings.tokens, level), size, settings.neighbourhood)


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

    def by_index(self) -> Mapping[int, torch.Tensor]:
        """The chosen frames (3, H, W) by their places in the original clip, each read when it is asked for."""
        return _ByIndex(self)

    def fit(self, picture: torch.Tensor) -> torch.Tensor | None:
        """Pictures (N, C, h, w) of the original's or the frames' aspect ratio at the frames' size, else None."""
        hw = (picture.shape[-2], picture.shape[-1])
        if _same_aspect(hw, self.native_hw):
            return resize_frames(picture, self.size_hw, self.policy)
        return resize_frames(picture, self.size_hw) if _same_aspect(hw, self.size_hw) else None


class _ByIndex(Mapping[int, torch.Tensor]):
    def __init__(self, clip: Clip):
        self.clip, self.numbers = clip, {index: number for number, index in enumerate(clip.indices)}

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.clip.frames([self.numbers[index]])[0]

    def __contains__(self, index: object) -> bool:
        return index in self.numbers  # without reading the frame

    def __iter__(self) -> Iterator[int]:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


def _same_aspect(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return abs((a[1] * b[0]) / (a[0] * b[1]) - 1) <= SAME_ASPECT


@contextmanager
def start_is(option: str) -> Iterator[None]:
    """Within the block, errors of `open_frames` about `start` are about this option."""
    try:
        yield
    except InputError as error:
        if not str(error).startswith("start:"):
            raise
        raise InputError(f"{option}{str(error).removeprefix('start')}") from error


def open_clip(
    args: argparse.Namespace, multiple: int, wanted: Sequence[int] | None = None, notes: list[str] | None = None
) -> Clip:
    """The frames that the arguments choose (or `wanted`, sorted), sides a multiple of `multiple`, and the anchor.

    What a user should know of the clip is said aloud and kept in `notes`, if that is given.
    """
    size = args.size or (TINY_SIZE if args.tiny else None)
    with start_is("--anchor"):
        original = open_frames(args.video, start=args.anchor, maximum=1, multiple=1)
    with start_is("--frames" if wanted else "--start"):
        start, stop = (wanted[0], wanted[-1] + 1) if wanted else (args.start, args.stop)
        source = open_frames(
            args.video,
            start=start,
            stop=stop,
            stride=args.stride,
            maximum=args.max_frames,
            size=size,
            policy=args.policy,
            multiple=multiple,
        )
    if wanted and wanted[-1] > (last := source.index_of(len(source) - 1)):
        raise InputError(f"--frames: expected 0 to {last} (the clip has {last + 1} frames), got {wanted[-1]}.")
    if notes is not None:
        for text in source.notes:
            note(notes, text)
    places = [index - wanted[0] for index in wanted] if wanted else list(range(len(source)))
    indices = [source.index_of(place) for place in places]
    with original:
        anchor = resize_frames(original.frames([0]), source.size_hw, args.policy)[0]
    return Clip(source, indices, places, anchor, original.size_hw, args.policy)


def read_reference(path: str, clip: Clip, notes: list[str]) -> torch.Tensor:
    """The reference (3, H, W) at the frames' size; its centre is cut out, and that said, if its shape is another."""
    picture = read_image(path)[None]
    for text in image_notes(path):
        note(notes, f"the reference: {text}")
    fitted = clip.fit(picture)
    if fitted is None:
        (h, w), (native_h, native_w) = picture.shape[-2:], clip.native_hw
        note(
            notes,
            f"the reference ({w} x {h}) has another aspect ratio than the clip ({native_w} x {native_h}): "
            "its centre was cut out; edit the anchor without cropping it for an exact match",
        )
        fitted = resize_frames(picture, clip.size_hw, "crop")
    if nearly_equal(fitted[0], clip.anchor):
        note(notes, "the reference is the anchor itself, so the clip keeps its look")
    return fitted[0]


def nearly_equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """True when no value of two pictures in [0, 1] differs by more than 4 of 255 levels."""
    return bool((a - b).abs().max() <= 4.01 / 255)


class Masks:
    """Object masks for the chosen frames: one image for all, or a folder, glob or video with as many as frames.

    Raises: InputError when their number or aspect ratio is another.
    """

    def __init__(self, path: str, clip: Clip):
        self._clip = clip
        self._source = open_frames(path, multiple=1)
        self._single = len(self._source) == 1 and Path(path).is_file() and names_images(Path(path))
        count, frames = len(self._source), len(clip.indices)
        if not self._single and count != frames:
            raise InputError(
                f"--mask {path}: expected {frames} masks, one for each chosen frame, or one image for all, got {count}."
            )
        if clip.fit(torch.empty(1, 1, *self._source.size_hw)) is None:
            (h, w), (native_h, native_w) = self._source.size_hw, clip.native_hw
            raise InputError(
                f"--mask {path}: expected the clip's aspect ratio ({native_w} x {native_h}), got {w} x {h}."
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


def fingerprint(name: str | None) -> str | None:
    """SHA-256 of a file's content, or of the names and contents of the images of a folder or glob; None for None."""
    if name is None:
        return None
    path, digest = Path(name), hashlib.sha256()
    for file in image_files(path) if names_images(path) else [path]:
        if file != path:
            digest.update(file.name.encode() + b"\0")
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
