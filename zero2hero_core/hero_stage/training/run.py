"""A whole Hero-Stage training in a folder: checkpoints to resume from, LoRA file, log, plot, samples, early stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ...checks import InputError, Unfinished, Zero2HeroError, check_range
from ...files.guard import Results, remove_leftovers
from ...files.lock import locked_folder
from ...metrics.psnr import psnr
from ..lora.file import HeroMetadata, save_lora
from .log import EarlyStop, TrainingLog
from .trainer import HeroTrainer

STATE, LORA, PLOT, SAMPLES = "state.pt", "hero_lora.safetensors", "training.png", "samples"
RESULTS = Results((STATE, LORA, PLOT, "log.csv"), ((SAMPLES, r"step_\d{6,}\.png"),))


@dataclass(frozen=True)
class RunSettings:
    """save_every: steps between checkpoints. evaluate_every: between evaluations. patience: stop after so many
    evaluations without an improvement of `min_delta` dB on the truth (the anchor where there is none); 0 never stops.
    """

    save_every: int = 100
    evaluate_every: int = 200
    patience: int = 0
    min_delta: float = 0.05

    def __post_init__(self) -> None:
        check_range("save every", self.save_every, 1, 1_000_000)
        check_range("evaluate every", self.evaluate_every, 1, 1_000_000)
        check_range("patience", self.patience, 0, 1_000_000)


@dataclass(frozen=True)
class Evaluation:
    """Frames to restore now and then.

    restore: indices -> restored frames (B, 3, H, W). anchor: index and reference (3, H, W): always measured. truths:
    index -> true frame, where known. zero: index -> Zero-Stage result of the frames with truth, measured for comparison
    where all of them are there. samples: further frames of the sample pictures.
    """

    restore: Callable[[list[int]], torch.Tensor]
    anchor: tuple[int, torch.Tensor]
    truths: Mapping[int, torch.Tensor]
    zero: Mapping[int, torch.Tensor]
    samples: tuple[int, ...] = ()


class TrainingRun:
    """Trains in `folder`; `run()` ends at the last step, by early stop, or with an error that says how to go on.

    Args:
        metadata: for the LoRA file; its step is filled in.
        stop: asked between steps; True saves and ends with an error that says so.
        progress: called with (step, loss).
    """

    def __init__(
        self,
        trainer: HeroTrainer[Any],
        folder: Path,
        metadata: HeroMetadata,
        evaluation: Evaluation | None = None,
        settings: RunSettings | None = None,
        *,
        stop: Callable[[], bool] = lambda: False,
        progress: Callable[[int, float], None] | None = None,
    ):
        self.trainer, self.folder, self.metadata, self.evaluation = trainer, folder, metadata, evaluation
        self.settings, self.stop, self.progress = settings or RunSettings(), stop, progress
        self.log = TrainingLog(folder)
        self.early = EarlyStop(self.settings.patience, self.settings.min_delta) if self.settings.patience else None
        self.seconds = {"train": 0.0, "evaluate": 0.0}
        self.stopped_early = False
        self.saved_step = -1  # step of the last checkpoint
        self.earlier = 0.0  # seconds of training before this run was resumed

    def resume(self) -> int:
        """Go on from the folder's checkpoint, if there is one; returns its step."""
        if not (self.folder / STATE).exists():
            self.log.truncate(-1)  # of a run that ended before its first checkpoint
            return 0
        self.trainer.load(self.folder / STATE)
        self.saved_step = self.trainer.done
        self.log.truncate(self.trainer.done)
        rows = self.log.rows()
        self.earlier = max((row.get("seconds", 0.0) for row in rows), default=0.0)
        if self.early is not None:  # what the evaluations said is in the log
            for row in rows:
                value = row.get("psnr_truth", row.get("psnr_anchor"))
                if value is not None and row["step"] > 0 and row["step"] % self.settings.evaluate_every == 0:
                    self.stopped_early = self.early.update(value)
        return self.trainer.done

    def run(self) -> None:
        """Train to the end. Raises: Unfinished when stopped, Zero2HeroError when the loss is no number; the checkpoint
        is kept then; InputError when another run trains in the folder.

        `resume` writes, too: whoever calls both holds `locked_folder` around them.
        """
        try:
            with locked_folder(self.folder, "Hero-Stage training"):
                remove_leftovers(self.folder, RESULTS)
                self._run()
        except KeyboardInterrupt as error:
            raise Unfinished(f"interrupted; {self._kept()}") from error

    def _run(self) -> None:
        trainer, settings = self.trainer, self.settings
        self.folder.mkdir(parents=True, exist_ok=True)
        if trainer.done == 0 and self.saved_step < 0:
            self._evaluate(None)
        while trainer.done < trainer.settings.total and not self.stopped_early:
            if self.stop():
                self.save()
                raise Unfinished(f"stopped at step {trainer.done} of {trainer.settings.total}; {self._kept()}")
            loss = self._step()
            last = trainer.done == trainer.settings.total
            if trainer.done % settings.evaluate_every == 0 or last:
                self._evaluate(loss)
            else:
                self.log.append(trainer.done, loss=loss, **self._known())
            if trainer.done % settings.save_every == 0 or last or self.stopped_early:
                self.save()
        self.log.plot(self.folder / PLOT)

    def _step(self) -> float:
        start = time.perf_counter()
        try:
            loss = self.trainer.step()
        except Zero2HeroError as error:
            raise Zero2HeroError(f"{error.text}; {self._kept()}.") from error
        self.seconds["train"] += time.perf_counter() - start
        if self.progress:
            self.progress(self.trainer.done, loss)
        return loss

    def _known(self) -> dict[str, float]:
        rate = self.trainer.optimiser.param_groups[0]["lr"]
        return {"learning_rate": rate, "seconds": self.earlier + self.seconds["train"]}

    def _kept(self) -> str:
        if self.saved_step < 0:
            return "nothing has been saved yet"
        return f"the checkpoint of step {self.saved_step} and its LoRA are kept in {self.folder}"

    def save(self) -> None:
        """Write the LoRA, then the checkpoint that a resumed run starts from."""
        step = self.trainer.done
        save_lora(self.folder / LORA, self.trainer.lora, replace(self.metadata, step=step))
        self.trainer.save(self.folder / STATE)
        self.saved_step = step

    def _evaluate(self, loss: float | None) -> None:
        """Restore the chosen frames; PSNR on anchor and truth to the log, pictures to the samples, plot."""
        trainer, evaluation = self.trainer, self.evaluation
        if evaluation is None:
            if loss is not None:
                self.log.append(trainer.done, loss=loss, **self._known())
            return
        start = time.perf_counter()
        index, reference = evaluation.anchor
        indices = sorted({index, *evaluation.truths, *evaluation.samples})
        pictures = dict(zip(indices, evaluation.restore(indices), strict=True))
        for picture in pictures.values():
            if not bool(torch.isfinite(picture).all()):
                raise Zero2HeroError(
                    f"step {trainer.done}: the restored pictures hold values that are no numbers; {self._kept()}."
                )
        values = {"psnr_anchor": _mean_psnr([pictures[index]], [reference])}
        if evaluation.truths:
            values["psnr_truth"] = _mean_psnr(
                [pictures[i] for i in evaluation.truths], list(evaluation.truths.values())
            )
            if all(i in evaluation.zero for i in evaluation.truths):
                values["psnr_zero"] = _mean_psnr(
                    [evaluation.zero[i] for i in evaluation.truths], list(evaluation.truths.values())
                )
        self.log.append(trainer.done, loss=loss, **self._known(), **values)
        self._write_samples(pictures)
        if self.early is not None and trainer.done:
            self.stopped_early = self.early.update(values.get("psnr_truth", values["psnr_anchor"]))
        self.log.plot(self.folder / PLOT)
        self.seconds["evaluate"] += time.perf_counter() - start

    def _write_samples(self, pictures: Mapping[int, torch.Tensor]) -> None:
        from ...video.image_writer import write_image

        (self.folder / SAMPLES).mkdir(exist_ok=True)
        row = torch.cat([pictures[i] for i in sorted(pictures)], 2)
        write_image(self.folder / SAMPLES / f"step_{self.trainer.done:06d}.png", row, overwrite=True)


def _mean_psnr(pictures: list[torch.Tensor], true: list[torch.Tensor]) -> float:
    if pictures[0].shape != true[0].shape:
        raise InputError(f"evaluation: expected pictures of {tuple(pictures[0].shape)}, got {tuple(true[0].shape)}.")
    return float(psnr(torch.stack(pictures), torch.stack(true)).mean())
