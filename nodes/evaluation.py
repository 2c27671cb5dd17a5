"""Measure a result against the truth, and the baseline that only moves pixels."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..zero2hero_core.checks import InputError, ShapeError
from ..zero2hero_core.correspondence.file import ClipCorrespondence
from .convert.checks import read_reference
from .convert.pictures import kind_of, mask_to_core, size_hw_of, to_core, to_host
from .host.services import Progress, io, ui
from .host.sockets import CATEGORY, Correspondence

MEASURING = f"{CATEGORY}/evaluation"


class VideoMetrics(io.ComfyNode):
    """PSNR and SSIM of two clips."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoMetrics",
            display_name="Video Metrics (Zero-to-Hero)",
            category=MEASURING,
            description="Compares frames with the true ones: PSNR and SSIM of each frame and their means.",
            inputs=[
                io.Image.Input("frames", tooltip="The frames to measure."),
                io.Image.Input("truth", tooltip="The true frames: as many, and of the same size."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where to measure: one mask for all frames, or one per frame. Without it: everywhere.",
                ),
                io.Int.Input(
                    "leave_out",
                    optional=True,
                    default=-1,
                    min=-1,
                    max=999_999,
                    tooltip="A frame that does not count, from 0: connect anchor_index, for the anchor's truth was "
                    "given; -1 counts all.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    "psnr", display_name="psnr", tooltip="Mean of the frames' PSNR in dB; infinite where all are equal."
                ),
                io.Float.Output(
                    "ssim", display_name="ssim", tooltip="Mean of the frames' SSIM, 1 where they are equal."
                ),
                io.String.Output("report", display_name="report", tooltip="PSNR and SSIM of every frame as text."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, frames: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor | None = None, leave_out: int = -1
    ) -> io.NodeOutput:
        pictures, true = to_core(frames, "frames"), to_core(truth, "truth")
        if pictures.shape != true.shape:
            raise ShapeError(
                f"truth: expected {kind_of(pictures)} like frames, got {kind_of(true)}; resize or cut one."
            )
        weights = None if mask is None else mask_to_core(mask, len(pictures), size_hw_of(pictures))
        indices = _scored_indices(len(pictures), leave_out)
        values = measure(pictures[indices], true[indices], None if weights is None else weights[indices])
        psnr, ssim = (_mean(column) for column in values)
        report = describe(indices, *values)
        return io.NodeOutput(psnr, ssim, report, ui=ui.PreviewText(report))


def measure(pictures: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor | None) -> tuple[list[float], list[float]]:
    """PSNR and SSIM of each frame; nan where the mask is empty. (N, 3, H, W) twice, mask (N, 1, H, W) or None."""
    from ..zero2hero_core.metrics.psnr import psnr
    from ..zero2hero_core.metrics.ssim import ssim

    progress, rows = Progress(len(pictures)), []
    for index in range(len(pictures)):
        one = slice(index, index + 1)
        weight = None if mask is None else mask[one]
        rows.append((float(psnr(pictures[one], truth[one], weight)), float(ssim(pictures[one], truth[one], weight))))
        progress.step()
    return [row[0] for row in rows], [row[1] for row in rows]


def _scored_indices(count: int, leave_out: int) -> list[int]:
    if not leave_out < count:
        raise InputError(f"leave_out: expected -1 to {count - 1} for these {count} frames, got {leave_out}.")
    indices = [index for index in range(count) if index != leave_out]
    if not indices:
        raise InputError("leave_out: expected frames that are left to measure, but the only one is left out; set -1.")
    return indices


def describe(indices: list[int], psnr: list[float], ssim: list[float]) -> str:
    """A table of the frames with the means on top, and what the means leave out."""
    lines = [f"mean: PSNR {_mean(psnr):.2f} dB, SSIM {_mean(ssim):.4f}"]
    empty, equal = sum(map(math.isnan, psnr)), sum(map(math.isinf, psnr))
    if empty:
        lines.append(f"{empty} of {len(psnr)} frames have an empty mask and are left out")
    if equal:
        lines.append(f"{equal} of {len(psnr)} frames equal the truth exactly")
    rows = zip(indices, psnr, ssim, strict=True)
    return "\n".join(lines + [f"frame {index}: PSNR {a:.2f} dB, SSIM {b:.4f}" for index, a, b in rows])


def _mean(values: list[float]) -> float:
    numbers = [value for value in values if not math.isnan(value)]
    if not numbers:
        raise InputError("mask: expected some pixels to measure, but it is empty in all frames; draw or invert it.")
    return sum(numbers) / len(numbers)


class PixelSwap(io.ComfyNode):
    """The baseline without generation."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PixelSwap",
            display_name="Pixel Swap (Zero-to-Hero)",
            category=MEASURING,
            description="Moves patches of the reference to the best match in every frame, without any generation: a "
            "look at the matches, and the baseline that the Zero-Stage has to beat.",
            inputs=[
                Correspondence.Input("correspondence", tooltip="Matches of the clip with its anchor."),
                io.Image.Input("reference", tooltip="The edited anchor, one picture of the size of the frames."),
            ],
            outputs=[
                io.Image.Output(
                    "frames",
                    display_name="frames",
                    tooltip="One frame for each frame of the clip; patchy by its nature.",
                )
            ],
        )

    @classmethod
    def execute(cls, correspondence: ClipCorrespondence, reference: torch.Tensor) -> io.NodeOutput:
        return io.NodeOutput(swap(correspondence, read_reference(reference, correspondence.size_hw)))


def swap(clip: ClipCorrespondence, reference: torch.Tensor) -> Any:
    """IMAGE with a frame for each index of the clip, in order; the anchor is the reference (3, H, W) itself."""
    from ..zero2hero_core.jobs.matching import swapped_frames

    count = len({*clip.frames, clip.anchor_index})
    images, progress = torch.empty(count, *reference.shape), Progress(count)
    for place, picture in enumerate(swapped_frames(clip, reference)):
        images[place] = picture
        progress.step()
    return to_host(images)


NODES = [VideoMetrics, PixelSwap]
