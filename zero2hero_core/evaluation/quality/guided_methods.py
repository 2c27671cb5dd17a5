"""Key frames painted from a prompt, on the bundled model: which knows the empty prompt only, so that the edited anchor
says it all."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...backbones.sd.guided import GuidedUNet
from ...checks import InputError
from ...guidance.fresco import KeyFrameBatchPainter
from ...guidance.parts import Batch
from ...guidance.rerender import KeyFramePainter
from ...jobs.guidance import paint_key_batches, paint_key_frames
from .clips import TaskClip
from .guided_settings import fresco_settings, parts_of, rerender_settings
from .specs import Spec
from .tools import MethodResult, Tools


def by_rerender(tools: Tools, clip: TaskClip, spec: Spec, frames: Sequence[int]) -> MethodResult:
    """Rerender-A-Video with the frames as its keys. Options: see `guided_settings`."""
    painter = KeyFramePainter(GuidedUNet(tools.zero), rerender_settings(spec.options, spec.seed))
    originals = {index: clip.frames[index] for index in frames}
    done: dict[int, torch.Tensor] = {}
    for key in paint_key_frames(painter, originals, _keys(clip, frames), clip.anchor, clip.reference):
        done[key.index] = key.picture
        tools.progress(len(done))
    return MethodResult(torch.stack([done[index] for index in frames]))


def by_fresco(tools: Tools, clip: TaskClip, spec: Spec, frames: Sequence[int]) -> MethodResult:
    """FRESCO with the frames as its keys. Options: see `guided_settings`; foreground: whether the object is
    known, for smoothing of the background."""
    masks = clip.masks if spec.options.get("foreground", False) else None
    settings = fresco_settings(spec.options, spec.seed)
    painter = KeyFrameBatchPainter(GuidedUNet(tools.zero), settings, parts_of(spec.options))

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
