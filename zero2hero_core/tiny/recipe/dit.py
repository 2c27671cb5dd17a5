"""The recipe of the bundled tiny DiT: `zero2hero tiny train --part dit`.

Flow matching on crops, then on whole frames, of rendered clips. As FLUX.2 is, the model is trained with clean
reference tokens at the places of the two conditions: the wanted look in a worn state (blurred, misplaced, false
colours), and the frame in its other look; one or both are left out in part of the steps. Neither LoRA nor any result
of Zero-Stage takes part.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from ...attention.conditions import pack_latents
from ...checks import InputError
from ...files.names import temporary_name
from ..dit import as_dit_backbone, build_dit, save_dit
from ..unet import load_tiny
from .degrade import sample_restore
from .pool import Pool, build_partners, build_pool, cached_pool
from .unet import Curve

# (share of the steps, the references that are shown): 0 the worn look, 1 the structure
SHOWN = ((0.6, (0, 1)), (0.2, (0,)), (0.15, (1,)), (0.05, ()))


@dataclass(frozen=True)
class DiTRecipe:
    """Everything that decides the weights. phases: (steps, pictures a step, crop in latent cells)."""

    seed: int = 0
    clips: int = 3000
    size: int = 256
    phases: tuple[tuple[int, int, int], ...] = ((3600, 32, 16), (2000, 8, 32))
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
        """Pictures and crop of a step."""
        for steps, pictures, crop in self.phases:
            if step < steps:
                return pictures, crop
            step -= steps
        return self.phases[-1][1:]

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then a cosine to zero."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        share = (step - self.warmup) / max(1, self.total - self.warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


class DiTTrainer:
    """Transformer, its moving average, optimiser and random state; `step()` does one update and returns the loss."""

    def __init__(self, recipe: DiTRecipe, pool: Pool, partners: torch.Tensor, device: str = "cpu"):
        torch.manual_seed(recipe.seed)
        self.recipe, self.pool, self.partners, self.device = recipe, pool, partners, torch.device(device)
        self.transformer: Any = build_dit().to(self.device).train()
        self.backbone = as_dit_backbone(self.transformer)
        self.average = {name: tensor.detach().clone() for name, tensor in self.transformer.state_dict().items()}
        self.optimiser = torch.optim.AdamW(
            self.transformer.parameters(), lr=0.0, weight_decay=recipe.weight_decay, betas=(0.9, 0.99)
        )
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.done, self.seconds = 0, 0.0

    def _shown(self) -> tuple[int, ...]:
        point = float(torch.rand((), generator=self.generator))
        for share, shown in SHOWN:
            if point < share:
                return shown
            point -= share
        return SHOWN[0][1]

    def step(self) -> dict[str, float]:
        """One update."""
        recipe = self.recipe
        pictures, crop = recipe.phase(self.done)
        batch = sample_restore(self.pool, self.partners, pictures, crop, self.generator)
        wanted, *references = (pack_latents(x).to(self.device) for x in (batch.wanted, batch.worn, batch.structure))
        noise = torch.randn(wanted.shape, generator=self.generator).to(self.device)
        sigma = torch.rand(pictures, generator=self.generator)
        guidance = 1 + 3 * torch.rand(pictures, generator=self.generator)  # without meaning: the model learns that
        mix = sigma.to(self.device)[:, None, None, None]
        noisy = (1 - mix) * wanted + mix * noise
        shown = self._shown()
        grid = (crop // 2, crop // 2)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.bfloat16):
            conditions = [self.backbone.condition(references[i], i, grid, guidance=guidance) for i in shown]
            predicted = self.backbone.velocity(noisy, sigma, conditions, guidance=guidance)
        loss = F.mse_loss(predicted, noise - wanted)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.transformer.parameters(), 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.rate(self.done)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self._average()
        self.done += 1
        return {f"mse_{''.join(map(str, shown)) or 'none'}": float(loss.detach())}

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.recipe.ema, (1 + self.done) / (10 + self.done))
        torch._foreach_lerp_(list(self.average.values()), list(self.transformer.state_dict().values()), 1 - decay)

    def averaged(self) -> Any:
        """A copy of the transformer with the averaged weights."""
        transformer = build_dit()
        transformer.load_state_dict({name: tensor.cpu() for name, tensor in self.average.items()})
        return transformer

    def save(self, path: Path) -> None:
        """Whole state, for `load`, through a temporary file."""
        part = temporary_name(path)
        state = {
            "transformer": self.transformer.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "random": self.generator.get_state(),
            "done": self.done,
            "seconds": self.seconds,
            "recipe": asdict(self.recipe),
        }
        with part.open("wb") as file:
            torch.save(state, file)
        part.replace(path)

    def load(self, path: Path) -> None:
        """Go on from a saved state. Raises: InputError when it belongs to another recipe."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        if json.dumps(state["recipe"]) != json.dumps(asdict(self.recipe)):
            raise InputError(
                f"{path}: the state of another recipe (seed, clips or steps); choose another --work folder."
            )
        self.transformer.load_state_dict(state["transformer"])
        self.average = state["average"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["random"].cpu())
        self.done, self.seconds = state["done"], state["seconds"]


def _partners(path: Path, build: Callable[[], torch.Tensor]) -> torch.Tensor:
    if not path.exists():
        part = temporary_name(path)
        save_file({"latents": build()}, part)
        part.replace(path)
    return load_file(path)["latents"]


def train_dit(
    recipe: DiTRecipe,
    work: Path,
    out: Path,
    *,
    device: str = "cpu",
    every: int = 100,
    log: Callable[[str], None] = print,
) -> None:
    """Run (or go on with) the recipe; the autoencoder is the bundled one.

    Args:
        work: folder for the pools, the state to resume from, and `dit_curve.jsonl`.
        out: folder that the weights are written to at the end, with the recipe and the curve as metadata.
    """
    work.mkdir(parents=True, exist_ok=True)
    autoencoder: Any = load_tiny().vae
    name = f"{recipe.clips}_{recipe.size}.safetensors"

    def report(done: int, total: int) -> None:
        if done % 100 == 0:
            log(f"rendered {done} of {total} clips")

    shared: dict[str, Any] = {"autoencoder": autoencoder, "size": recipe.size, "progress": report}
    pool = cached_pool(work / f"pool_{name}", lambda: build_pool("train", recipe.clips, **shared))
    partners = _partners(work / f"partners_{name}", lambda: build_partners("train", recipe.clips, **shared))
    trainer = DiTTrainer(recipe, pool, partners, device)
    state = work / "dit_state.pt"
    if state.exists():
        trainer.load(state)
        log(f"resumed at step {trainer.done}")
    curve, sums, counts = Curve(work / "dit_curve.jsonl"), Counter(), Counter()  # type: ignore[var-annotated]
    while trainer.done < recipe.total:
        started = time.perf_counter()
        losses = trainer.step()
        trainer.seconds += time.perf_counter() - started
        sums.update(losses)
        counts.update(losses.keys())
        if trainer.done % every == 0 or trainer.done == recipe.total:
            means = {name: round(value / counts[name], 4) for name, value in sorted(sums.items())}
            log(curve.add({"step": trainer.done, "seconds": round(trainer.seconds, 1)} | means))
            sums, counts = Counter(), Counter()
            trainer.save(state)
    described = {"recipe": json.dumps(asdict(recipe)), "curve": curve.text()}
    save_dit(out, trainer.averaged(), described)


def scaled_dit_recipe(seed: int = 0, clips: int | None = None, scale: float = 1.0) -> DiTRecipe:
    """The recipe with another seed, number of clips, or `scale` times the steps."""
    return DiTRecipe(
        seed=seed,
        clips=DiTRecipe.clips if clips is None else clips,
        phases=tuple((max(1, int(steps * scale)), pictures, crop) for steps, pictures, crop in DiTRecipe.phases),
        warmup=min(DiTRecipe.warmup, max(1, int(DiTRecipe.warmup * scale))),
    )
