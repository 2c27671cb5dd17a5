"""What guides a batch of frames that are painted together, part by part: each part is a few settings until it is begun
for a batch.

Source: FRESCO (arXiv 2403.12962), whose parts they are; Rerender-A-Video (arXiv 2306.07954) for attention to an anchor
and to the frame before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch

from ..attention.features import FeatureGuidance
from ..attention.guidance import Guidance, check_guidances
from ..checks import InputError, setting
from ..flow.steady import steady_flow
from ..flow.warp import FlowFunction
from .cross_frame import CrossFrameAttention, Mode
from .features import CorrespondenceFeatures, FeatureCapture, FeatureSettings
from .motion import BatchMotion, Known, batch_motion
from .spatial import InputAttention, SpatialAttention
from .steps import Window, check_window
from .temporal import TrajectoryAttention

LAYERS = range(3, 12)  # decoder layers with self-attention
FINE = range(6, 12)  # those of the two finer grids


@dataclass(frozen=True)
class Batch:
    """Frames that one sampling paints together.

    indices: their places in the clip. frames: (N, 3, H, W) in [0, 1]. foreground: (N, 1, H, W) in [0, 1] or None. flow:
    (source, target) -> (H, W, 2), between pictures. known: flow between two frames by their places in the clip, where
    it was found already.
    """

    indices: tuple[int, ...]
    frames: torch.Tensor
    foreground: torch.Tensor | None = None
    flow: FlowFunction = steady_flow
    known: Known = lambda source, target: None

    @cached_property
    def motion(self) -> BatchMotion:
        """From each frame to the next, in a circle; found when it is first asked for."""
        indices = self.indices
        return batch_motion(
            self.frames, flow=self.flow, known=lambda source, target: self.known(indices[source], indices[target])
        )


@dataclass(frozen=True)
class Guides:
    """What acts on the passes of one batch: guidances on attention, outermost first, and on features; and what must
    look on during one pass over the original frames beforehand."""

    attention: Sequence[Guidance] = ()
    features: Sequence[FeatureGuidance] = ()
    input_attention: Sequence[Guidance] = ()
    input_features: Sequence[FeatureGuidance] = ()

    @property
    def reads_inputs(self) -> bool:
        """Whether that pass is needed."""
        return bool(self.input_attention or self.input_features)


class Part(Protocol):
    """A part of the guidance. name: what messages call it. rank: parts with a lower one lie outside others."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def rank(self) -> int:
        """Of several parts, those with a lower rank lie outside the others."""
        ...

    def begin(self, batch: Batch, steps: range, count: int) -> Guides:
        """What it does for a batch. Args: steps: that are run, of `count` in all."""
        ...


def begin_parts(parts: Sequence[Part], batch: Batch, steps: range, count: int) -> Guides:
    """What all parts do for a batch together. Args: as `Part.begin`.

    Raises: InputError when a part is there twice, or the work of one would be lost.
    """
    names = [part.name for part in parts]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise InputError(f"guidances: {twice} is there twice; leave one out.")
    guides = [part.begin(batch, steps, count) for part in sorted(parts, key=lambda part: part.rank)]
    merged = Guides(
        *(
            [one for each in guides for one in getattr(each, name)]
            for name in ("attention", "features", "input_attention", "input_features")
        )
    )
    check_guidances(merged.attention, LAYERS, count)
    return merged


@dataclass(frozen=True)
class CrossFramePart:
    """Attention to other frames of the batch; see `CrossFrameAttention`. loose: the coarsest layers keep to
    themselves; FRESCO leaves them out always."""

    mode: Mode = "new_regions"
    loose: bool = True
    window: Window = (0.0, 1.0)
    name: str = field(default="cross-frame attention", init=False)
    rank: int = field(default=2, init=False)

    def __post_init__(self) -> None:
        check_window("window", self.window)

    def begin(self, batch: Batch, steps: range, count: int) -> Guides:
        """See `Part.begin`."""
        motion = batch.motion if self.mode == "new_regions" else None
        layers = FINE if self.loose else LAYERS
        return Guides([CrossFrameAttention(self.mode, motion, layers=layers, window=self.window, steps=count)])


@dataclass(frozen=True)
class FlowPart:
    """Attention along the flow, and to what looks alike in the original; see `TrajectoryAttention` and
    `SpatialAttention`. temporal: divides the scores along trajectories; 0 leaves it out. until: timestep down to which
    it acts. spatial: divides the scores between places of the original; 0 leaves it out; spatial_steps: how many steps
    it acts in."""

    temporal: float = 5.0
    until: int = 350
    spatial: float = 5.0
    spatial_steps: int = 1
    name: str = field(default="flow-guided attention", init=False)
    rank: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        for name in ("temporal", "spatial"):
            if not 0 <= getattr(self, name) <= 1e6:
                raise InputError(f"{setting(name)}: expected 0 or more, got {getattr(self, name):g}.")

    def begin(self, batch: Batch, steps: range, count: int) -> Guides:
        """See `Part.begin`."""
        attention: list[Guidance] = []
        inputs: list[Guidance] = []
        if self.temporal:
            attention.append(TrajectoryAttention(batch.motion, layers=FINE, factor=self.temporal, until=self.until))
        if self.spatial:
            inputs.append(recorded := InputAttention(FINE))
            first = steps[: self.spatial_steps]
            attention.append(SpatialAttention(recorded, layers=FINE, factor=self.spatial, steps=first))
        return Guides(attention, input_attention=inputs)


@dataclass(frozen=True)
class FeaturePart:
    """Features that move with the frames; see `CorrespondenceFeatures`. smooth: carry the background from frame to
    frame, where the batch has a foreground."""

    settings: FeatureSettings = field(default_factory=FeatureSettings)
    smooth: bool = True
    name: str = field(default="correspondence features", init=False)
    rank: int = field(default=0, init=False)

    def begin(self, batch: Batch, steps: range, count: int) -> Guides:
        """See `Part.begin`."""
        captured = FeatureCapture(self.settings.levels) if self.settings.spatial else None
        guide = CorrespondenceFeatures(
            batch.motion,
            captured,
            self.settings,
            steps=count,
            foreground=batch.foreground if self.smooth else None,
        )
        return Guides(features=[guide], input_features=[] if captured is None else [captured])


FRESCO: tuple[Part, ...] = (FeaturePart(), FlowPart(), CrossFramePart())
