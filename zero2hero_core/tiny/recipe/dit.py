"""The recipe of the bundled tiny DiT: `zero2hero tiny train --part dit`.

Flow matching on crops, then on whole frames, of rendered clips. As FLUX.2 is, the model is trained with clean
reference tokens at the places of the two conditions: the wanted look in a worn state (blurred, misplaced, false
colours), and the frame in its other look; one or both are left out in part of the steps. Neither LoRA nor any result
of Zero-Stage takes part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from ...attention.conditions import pack_latents
from ...files.tensor_file import write_tensors
from ..dit import as_dit_backbone, build_dit, save_dit
from ..unet import load_tiny
from .degrade import sample_restore
from .loop import RecipeTrainer, Schedule
from .pool import Pool, build_partners, build_pool, cached_pool, log_hundreds

# (share of the steps, the references that the model sees in them): 0 the worn look, 1 the structure
REFERENCES = ((0.6, (0, 1)), (0.2, (0,)), (0.15, (1,)), (0.05, ()))


@dataclass(frozen=True)
class DiTRecipe(Schedule):
    """Everything that decides the weights."""

    phases: tuple[tuple[int, int, int], ...] = ((3600, 32, 16), (2000, 8, 32))  # pictures a step


class DiTTrainer(RecipeTrainer):
    """The training of the transformer. partners: the pool's latents in the clips' other looks."""

    part = "transformer"

    def __init__(self, recipe: DiTRecipe, pool: Pool, partners: torch.Tensor, device: str = "cpu"):
        super().__init__(recipe, build_dit, device)
        self.recipe, self.pool, self.partners = recipe, pool, partners
        self.backbone = as_dit_backbone(self.model)

    def _draw_references(self) -> tuple[int, ...]:
        point = float(torch.rand((), generator=self.generator))
        for share, references in REFERENCES:
            if point < share:
                return references
            point -= share
        return REFERENCES[0][1]

    def compute_loss(self) -> tuple[torch.Tensor, dict[str, float]]:
        """Flow matching with the references that are drawn for this step."""
        recipe = self.recipe
        pictures, crop = recipe.phase(self.done)
        batch = sample_restore(self.pool, self.partners, pictures, crop, self.generator)
        wanted, *references = (pack_latents(x).to(self.device) for x in (batch.wanted, batch.worn, batch.structure))
        noise = torch.randn(wanted.shape, generator=self.generator).to(self.device)
        sigma = torch.rand(pictures, generator=self.generator)
        guidance = 1 + 3 * torch.rand(pictures, generator=self.generator)  # without meaning: the model learns that
        mix = sigma.to(self.device)[:, None, None, None]
        noisy = (1 - mix) * wanted + mix * noise
        indices = self._draw_references()
        grid = (crop // 2, crop // 2)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.bfloat16):
            conditions = [self.backbone.condition(references[i], i, grid, guidance=guidance) for i in indices]
            predicted = self.backbone.velocity(noisy, sigma, conditions, guidance=guidance)
        loss = F.mse_loss(predicted, noise - wanted)
        return loss, {f"mse_{''.join(map(str, indices)) or 'none'}": float(loss.detach())}


def _partners(path: Path, build: Callable[[], torch.Tensor]) -> torch.Tensor:
    if not path.exists():
        write_tensors(path, {"latents": build()}, {})
    return load_file(path)["latents"]


def train_dit(
    recipe: DiTRecipe,
    work: Path,
    out: Path,
    *,
    device: str = "cpu",
    every: int = 100,
    log: Callable[[str], object] = lambda line: None,
) -> None:
    """Run (or go on with) the recipe; the autoencoder is the bundled one.

    Args:
        work: folder for the pools, the state to resume from, and `dit_curve.jsonl`.
        out: folder that the weights are written to at the end, with the recipe and the curve as metadata.
    """
    work.mkdir(parents=True, exist_ok=True)
    autoencoder: Any = load_tiny().vae
    name = f"{recipe.clips}_{recipe.size}.safetensors"
    shared: dict[str, Any] = {"autoencoder": autoencoder, "size": recipe.size, "progress": log_hundreds(log)}
    pool = cached_pool(work / f"pool_{name}", lambda: build_pool("train", recipe.clips, **shared))
    partners = _partners(work / f"partners_{name}", lambda: build_partners("train", recipe.clips, **shared))
    trainer = DiTTrainer(recipe, pool, partners, device)
    described = trainer.run(work / "dit_state.pt", work / "dit_curve.jsonl", every=every, log=log)
    save_dit(out, trainer.averaged(), described)


def scaled_dit_recipe(seed: int = 0, clips: int | None = None, scale: float = 1.0) -> DiTRecipe:
    """The recipe with another seed, number of clips, or `scale` times the steps."""
    return DiTRecipe(
        seed=seed,
        clips=DiTRecipe.clips if clips is None else clips,
        phases=tuple((max(1, int(steps * scale)), pictures, crop) for steps, pictures, crop in DiTRecipe.phases),
        warmup=min(DiTRecipe.warmup, max(1, int(DiTRecipe.warmup * scale))),
    )
