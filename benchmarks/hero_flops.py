"""Multiply-adds of Hero-Stage here and in the straightforward rendering: what of a ratio of times is arithmetic.

Counted operation by operation on tensors without content, so the real sizes need neither a GPU nor memory. What is not
in it: speed of kernels (a dense mask keeps attention off the fastest ones), memory traffic, encoding of pictures.

    python benchmarks/hero_flops.py --json benchmarks/results/hero_flops.json      # minutes for FLUX.1-dev
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hero_memory import as_backbone, build
from hero_straightforward import plain_loss, plain_restore
from torch.utils.flop_counter import FlopCounterMode

from zero2hero_core.backbones.dit import DiTBackbone
from zero2hero_core.backbones.dit_concatenated import peft_condition_lora
from zero2hero_core.backbones.dit_restore import KINDS, RestoreSettings, run_conditions
from zero2hero_core.backbones.lora import HeroLoRA, LoRASpec
from zero2hero_core.hero_model_size import FLUX1_DEV, FLUX2_KLEIN_4B
from zero2hero_core.tiny.dit import as_dit_backbone, build_dit

MODELS = {"tiny": None, "flux1": FLUX1_DEV, "klein": FLUX2_KLEIN_4B}


def empty_backbone(model: str) -> DiTBackbone:
    """A model of the real size on the meta device."""
    size = MODELS[model]
    with torch.device("meta"):
        transformer = build_dit() if size is None else build(size)
    if size is None:
        return as_dit_backbone(transformer.requires_grad_(False))
    return as_backbone(size, transformer, "meta")


def count(run: Callable[[], Any]) -> int:
    """Multiply-adds of matrix products and attention in a run (torch counts each as two operations)."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() // 2


def count_training(backbone: DiTBackbone, grid: tuple[int, int], *, rank: int, draws: int) -> dict[str, float]:
    """Forward and backward of one step with two conditions, both ways, and the ratio."""
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
    shown = [torch.randn(1, backbone.channels, *grid, device="meta") for _ in KINDS]
    noise, sigma = torch.randn(1, backbone.channels, *grid, device="meta"), torch.rand(1)
    lora = HeroLoRA(backbone, 2, LoRASpec(rank))
    try:
        conditions = run_conditions(backbone, lora, KINDS, shown, grid, guidance=1.0)
        passes = count(lambda: run_conditions(backbone, lora, KINDS, shown, grid, guidance=1.0))
        bare = count(lambda: backbone.velocity(noise, sigma, guidance=1.0))
        step = count(lambda: backbone.velocity(noise, sigma, conditions, guidance=1.0))
        plain = count(lambda: plain_restore(backbone, shown, noise, RestoreSettings(steps), steps=1))
    finally:
        lora.remove()
    counted = {"bare": steps * bare, "ours": passes + steps * step, "straightforward": steps * plain}
    return {**counted, "ratio": counted["ours"] / counted["bare"]}


def report(settings: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per model and size, printed as they come."""
    rows = []
    for model in settings.models:
        backbone = empty_backbone(model)
        for size in settings.sizes:
            grid = (size // backbone.multiple,) * 2
            rank = settings.rank or (16 if model == "tiny" else 32)
            row: dict[str, Any] = {"model": model, "pixels": size, "rank": rank}
            for draws in settings.draws:
                row[f"training, {draws} draws"] = count_training(backbone, grid, rank=rank, draws=draws)
            row[f"frame, {settings.steps} steps"] = count_frame(backbone, grid, rank=rank, steps=settings.steps)
            ratios = ", ".join(f"{name}: {part['ratio']:.2f}" for name, part in row.items() if isinstance(part, dict))
            print(f"{model}, {size} px, rank {rank}: {ratios}", flush=True)
            rows.append(row)
    return rows


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a report through a temporary file."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(part, path)


def main(arguments: list[str] | None = None) -> None:
    """Print the ratios and write the report where asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=tuple(MODELS), default=list(MODELS), help="(all)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[512], help="sides of the pictures (512)")
    parser.add_argument("--draws", type=int, nargs="+", default=[1, 4], help="noise levels of a training step (1 4)")
    parser.add_argument("--rank", type=int, help="LoRA rank (tiny 16, others 32)")
    parser.add_argument("--steps", type=int, default=25, help="sampling steps (25)")
    parser.add_argument("--json", type=Path, help="also write the counts to this file")
    settings = parser.parse_args(arguments)
    rows = report(settings)
    if settings.json is not None:
        what = "multiply-adds of matrix products and attention, counted on tensors without content, NOT measured times"
        write_json(settings.json, {"what": what, "rows": rows, "torch": torch.__version__})


if __name__ == "__main__":
    main()
