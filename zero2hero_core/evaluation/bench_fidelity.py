"""How much pictures lose that go through an autoencoder again and again, encoded plainly and faithfully (E*).

The bundled autoencoder loses nothing after its first round, so that there is nothing to compensate. So one of the real
class (`AutoencoderKL`, small) is trained for some minutes on rendered scenes, and tried on others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..checks import check_range, setting
from ..files.json_file import write_json
from ..files.lock import locked_folder
from ..guidance.fidelity import encode_faithfully
from ..jobs.listener import Listener
from ..tiny.scenes.scene import Scene, split_seed
from .making import revision
from .page.report import write_page
from .page.report_fidelity import FILE, rounds_text

SIZE, BATCH, PICTURES, RATE = 64, 8, 120, 3e-3
COMPENSATIONS = (0.0, 0.5, 1.0)
SHAPE: dict[str, Any] = {
    "block_out_channels": (16, 32, 32, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "layers_per_block": 1,
    "mid_block_add_attention": False,
}


@dataclass(frozen=True)
class FidelityRequest:
    """out: folder of the page and of results. steps: of the training. rounds: of decoding and encoding. clips: held-out
    scenes, one picture of each. seed: of the training.

    Raises: InputError.
    """

    out: Path
    steps: int = 800
    rounds: int = 20
    clips: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        check_range(setting("steps"), self.steps, 1, 100_000)
        check_range(setting("rounds"), self.rounds, 1, 1000)
        check_range(setting("clips"), self.clips, 2, 1000)


class Autoencoder:
    """A diffusers `AutoencoderKL` as `backbones.surface.LatentCodec`."""

    def __init__(self, vae: Any):
        self.vae = vae

    @torch.no_grad()
    def encode(self, images: torch.Tensor, /) -> torch.Tensor:
        """The most likely latents of images in [0, 1]."""
        latents: torch.Tensor = self.vae.encode(images * 2 - 1).latent_dist.mode()
        return latents

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, /) -> torch.Tensor:
        """Images in [0, 1]."""
        images: torch.Tensor = (self.vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
        return images


def train_autoencoder(steps: int, seed: int, tell: Callable[[int], object] = lambda step: None) -> Autoencoder:
    """A small autoencoder of the real class, trained on rendered scenes to give pictures back (mean absolute error)."""
    from diffusers import AutoencoderKL

    pictures = torch.cat([_picture("train", index) for index in range(PICTURES)])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae: Any = AutoencoderKL(**SHAPE)
    optimizer = torch.optim.AdamW(vae.parameters(), RATE)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / steps) + RATE / 300
        batch = pictures[torch.randint(len(pictures), (BATCH,), generator=generator)] * 2 - 1
        loss = (vae.decode(vae.encode(batch).latent_dist.mode()).sample - batch).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tell(step + 1)
    return Autoencoder(vae.eval().requires_grad_(False))


def _picture(split: str, index: int) -> torch.Tensor:
    """One frame (1, 3, 64, 64) of a scene, in either of its looks."""
    return Scene(split_seed(split, index), 1, SIZE).frames(index % 2)


def lost_by_round(model: Any, pictures: torch.Tensor, rounds: int, compensation: float) -> list[list[float]]:
    """Mean squared error to the start after each round, for each picture."""
    current, errors = pictures, []
    for _ in range(rounds):
        current = model.decode(encode_faithfully(model, current, compensation=compensation))
        errors.append((current - pictures).square().mean((1, 2, 3)).tolist())
    return errors


def make_fidelity(request: FidelityRequest, listener: Listener) -> dict[str, Any]:
    """Train, measure, store, write the page; returns the report."""
    started = time.perf_counter()
    with locked_folder(request.out, "zero2hero bench fidelity"):
        steps = request.steps
        model = train_autoencoder(steps, request.seed, lambda done: listener.progress("training", done, steps))
        pictures = torch.cat([_picture("test", index) for index in range(request.clips)])
        rows = {
            str(compensation): lost_by_round(model, pictures, request.rounds, compensation)
            for compensation in COMPENSATIONS
        }
        report: dict[str, Any] = {
            "command": "bench fidelity",
            "steps": steps,
            "seed": request.seed,
            "clips": request.clips,
            "size": SIZE,
            "parameters": sum(parameter.numel() for parameter in model.vae.parameters()),
            "rows": rows,
            "commit": revision(),
        }
        (request.out / "results").mkdir(parents=True, exist_ok=True)
        write_json(request.out / "results" / FILE, report)
        write_page(request.out)
    listener.say(rounds_text(report))
    return report | {"seconds": {"total": round(time.perf_counter() - started, 1)}}
