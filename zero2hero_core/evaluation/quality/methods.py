"""All methods behind one call: a clip in, its frames in the reference's look out.

Identity, pixel swap and optical flow are baselines without a model; plain cross-image attention, with and without
contrast, is the one with; Zero-Stage and Hero-Stage are ours. A method that needs what another one made asks `Tools`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache, cached_property
from typing import Any

import torch

from ...backbones.flux.dit import DiTBackbone
from ...backbones.sd.unet import UNetBackbone
from ...checks import InputError
from ...flow.dis import dis_flow
from ...flow.raft import load_raft
from ...flow.warp import FlowFunction
from ...hero_stage.stage import HeroStage, RestoreSettings
from ...hero_stage.training.latents import encode_clip
from ...hero_stage.training.pairs import MODES, training_pairs
from ...hero_stage.training.trainer import HeroSettings, HeroTrainer
from ...metrics.psnr import psnr
from ...propagation.optical_flow import propagate_reference
from ...propagation.pixel_swap import pixel_swap
from ...zero_stage.stage import ZeroStage, ZeroStageSettings
from ..speed.clocks import Clock, PartTimer
from .clips import Clip

BATCH = 4


@dataclass(frozen=True)
class Spec:
    """A method, its settings (what is not named keeps its default), and the seed of what it draws."""

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def described(self) -> list[Any]:
        """What decides the result, for JSON."""
        return [self.method, {name: self.options[name] for name in sorted(self.options)}, self.seed]

    def settled(self) -> dict[str, Any]:
        """All settings, also those that it leaves to the bundled models and to defaults, for JSON."""
        from ...tiny.dit import RECOMMENDED as HERO
        from ...tiny.unet import RECOMMENDED as ZERO

        if self.method in ("identity", "flow"):
            return dict(self.options)
        if self.method != "hero":
            return _without_later({**self.options, **asdict(_zero_settings(self).resolve(ZERO))})
        training, restoring = _hero_settings(self, HERO)
        own = {name: value for name, value in self.options.items() if name not in ("initial", "start")}
        made = {name: [other.method, other.settled()] for name, other in _others(self).items()}
        return _without_later({**own, **asdict(training), "restoring": asdict(restoring), "made": made})


def _without_later(settled: dict[str, Any]) -> dict[str, Any]:
    """Settings but for those that came later and are off: they decide nothing, and earlier results stay."""
    return {name: value for name, value in settled.items() if name not in LATER or value != LATER[name]}


LATER: dict[str, Any] = {"track": False, "shift": 0}


@dataclass(frozen=True)
class Made:
    """pictures (N, 3, H, W) of the frames asked for; processor seconds by part of the work; curve: training step ->
    PSNR by frame, and the seconds that went into measuring it."""

    pictures: torch.Tensor
    seconds: dict[str, float] = field(default_factory=dict)
    curve: dict[int, list[float]] = field(default_factory=dict)
    measuring: float = 0.0


class Tools:
    """The bundled models, loaded when first needed, and what other methods made.

    Args: made: gives the pictures of another method for frames of the clip. progress: called with the steps that a
    training has done.
    """

    def __init__(
        self,
        made: Callable[[Clip, Spec, Sequence[int]], torch.Tensor],
        progress: Callable[[int], object] = lambda step: None,
    ) -> None:
        self.made, self.progress = made, progress

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

    def warm(self, spec: Spec) -> None:
        """Load what a method needs, so that its time is its own."""
        if spec.method == "hero":
            _ = self.hero
        elif spec.method == "flow":
            self.flow(spec)
        elif spec.method != "identity":
            _ = self.zero


@cache  # one answer from the first run to the page
def _missing_raft() -> str:
    try:
        load_raft()
    except InputError as error:
        return " ".join(str(error).split())
    return ""


def unavailable(spec: Spec) -> str:
    """Why this machine cannot run a method, in one line; empty where it can."""
    return _missing_raft() if spec.options.get("flow") == "raft" else ""


def identity(tools: Tools, clip: Clip, spec: Spec, frames: Sequence[int]) -> Made:
    """The clip as it was."""
    return Made(clip.frames[list(frames)])


def by_pixel_swap(tools: Tools, clip: Clip, spec: Spec, frames: Sequence[int]) -> Made:
    """Patches of the reference moved along Zero-Stage's matches."""
    stage = zero_stage(tools, clip, spec)
    pictures = [pixel_swap(clip.reference, stage.correspond(clip.frames[index], index).finest) for index in frames]
    return Made(torch.stack(pictures))


def by_flow(tools: Tools, clip: Clip, spec: Spec, frames: Sequence[int]) -> Made:
    """The reference moved along a flow; chained from frame to frame or direct, whichever is nearer to the truth. Option
    flow: "dis" or "raft"."""
    given, flow = (clip.frames, clip.reference, clip.anchor), tools.flow(spec)
    moved = [propagate_reference(*given, chained=both, flow=flow) for both in (False, True)]
    if clip.measured:
        truth = clip.truths(clip.measured)
        moved.sort(key=lambda pictures: -float(psnr(pictures[clip.measured], truth).mean()))
    return Made(moved[0][list(frames)])


def _zero_settings(spec: Spec) -> ZeroStageSettings:
    known = {one.name for one in fields(ZeroStageSettings)}
    given = {name: value for name, value in spec.options.items() if name in known}
    if spec.method == "cross-image":
        given["k"] = -1
    return ZeroStageSettings(seed=spec.seed, **given)


def zero_stage(tools: Tools, clip: Clip, spec: Spec) -> ZeroStage:
    """Zero-Stage with the settings of a spec."""
    reference = clip.frames[clip.anchor] if spec.options.get("reference") == "anchor" else clip.reference
    frames = dict(enumerate(clip.frames))
    return ZeroStage(tools.zero, clip.frames[clip.anchor], reference, clip.anchor, _zero_settings(spec), frames)


def by_zero_stage(tools: Tools, clip: Clip, spec: Spec, frames: Sequence[int]) -> Made:
    """Zero-Stage. Option sure: confidence below which a part of a frame keeps its own look."""
    stage, pictures, sure = zero_stage(tools, clip, spec), [], spec.options.get("sure")
    for start in range(0, len(frames), BATCH):
        part = list(frames[start : start + BATCH])
        matches = [stage.correspond(clip.frames[index], index) for index in part]
        masks = None
        if sure is not None:
            certain = torch.stack([match.confidence for match in matches])[:, None] >= sure
            masks = torch.nn.functional.interpolate(certain.float(), clip.frames.shape[-2:], mode="nearest")
        pictures.append(stage.edit(clip.frames[part], part, matches, masks))
    return Made(torch.cat(pictures))


def by_cross_image(tools: Tools, clip: Clip, spec: Spec, frames: Sequence[int]) -> Made:
    """Plain cross-image attention: all reference tokens, no matches. Option contrast: see `full_attention`."""
    stage = zero_stage(tools, clip, spec)
    parts = [list(frames[start : start + BATCH]) for start in range(0, len(frames), BATCH)]
    return Made(torch.cat([stage.edit(clip.frames[part], part) for part in parts]))


def _suited(kind: Any, advice: Mapping[str, Any], options: Mapping[str, Any], **given: Any) -> Any:
    names = {one.name for one in fields(kind)}
    return kind.suited(advice, **{name: value for name, value in options.items() if name in names} | given)


def _hero_settings(spec: Spec, advice: Mapping[str, Any]) -> tuple[HeroSettings, RestoreSettings]:
    training = _suited(HeroSettings, advice, spec.options, seed=spec.seed)
    steps = max(1, round(training.total * spec.options.get("share", 1.0)))
    return replace(training, steps=steps), _suited(RestoreSettings, advice, spec.options)


def _others(spec: Spec) -> dict[str, Spec]:
    """The methods whose pictures Hero-Stage takes: "start", and "target" of the implicit mode."""
    mode, found = spec.options.get("mode", "explicit"), {}
    if "zero" in MODES[mode]:
        found["start"] = Spec(spec.options.get("initial", "zero"), spec.options.get("start", {}))
    if mode == "implicit":
        found["target"] = Spec("zero", {"reference": "anchor"})
    return found


def needed(clip: Clip, spec: Spec, frames: Sequence[int]) -> dict[str, tuple[Spec, list[int]]]:
    """What a method needs of others: "start" and "target" of Hero-Stage -> method, and frames of the clip."""
    if spec.method != "hero":
        return {}
    wanted = {*frames, clip.anchor, *(clip.measured if spec.options.get("curve") else ())}
    shown = {"start": sorted(wanted), "target": list(range(len(clip.frames)))}
    return {name: (other, shown[name]) for name, other in _others(spec).items()}


def by_hero_stage(tools: Tools, clip: Clip, spec: Spec, frames: Sequence[int]) -> Made:
    """Hero-Stage, trained on the clip's anchor. Options: of training and restoring; initial: "zero" or "pixel swap";
    start: the options of that; share: of the advised steps, 0 for none; curve: steps to measure at on the way."""
    backbone, watched = tools.hero, spec.options.get("curve", ())
    settings, restoring = _hero_settings(spec, backbone.recommended)
    others = {
        part: dict(zip(wanted, tools.made(clip, other, wanted), strict=True))
        for part, (other, wanted) in needed(clip, spec, frames).items()
    }
    start = others.get("start", {})
    steps = settings.total if spec.options.get("share", 1.0) else 0
    trainer = HeroTrainer(backbone, training_pairs(settings.mode, _latents(tools, clip, settings, others)), settings)
    stage = HeroStage(backbone, trainer.lora, settings.kinds, restoring)
    clock, curve = PartTimer(Clock("cpu")), {}
    try:
        for step in range(steps + 1):
            tools.progress(step)
            if step in watched:
                with clock.part("measuring"):
                    shown = _restored(stage, clip, start, clip.measured)
                    curve[step] = psnr(shown, clip.truths(clip.measured)).tolist()
            if step < steps:
                with clock.part("training"):
                    trainer.step()
        with clock.part("restoring"):
            pictures = _restored(stage, clip, start, frames)
    finally:
        trainer.close()
    measuring = clock.seconds.pop("measuring", 0.0)
    return Made(pictures, clock.seconds, curve, measuring)


def _latents(tools: Tools, clip: Clip, settings: HeroSettings, others: Mapping[str, dict[int, torch.Tensor]]) -> Any:
    anchor, everything = clip.anchor, range(len(clip.frames))
    shown = everything if settings.mode == "implicit" else [anchor]
    return encode_clip(
        tools.hero,
        settings,
        references={anchor: clip.reference},
        zero={anchor: others["start"][anchor]} if "start" in others else {},
        frames={index: clip.frames[index] for index in shown},
        zero_target=others.get("target", {}),
    )


def _restored(stage: HeroStage, clip: Clip, start: Mapping[int, torch.Tensor], frames: Sequence[int]) -> torch.Tensor:
    parts = []
    for first in range(0, len(frames), BATCH):
        now = list(frames[first : first + BATCH])
        zero = torch.stack([start[index] for index in now]) if start else None
        parts.append(stage.restore(zero, clip.frames[now], now))
    return torch.cat(parts)


Method = Callable[[Tools, Clip, Spec, Sequence[int]], Made]
METHODS: dict[str, Method] = {
    "identity": identity,
    "pixel swap": by_pixel_swap,
    "flow": by_flow,
    "cross-image": by_cross_image,
    "zero": by_zero_stage,
    "hero": by_hero_stage,
}


def run_method(tools: Tools, clip: Clip, spec: Spec, frames: Sequence[int]) -> Made:
    """Run a method. Raises: InputError for one that is not known."""
    if spec.method not in METHODS:
        raise InputError(f"method: expected one of {', '.join(METHODS)}, got {spec.method!r}.")
    return METHODS[spec.method](tools, clip, spec, frames)
