"""Optical flow without a model: OpenCV's dense inverse search.

Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016, arXiv 1603.03590, with its preset MEDIUM:
patches of 8 pixels at a stride of 3, 25 descent steps, and 5 rounds of variational refinement on every level from the
coarsest down to half resolution. It needs OpenCV, compares brightness only, and runs on the CPU. What a flow is:
`flow.warp`.
"""

from __future__ import annotations

from typing import Any

import torch

from ..checks import InputError
from ..luma import luma_of
from .warp import check_flow_pair


def dis_flow(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Where each pixel of `source` lies in `target`: DIS flow, preset MEDIUM, between their 8-bit luma.

    Source: arXiv 1603.03590, as OpenCV has it.
    Args: source, target: pictures (3, H, W) of one size, at least 16 x 16, in [0, 1] (clipped to it).
    Returns: (H, W, 2), (dx, dy) in pixels, float32, on the CPU.
    Raises: ShapeError; InputError when a picture is too small or not finite, or OpenCV is missing.
    """
    cv2 = opencv()
    check_flow_pair(source, target)
    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # it keeps buffers: a new one for every pair
    return torch.from_numpy(method.calc(_luma(source), _luma(target), None))


def opencv() -> Any:
    """The module cv2. Raises: InputError where OpenCV is missing."""
    try:
        import cv2
    except ImportError as error:
        raise InputError(
            f"Optical flow needs OpenCV, which cannot be imported here ({error}): pip install opencv-python-headless"
        ) from error
    return cv2


def _luma(picture: torch.Tensor) -> Any:
    """(3, H, W) -> array (H, W) uint8."""
    grey = luma_of(picture.detach().to("cpu", torch.float32).clamp(0, 1))
    return grey.mul(255).round().to(torch.uint8).contiguous().numpy()
