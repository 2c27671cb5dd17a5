"""What is asked of a method: its name, its settings, its seed; and all that decides its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ...checks import InputError
from ...hero_stage.lora.file import read_metadata
from ...hero_stage.sampling import RestoreSettings
from ...hero_stage.training.trainer import HeroSettings
from ...jobs.adapter import TINY_FAMILY, bundled_adapter
from ...jobs.hero_settings import with_adapter
from ...jobs.state import file_digest
from ...paper import MODES
from ...propagation.witness import WitnessSettings
from ...zero_stage.settings import ZeroStageSettings
from . import guided_settings
from .clips import TaskClip

# Settings that came later, and their value when they are off: off, they decide nothing, and earlier results stay.
LATER: dict[str, Any] = {"track": False, "shift": 0}


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

        if self.method in ("identity", "flow", "propagation", "ebsynth"):
            return dict(self.options)
        if self.method == "mix":
            made = {name: [other.method, other.settled()] for name, other in _mix_inputs(self).items()}
            own = {name: value for name, value in self.options.items() if name != "hero"}
            return {**own, "made": made, "witness": asdict(WitnessSettings())}
        if self.method in ("rerender", "fresco"):
            return guided_settings.settled(self.method, self.options, self.seed)
        if self.method != "hero":
            return _without_later({**self.options, **asdict(zero_settings(self).resolve(ZERO))})
        training, restoring = hero_settings(self, HERO)
        own = {name: value for name, value in self.options.items() if name not in ("initial", "start", "adapter")}
        if self.options.get("adapter"):
            own["adapter"] = adapter_digest()
        inputs = {name: [other.method, other.settled()] for name, other in _inputs(self).items()}
        return _without_later({**own, **asdict(training), "restoring": asdict(restoring), "made": inputs})


def _without_later(settled: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settled.items() if name not in LATER or value != LATER[name]}


def zero_settings(spec: Spec) -> ZeroStageSettings:
    """The settings of Zero-Stage in a spec; plain cross-image attention reads all tokens."""
    names = {one.name for one in fields(ZeroStageSettings)}
    options = {name: value for name, value in spec.options.items() if name in names}
    if spec.method == "cross-image":
        options["k"] = -1
    return ZeroStageSettings(seed=spec.seed, **options)


def hero_settings(spec: Spec, advice: Mapping[str, Any]) -> tuple[HeroSettings, RestoreSettings]:
    """The settings of Hero-Stage's training and sampling in a spec. advice: the model's."""

    def options(kind: type[HeroSettings] | type[RestoreSettings]) -> dict[str, Any]:
        names = {one.name for one in fields(kind)}
        return {name: value for name, value in spec.options.items() if name in names}

    own = options(HeroSettings) | {"seed": spec.seed}
    if spec.options.get("adapter"):
        start = read_metadata(adapter_path())
        assert start is not None
        own = {"rank": start.rank, "alpha": start.alpha, "layers": start.spec.layers, **own}
        advice = with_adapter(advice)
    training = HeroSettings.suited(advice, **own)
    steps = max(1, round(training.total * spec.options.get("share", 1.0)))
    return replace(training, steps=steps), RestoreSettings.suited(advice, **options(RestoreSettings))


def _inputs(spec: Spec) -> dict[str, Spec]:
    """The methods whose pictures Hero-Stage takes: "start", and "target" of the implicit mode."""
    mode, inputs = spec.options.get("mode", "explicit"), {}
    if "zero" in MODES[mode]:
        keys = {"keys": spec.options["keys"]} if spec.options.get("keys") else {}
        inputs["start"] = Spec(spec.options.get("initial", "zero"), {**spec.options.get("start", {}), **keys})
    if mode == "implicit":
        inputs["target"] = Spec("zero", {"reference": "anchor"})
    return inputs


def adapter_path() -> Path:
    """The adapter that is bundled for the tiny models. Raises: InputError where there is none."""
    path = bundled_adapter(TINY_FAMILY)
    if path is None:
        raise InputError("adapter: none is bundled with this copy of the package; train one with `hero pretrain`.")
    return path


def adapter_digest() -> str:
    """What tells adapters apart."""
    return str(file_digest(str(adapter_path())))[:16]


def _mix_inputs(spec: Spec) -> dict[str, Spec]:
    """The witness of a mix."""
    keys = {"keys": spec.options["keys"]} if spec.options.get("keys") else {}
    return {"witness": Spec("hero", {**spec.options.get("hero", {}), **keys}, spec.seed)}


def inputs_of(clip: TaskClip, spec: Spec, frames: Sequence[int]) -> dict[str, tuple[Spec, list[int]]]:
    """What a method takes from others: "start" and "target" of Hero-Stage, "witness" of a mix -> method, and frames of
    the clip."""
    if spec.method == "mix":
        return {name: (other, list(frames)) for name, other in _mix_inputs(spec).items()}
    if spec.method != "hero":
        return {}
    start = {*frames, clip.anchor, *spec.options.get("keys", ()), *(clip.measured if spec.options.get("curve") else ())}
    indices = {"start": sorted(start), "target": list(range(len(clip.frames)))}
    return {name: (other, indices[name]) for name, other in _inputs(spec).items()}
