"""Seconds per frame of Zero-Stage here and of a straightforward rendering of the authors' procedure, in one process.

Both run on the same weights, frames and settings, in turns (the one that begins changes with every turn). The time of
the reference and of the anchor is shared out over the frames. "outside_model" is the share of the time that is spent
outside calls of the UNet and of the autoencoder; attention hooks run inside a call and count as the model's.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...backbones.sd.unet import UNetBackbone
from ...checks import Zero2HeroError
from ...zero_stage.stage import ZeroStage, ZeroStageSettings
from . import zero_flops
from .clocks import Clock, ModelClock, PartTimer, Side, cpu_threads, ratio, take_turns
from .real_sizes import load_zero_model, smooth_frames
from .speed_settings import ZeroSpeed, facts
from .straightforward import PlainSettings, run_straightforward

TIMESTEP, BLOCK = 261, 1  # of the features, on both sides: the authors'


class BackboneCodec:
    """The autoencoder of a `UNetBackbone` as the straightforward side wants it."""

    def __init__(self, backbone: UNetBackbone) -> None:
        self.backbone = backbone

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Latents of images in [0, 1]: the posterior's mode, or a sample where a generator is given."""
        posterior = self.backbone.posterior(images)
        return posterior.mode() if generator is None else posterior.sample(generator)

    def decode(self, latents: Tensor) -> Tensor:
        """Images in [0, 1]."""
        return self.backbone.decode(latents)


def zero_rows(settings: ZeroSpeed, tell: Callable[[dict[str, Any]], object]) -> list[dict[str, Any]]:
    """One row per size, each told as it comes."""
    rows = []
    with cpu_threads(settings.threads):
        backbone = load_zero_model(settings.model, settings.device, settings.seed)
        for size in settings.sizes:
            counted = zero_flops.counted_frame(settings, size, BLOCK)
            rows.append(compare_frames(backbone, settings, size) | counted)
            tell(rows[-1])
    return rows


def counted_rows(settings: ZeroSpeed, tell: Callable[[dict[str, Any]], object]) -> list[dict[str, Any]]:
    """The same with multiply-adds in the place of times."""
    return zero_flops.counted_rows(settings, BLOCK, tell)


@torch.no_grad()
def compare_frames(backbone: UNetBackbone, settings: ZeroSpeed, size: int) -> dict[str, Any]:
    """One row: a frame both ways, and how far the pictures are apart on equal feature noise (mean over the pixels).

    Raises: Zero2HeroError when a side gives no picture.
    """
    clock = Clock(settings.device)
    frames = smooth_frames(settings.frames, size, settings.seed).to(settings.device)
    reference = frames[:1].flip(1)  # red and blue swapped
    runs = {
        "straightforward": lambda watch: straightforward_frames(backbone, frames, reference, settings, watch),
        "ours": lambda watch: our_frames(backbone, frames, reference, settings, watch),
    }
    images: dict[str, Tensor] = {}
    inside: dict[str, list[float]] = {name: [] for name in runs}

    def watched(name: str) -> Callable[[PartTimer], object]:
        def run(watch: PartTimer) -> None:
            with ModelClock(backbone.unet, backbone.vae, clock) as model:
                images[name] = runs[name](watch)
            inside[name].append(model.seconds)

        return run

    timed = {name: Side(watched(name), units=settings.frames) for name in runs}
    # A GPU loads its kernels in the first run; on a CPU the first run is as good as the next.
    sides = take_turns(timed, clock, settings.turns, warm=clock.device.type == "cuda")
    for name, side in sides.items():
        if min(inside[name]) == 0 or not bool(images[name].isfinite().all()):
            raise Zero2HeroError(
                f"bench speed: {name}: expected model calls and finite images; its times are worth nothing."
            )
        per_frame = [seconds / settings.frames for seconds in inside[name][-settings.turns :]]
        side["outside_model"] = statistics.median(
            1 - part / whole for part, whole in zip(per_frame, side["all_seconds"], strict=True)
        )
    difference = float((images["ours"].cpu() - images["straightforward"].cpu()).abs().mean())
    row = {**facts("zero", settings, clock), "what": "frame", "size": size, "sides": sides}
    row["ratios"] = {"straightforward / ours": ratio(sides, "straightforward", "ours")}
    return row | {"difference": difference}


def our_frames(
    backbone: UNetBackbone, frames: Tensor, reference: Tensor, settings: ZeroSpeed, watch: PartTimer
) -> Tensor:
    """This package's Zero-Stage with frame 0 as the anchor; images (N, 3, H, W) in [0, 1]."""
    chosen = ZeroStageSettings(
        num_inference_steps=settings.steps,
        k=settings.k,
        timestep=TIMESTEP,
        block=BLOCK,
        ensemble=settings.ensemble,
        adain_start=True,
        seed=settings.seed,
    )
    stage = ZeroStage(backbone, frames[0], reference[0], 0, chosen)
    stage.editor.watch = watch
    batches = torch.arange(len(frames)).split(settings.batch)
    return torch.cat([stage.edit(frames[batch], batch.tolist()) for batch in batches])


def straightforward_frames(
    backbone: UNetBackbone, frames: Tensor, reference: Tensor, settings: ZeroSpeed, watch: PartTimer
) -> Tensor:
    """The same by the authors' procedure."""
    chosen = PlainSettings(settings.steps, settings.k, settings.seed, TIMESTEP, BLOCK, settings.ensemble)
    return run_straightforward(
        backbone.unet,
        BackboneCodec(backbone),
        backbone.empty_embedding,
        backbone.alphas_cumprod,
        frames,
        0,
        reference,
        chosen,
        watch,
    )[0]
