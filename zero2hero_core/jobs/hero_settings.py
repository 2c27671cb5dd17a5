"""Settings of Hero-Stage as a user gives them: what is left open takes what suits the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..hero_stage.lora.file import HeroMetadata
from ..hero_stage.sampling import RestoreSettings
from ..hero_stage.training.trainer import HeroSettings

NONE = "none"  # of the adapter
_AFTER_ADAPTER = {"steps": "adapter_steps", "learning_rate": "adapter_learning_rate"}  # advice that takes its place


def with_adapter(advice: Mapping[str, Any]) -> dict[str, Any]:
    """A model's advice for a training that begins with an adapter."""
    return dict(advice) | {name: advice[other] for name, other in _AFTER_ADAPTER.items() if other in advice}


@dataclass(frozen=True)
class TrainingChoice:
    """Of the training; see `HeroSettings` and `RunSettings`. None: what suits the model.

    adapter: a LoRA file to begin with; None is the bundled one where there is one, "none" the paper's way.
    """

    mode: str = "explicit"
    rank: int | None = None
    alpha: float | None = None
    lora_layers: tuple[str, ...] = ()
    train_steps: int | None = None
    learning_rate: float | None = None
    decay: bool | None = None
    pairs: int | None = None
    draws: int | None = None
    crop: float | None = None
    light: float | None = None
    shift: int | None = None
    high_noise: float | None = None
    optimiser: str = "adamw"
    checkpointing: bool = False
    train_seed: int = 0
    save_every: int = 100
    evaluate_every: int = 200
    evaluate_frames: tuple[int, ...] | None = None
    patience: int = 0
    adapter: str | None = None

    def settings(self, advice: Mapping[str, Any], start: HeroMetadata | None = None) -> HeroSettings:
        """Settings: what the user said, else what suits the model (`DiTSurface.recommended`), else the defaults.

        Args: start: of the LoRA that the training begins with; its size and place count, and other steps are advised.
        """
        spec: dict[str, Any] = {"alpha": self.alpha, "layers": tuple(self.lora_layers)}
        if start is not None:
            spec = {"rank": start.rank, "alpha": start.alpha, "layers": start.spec.layers}
            advice = with_adapter(advice)
        values = {
            "rank": self.rank,
            "learning_rate": self.learning_rate,
            "decay": self.decay,
            "batch": self.pairs,
            "draws": self.draws,
            "crop": self.crop,
            "light": self.light,
            "shift": self.shift,
            "high_noise": self.high_noise,
            "steps": self.train_steps,
        }
        return HeroSettings.suited(
            advice,
            **({name: value for name, value in values.items() if value is not None} | spec),
            mode=self.mode,
            optimiser=self.optimiser,
            checkpointing=self.checkpointing,
            seed=self.train_seed,
        )


@dataclass(frozen=True)
class RestoreChoice:
    """Of restoring; see `RestoreSettings`. new_noise: other noise for every frame."""

    sample_steps: int | None = None
    hero_guidance: float = 3.5
    samples: int | None = None
    strength: tuple[float, ...] = (1.0,)
    noise_seed: int = 0
    new_noise: bool = False

    def settings(self, advice: Mapping[str, Any]) -> RestoreSettings:
        """Settings, in the order of preference of `TrainingChoice.settings`."""
        values = {"num_inference_steps": self.sample_steps, "samples": self.samples}
        return RestoreSettings.suited(
            advice,
            **{name: value for name, value in values.items() if value is not None},
            guidance_scale=self.hero_guidance,
            seed=self.noise_seed,
            strengths=tuple(self.strength),
        )
