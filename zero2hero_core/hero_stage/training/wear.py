"""The wear of no particular tool, simulated on a true picture: colours that walk, blur, places that are off, remains of
the other look. A LoRA that has seen it repairs frames of tools that took no part in its training."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ...checks import check_shape

_COLOUR, _BLUR, _SHIFT, _REMAINS = 0.12, 2.5, 4.0, 0.5  # largest values; pixels at a short side of 256
_USUAL_SIDE = 256


def simulate_wear(truth: torch.Tensor, frame: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A worn picture (3, H, W) in [0, 1] of the truth. frame: (3, H, W), the original.

    Every kind of wear has a strength of its own, down to none. Raises: ShapeError.
    """
    check_shape("truth", truth, (3, "H", "W"))
    check_shape("frame", frame, truth.shape)
    scale = min(truth.shape[1:]) / _USUAL_SIDE
    colour, blur, shift, remains = torch.rand(4, generator=generator).square().tolist()
    size = (int(truth.shape[1]), int(truth.shape[2]))
    share = _field(1, size, generator).add(0.5).clamp(0, 1)[0] * remains * _REMAINS
    worn = torch.lerp(truth, frame, share)
    worn = _moved(worn, _field(2, size, generator) * shift * _SHIFT * scale)
    worn = _blurred(worn, blur * _BLUR * scale)
    gain, offset = torch.randn(2, 3, 1, 1, generator=generator) * colour * _COLOUR
    walked: torch.Tensor = worn * (1 + gain) + offset + _field(3, size, generator) * colour * _COLOUR
    return walked.clamp(0, 1)


def _field(channels: int, size_hw: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """A smooth random field (channels, H, W) of about unit deviation."""
    knots = torch.randn(1, channels, 5, 5, generator=generator)
    return F.interpolate(knots, size=size_hw, mode="bicubic", align_corners=True)[0]


def _moved(picture: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """A picture read at places (2, H, W) that are off by `shift` pixels, (x, y)."""
    h, w = picture.shape[1:]
    y, x = torch.meshgrid(torch.arange(h, dtype=torch.float32), torch.arange(w, dtype=torch.float32), indexing="ij")
    places = torch.stack([(x + shift[0]) / max(w - 1, 1), (y + shift[1]) / max(h - 1, 1)], -1) * 2 - 1
    return F.grid_sample(picture[None], places[None], padding_mode="border", align_corners=True)[0]


def _blurred(picture: torch.Tensor, sigma: float) -> torch.Tensor:
    if sigma < 0.1:
        return picture
    reach = min(int(3 * sigma) + 1, min(picture.shape[1:]) - 1)
    steps = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    kernel = kernel / kernel.sum()
    wide = F.pad(picture[:, None], (reach,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(wide, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))[:, 0]
