"""Pictures side by side, with labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

from ..checks import ShapeError

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
