"""What is measured of a method's pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...flow.clip import clip_flows
from ...metrics.psnr import psnr
from ...metrics.ssim import ssim
from ...metrics.temporal import flicker_excess, tof, warp_error
from .clips import TaskClip

PER_FRAME = ("psnr", "psnr inside", "psnr outside", "ssim", "ssim gaussian")
PER_PAIR = ("warp error", "flicker", "tOF")
LPIPS = ("lpips", "lpips authors")  # by `learned.py`
PLACES = ("psnr anchor", "psnr last", "anchor - last")  # of the anchor and of the last frame: read off "psnr"
VBENCH = ("subject consistency", "motion smoothness")  # so are these; the anchor counts too
DRIFT = ("drift", "colour drift")
BETTER_LOW = frozenset((*PER_PAIR, *LPIPS, *DRIFT, "anchor - last"))
Values = dict[str, dict[int, float]]  # measure -> frame -> value


def measure(clip: TaskClip, pictures: torch.Tensor, frames: Sequence[int]) -> Values:
    """Measures of frames (N, 3, H, W) that have a truth, and of steps from frame to frame where all were made, or the
    first and every so many after it.

    psnr, ssim: of the whole frame; inside, outside: the edited object; flicker: `flicker_excess`. A pair of frames
    counts as the later one. drift: how much PSNR falls from the second frame to the last; colour drift: how much the
    mean colour goes further off, in 1/255; both count as the last frame.
    """
    known = [place for place, index in enumerate(frames) if index in clip.truth]
    measures: Values = {}
    if known:
        indices = [frames[place] for place in known]
        values = _against_truth(clip, pictures[known], indices)
        measures |= {name: dict(zip(indices, row.tolist(), strict=True)) for name, row in values.items()}
    if len(frames) > 1 and list(frames) == list(range(0, len(clip.frames), frames[1])):
        pairs = _over_time(clip, pictures, list(frames))
        measures |= {name: dict(zip(frames[1:], row.tolist(), strict=True)) for name, row in pairs.items()}
        if len(known) == len(frames) and len(frames) > 2:
            measures |= {name: {frames[-1]: value} for name, value in _drift(clip, pictures, frames).items()}
    return measures


def _against_truth(clip: TaskClip, pictures: torch.Tensor, indices: list[int]) -> dict[str, torch.Tensor]:
    truth = clip.truths(indices)
    values = {"psnr": psnr(pictures, truth), "ssim": ssim(pictures, truth)}
    values["ssim gaussian"] = ssim(pictures, truth, form="gaussian")
    if clip.masks is not None:
        inside = clip.masks[indices]
        values |= {"psnr inside": psnr(pictures, truth, inside), "psnr outside": psnr(pictures, truth, 1 - inside)}
    return values


def _over_time(clip: TaskClip, pictures: torch.Tensor, frames: list[int]) -> dict[str, torch.Tensor]:
    whole = all(frame in clip.truth for frame in frames)
    like = clip.truths(frames) if whole else clip.frames[frames]
    return {
        "warp error": warp_error(pictures, clip.flows if frames[1] == 1 else clip_flows(clip.frames[frames])),
        "flicker": flicker_excess(pictures, like),
        "tOF": tof(pictures, like),
    }


def _drift(clip: TaskClip, pictures: torch.Tensor, frames: Sequence[int]) -> dict[str, float]:
    ends = [frames[1], frames[-1]]
    made, truth = pictures[[1, -1]], clip.truths(ends)
    near, far = psnr(made, truth).tolist()
    off = (made - truth).mean((2, 3)).abs().mean(1).mul(255).tolist()
    return {"drift": near - far, "colour drift": off[1] - off[0]}
