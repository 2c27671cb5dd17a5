"""What the recipes of both tiny models share: the schedule of a training, its step, its moving average of the weights,
its state to resume from, and its learning curve."""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from ...checks import InputError, setting
from ...files.whole import whole_file


@dataclass(frozen=True)
class Schedule:
    """What decides the weights in both recipes.

    phases: (steps, pictures or pairs a step, crop in latent cells). ema: decay of the moving average of the weights.
    """

    seed: int = 0
    clips: int = 3000
    size: int = 256
    phases: tuple[tuple[int, int, int], ...] = ()
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.01
    ema: float = 0.999
    bfloat16: bool = True

    @property
    def total(self) -> int:
        """Steps of all phases."""
        return sum(steps for steps, _, _ in self.phases)

    def phase(self, step: int) -> tuple[int, int]:
        """Pictures or pairs, and crop, of a step."""
        for steps, count, crop in self.phases:
            if step < steps:
                return count, crop
            step -= steps
        return self.phases[-1][1:]

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then a cosine to zero."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        share = (step - self.warmup) / max(1, self.total - self.warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


class RecipeTrainer(ABC):
    """A model, the moving average of its weights, optimiser and random state; `step()` does one update and returns the
    losses.

    Args: build: makes the model, drawing its weights from torch's global generator.
    """

    part: ClassVar[str]  # what a saved state calls the model

    def __init__(self, recipe: Schedule, build: Callable[[], Any], device: str = "cpu"):
        torch.manual_seed(recipe.seed)
        self.device = torch.device(device)
        self.model: Any = build().to(self.device).train()
        self.average = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=0.0, weight_decay=recipe.weight_decay, betas=(0.9, 0.99)
        )
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.done, self.seconds = 0, 0.0
        self._schedule, self._build = recipe, build

    @abstractmethod
    def compute_loss(self) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss of the next step, and its parts for the curve."""

    def step(self) -> dict[str, float]:
        """One update."""
        loss, parts = self.compute_loss()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = self._schedule.rate(self.done)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self._update_average()
        self.done += 1
        return parts

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self._schedule.ema, (1 + self.done) / (10 + self.done))
        torch._foreach_lerp_(list(self.average.values()), list(self.model.state_dict().values()), 1 - decay)

    def averaged(self) -> Any:
        """A copy of the model with the averaged weights."""
        model = self._build()
        model.load_state_dict({name: tensor.cpu() for name, tensor in self.average.items()})
        return model

    def save(self, path: Path) -> None:
        """Whole state, for `load`, through a temporary file."""
        state = {
            self.part: self.model.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "random": self.generator.get_state(),
            "done": self.done,
            "seconds": self.seconds,
            "recipe": asdict(self._schedule),
        }
        with whole_file(path) as temporary, temporary.open("wb") as file:
            torch.save(state, file)

    def load(self, path: Path) -> None:
        """Go on from a saved state. Raises: InputError when it belongs to another recipe."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["recipe"] != asdict(self._schedule):
            raise InputError(
                f"{path}: the state of another recipe (seed, clips or steps); choose another {setting('work')} folder."
            )
        self.model.load_state_dict(state[self.part])
        self.average = state["average"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["random"].cpu())
        self.done, self.seconds = state["done"], state["seconds"]

    def run(self, state: Path, curve: Path, *, every: int, log: Callable[[str], object]) -> dict[str, str]:
        """Do all steps that are left.

        Args:
            state: file to go on from, if it is there, and to save to each `every` steps.
            curve: file that a line of mean losses is added to as often.
        Returns: recipe and curve, as metadata of the weights.
        """
        if state.exists():
            self.load(state)
            log(f"resumed at step {self.done}")
        losses: dict[str, list[float]] = {}  # of the steps since the last line of the curve
        total = self._schedule.total
        while self.done < total:
            started = time.perf_counter()
            parts = self.step()
            self.seconds += time.perf_counter() - started
            for name, value in parts.items():
                losses.setdefault(name, []).append(value)
            if self.done % every == 0 or self.done == total:
                means = {name: round(sum(values) / len(values), 4) for name, values in sorted(losses.items())}
                line = json.dumps({"step": self.done, "seconds": round(self.seconds, 1)} | means)
                with curve.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
                log(line)
                losses.clear()
                self.save(state)
        text = curve.read_text(encoding="utf-8") if curve.exists() else ""
        return {"recipe": json.dumps(asdict(self._schedule)), "curve": text}
