"""Pictures for ControlNets, made from frames."""

from __future__ import annotations

import torch

from ..checks import InputError, check_shape, setting


def canny_edges(picture: torch.Tensor, low: int = 100, high: int = 200) -> torch.Tensor:
    """White edges on black (3, H, W) of a picture (3, H, W) in [0, 1].

    Args: low, high: thresholds of OpenCV's Canny on the 8-bit picture, whose strongest channel counts.
    Raises: ShapeError; InputError unless 0 <= low <= high.
    """
    check_shape("picture", picture, (3, "H", "W"))
    if not 0 <= low <= high:
        raise InputError(f"{setting('canny')}: expected 0 <= low <= high, got {low}, {high}.")
    import cv2

    pixels = (picture.detach().cpu().float().clamp(0, 1) * 255).round().byte().movedim(0, -1).contiguous().numpy()
    edges = torch.from_numpy(cv2.Canny(pixels, low, high)).float() / 255
    return edges.expand(3, -1, -1).clone()
