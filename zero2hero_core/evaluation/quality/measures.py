"""What is measured of a method's pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...metrics.psnr import psnr
from ...metrics.ssim import ssim
from ...metrics.temporal import flicker_excess, tof, warp_error
from .clips import TaskClip

PER_FRAME = ("psnr", "psnr inside", "psnr outside", "ssim", "ssim gaussian")
PER_PAIR = ("warp error", "flicker", "tOF")
LPIPS = ("lpips", "lpips authors")  # by `learned.py`
PLACES = ("psnr anchor", "psnr last", "anchor - last")  # of the anchor and of the last frame: read off "psnr"
VBENCH = ("subject consistency", "motion smoothness")  # so are these; the anchor counts too
BETTER_LOW = frozenset((*PER_PAIR, *LPIPS, "anchor - last"))
Values = dict[str, dict[int, float]]  # measure -> frame -> value


def measure(clip: TaskClip, pictures: torch.Tensor, frames: Sequence[int]) -> Values:
    """Measures of frames (N, 3, H, W) that have a truth, and of steps from frame to frame where all were made.

    psnr, ssim: of the whole frame; inside, outside: the edited object; flicker: `flicker_excess`. The pair (i - 1, i)
    counts as frame i.
    """
    known = [place for place, index in enumerate(frames) if index in clip.truth]
    measures: Values = {}
    if known:
        indices = [frames[place] for place in known]
        values = _against_truth(clip, pictures[known], indices)
        measures |= {name: dict(zip(indices, row.tolist(), strict=True)) for name, row in values.items()}
    if list(frames) == list(range(len(clip.frames))) and len(frames) > 1:
        pairs = _over_time(clip, pictures)
        measures |= {name: dict(enumerate(row.tolist(), 1)) for name, row in pairs.items()}
    return measures


def _against_truth(clip: TaskClip, pictures: torch.Tensor, indices: list[int]) -> dict[str, torch.Tensor]:
    truth = clip.truths(indices)
    values = {"psnr": psnr(pictures, truth), "ssim": ssim(pictures, truth)}
    values["ssim gaussian"] = ssim(pictures, truth, form="gaussian")
    if clip.masks is not None:
        inside = clip.masks[indices]
        values |= {"psnr inside": psnr(pictures, truth, inside), "psnr outside": psnr(pictures, truth, 1 - inside)}
    return values


def _over_time(clip: TaskClip, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
    whole = len(clip.truth) == len(clip.frames)
    like = clip.truths(range(len(clip.frames))) if whole else clip.frames
    return {
        "warp error": warp_error(pictures, clip.flows),
        "flicker": flicker_excess(pictures, like),
        "tOF": tof(pictures, like),
    }
