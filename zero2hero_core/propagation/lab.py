"""CIE L*a*b* of sRGB pictures, and back, in floating point.

Units are those of 8-bit Lab without its rounding and offset: L from 0 to 255, a and b from about -128 to 127, so that
constants of methods that work on 8-bit Lab can be used as they are.
"""

from __future__ import annotations

import torch

# sRGB primaries to CIE XYZ, white point D65 (IEC 61966-2-1); the columns are divided by the white of `_WHITE`.
_TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_DELTA = 6 / 29
_LIGHTNESS = 255 / 100


def rgb_to_lab(pictures: torch.Tensor) -> torch.Tensor:
    """Lab of sRGB pictures, (..., 3, H, W) in [0, 1]; values outside are clamped. By hand: white is (255, 0, 0).

    Returns: (..., 3, H, W) in 8-bit units without rounding.
    """
    values = pictures.clamp(0, 1)
    linear = torch.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    matrix = _matrix(pictures)
    x, y, z = torch.einsum("ij,...jhw->...ihw", matrix, linear).unbind(-3)
    x, y, z = (_root(axis) for axis in (x, y, z))
    return torch.stack([_LIGHTNESS * (116 * y - 16), 500 * (x - y), 200 * (y - z)], -3)


def lab_to_rgb(lab: torch.Tensor) -> torch.Tensor:
    """sRGB pictures of Lab (..., 3, H, W) in the units of `rgb_to_lab`; colours that sRGB lacks are clamped."""
    lightness, a, b = lab.unbind(-3)
    y = (lightness / _LIGHTNESS + 16) / 116
    xyz = torch.stack([_cube(y + a / 500), _cube(y), _cube(y - b / 200)], -3)
    linear = torch.einsum("ij,...jhw->...ihw", torch.linalg.inv(_matrix(lab).double()).to(lab.dtype), xyz).clamp(0, 1)
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp_min(1e-9) ** (1 / 2.4) - 0.055)


def _matrix(like: torch.Tensor) -> torch.Tensor:
    matrix = torch.tensor(_TO_XYZ, dtype=torch.float64)
    return (matrix / matrix.sum(1, keepdim=True)).to(like)  # white is (1, 1, 1)


def _root(values: torch.Tensor) -> torch.Tensor:
    return torch.where(values > _DELTA**3, values.clamp_min(1e-9) ** (1 / 3), values / (3 * _DELTA**2) + 4 / 29)


def _cube(values: torch.Tensor) -> torch.Tensor:
    return torch.where(values > _DELTA, values**3, 3 * _DELTA**2 * (values - 4 / 29))
