"""The recipe of the bundled tiny UNet: `zero2hero tiny train`.

Plain noise prediction would need far more images than two cores can show in an hour before matching features and
attention-borne appearance emerge, as they do in Stable Diffusion. So pairs of frames are shown and two things are
asked on top, stated wherever results of these models are: decoder features of matching cells shall agree (contrastive
loss, low noise), and in every second step the target's decoder attention reads the anchor's tokens at the true
matches while smooth offset noise hides the target's own colours. The second appearance of a clip is never paired with
the first: the edit itself is not trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ...attention.protocol import HookSlot
from ...backbones.sd.unet import HookedAttention, decoder_attentions
from ...diffusion.ddim import stable_diffusion_alphas
from ..autoencoder import PatchAutoencoder
from ..unet import CONTEXT, build_unet, save_weights
from .loop import RecipeTrainer, Schedule
from .pairs import PairAttention, PairBatch, contrastive_loss, sample_pairs
from .pool import Pool, build_pool, cached_pool, fit_autoencoder, log_hundreds

LOW_NOISE = 350  # features are matched below this timestep


@dataclass(frozen=True)
class Recipe(Schedule):
    """Everything that decides the weights.

    contrast: (from step, weight of the contrastive loss). offset_from: step from which the targets of two-frame steps
    get smooth offset noise.
    """

    phases: tuple[tuple[int, int, int], ...] = ((2400, 16, 16), (1500, 6, 32))  # pairs a step
    contrast: tuple[tuple[int, float], ...] = ((0, 0.1), (1750, 0.3))
    offset_from: int = 1250

    def contrast_weight(self, step: int) -> float:
        """Weight of the contrastive loss at a step."""
        return [weight for start, weight in self.contrast if step >= start][-1]


def smooth_offset(noise: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Noise that is smooth over 4 to 32 cells, of random strength, shaped like `noise` (n, C, g, g).

    Inverted latents carry the old look as such an offset. A model that has met it as noise takes colours from the
    attended tokens instead.
    """
    count, channels, grid, _ = noise.shape
    total = torch.zeros(noise.shape)
    for cells in (32, 16, 8, 4):
        coarse = max(1, grid // cells)
        field = torch.randn(count, channels, coarse, coarse, generator=generator)
        total += F.interpolate(field, size=(grid, grid), mode="bicubic" if coarse > 1 else "nearest")
    return (total * 0.5 * torch.rand(count, 1, 1, 1, generator=generator)).to(noise)


class Trainer(RecipeTrainer):
    """The training of the UNet."""

    part = "unet"

    def __init__(self, recipe: Recipe, pool: Pool, device: str = "cpu"):
        super().__init__(recipe, lambda: build_unet().to(memory_format=torch.channels_last), device)
        self.recipe, self.pool = recipe, pool
        self.alphas = stable_diffusion_alphas()
        self._slot = HookSlot()
        for layer, attention in decoder_attentions(self.model).items():
            attention.set_processor(HookedAttention(layer, self._slot))
        self._features: dict[int, torch.Tensor] = {}
        for block in (1, 2):
            self.model.up_blocks[block].register_forward_hook(self._keeper(block))

    def _keeper(self, block: int) -> Callable[..., None]:
        def keep(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
            self._features[block] = output

        return keep

    def _timesteps(self, pairs: int, low_half: bool) -> torch.Tensor:
        timesteps = torch.randint(1000, (pairs,), generator=self.generator)
        if low_half:
            timesteps[: pairs // 2] = timesteps[: pairs // 2] * LOW_NOISE // 1000
        return timesteps

    def _predict(self, batch: PairBatch, timesteps: torch.Tensor, hook: Any) -> torch.Tensor:
        """Mean squared error of the noise prediction."""
        both = timesteps.repeat(2)
        noise = torch.randn(batch.latents.shape, generator=self.generator).to(self.device)
        if hook is not None and self.done >= self.recipe.offset_from:
            noise[len(timesteps) :] += smooth_offset(noise[len(timesteps) :], self.generator)
        alpha = self.alphas[both][:, None, None, None].to(self.device)
        noisy = (alpha.sqrt() * batch.latents + (1 - alpha).sqrt() * noise).contiguous(
            memory_format=torch.channels_last
        )
        context = torch.zeros(len(both), *CONTEXT, device=self.device)
        self._slot.hook = hook
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bfloat16):
            predicted = self.model(noisy, both.to(self.device), context).sample
        self._slot.hook = None
        return F.mse_loss(predicted.float(), noise)

    def compute_loss(self) -> tuple[torch.Tensor, dict[str, float]]:
        """Plain and two-frame steps in turn."""
        recipe, cross = self.recipe, self.done % 2 == 1
        pairs, crop = recipe.phase(self.done)
        batch = sample_pairs(self.pool, pairs, crop, self.generator).to(self.device)
        timesteps = self._timesteps(pairs, low_half=not cross)
        mse = self._predict(batch, timesteps, PairAttention(batch) if cross else None)
        if cross:
            return mse, {"cross_mse": float(mse.detach())}
        rows = (timesteps < LOW_NOISE).to(self.device)
        contrast = (
            contrastive_loss(self._features[1], batch, rows) + contrastive_loss(self._features[2], batch, rows)
        ) / 2
        parts = {"mse": float(mse.detach()), "contrast": float(contrast.detach())}
        return mse + recipe.contrast_weight(self.done) * contrast, parts


def train(
    recipe: Recipe,
    work: Path,
    out: Path,
    *,
    device: str = "cpu",
    every: int = 250,
    log: Callable[[str], object] = lambda line: None,
) -> None:
    """Run (or go on with) the recipe.

    Args:
        work: folder for the pool, the state to resume from, and `curve.jsonl` (one line each `every` steps).
        out: folder that the weights are written to at the end, with the recipe and the curve as metadata.
    """
    work.mkdir(parents=True, exist_ok=True)
    autoencoder: PatchAutoencoder = fit_autoencoder(size=recipe.size)
    pool = cached_pool(
        work / f"pool_{recipe.clips}_{recipe.size}.safetensors",
        lambda: build_pool(
            "train",
            recipe.clips,
            autoencoder,
            recipe.size,
            progress=log_hundreds(log),
        ),
    )
    trainer = Trainer(recipe, pool, device)
    described = trainer.run(work / "state.pt", work / "curve.jsonl", every=every, log=log)
    save_weights(out, trainer.averaged(), autoencoder, described)


def scaled_recipe(seed: int = 0, clips: int | None = None, scale: float = 1.0) -> Recipe:
    """The recipe with another seed, number of clips, or `scale` times the steps."""
    return Recipe(
        seed=seed,
        clips=Recipe.clips if clips is None else clips,
        phases=tuple((max(1, int(steps * scale)), pairs, crop) for steps, pairs, crop in Recipe.phases),
        contrast=tuple((int(start * scale), weight) for start, weight in Recipe.contrast),
        offset_from=int(Recipe.offset_from * scale),
    )
