"""Learned measures of kept pictures: LPIPS of each frame with a truth, VBench's subject consistency and motion
smoothness of a whole clip.

Their networks stand on weights that others publish (`metrics/networks.py`) and that nothing here fetches; AMT's code is
taken from a checkout. Where a part is missing, `why_not` says which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, cached_property
from pathlib import Path

import torch

from ...checks import InputError
from ...metrics.learned import LpipsNetwork, lpips, motion_smoothness, subject_consistency
from ...metrics.networks import load_amt, load_dino, load_lpips
from .clips import TaskClip
from .measures import LPIPS, VBENCH, Values

LEARNED = LPIPS + VBENCH
_LEAST = {"subject consistency": 2, "motion smoothness": 3}  # frames
_NETWORK = {"lpips": "lpips", "lpips authors": "lpips", "subject consistency": "dino", "motion smoothness": "amt"}


class Networks:
    """What the measures stand on, each loaded when first needed.

    Args: checkout: folder of github.com/MCG-NKU/AMT, for motion smoothness.
    """

    def __init__(self, checkout: Path | None = None) -> None:
        self.checkout = checkout

    @cached_property
    def lpips(self) -> LpipsNetwork:
        """AlexNet with the weights of LPIPS."""
        return load_lpips()

    @cached_property
    def dino(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """DINO ViT-B/16."""
        return load_dino()

    @cached_property
    def amt(self) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """AMT-S."""
        if self.checkout is None:
            raise InputError("Motion smoothness needs a checkout of github.com/MCG-NKU/AMT: name its folder by --amt.")
        return load_amt(self.checkout)


@cache  # one answer from the first run to the page
def _missing(network: str, checkout: Path | None) -> str:
    try:
        getattr(Networks(checkout), network)
    except InputError as error:
        return " ".join(str(error).split())
    return ""


def why_not(measure: str, checkout: Path | None) -> str:
    """Why a learned measure cannot be taken here, in one line; empty where it can."""
    return _missing(_NETWORK[measure], checkout)


def possible(clip: TaskClip, frames: Sequence[int], wanted: Sequence[str]) -> list[str]:
    """Those of some learned measures that frames of a clip can have: LPIPS wants a truth, the others all frames."""
    truth = any(index in clip.truth for index in frames)
    whole = list(frames) == list(range(len(clip.frames)))
    return [name for name in wanted if (truth if name in LPIPS else whole and len(frames) >= _LEAST[name])]


def measure_learned(
    networks: Networks, clip: TaskClip, pictures: torch.Tensor, frames: Sequence[int], wanted: Sequence[str]
) -> Values:
    """Learned measures of frames (N, 3, H, W), those that are `possible`.

    lpips, lpips authors: the two forms of `metrics.learned.lpips` on the pictures as they are, by frame; subject
    consistency: frame 1, 2, 3 ...; motion smoothness: frame 1, 3, 5 ....
    """
    measures: Values = {}
    for name in possible(clip, frames, wanted):
        if name in LPIPS:
            measures[name] = _against_truth(networks.lpips, clip, pictures, frames, name)
        elif name == "subject consistency":
            measures[name] = dict(enumerate(subject_consistency(networks.dino(pictures)).tolist(), 1))
        else:
            values = motion_smoothness(pictures, networks.amt).tolist()
            measures[name] = {2 * place + 1: value for place, value in enumerate(values)}
    return measures


def _against_truth(
    network: LpipsNetwork, clip: TaskClip, pictures: torch.Tensor, frames: Sequence[int], name: str
) -> dict[int, float]:
    known = [place for place, index in enumerate(frames) if index in clip.truth]
    indices = [frames[place] for place in known]
    values = lpips(
        pictures[known], clip.truths(indices), network, form="authors" if name == "lpips authors" else "standard"
    )
    return dict(zip(indices, values.tolist(), strict=True))
