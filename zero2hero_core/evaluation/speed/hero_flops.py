"""Multiply-adds of Hero-Stage here and in the straightforward rendering: what of a ratio of times is arithmetic.

Counted operation by operation on tensors without content, so the real sizes need neither a GPU nor memory. What is not
in it: speed of kernels (a dense mask keeps attention off the fastest ones), memory traffic, encoding of pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ...backbones.flux.dit import DiTBackbone
from ...hero_stage.lora.adapters import HeroLoRA, LoRASpec
from ...hero_stage.sampling import KINDS, RestoreSettings, run_conditions
from .clocks import Clock
from .hero_concatenated import peft_condition_lora
from .hero_straightforward import plain_loss, plain_restore
from .real_sizes import empty_backbone
from .speed_settings import COUNTED, HeroSpeed, facts


def count(run: Callable[[], Any]) -> int:
    """Multiply-adds of matrix products and attention in a run (torch counts each as two operations)."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops()) // 2


def count_training(backbone: DiTBackbone, grid: tuple[int, int], *, rank: int, draws: int) -> dict[str, float]:
    """Forward and backward of one step with two conditions, both ways, and straightforward / ours."""
    pair = [torch.randn(1, backbone.channels, *grid, device="meta") for _ in range(3)]
    noise, sigma = torch.randn(draws, backbone.channels, *grid, device="meta"), torch.rand(draws)
    lora = HeroLoRA(backbone, 2, LoRASpec(rank))

    def ours() -> None:
        conditions = run_conditions(backbone, lora, KINDS, pair[:2], grid, guidance=1.0)
        repeated = [condition.repeated(draws) for condition in conditions]
        backbone.velocity(noise, sigma, repeated, guidance=1.0).square().mean().backward()

    added = peft_condition_lora(backbone.transformer)
    try:
        plain = count(lambda: plain_loss(backbone, added, pair, noise, sigma, guidance=1.0).backward())
        here = count(ours)
    finally:
        lora.remove()
    return {"straightforward": plain, "ours": here, "ratio": plain / here}


@torch.no_grad()
def count_frame(backbone: DiTBackbone, grid: tuple[int, int], *, rank: int, steps: int) -> dict[str, float]:
    """One frame with two conditions: bare base, ours and straightforward, and ours / bare."""
    latents = [torch.randn(1, backbone.channels, *grid, device="meta") for _ in KINDS]
    noise, sigma = torch.randn(1, backbone.channels, *grid, device="meta"), torch.rand(1)
    lora = HeroLoRA(backbone, 2, LoRASpec(rank))
    try:
        conditions = run_conditions(backbone, lora, KINDS, latents, grid, guidance=1.0)
        passes = count(lambda: run_conditions(backbone, lora, KINDS, latents, grid, guidance=1.0))
        bare = count(lambda: backbone.velocity(noise, sigma, guidance=1.0))
        step = count(lambda: backbone.velocity(noise, sigma, conditions, guidance=1.0))
        plain = count(lambda: plain_restore(backbone, latents, noise, RestoreSettings(steps), steps=1))
    finally:
        lora.remove()
    counted = {"bare": steps * bare, "ours": passes + steps * step, "straightforward": steps * plain}
    return {**counted, "ratio": counted["ours"] / counted["bare"]}


def counted_rows(settings: HeroSpeed, tell: Callable[[dict[str, Any]], object]) -> list[dict[str, Any]]:
    """The rows of `hero_speed.hero_rows` with multiply-adds in the place of times."""
    backbone = empty_backbone(settings.model)
    base = facts("hero", settings, Clock("cpu")) | {"device": COUNTED, "clock": "none", "sides": {}, "ratios": {}}
    rows = []
    for size, draws in settings.training:
        case = {"what": "training step", "size": size, "draws": draws}
        rows.append(base | case | counted_training(backbone, settings, size, draws))
        tell(rows[-1])
    for size in settings.sizes:
        rows.append(base | {"what": "frame", "size": size} | counted_frame(backbone, settings, size))
        tell(rows[-1])
    return rows


def counted_training(backbone: DiTBackbone, settings: HeroSpeed, size: int, draws: int) -> dict[str, Any]:
    """What a row says of the arithmetic of a training step at a size in pixels."""
    return _told(count_training(backbone, _grid(backbone, size), rank=settings.rank, draws=draws))


def counted_frame(backbone: DiTBackbone, settings: HeroSpeed, size: int) -> dict[str, Any]:
    """What a row says of the arithmetic of a frame at a size in pixels."""
    return _told(count_frame(backbone, _grid(backbone, size), rank=settings.rank, steps=settings.steps))


def _told(counts: dict[str, float]) -> dict[str, Any]:
    sides = {name: number for name, number in counts.items() if name != "ratio"}
    return {"by_arithmetic": counts["ratio"], "multiply_adds": sides}


def _grid(backbone: DiTBackbone, size: int) -> tuple[int, int]:
    return size // backbone.multiple, size // backbone.multiple
