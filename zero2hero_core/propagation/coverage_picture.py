"""A picture of what key frames cover: a plot over the frames with keys and cuts, and the keys small below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..checks import ShapeError
from ..spread import spread
from ..video.resize import resize_frames

WIDTH, PLOT_HEIGHT = 960, 260
THUMBNAILS = 12  # pictures below the plot at most
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 46, 34
_ROW = 6  # thumbnails in a row
_GAP, _LABEL = 6, 18
_AREA, _LINE, _KEY, _CUT, _NEXT = "#c6dbef", "#2171b5", "#08306b", "#cb181d", "#238b45"


def coverage_picture(
    coverage: Sequence[float],
    keys: Sequence[int],
    cuts: Sequence[int] = (),
    *,
    numbers: Sequence[int] | None = None,
    pictures: Mapping[int, torch.Tensor] | None = None,
    advised: int | None = None,
) -> torch.Tensor:
    """The plot of a clip's coverage, and thumbnails.

    Args:
        coverage: of each frame, in [0, 1] (`coverage.clip_coverage`). keys, cuts: places among these frames.
        numbers: what the frames are called, their places when None.
        pictures: place -> frame (3, h, w) in [0, 1] of one size, to be shown small; at most 12, spread evenly.
        advised: the place of the frame to edit next, marked as well.
    Returns: (3, H, 960) in [0, 1].
    Raises: ShapeError when there is no frame, or numbers are not as many.
    """
    numbers = range(len(coverage)) if numbers is None else numbers
    if not coverage or len(numbers) != len(coverage):
        raise ShapeError(f"numbers: expected {len(coverage)} (one a frame, at least one), got {len(numbers)}.")
    canvas = Image.new("RGB", (WIDTH, PLOT_HEIGHT), "white")
    _draw_plot(ImageDraw.Draw(canvas), coverage, keys, cuts, numbers, advised)
    parts = [torch.from_numpy(np.array(canvas)).permute(2, 0, 1).float() / 255]
    shown = sorted(pictures or {})
    if len(shown) > THUMBNAILS:
        shown = [shown[place] for place in spread(len(shown), THUMBNAILS)]
    for start in range(0, len(shown), _ROW):
        row = shown[start : start + _ROW]
        labels = [f"next: {numbers[place]}" if place == advised else f"{numbers[place]}" for place in row]
        parts.append(_row([(pictures or {})[place] for place in row], labels))
    return torch.cat(parts, 1)


def _draw_plot(
    draw: ImageDraw.ImageDraw,
    coverage: Sequence[float],
    keys: Sequence[int],
    cuts: Sequence[int],
    numbers: Sequence[int],
    advised: int | None,
) -> None:
    font = ImageFont.load_default(13)
    right, bottom, last = WIDTH - _RIGHT, PLOT_HEIGHT - _BOTTOM, max(len(coverage) - 1, 1)

    def x(place: float) -> float:
        return _LEFT + (right - _LEFT) * place / last

    def y(share: float) -> float:
        return bottom - (bottom - _TOP) * share

    points = [(x(place), y(share)) for place, share in enumerate(coverage)]
    if len(points) == 1:
        points.append((right, points[0][1]))
    draw.polygon([(points[0][0], bottom), *points, (points[-1][0], bottom)], fill=_AREA)
    for share in (0, 0.25, 0.5, 0.75, 1):
        draw.line([(_LEFT, y(share)), (right, y(share))], fill="#d9d9d9")
        draw.text((_LEFT - 6, y(share)), f"{share:.0%}", fill="black", font=font, anchor="rm")
    draw.line(points, fill=_LINE, width=2)
    for place in cuts:
        _dashes(draw, x(place - 0.5), _TOP, bottom, _CUT)
    for place in keys:
        _mark(draw, x(place), y(coverage[place]), bottom, _KEY)
    if advised is not None:
        _mark(draw, x(advised), y(coverage[advised]), bottom, _NEXT)
    for place in spread(len(coverage), 9):
        draw.text((x(place), bottom + 6), str(numbers[place]), fill="black", font=font, anchor="mt")
    mean = sum(coverage) / len(coverage)
    words = [
        (f"shown by the keys: {mean:.0%} on average", _LINE),
        (f"{len(keys)} key frame{'s' * (len(keys) != 1)}", _KEY),
    ]
    words += [(f"{len(cuts)} cut{'s' * (len(cuts) > 1)}", _CUT)] if cuts else []
    words += [(f"edit next: {numbers[advised]}", _NEXT)] if advised is not None else []
    across = float(_LEFT)
    for text, colour in words:
        draw.rectangle([across, 14, across + 10, 24], fill=colour)
        draw.text((across + 16, 19), text, fill="black", font=font, anchor="lm")
        across += 40 + draw.textlength(text, font=font)


def _mark(draw: ImageDraw.ImageDraw, x: float, y: float, bottom: float, colour: str) -> None:
    draw.line([(x, y), (x, bottom)], fill=colour)
    draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=colour)


def _dashes(draw: ImageDraw.ImageDraw, x: float, top: float, bottom: float, colour: str) -> None:
    for start in range(int(top), int(bottom), 8):
        draw.line([(x, start), (x, min(start + 4, bottom))], fill=colour, width=2)


def _row(pictures: Sequence[torch.Tensor], labels: Sequence[str]) -> torch.Tensor:
    """Small pictures side by side with their labels below, (3, h, 960)."""
    height, width = pictures[0].shape[-2:]
    wide = (WIDTH - _GAP * (_ROW + 1)) // _ROW
    high = max(1, min(2 * wide, round(wide * height / width)))
    wide = min(wide, max(1, round(high * width / height)))
    canvas = Image.new("RGB", (WIDTH, high + _LABEL + _GAP), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    for place, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        small = resize_frames(picture[None].float().cpu(), (high, wide))[0].clamp(0, 1)
        pixels = small.mul(255).round().byte().permute(1, 2, 0).contiguous().numpy()
        left = _GAP + place * ((WIDTH - _GAP) // _ROW)
        canvas.paste(Image.fromarray(pixels), (left, 0))
        draw.text((left + wide / 2, high + 2), label, fill="black", font=font, anchor="mt")
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1).float() / 255
