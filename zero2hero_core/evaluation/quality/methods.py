"""All methods behind one call: a clip in, its frames in the reference's look out.

Identity, pixel swap and optical flow are baselines without a model; plain cross-image attention, with and without
contrast, is the one with; Zero-Stage and Hero-Stage are ours. A method that takes what another one made asks `Tools`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ...backbones.flux.dit import DiTBackbone
from ...checks import InputError
from ...hero_stage.lora.file import read_start
from ...hero_stage.stage import HeroStage
from ...jobs.material import Material
from ...jobs.propagation import Finish, Propagation, Result, key_frames
from ...jobs.spool import Spool
from ...jobs.training import Training
from ...metrics.psnr import psnr
from ...propagation.blending import BlendSettings
from ...propagation.change import ChangeSettings
from ...propagation.engine import Carried
from ...propagation.optical_flow import propagate_reference
from ...propagation.pixel_swap import pixel_swap
from ...propagation.settings import PropagationSettings
from ..speed.clocks import Clock, PartTimer
from .clips import TaskClip
from .ebsynth import run_ebsynth
from .guided_methods import by_fresco, by_rerender
from .specs import Spec, adapter_path, hero_settings, inputs_of
from .tools import MethodResult, Tools

BATCH = 4


def identity(tools: Tools, clip: TaskClip, spec: Spec, frames: Sequence[int]) -> MethodResult:
    """The clip as it was."""
    return MethodResult(clip.frames[list(frames)])


def by_pixel_swap(tools: Tools, clip: TaskClip, spec: Spec, frames: Sequence[int]) -> MethodResult:
    """Patches of the reference moved along Zero-Stage's matches."""
    matches = tools.match(tools.stage(clip, spec), clip, frames)
    return MethodResult(torch.stack([pixel_swap(clip.reference, match.finest) for match in matches]))


def by_flow(tools: Tools, clip: TaskClip, spec: Spec, frames: Sequence[int]) -> MethodResult:
    """The reference moved along a flow; chained from frame to frame or direct, whichever is nearer to the truth. Option
    flow: "dis" or "raft"."""
    flow = tools.flow(spec)
    both = [
        propagate_reference(clip.frames, clip.reference, clip.anchor, chained=chained, flow=flow)
        for chained in (False, True)
    ]
    if clip.measured:
        truth = clip.truths(clip.measured)
        both.sort(key=lambda pictures: -float(psnr(pictures[clip.measured], truth).mean()))
    return MethodResult(both[0][list(frames)])


class MirroredErrors(Propagation):
    """Error maps of the walk backward in its own order, mirrored in time: a fault of the public scripts of
    Rerender-A-Video and FRESCO, measured here."""

    def _take_back(self, names: Mapping[int, str], index: int) -> Carried:
        order = list(names)
        other = super()._take_back(names, order[-1 - order.index(index)])
        return replace(super()._take_back(names, index), error=other.error)


def by_propagation(tools: Tools, clip: TaskClip, spec: Spec, frames: Sequence[int]) -> MethodResult:
    """Edited frames carried without a model. Options: of `PropagationSettings`, change and blending by their own names;
    keys: further edited frames, whose truth is given; mirrored: see `MirroredErrors`."""
    carry = MirroredErrors if spec.options.get("mirrored") else Propagation
    options = {name: value for name, value in spec.options.items() if name not in ("keys", "mirrored")}
    for name, kind in (("change", ChangeSettings), ("blending", BlendSettings)):
        options[name] = kind(**options.get(name, {}))
    settings = PropagationSettings(**options)
    pictures = {one.index: one.carried.picture for one in _propagated(clip, settings, _edits(clip, spec), carry)}
    return MethodResult(torch.stack([pictures[index] for index in frames]))


def by_ebsynth(tools: Tools, clip: TaskClip, spec: Spec, frames: Sequence[int]) -> MethodResult:
    """EbSynth's program; see `ebsynth`."""
    return MethodResult(run_ebsynth(clip.frames, clip.reference, clip.anchor)[list(frames)])


def by_zero_stage(tools: Tools, clip: TaskClip, spec: Spec, frames: Sequence[int]) -> MethodResult:
    """Zero-Stage. Option sure: confidence below which a part of a frame keeps its own look."""
    stage, pictures, sure = tools.stage(clip, spec), [], spec.options.get("sure")
    for part in _batches(frames):
        matches = tools.match(stage, clip, part)
        masks = None
        if sure is not None:
            certain = torch.stack([match.confidence for match in matches])[:, None] >= sure
            masks = torch.nn.functional.interpolate(certain.float(), clip.frames.shape[-2:], mode="nearest")
        pictures.append(stage.edit(clip.frames[part], part, matches, masks))
        tools.progress(sum(map(len, pictures)))
    return MethodResult(torch.cat(pictures))


def by_cross_image(tools: Tools, clip: TaskClip, spec: Spec, frames: Sequence[int]) -> MethodResult:
    """Plain cross-image attention: all reference tokens, no matches. Option contrast: see `full_attention`."""
    stage, pictures = tools.stage(clip, spec), []
    for part in _batches(frames):
        pictures.append(stage.edit(clip.frames[part], part))
        tools.progress(sum(map(len, pictures)))
    return MethodResult(torch.cat(pictures))


def by_hero_stage(tools: Tools, clip: TaskClip, spec: Spec, frames: Sequence[int]) -> MethodResult:
    """Hero-Stage, trained on the clip's anchor. Options: of training and restoring; initial: "zero" or "pixel swap";
    start: the options of that; share: of the advised steps, 0 for none; curve: steps to measure at on the way; adapter:
    begin with the bundled one."""
    backbone, curve_steps = tools.hero, spec.options.get("curve", ())
    settings, restoring = hero_settings(spec, backbone.recommended)
    inputs = {
        name: dict(zip(indices, tools.pictures_of(clip, other, indices), strict=True))
        for name, (other, indices) in inputs_of(clip, spec, frames).items()
    }
    start = inputs.get("start", {})
    steps = settings.total if spec.options.get("share", 1.0) else 0
    target = inputs.get("target") if settings.mode == "implicit" else None
    material = Material(dict(_edits(clip, spec)), dict(enumerate(clip.frames)), start, target)
    start_weights = None
    if spec.options.get("adapter"):
        start_weights, _ = read_start(adapter_path(), backbone, settings.mode)
    training = Training(backbone, material, settings, restoring, start=start_weights)
    stage = training.stage
    clock, curve = PartTimer(Clock("cpu")), {}
    try:
        for step in range(steps + 1):
            tools.progress(step)
            if step in curve_steps:
                with clock.part("measuring"):
                    restored = _restore(stage, clip, start, clip.measured)
                    curve[step] = psnr(restored, clip.truths(clip.measured)).tolist()
            if step < steps:
                with clock.part("training"):
                    training.trainer.step()
        with clock.part("restoring"):
            pictures = _restore(stage, clip, start, frames)
    finally:
        training.close()
    measuring = clock.seconds.pop("measuring", 0.0)
    return MethodResult(pictures, clock.seconds, curve, measuring)


def by_mix(tools: Tools, clip: TaskClip, spec: Spec, frames: Sequence[int]) -> MethodResult:
    """The carried change with Hero-Stage as its witness, as `edit` ends. Options: hero: those of Hero-Stage."""
    other, indices = inputs_of(clip, spec, frames)["witness"]
    witnesses = dict(zip(indices, tools.pictures_of(clip, other, indices), strict=True))
    finish, pictures = Finish(witnesses, keep_unedited=True), {}
    for result in _propagated(clip, PropagationSettings(), _edits(clip, spec)):
        if result.index in witnesses:
            pictures[result.index], _ = finish.put(result)
    return MethodResult(torch.stack([pictures[index] for index in frames]))


def _edits(clip: TaskClip, spec: Spec) -> list[tuple[int, torch.Tensor]]:
    """The anchor's edit, and those of further frames, "keys", whose truth is given."""
    return [(clip.anchor, clip.reference), *((index, clip.truth[index]) for index in spec.options.get("keys", ()))]


def _propagated(
    clip: TaskClip,
    settings: PropagationSettings,
    edits: Sequence[tuple[int, torch.Tensor]],
    carry: type[Propagation] = Propagation,
) -> list[Result]:
    """What was carried to all frames of a clip."""
    originals = dict(enumerate(clip.frames))
    with TemporaryDirectory(prefix="zero2hero_") as folder:
        keys, spool = key_frames(originals, edits), Spool(Path(folder) / "walks")
        return list(carry(originals, keys, settings, spool, resumable=False).results())


def _restore(
    stage: HeroStage[DiTBackbone], clip: TaskClip, start: Mapping[int, torch.Tensor], frames: Sequence[int]
) -> torch.Tensor:
    pictures = []
    for part in _batches(frames):
        zero = torch.stack([start[index] for index in part]) if start else None
        pictures.append(stage.restore(zero, clip.frames[part], part))
    return torch.cat(pictures)


def _batches(frames: Sequence[int]) -> list[list[int]]:
    return [list(frames[first : first + BATCH]) for first in range(0, len(frames), BATCH)]


Method = Callable[[Tools, TaskClip, Spec, Sequence[int]], MethodResult]
METHODS: dict[str, Method] = {
    "identity": identity,
    "pixel swap": by_pixel_swap,
    "flow": by_flow,
    "propagation": by_propagation,
    "ebsynth": by_ebsynth,
    "rerender": by_rerender,
    "fresco": by_fresco,
    "cross-image": by_cross_image,
    "zero": by_zero_stage,
    "hero": by_hero_stage,
    "mix": by_mix,
}


def run_method(tools: Tools, clip: TaskClip, spec: Spec, frames: Sequence[int]) -> MethodResult:
    """Run a method. Raises: InputError for one that is not known."""
    if spec.method not in METHODS:
        raise InputError(f"method: expected one of {', '.join(METHODS)}, got {spec.method!r}.")
    return METHODS[spec.method](tools, clip, spec, frames)
