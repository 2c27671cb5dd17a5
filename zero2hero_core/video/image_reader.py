"""Read single images and list the images of a folder or a glob."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image, ImageOps

from ..checks import InputError
from .decode import composite, frame_to_rgb

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})


def read_image(path: str | os.PathLike[str]) -> torch.Tensor:
    """Return the image in `path` as (3, H, W) float32 RGB in [0, 1].

    Grey, palette, CMYK and 16-bit images are converted (16 bits are kept in grey images and in PNG); EXIF orientation
    is applied; alpha is composited over black; of an animation the first picture is taken.

    Raises: InputError when the file is missing, is not an image, is damaged, or has values that are no [0, 1] picture.
    """
    file = existing_file(path, "image")
    with _readable(file), Image.open(file) as picture:
        if picture.format == "PNG" and _png_is_16_bit(file):
            with av.open(f"file:{file}", format="png_pipe") as container:
                return frame_to_rgb(next(iter(container.decode(video=0))))
        return _picture_to_rgb(ImageOps.exif_transpose(picture), file)


def read_mask(path: str | os.PathLike[str]) -> torch.Tensor:
    """Return the image in `path` as a mask (1, H, W) float32 in [0, 1]: black is 0, white is 1.

    Colour becomes BT.601 luma; transparent pixels count as black. Raises: InputError as `read_image`.
    """
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(3, 1, 1)
    return (read_image(path).double() * weights).sum(0, keepdim=True).clamp_(0, 1).float()


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return (H, W) of an image from its header, as `read_image` would give it. Raises: InputError."""
    file = existing_file(path, "image")
    with _readable(file), Image.open(file) as picture:
        width, height = picture.size
        turned = picture.getexif().get(0x0112, 1) >= 5 and not (picture.format == "PNG" and _png_is_16_bit(file))
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
    is_glob = glob.has_magic(str(path)) and not path.exists()
    return is_glob or path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES


def image_files(path: Path) -> list[Path]:
    """Return the images of a folder or a glob in natural order (2 before 10), or the one image that `path` is.

    Files with other suffixes and hidden files are passed over. Raises: InputError when there are no images.
    """
    if path.is_dir():
        found = path.iterdir()
    elif glob.has_magic(str(path)) and not path.exists():
        found = (Path(name) for name in glob.glob(str(path), recursive=True))
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


def _picture_to_rgb(picture: Image.Image, file: Path) -> torch.Tensor:
    if picture.mode[0] in "IF":  # one deep channel: 16-bit integers, or floats that must already be a picture
        values = np.asarray(picture).astype(np.float32) / (1.0 if picture.mode == "F" else 65535.0)
        if not (values.min() >= 0.0 and values.max() <= 1.0):
            raise InputError(f"{file}: expected values in [0, 1] (float) or 0 to 65535 (integer); rescale the image.")
        return torch.from_numpy(values).expand(3, -1, -1).contiguous()
    has_alpha = picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info
    return composite(np.asarray(picture.convert("RGBA" if has_alpha else "RGB")), 255.0)
