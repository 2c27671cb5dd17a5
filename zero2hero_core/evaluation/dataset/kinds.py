"""The tasks of the evaluation, written from a clip or from a renderer.

*Colorization*: the clip in grey, the reference is the anchor in colour, the truth is the clip. *Color-Edit*: a rendered
clip, the truth is its second appearance. *General-Edit*: pattern and style change; the truth is the reference alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from ...luma import luma_of
from ...video.source import FrameSource
from .correspondence import FrameCorrespondence
from .writer import TaskWriter

Progress = Callable[[], object]


class TwoLooks(Protocol):
    """A rendered clip in two appearances with true matches, such as `tiny.scenes.Scene`."""

    num_frames: int

    def render(self, frame: int, appearance: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Picture (3, H, W) and mask (1, H, W) of a frame in appearance 0 or 1."""
        ...

    def correspondence(self, source: int, target: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Places (H, W, 2) in `target` of what is seen at the pixel centres of `source`; visible (H, W)."""
        ...


def grey(picture: torch.Tensor) -> torch.Tensor:
    """Return the BT.601 luma of a picture (3, H, W) in all three channels: 0.299 R + 0.587 G + 0.114 B."""
    luma = luma_of(picture)
    return luma.expand(3, -1, -1).clamp(0, 1)


def write_colorization(writer: TaskWriter, frames: FrameSource, progress: Progress = lambda: None) -> None:
    """Write the frames in grey, themselves as truth, and the anchor in colour. Raises: as `TaskWriter.content`."""
    for index, frame in enumerate(frames):
        writer.content(index, grey(frame))
        writer.truth(index, frame)
        if index == writer.info.anchor:
            writer.reference(frame)
        progress()


def write_general(
    writer: TaskWriter, frames: FrameSource, reference: torch.Tensor, progress: Progress = lambda: None
) -> None:
    """Write the frames as they are and the reference (3, H, W), which is the anchor's truth, too.

    Raises: as `TaskWriter.content`.
    """
    for index, frame in enumerate(frames):
        writer.content(index, frame)
        progress()
    writer.reference(reference)
    writer.truth(writer.info.anchor, reference)


def write_rendered(writer: TaskWriter, clip: TwoLooks, progress: Progress = lambda: None) -> None:
    """Write a rendered clip: first appearance, masks, matches, and of the second one what `writer.info` calls truth.

    Raises: as `TaskWriter.content`.
    """
    anchor, info = writer.info.anchor, writer.info
    for index in range(clip.num_frames):
        picture, mask = clip.render(index, 0)
        writer.content(index, picture)
        writer.mask(index, mask)
        if index == anchor or index in info.truth_frames:
            second = clip.render(index, 1)[0]
            if index == anchor:
                writer.reference(second)
            if index in info.truth_frames:
                writer.truth(index, second)
        if index != anchor and info.has_correspondence:
            matches = (*clip.correspondence(anchor, index), *clip.correspondence(index, anchor))
            writer.correspondence(index, FrameCorrespondence(*matches))
        progress()
