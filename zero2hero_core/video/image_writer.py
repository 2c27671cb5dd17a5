"""Write PNG images and numbered sequences of them: under a temporary name first, renamed at the end."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin

from ..checks import InputError, ShapeError
from ..files.names import check_name, temporary_name
from ..files.whole import check_parent, check_target, whole_file


def write_image(path: str | os.PathLike[str], image: torch.Tensor, *, overwrite: bool = False) -> None:
    """Write one image (3, H, W), or a mask (1, H, W), in [0, 1] as an 8-bit PNG.

    Raises: InputError when `path` does not end in .png or exists and `overwrite` is not set; Zero2HeroError.
    """
    target = Path(path)
    if target.suffix.lower() != ".png":
        raise InputError(f"{target}: expected a name that ends in .png.")
    if image.ndim != 3 or image.shape[0] not in (1, 3) or not image.is_floating_point():
        raise ShapeError(
            f"image: expected floating point (3, H, W) or (1, H, W), got {image.dtype} {tuple(image.shape)}."
        )
    check_target(target, overwrite)
    with whole_file(target, overwrite=overwrite) as temporary:
        _save_png(temporary, to_bytes(image), {})


class PngSequence:
    """Numbered PNG files, collected in a temporary folder beside the target."""

    def __init__(self, target: Path, texts: dict[str, str], overwrite: bool) -> None:
        pattern = target.name if target.suffix else "*.png"
        self._folder = target.parent if target.suffix else target
        if pattern.count("*") != 1:
            raise InputError(
                f"{target}: for a PNG sequence give a folder or a name with one asterisk, like shot_*.png."
            )
        self._before, self._after = pattern.split("*")
        self._texts = texts
        check_name(self._folder / f"{self._before}{0:06d}{self._after}")
        if self._folder.exists() and not self._folder.is_dir():
            raise InputError(f"{self._folder}: expected a folder for the PNG files, got a file.")
        if self._existing() and not overwrite:
            raise InputError(f"{self._folder}: holds frames already; choose another folder or allow overwriting.")
        check_parent(self._folder)
        self._temporary = temporary_name(self._folder)

    def _existing(self) -> list[Path]:
        numbered = re.compile(re.escape(self._before) + r"\d{6,}" + re.escape(self._after))
        return [file for file in self._folder.glob("*") if numbered.fullmatch(file.name)]

    def write(self, pixels: np.ndarray, index: int) -> None:
        """Write frame `index` from pixels (H, W, 3) uint8."""
        self._temporary.mkdir(exist_ok=True)
        _save_png(self._temporary / f"{self._before}{index:06d}{self._after}", pixels, self._texts)

    def finish(self, count: int) -> None:
        """Give all frames their names; `count` were written."""
        if not self._folder.exists():
            os.replace(self._temporary, self._folder)
            return
        fresh = sorted(self._temporary.iterdir())
        for file in fresh:
            os.replace(file, self._folder / file.name)
        for stale in set(self._existing()) - {self._folder / file.name for file in fresh}:
            stale.unlink()
        self._temporary.rmdir()

    def discard(self) -> None:
        """Remove what was written; nothing is left behind."""
        shutil.rmtree(self._temporary, ignore_errors=True)


def to_bytes(image: torch.Tensor) -> np.ndarray:
    """(C, H, W) in [0, 1] -> (H, W, C) uint8, rounded to nearest."""
    image = image.detach().to("cpu", torch.float32)
    if not bool(torch.isfinite(image).all()):
        raise InputError("frames: expected finite values in [0, 1], got NaN or infinity.")
    return image.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def _save_png(path: Path, pixels: np.ndarray, texts: dict[str, str]) -> None:
    info = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)  # Latin-1 as plain tEXt: readers that know no iTXt get it, too
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    picture.save(path, format="PNG", pnginfo=info, compress_level=4)
