"""Pictures that explain a result: a labelled grid of frames, and matches as colour."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

from ..checks import ShapeError
from .match import Correspondence

LABEL = 22  # height of a label strip, pixels
GAP = 4


def _strip(text: str, width: int, height: int = LABEL) -> torch.Tensor:
    canvas = Image.new("RGB", (width, height), "white")
    font = ImageFont.load_default(13)
    draw = ImageDraw.Draw(canvas)
    left = max(2, (width - int(draw.textlength(text, font=font))) // 2)
    draw.text((left, (height - 16) // 2), text, fill="black", font=font)
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1).float() / 255


def labelled_grid(rows: Sequence[Sequence[torch.Tensor]], columns: Sequence[str], names: Sequence[str]) -> torch.Tensor:
    """One picture (3, H', W') of rows of equally sized pictures (3, H, W), with column titles and row names.

    Raises: ShapeError when a row has another number of pictures than there are titles, or sizes differ.
    """
    shapes = {tuple(picture.shape) for row in rows for picture in row}
    if len(shapes) != 1 or any(len(row) != len(columns) for row in rows) or len(names) != len(rows):
        raise ShapeError(
            f"labelled_grid: expected {len(columns)} pictures of one size in each of {len(names)} rows, "
            f"got sizes {sorted(shapes)} and rows of {[len(row) for row in rows]}."
        )
    _, height, width = shapes.pop()
    side = 70
    title = torch.cat([torch.ones(3, LABEL, side)] + [_pad(_strip(text, width)) for text in columns], 2)
    lines = [title]
    for row, name in zip(rows, names, strict=True):
        cells = [_strip(name, side, height + GAP)] + [_pad(picture, below=GAP) for picture in row]
        lines.append(torch.cat(cells, 2))
    return torch.cat(lines, 1)


def _pad(picture: torch.Tensor, below: int = 0) -> torch.Tensor:
    return F.pad(picture.float(), (0, GAP, 0, below), value=1.0)


def coordinate_colours(coords_xy: torch.Tensor) -> torch.Tensor:
    """Colours (3, h, w) of places (h, w, 2) given as shares of the frame: red grows to the right, green downwards, with
    a fine chequer in blue."""
    x, y = coords_xy.unbind(-1)
    chequer = 0.35 + 0.3 * (((x * 8).floor() + (y * 8).floor()) % 2)
    return torch.stack([x, y, chequer]).clamp(0, 1)


def matches_picture(correspondence: Correspondence, anchor: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Anchor, its coordinates as colour, target, the colours that its tokens found, and the confidence, side by side.

    Args: anchor, target: frames (3, H, W) of one size.
    Returns: (3, H, 5 W).
    """
    if anchor.shape != target.shape:
        raise ShapeError(f"matches_picture: expected equal sizes, got {tuple(anchor.shape)} and {tuple(target.shape)}.")
    size = anchor.shape[-2:]
    h, w = correspondence.finest.size_hw
    y, x = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")

    def enlarge(colours: torch.Tensor) -> torch.Tensor:
        return F.interpolate(colours[None].float().cpu(), size=size, mode="nearest")[0]

    legend = enlarge(coordinate_colours(torch.stack([x, y], -1)))
    found = enlarge(coordinate_colours(correspondence.finest.coords_xy().cpu()))
    confidence = enlarge(correspondence.confidence[None].expand(3, -1, -1))
    return torch.cat([anchor.cpu(), legend, target.cpu(), found, confidence], 2)
