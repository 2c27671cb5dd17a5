"""True matches between the anchor and a frame of a rendered clip, for every pixel, in one safetensors file.

Pixel (x, y) has its centre at (x + 0.5, y + 0.5); coordinates are in pixels, x to the right, y down.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ...checks import InputError, ShapeError, check_shape
from ...files.tensor_file import write_tensors
from ...flow.warp import warp_backward

FORMAT, VERSION = "zero2hero-dense-correspondence", "1"


@dataclass(frozen=True)
class FrameCorrespondence:
    """Where the surface points of one picture lie in the other.

    Attributes:
        to_frame_xy: (H, W, 2) float32, place in the frame of the point that is seen at each pixel centre of the anchor;
            it may lie outside the frame.
        to_frame_visible: (H, W) bool, whether the point is seen there.
        to_anchor_xy, to_anchor_visible: the same from the frame to the anchor.
    Raises: ShapeError when shapes or types differ.
    """

    to_frame_xy: torch.Tensor
    to_frame_visible: torch.Tensor
    to_anchor_xy: torch.Tensor
    to_anchor_visible: torch.Tensor

    def __post_init__(self) -> None:
        check_shape("to_frame_visible", self.to_frame_visible, ("H", "W"))
        height, width = self.to_frame_visible.shape
        for item in fields(self):
            tensor, points = getattr(self, item.name), item.name.endswith("_xy")
            check_shape(item.name, tensor, (height, width, 2) if points else (height, width))
            if tensor.dtype != (torch.float32 if points else torch.bool):
                raise ShapeError(f"{item.name}: expected {'float32' if points else 'bool'}, got {tensor.dtype}.")

    def warp(self, picture: torch.Tensor) -> torch.Tensor:
        """Return the anchor's `picture` (C, H, W), or the reference, moved to the frame (bilinear).

        Only where `to_anchor_visible` is true is it what the frame shows. Raises: ShapeError for another size.
        """
        height, width = self.to_anchor_visible.shape
        check_shape("picture", picture, ("C", height, width))
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        return warp_backward(picture, self.to_anchor_xy - torch.stack([x, y], -1))


def save_frame_correspondence(path: Path, matches: FrameCorrespondence) -> None:
    """Write one .safetensors file, all or nothing. Raises: InputError, Zero2HeroError when it cannot be written."""
    tensors = {
        item.name: getattr(matches, item.name).cpu().clone(memory_format=torch.contiguous_format)
        for item in fields(matches)
    }
    write_tensors(path, tensors, {"format": FORMAT, "version": VERSION})


def load_frame_correspondence(path: Path, size_hw: tuple[int, int]) -> FrameCorrespondence:
    """Read what `save_frame_correspondence` wrote.

    Raises: InputError when the file is missing, damaged, of another kind or version, or not of `size_hw`.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; make the task again.")
    try:
        with safe_open(path, "pt") as handle:
            metadata = handle.metadata() or {}
            kind = (metadata.get("format"), metadata.get("version"))
            if kind != (FORMAT, VERSION):
                raise InputError(f"{path}: expected {FORMAT} version {VERSION}, got {kind}; make the task again.")
            matches = FrameCorrespondence(
                **{item.name: handle.get_tensor(item.name) for item in fields(FrameCorrespondence)}
            )
    except (SafetensorError, OSError, ShapeError) as error:
        raise InputError(f"{path}: truncated or damaged ({error}); make the task again.") from error
    if tuple(matches.to_frame_visible.shape) != size_hw:
        raise InputError(
            f"{path}: expected a map of {size_hw} like the frames, got {tuple(matches.to_frame_visible.shape)}; "
            "make the task again."
        )
    if not bool(torch.isfinite(matches.to_frame_xy).all() and torch.isfinite(matches.to_anchor_xy).all()):
        raise InputError(f"{path}: expected finite coordinates; make the task again.")
    return matches
