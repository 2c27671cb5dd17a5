"""Key frames painted from a prompt, on the bundled model: which knows the empty prompt only, so that the edited anchor
says it all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ...backbones.sd.guided import GuidedUNet
from ...checks import InputError
from ...guidance.features import FeatureSettings
from ...guidance.fresco import KeyFrameBatchPainter
from ...guidance.parts import Batch, CrossFramePart, FeaturePart, FlowPart, Part
from ...guidance.pixel_target import PixelSettings
from ...guidance.rerender import KeyFramePainter
from ...guidance.settings import FrescoSettings, RerenderSettings
from ...jobs.guidance import paint_key_batches, paint_key_frames
from .clips import TaskClip
from .specs import Spec
from .tools import MethodResult, Tools

PARTS: dict[str, Part] = {
    "cross": CrossFramePart(),
    "temporal": FlowPart(spatial=0),
    "flow": FlowPart(),
    "features": FeaturePart(),
    "temporal features": FeaturePart(FeatureSettings(spatial=0)),
}


def by_rerender(tools: Tools, clip: TaskClip, spec: Spec, frames: Sequence[int]) -> MethodResult:
    """Rerender-A-Video with the frames as its keys. Options: of `RerenderSettings`, and `pixel` of `PixelSettings`."""
    options: dict[str, Any] = dict(spec.options)
    settings = RerenderSettings(seed=spec.seed, pixel=PixelSettings(**options.pop("pixel", {})), **_windows(options))
    painter = KeyFramePainter(GuidedUNet(tools.zero), settings)
    originals = {index: clip.frames[index] for index in frames}
    done: dict[int, torch.Tensor] = {}
    for key in paint_key_frames(painter, originals, _keys(clip, frames), clip.anchor, clip.reference):
        done[key.index] = key.picture
        tools.progress(len(done))
    return MethodResult(torch.stack([done[index] for index in frames]))


def by_fresco(tools: Tools, clip: TaskClip, spec: Spec, frames: Sequence[int]) -> MethodResult:
    """FRESCO with the frames as its keys. Options: of `FrescoSettings`; parts: names of `PARTS`; foreground: whether
    the object is known, for smoothing of the background."""
    options: dict[str, Any] = dict(spec.options)
    parts = [PARTS[name] for name in options.pop("parts", ())]
    masks = clip.masks if options.pop("foreground", False) else None
    settings = FrescoSettings(seed=spec.seed, pixel=PixelSettings(**options.pop("pixel", {})), **_windows(options))
    painter = KeyFrameBatchPainter(GuidedUNet(tools.zero), settings, parts)

    def batch_of(rows: Sequence[int]) -> Batch:
        return Batch(tuple(rows), clip.frames[list(rows)], None if masks is None else masks[list(rows)])

    done: dict[int, torch.Tensor] = {}
    for index, picture, _ in paint_key_batches(painter, _keys(clip, frames), clip.anchor, batch_of, clip.reference):
        done[index] = picture
        tools.progress(len(done))
    return MethodResult(torch.stack([done[index] for index in frames]))


def _keys(clip: TaskClip, frames: Sequence[int]) -> list[int]:
    if clip.anchor not in frames:
        raise InputError(f"frames: expected the anchor ({clip.anchor}) among them, got {list(frames)}.")
    return sorted(frames)


def _windows(options: dict[str, Any]) -> dict[str, Any]:
    """Lists, as JSON has them, as tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
