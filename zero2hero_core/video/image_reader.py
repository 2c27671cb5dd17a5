"""Read single images and list the images of a folder or a glob."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image, ImageOps

from ..checks import InputError
from ..files.names import check_name, is_pattern, matching_files
from ..luma import LUMA
from .decode import composite, frame_to_rgb
from .image_colour import ProfileError, profile_mode, to_srgb

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})
_MOVING = {"PNG", "WEBP", "GIF"}  # formats in which several pictures are an animation (in TIFF they are pages)


def read_image(path: str | os.PathLike[str]) -> torch.Tensor:
    """Return the image in `path` as (3, H, W) float32 RGB in [0, 1].

    Grey, palette, CMYK and 16-bit images are converted (16 bits are kept in grey images and in PNG); EXIF orientation
    is applied; a colour profile is converted to sRGB (in 8 bits), one that cannot be used is passed over; alpha is
    composited over black; of an animation the first picture is taken. `image_notes` tells when that matters.

    Raises: InputError when the file is missing, is not an image, is damaged, or has values that are no [0, 1] picture.
    """
    file = existing_file(path, "image")
    with _readable(file), Image.open(file) as picture:
        if picture.format == "PNG" and _png_is_16_bit(file):
            return _upright(_deep_png(picture, file), _orientation(picture))
        return _picture_to_rgb(ImageOps.exif_transpose(picture), file)


def image_notes(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return what a user should know of an image that `read_image` reads, a line each. Raises: InputError."""
    file, notes = existing_file(path, "image"), []
    with _readable(file), Image.open(file) as picture:
        if (count := getattr(picture, "n_frames", 1)) > 1 and picture.format != "MPO":  # MPO: previews of a camera
            kind = "animation" if picture.format in _MOVING else "file"
            notes.append(f"{file.name} is one {kind} of {count} pictures; the first is taken")
        if _is_transparent(picture):
            notes.append(f"{file.name} is transparent in places, which become black; lay it over the frame first")
        try:
            to_srgb(_without_alpha(picture))
        except ProfileError as error:
            notes.append(
                f"{file.name}: {error}; its colours are taken as sRGB; save it anew as sRGB if they look wrong"
            )
    return tuple(notes)


class Animation:
    """The pictures of an animated PNG, WebP or GIF file.

    Attributes:
        times: when each picture is shown, in seconds; with one more entry for the end.
    """

    def __init__(self, path: Path) -> None:
        self._file = path
        durations = []
        with _readable(path), Image.open(path) as picture:
            for index in range(getattr(picture, "n_frames", 1)):
                picture.seek(index)
                picture.load()  # WebP knows the duration only then
                durations.append(Fraction(picture.info.get("duration", 0)).limit_denominator(100_000) / 1000)
        times = [Fraction(0)]
        for duration in durations:
            times.append(times[-1] + (duration if duration > Fraction(1, 100) else Fraction(1, 10)))  # as browsers do
        self.times = times

    def __len__(self) -> int:
        return len(self.times) - 1

    @contextmanager
    def reader(self) -> Iterator[Callable[[int], torch.Tensor]]:
        """Open the file; what comes reads picture i, (3, H, W) float32 RGB in [0, 1]. Raises: InputError."""
        with _readable(self._file):
            picture = Image.open(self._file)

        def read(index: int) -> torch.Tensor:
            with _readable(self._file):
                picture.seek(index)  # each picture is painted over those before, which Pillow does
                return _picture_to_rgb(picture, self._file)

        with picture:
            yield read


def is_animation(path: Path) -> bool:
    """Tell whether an image file moves. Raises: InputError when it cannot be read."""
    with _readable(path), Image.open(existing_file(path, "image")) as picture:
        return picture.format in _MOVING and getattr(picture, "n_frames", 1) > 1


def read_mask(path: str | os.PathLike[str]) -> torch.Tensor:
    """Return the image in `path` as a mask (1, H, W) float32 in [0, 1]: black is 0, white is 1.

    Colour becomes BT.601 luma; transparent pixels count as black. Raises: InputError as `read_image`.
    """
    weights = torch.tensor(LUMA, dtype=torch.float64).view(3, 1, 1)
    return (read_image(path).double() * weights).sum(0, keepdim=True).clamp_(0, 1).float()


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return (H, W) of an image from its header, as `read_image` would give it. Raises: InputError."""
    file = existing_file(path, "image")
    with _readable(file), Image.open(file) as picture:
        width, height = picture.size
        turned = _orientation(picture) >= 5
    return (width, height) if turned else (height, width)


def common_image_size(files: Sequence[Path]) -> tuple[int, int]:
    """Return the (H, W) that all `files` share. Raises: InputError naming the first that differs."""
    height, width = image_size(files[0])
    for file in files[1:]:
        other = image_size(file)
        if other != (height, width):
            raise InputError(
                f"{file}: expected {width} x {height} pixels like {files[0].name}, got {other[1]} x {other[0]}; "
                "all images of a clip need one size."
            )
    return height, width


def names_images(path: Path) -> bool:
    """Tell whether `path` is a folder, an image by its suffix, or a glob; anything else is taken for a video."""
    return is_pattern(path) or path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES


def image_files(path: Path) -> list[Path]:
    """Return the images of a folder or a glob in natural order (2 before 10), or the one image that `path` is.

    Files with other suffixes and hidden files are passed over. Raises: InputError when there are no images.
    """
    if path.is_dir():
        found = list(path.iterdir())
    elif is_pattern(path):
        found = matching_files(path)
    else:
        return [existing_file(path, "image")]
    files = [f for f in found if f.suffix.lower() in IMAGE_SUFFIXES and not f.name.startswith(".") and f.is_file()]
    if not files:
        raise InputError(f"{path}: expected at least one image ({', '.join(sorted(IMAGE_SUFFIXES))}), found none.")
    # Every second part of the split is a number, so like is compared with like.
    split = {file: re.split(r"([0-9]+)", str(file).lower()) for file in sorted(files)}
    return sorted(split, key=lambda file: [int(part) if i % 2 else part for i, part in enumerate(split[file])])


def existing_file(path: str | os.PathLike[str], what: str) -> Path:
    """Return `path` as a Path if it is a file that is not empty, else raise `InputError`; `what` names its kind."""
    file = Path(path)
    check_name(file)
    if not file.exists():
        raise InputError(f"{file}: no such file; give the path of an existing {what}.")
    if not file.is_file() or file.stat().st_size == 0:
        raise InputError(f"{file}: expected a file ({what}), got {'an empty one' if file.is_file() else 'a folder'}.")
    return file


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SyntaxError, ValueError, av.error.FFmpegError, Image.DecompressionBombError) as error:
        raise InputError(f"{file}: expected an intact image (PNG, JPEG ...), but reading failed: {error}.") from error


def _png_is_16_bit(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(25)[24:] == b"\x10"  # bit depth in the IHDR chunk


def _orientation(picture: Image.Image) -> int:
    """EXIF orientation, 1 (upright) to 8."""
    return int(picture.getexif().get(0x0112, 1))


def _upright(image: torch.Tensor, orientation: int) -> torch.Tensor:
    """Apply an EXIF orientation to (3, H, W): 2 to 4 mirror or turn by 180 degrees, 5 to 8 swap the sides first."""
    if orientation >= 5:
        image = image.transpose(-1, -2)
    flips = [dim for dim, cases in ((-1, (2, 3, 6, 7)), (-2, (3, 4, 7, 8))) if orientation in cases]
    return image.flip(flips).contiguous()


def _deep_png(picture: Image.Image, file: Path) -> torch.Tensor:
    """A PNG of 16 bits, as it is stored; in 8 bits where its profile has to be converted."""
    with av.open(f"file:{file}", format="png_pipe") as container:
        image = frame_to_rgb(next(iter(container.decode(video=0))), upright=False)
    if not picture.info.get("icc_profile"):
        return image
    pixels = image.mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    grey = profile_mode(picture.info["icc_profile"]) == "L" and bool((pixels[..., :1] == pixels).all())
    flat = Image.fromarray(pixels[..., 0].copy() if grey else pixels)
    flat.info["icc_profile"] = picture.info["icc_profile"]
    converted = _srgb_or_none(flat)
    return image if converted is None else composite(np.asarray(converted), 255.0)


def _has_alpha(picture: Image.Image) -> bool:
    return picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info


def _is_transparent(picture: Image.Image) -> bool:
    """Whether any pixel lets through what lies behind it."""
    if not _has_alpha(picture) or picture.mode[0] in "IF":  # a deep grey picture's key colour is not read
        return False
    return bool(np.asarray(picture.convert("RGBA"))[..., 3].min() < 255)


def _without_alpha(picture: Image.Image) -> Image.Image:
    """The picture in a mode that profiles are made for: L, RGB or CMYK."""
    if picture.mode in ("L", "RGB", "CMYK"):
        return picture
    if picture.mode == "P" and profile_mode(picture.info.get("icc_profile", b"")) == "L":
        return picture.convert("L")
    grey = picture.mode in ("1", "LA", "La") or picture.mode[0] in "IF"
    flat = picture.convert("RGBA" if picture.mode == "RGBa" else "LA" if picture.mode == "La" else picture.mode)
    plain = flat.convert("L" if grey else "RGB")
    plain.info["icc_profile"] = picture.info.get("icc_profile")
    return plain


def _srgb_or_none(picture: Image.Image) -> Image.Image | None:
    try:
        return to_srgb(picture)
    except ProfileError:  # `image_notes` tells it
        return None


def _picture_to_rgb(picture: Image.Image, file: Path) -> torch.Tensor:
    if picture.mode[0] in "IF":  # one deep channel: 16-bit integers, or floats that must already be a picture
        values = np.asarray(picture).astype(np.float32) / (1.0 if picture.mode == "F" else 65535.0)
        if not (values.min() >= 0.0 and values.max() <= 1.0):
            raise InputError(f"{file}: expected values in [0, 1] (float) or 0 to 65535 (integer); rescale the image.")
        if picture.mode != "F" and picture.info.get("icc_profile"):
            flat = Image.fromarray((values * 255).round().astype(np.uint8))
            flat.info["icc_profile"] = picture.info["icc_profile"]
            if (converted := _srgb_or_none(flat)) is not None:
                return composite(np.asarray(converted), 255.0)
        return torch.from_numpy(values).expand(3, -1, -1).contiguous()
    has_alpha = _has_alpha(picture)
    converted = _srgb_or_none(_without_alpha(picture)) if picture.info.get("icc_profile") else None
    if converted is None:
        return composite(np.asarray(picture.convert("RGBA" if has_alpha else "RGB")), 255.0)
    pixels = np.asarray(converted)
    if has_alpha:
        pixels = np.concatenate([pixels, np.asarray(picture.convert("RGBA"))[..., 3:]], -1)
    return composite(pixels, 255.0)
