"""The recipe of the bundled tiny UNet: `zero2hero tiny train` or `python -m zero2hero_core.tiny.recipe.unet`.

Plain noise prediction would need far more images than two cores can show in an hour before matching features and
attention-borne appearance emerge, as they do in Stable Diffusion. So pairs of frames are shown and two things are
asked on top, stated wherever results of these models are: decoder features of matching cells shall agree (contrastive
loss, low noise), and in every second step the target's decoder attention reads the anchor's tokens at the true
matches while smooth offset noise hides the target's own colours. The second appearance of a clip is never paired with
the first: the edit itself is not trained.
"""

from __future__ import annotations

import argparse
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

from ...attention.protocol import HookSlot
from ...backbones.sd.unet import HookedAttention, decoder_attentions
from ...checks import InputError
from ...diffusion.ddim import stable_diffusion_alphas
from ...files.names import temporary_name
from ..autoencoder import PatchAutoencoder
from ..unet import CONTEXT, build_unet, save_weights
from .pairs import PairAttention, PairBatch, contrastive_loss, sample_pairs
from .pool import Pool, build_pool, cached_pool, fit_autoencoder

LOW_NOISE = 350  # features are matched below this timestep


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights.

    phases: (steps, pairs a step, crop in latent cells). contrast: (from step, weight of the contrastive loss).
    offset_from: step from which the targets of two-frame steps get smooth offset noise.
    """

    seed: int = 0
    clips: int = 3000
    size: int = 256
    phases: tuple[tuple[int, int, int], ...] = ((2400, 16, 16), (1500, 6, 32))
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.01
    contrast: tuple[tuple[int, float], ...] = ((0, 0.1), (1750, 0.3))
    ema: float = 0.999
    offset_from: int = 1250
    bfloat16: bool = True

    @property
    def total(self) -> int:
        """Steps of all phases."""
        return sum(steps for steps, _, _ in self.phases)

    def phase(self, step: int) -> tuple[int, int]:
        """Pairs and crop of a step."""
        for steps, pairs, crop in self.phases:
            if step < steps:
                return pairs, crop
            step -= steps
        return self.phases[-1][1:]

    def contrast_weight(self, step: int) -> float:
        """Weight of the contrastive loss at a step."""
        return [weight for start, weight in self.contrast if step >= start][-1]

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then a cosine to zero."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        return (
            self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(1, self.total - self.warmup)))
        )


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


class Trainer:
    """UNet, its moving average, optimiser and random state; `step()` does one update and returns the losses."""

    def __init__(self, recipe: Recipe, pool: Pool, device: str = "cpu"):
        torch.manual_seed(recipe.seed)
        self.recipe, self.pool, self.device = recipe, pool, torch.device(device)
        self.unet: Any = build_unet().to(self.device, memory_format=torch.channels_last).train()
        self.average = {name: tensor.detach().clone() for name, tensor in self.unet.state_dict().items()}
        self.optimiser = torch.optim.AdamW(
            self.unet.parameters(), lr=0.0, weight_decay=recipe.weight_decay, betas=(0.9, 0.99)
        )
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.alphas = stable_diffusion_alphas()
        self.done, self.seconds = 0, 0.0
        self._slot = HookSlot()
        for layer, attention in decoder_attentions(self.unet).items():
            attention.set_processor(HookedAttention(layer, self._slot))
        self._features: dict[int, torch.Tensor] = {}
        for block in (1, 2):
            self.unet.up_blocks[block].register_forward_hook(self._keeper(block))

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
            predicted = self.unet(noisy, both.to(self.device), context).sample
        self._slot.hook = None
        return F.mse_loss(predicted.float(), noise)

    def step(self) -> dict[str, float]:
        """One update: plain and two-frame steps in turn."""
        recipe, cross = self.recipe, self.done % 2 == 1
        pairs, crop = recipe.phase(self.done)
        batch = sample_pairs(self.pool, pairs, crop, self.generator).to(self.device)
        timesteps = self._timesteps(pairs, low_half=not cross)
        mse = self._predict(batch, timesteps, PairAttention(batch) if cross else None)
        losses = {"cross_mse" if cross else "mse": float(mse.detach())}
        loss = mse
        if not cross:
            rows = (timesteps < LOW_NOISE).to(self.device)
            contrast = (
                contrastive_loss(self._features[1], batch, rows) + contrastive_loss(self._features[2], batch, rows)
            ) / 2
            losses["contrast"] = float(contrast.detach())
            loss = loss + recipe.contrast_weight(self.done) * contrast
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.rate(self.done)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self._average()
        self.done += 1
        return losses

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.recipe.ema, (1 + self.done) / (10 + self.done))
        torch._foreach_lerp_(list(self.average.values()), list(self.unet.state_dict().values()), 1 - decay)

    def averaged_unet(self) -> Any:
        """A copy of the UNet with the averaged weights."""
        unet = build_unet()
        unet.load_state_dict({name: tensor.cpu() for name, tensor in self.average.items()})
        return unet

    def save(self, path: Path) -> None:
        """Whole state, for `load`, through a temporary file."""
        part = temporary_name(path)
        state = {"unet": self.unet.state_dict(), "average": self.average, "optimiser": self.optimiser.state_dict()}
        more = {"random": self.generator.get_state(), "done": self.done, "seconds": self.seconds}
        with part.open("wb") as file:
            torch.save({**state, **more, "recipe": asdict(self.recipe)}, file)
        part.replace(path)

    def load(self, path: Path) -> None:
        """Go on from a saved state. Raises: InputError when it belongs to another recipe."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        if json.dumps(state["recipe"]) != json.dumps(asdict(self.recipe)):
            raise InputError(
                f"{path}: the state of another recipe (seed, clips or steps); choose another --work folder."
            )
        self.unet.load_state_dict(state["unet"])
        self.average = state["average"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["random"].cpu())
        self.done, self.seconds = state["done"], state["seconds"]


def train(
    recipe: Recipe, work: Path, out: Path, *, device: str = "cpu", every: int = 250, log: Callable[[str], None] = print
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
            progress=lambda n, of: None if n % 100 else log(f"rendered {n} of {of} clips"),
        ),
    )
    trainer = Trainer(recipe, pool, device)
    state = work / "state.pt"
    if state.exists():
        trainer.load(state)
        log(f"resumed at step {trainer.done}")
    curve, sums, counts = Curve(work / "curve.jsonl"), Counter(), Counter()  # type: ignore[var-annotated]
    while trainer.done < recipe.total:
        started = time.perf_counter()
        losses = trainer.step()
        trainer.seconds += time.perf_counter() - started
        sums.update(losses)
        counts.update(losses.keys())
        if trainer.done % every == 0 or trainer.done == recipe.total:
            means = {name: round(value / counts[name], 4) for name, value in sums.items()}
            log(curve.add({"step": trainer.done, "seconds": round(trainer.seconds, 1)} | means))
            sums, counts = Counter(), Counter()
            trainer.save(state)
    described = {"recipe": json.dumps(asdict(recipe)), "curve": curve.text()}
    save_weights(out, trainer.averaged_unet(), autoencoder, described)


class Curve:
    """The learning curve: a file with one JSON line per entry."""

    def __init__(self, path: Path):
        self.path = path

    def add(self, entry: dict[str, float]) -> str:
        """Append an entry; returns its line."""
        line = json.dumps(entry)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        return line

    def text(self) -> str:
        """All lines so far."""
        return self.path.read_text(encoding="utf-8") if self.path.exists() else ""


def scaled_recipe(seed: int = 0, clips: int | None = None, scale: float = 1.0) -> Recipe:
    """The recipe with another seed, number of clips, or `scale` times the steps."""
    return Recipe(
        seed=seed,
        clips=Recipe.clips if clips is None else clips,
        phases=tuple((max(1, int(steps * scale)), pairs, crop) for steps, pairs, crop in Recipe.phases),
        contrast=tuple((int(start * scale), weight) for start, weight in Recipe.contrast),
        offset_from=int(Recipe.offset_from * scale),
    )


def main(argv: list[str] | None = None) -> int:
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(
        prog="zero2hero tiny train", description="Train the bundled tiny UNet from rendered scenes."
    )
    parser.add_argument(
        "--work", type=Path, default=Path("runs/tiny"), help="folder for the pool, the resumable state and the curve"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights")
    parser.add_argument("--clips", type=int, default=Recipe.clips, help="training clips to render")
    parser.add_argument("--scale", type=float, default=1.0, help="multiply the number of steps (longer on a GPU)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    train(scaled_recipe(args.seed, args.clips, args.scale), args.work, args.out, device=args.device)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
