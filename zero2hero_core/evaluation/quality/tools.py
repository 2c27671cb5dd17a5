"""What methods work with: models, what other methods made, and why this machine cannot run one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property

import torch

from ...backbones.flux.dit import DiTBackbone
from ...backbones.sd.unet import UNetBackbone
from ...checks import InputError
from ...correspondence.match import Correspondence
from ...flow.dis import dis_flow
from ...flow.raft import load_raft
from ...flow.warp import FlowFunction
from ...zero_stage.stage import ZeroStage
from .clips import TaskClip
from .ebsynth import find_ebsynth
from .specs import Spec, zero_settings


@dataclass(frozen=True)
class MethodResult:
    """pictures (N, 3, H, W) of the frames asked for; processor seconds by part of the work; curve: training step ->
    PSNR by frame, and the seconds that went into measuring it."""

    pictures: torch.Tensor
    seconds: dict[str, float] = field(default_factory=dict)
    curve: dict[int, list[float]] = field(default_factory=dict)
    measuring: float = 0.0


class Tools:
    """What methods work with: the bundled models, loaded when first needed, and what other methods made.

    Args:
        pictures_of: gives the pictures of another method for frames of the clip.
        progress: called with the number of frames, or of training steps, that a method has done.
    """

    def __init__(
        self,
        pictures_of: Callable[[TaskClip, Spec, Sequence[int]], torch.Tensor],
        progress: Callable[[int], object] = lambda done: None,
    ) -> None:
        self.pictures_of, self.progress = pictures_of, progress

    @cached_property
    def zero(self) -> UNetBackbone:
        """The model of Zero-Stage."""
        from ...tiny.unet import load_tiny

        return load_tiny()

    @cached_property
    def hero(self) -> DiTBackbone:
        """The model of Hero-Stage."""
        from ...tiny.dit import load_tiny_dit

        return load_tiny_dit()

    @cached_property
    def raft(self) -> FlowFunction:
        """RAFT on the CPU."""
        return load_raft()

    def flow(self, spec: Spec) -> FlowFunction:
        """The optical flow of a method. Raises: InputError for one that is not known."""
        name = spec.options.get("flow", "dis")
        if name not in ("dis", "raft"):
            raise InputError(f"flow: expected dis or raft, got {name!r}.")
        return self.raft if name == "raft" else dis_flow

    def stage(self, clip: TaskClip, spec: Spec) -> ZeroStage[UNetBackbone]:
        """Zero-Stage with the settings of a spec."""
        anchor = clip.frames[clip.anchor]
        reference = anchor if spec.options.get("reference") == "anchor" else clip.reference
        further = [(index, clip.frames[index], clip.truth[index]) for index in spec.options.get("keys", ())]
        frames = dict(enumerate(clip.frames))
        return ZeroStage(self.zero, anchor, reference, clip.anchor, zero_settings(spec), frames, further=further)

    def match(self, stage: ZeroStage[UNetBackbone], clip: TaskClip, frames: Sequence[int]) -> list[Correspondence]:
        """Matches of frames with the anchor."""
        return [stage.correspond(clip.frames[index], index) for index in frames]

    def warm(self, spec: Spec) -> None:
        """Load what a method needs, so that its time is its own."""
        if spec.method == "hero":
            _ = self.hero
        elif spec.method == "flow":
            self.flow(spec)
        elif spec.method not in ("identity", "propagation", "ebsynth", "mix"):
            _ = self.zero


@cache  # one answer from the first run to the page
def _missing_raft() -> str:
    try:
        load_raft()
    except InputError as error:
        return " ".join(str(error).split())
    return ""


def why_unavailable(spec: Spec) -> str:
    """Why this machine cannot run a method, in one line; empty where it can."""
    if spec.method == "ebsynth":
        return _missing_ebsynth()
    return _missing_raft() if spec.options.get("flow") == "raft" else ""


def _missing_ebsynth() -> str:
    try:
        find_ebsynth()
    except InputError as error:
        return str(error)
    return ""
