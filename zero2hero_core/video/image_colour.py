"""Colour profiles (ICC) of pictures: what they hold is brought to sRGB."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms, features

_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "LAB": "LAB"}  # ICC colour space -> mode of a picture in it
_SAME = 1  # levels of 255; what a profile changes less than this is rounding


class ProfileError(ValueError):
    """A profile that cannot be used; the text says why, without a full stop."""


def to_srgb(picture: Image.Image) -> Image.Image | None:
    """Return a picture (L, RGB or CMYK, 8 bits, no alpha) in sRGB (RGB), None when its profile changes nothing.

    Conversion: relative colorimetric with black point compensation, as browsers and editors do. Only a profile that is
    not sRGB costs anything, so a picture tagged as sRGB keeps its values to the bit.

    Raises: ProfileError when the profile is damaged, or is not for pictures of this kind.
    """
    content = picture.info.get("icc_profile")
    if not content:
        return None
    if not features.check("littlecms2"):
        raise ProfileError("its colour profile needs LittleCMS, which this Pillow was built without")
    mode = profile_mode(content)
    if mode is None:
        raise ProfileError("its colour profile is damaged or of an unknown kind")
    if picture.mode != mode:
        if picture.mode == "L" and mode == "RGB":  # a grey picture that was saved with the profile of the screen
            picture = picture.convert("RGB")
        else:
            raise ProfileError(f"its colour profile is for {mode}, its pixels are {picture.mode}")
    transform = _transform(content, mode)
    if transform is None:
        return None
    return ImageCms.applyTransform(picture, transform)


def profile_mode(content: bytes) -> str | None:
    """Return the mode of the pictures that a profile is for, None when it cannot be read."""
    try:
        return _MODES.get(_open(content).profile.xcolor_space.strip().upper())
    except (OSError, ImageCms.PyCMSError, AttributeError, ValueError, ImportError):
        return None


@lru_cache(maxsize=8)
def _transform(content: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform of a profile to sRGB, None when it changes no colour by more than a level."""
    try:
        transform = ImageCms.buildTransform(
            _open(content),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (OSError, ImageCms.PyCMSError, ValueError) as error:
        raise ProfileError("its colour profile cannot be used") from error
    if mode == "L":
        probe = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    elif mode == "RGB":
        levels = np.linspace(0, 255, 9).astype(np.uint8)
        probe = Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3))
    else:
        return transform
    plain = np.asarray(probe.convert("RGB"), np.int16)
    change = np.asarray(ImageCms.applyTransform(probe, transform), np.int16) - plain
    return transform if np.abs(change).max() > _SAME else None


def _open(content: bytes) -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(io.BytesIO(content))
