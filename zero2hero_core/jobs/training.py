"""One training of Hero-Stage on pictures that are at hand: what commands, nodes and benchmarks share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ..backbones.flux.dit import DiTBackbone
from ..files.lock import locked_folder
from ..hero_stage.lora.file import HeroMetadata
from ..hero_stage.memory.estimate import MemoryEstimate, estimate_training
from ..hero_stage.memory.model_size import ModelSize
from ..hero_stage.sampling import RestoreSettings
from ..hero_stage.stage import HeroStage
from ..hero_stage.training.pairs import training_pairs
from ..hero_stage.training.run import LORA, PLOT, STATE, Evaluation, RunSettings, TrainingRun
from ..hero_stage.training.trainer import HeroSettings, HeroTrainer
from .listener import Listener
from .material import Material

__all__ = ["LORA", "PLOT", "STATE", "RunSettings", "Training", "TrainingRun", "expected_memory", "run_to_the_end"]


class Training:
    """Pairs, trainer and the stage that restores with what has been learned so far.

    Args: start: adapter weights to begin with, see `jobs.adapter`.
    Raises: InputError, ShapeError when pictures, settings and model do not fit together.
    """

    def __init__(
        self,
        backbone: DiTBackbone,
        material: Material,
        settings: HeroSettings,
        restoring: RestoreSettings,
        *,
        same_noise: bool = True,
        start: Mapping[str, torch.Tensor] | None = None,
    ):
        self.material = material
        self.latest: torch.Tensor | None = None  # what was restored last
        pairs = training_pairs(settings.mode, material.latents(backbone, settings))
        self.trainer = HeroTrainer(backbone, pairs, settings, start=start)
        self.stage = HeroStage(backbone, self.trainer.lora, settings.kinds, restoring, same_noise=same_noise)

    @property
    def total(self) -> int:
        """Number of steps."""
        return self.trainer.settings.total

    def restored(self, indices: Sequence[int]) -> torch.Tensor:
        """Frames (B, 3, H, W) restored with what has been learned so far."""
        self.latest = self.material.restored(self.stage, indices)
        return self.latest

    def metadata(self, size_hw: tuple[int, int], clip_hash: str, anchor_hash: str) -> HeroMetadata:
        """What the LoRA's file says."""
        height, width = size_hw
        return HeroMetadata.of(
            self.trainer.lora,
            mode=self.trainer.settings.mode,
            resolution=f"{width}x{height}",
            clip_hash=clip_hash,
            anchor_hash=anchor_hash,
        )

    def in_folder(
        self,
        folder: Path,
        metadata: HeroMetadata,
        anchor: int,
        samples: Sequence[int],
        listener: Listener,
        *,
        truths: Mapping[int, torch.Tensor] | None = None,
        settings: RunSettings | None = None,
    ) -> TrainingRun:
        """The run of this training in a folder, where it is resumed and leaves its files.

        Args: anchor: always measured. samples: further frames that are restored now and then. truths: true frames by
        index, where they are known.
        """
        material, truths = self.material, truths or {}

        def restore(indices: list[int]) -> torch.Tensor:
            pictures = self.restored(indices)
            listener.preview(torch.cat(list(pictures), 2))
            return pictures

        evaluation = Evaluation(
            restore,
            (anchor, material.references[anchor]),
            truths,
            {index: material.zero[index] for index in truths if index in material.zero},
            tuple(samples),
        )
        return TrainingRun(
            self.trainer,
            folder,
            metadata,
            evaluation,
            settings,
            stop=listener.cancelled,
            progress=lambda step, loss: listener.progress("training", step, self.total, f"loss {loss:.3f}"),
        )

    def close(self) -> None:
        """Take the adapters off the model."""
        self.trainer.close()


def run_to_the_end(run: TrainingRun, listener: Listener, *, resume: bool) -> int:
    """Train what is left; returns the step it began at. Raises: Unfinished when cancelled; the checkpoint is kept."""
    with locked_folder(run.folder, "Hero-Stage training"), listener.whole_steps():
        step = run.resume() if resume else 0
        listener.progress("training", step, run.trainer.settings.total)
        run.run()
    return step


def expected_memory(
    backbone: DiTBackbone,
    settings: HeroSettings,
    size_hw: tuple[int, int],
    *,
    weights: str,
    device: str,
    float32: bool,
) -> MemoryEstimate:
    """The memory that a training will take. weights: how the transformer is held; float32: what it computes in."""
    return estimate_training(
        ModelSize.from_config(
            backbone.transformer.config, name=backbone.name, text_tokens=backbone.text.tokens.shape[1]
        ),
        resolution=settings.seen(size_hw, backbone.multiple),
        rank=settings.rank,
        weights=weights,
        conditions=len(settings.kinds),
        checkpointing=settings.checkpointing,
        optimiser=settings.optimiser,
        batch=settings.batch,
        draws=settings.draws,
        device=device,
        float32=float32,
    )
