"""Memory of a Hero-Stage training step at the sizes of the real models, in three ways, from cheap to sure:

computed    from the sizes (`zero2hero_core.hero_stage.memory`)
counted     the real step on tensors without content
measured    the real step on random weights, on a GPU

Counting runs the package's own passes, adapters and checkpointing with the real shapes under torch's fake tensors and
adds up, operation by operation, what is alive; it needs no GPU and no memory. See live_bytes.py.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import torch

from ...backbones.flux.precision import store_linear, stored_linears
from ...hero_stage.lora.adapters import HeroLoRA, LoRASpec, checkpoint_blocks
from ...hero_stage.memory.estimate import CONTEXT, ModelSize, estimate_training
from ...hero_stage.sampling import KINDS, run_conditions
from ...hero_stage.training.pairs import TrainingPair
from ...hero_stage.training.trainer import HeroSettings, HeroTrainer
from ...memory_batches import is_out_of_memory
from ..making import machine, now, revision
from .live_bytes import Nf4Shape, counting
from .memory_cases import BARS, GB, MemoryCases
from .real_sizes import as_backbone, build_dit_of, random_backbone

# ---- counted ----


def count_step(size: ModelSize, weights: str, *, resolution: int, rank: int, checkpointing: bool = True) -> int:
    """Bytes at the peak of one explicit training step (two conditions), AdamW's states in, no CUDA context."""
    grid = (resolution // size.cell, resolution // size.cell)
    with counting() as live:
        transformer = build_dit_of(size)
        for name, linear in stored_linears(transformer).items() if weights != "bf16" else ():
            if weights == "fp8":
                store_linear(transformer, name, weights, torch.device("cpu"))
            else:
                parent, _, child = name.rpartition(".")
                setattr(transformer.get_submodule(parent), child, Nf4Shape(linear))
        backbone = as_backbone(size, transformer, "cpu")
        lora = HeroLoRA(backbone, 2, LoRASpec(rank))
        checkpoint_blocks(backbone, lora, checkpointing)
        latents = [torch.randn(1, size.in_channels, *grid) for _ in range(2)]
        noisy, target = torch.randn(1, size.in_channels, *grid), torch.randn(1, size.in_channels, *grid)
        live.peak = live.alive()
        conditions = run_conditions(backbone, lora, KINDS, latents, grid, guidance=1.0)
        predicted = backbone.velocity(noisy, torch.rand(1), conditions, guidance=1.0)
        torch.nn.functional.mse_loss(predicted, target).backward()
        states = 8 * sum(parameter.numel() for parameter in lora.parameters())
        return live.peak + states


# ---- measured ----


def measure_step(size: ModelSize, weights: str, *, resolution: int, rank: int, device: str) -> dict[str, Any]:
    """The trainer's own step on random weights, three times; the peak as torch's allocator saw it."""
    gc.collect()
    torch.cuda.empty_cache()  # of an earlier model
    backbone = random_backbone(size, weights, device)
    grid = (resolution // size.cell, resolution // size.cell)
    latents = tuple(torch.randn(1, size.in_channels, *grid) for _ in range(2))
    pair = TrainingPair(latents, torch.randn(1, size.in_channels, *grid))
    trainer = HeroTrainer(backbone, [pair], HeroSettings(rank=rank, checkpointing=True))
    cuda = torch.device(device).type == "cuda"
    seconds = []
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        begin = time.perf_counter()
        trainer.step()  # ends with the loss as a number, so the device's queue is empty
        seconds.append(time.perf_counter() - begin)
    report: dict[str, Any] = {"seconds_per_step": min(seconds)}
    if cuda:
        report |= {
            "allocated_bytes": torch.cuda.max_memory_allocated(),
            "reserved_bytes": torch.cuda.max_memory_reserved(),
            "device": torch.cuda.get_device_name(),
        }
    return report


# ---- report ----


def memory_report(cases: MemoryCases, tell: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """One row per model, weights form, size and rank, each told as it comes, and what the figures are."""
    rows = []
    for size, weights in cases.forms:
        for resolution in cases.sizes:
            for rank in cases.ranks:
                rows.append(_row(cases, size, weights, resolution, rank))
                tell(rows[-1])
    report: dict[str, Any] = {
        "what": "one training step, explicit mode (two conditions), gradient checkpointing, AdamW with float32 states",
        "computed": "from tensor sizes, NOT measured; includes an assumed CUDA context",
        "rows": rows,
        "machine": machine(cases.device if cases.measure else "cpu"),
        "commit": revision(),
        "date": now(),
    }
    if cases.count:
        report["counted"] = (
            "live bytes of the real step on tensors without content, NOT measured; no CUDA context in it"
        )
    return report


def _row(cases: MemoryCases, size: ModelSize, weights: str, resolution: int, rank: int) -> dict[str, Any]:
    estimate = estimate_training(size, weights=weights, resolution=resolution, rank=rank)
    row: dict[str, Any] = {"model": size.name, "weights": weights, "resolution": resolution, "rank": rank}
    row |= {"computed_bytes": estimate.total, "parts": dict(estimate.parts), "of_which_assumed_bytes": CONTEXT}
    bar = BARS.get((size.name, weights)) if (resolution, rank) == (512, 32) else None
    if bar is not None:
        row["limit_bytes"] = bar * GB
    if cases.count:
        row["counted_bytes"] = count_step(size, weights, resolution=resolution, rank=rank)
    if cases.measure:
        row["measured"] = _measured(size, weights, cases.device, resolution, rank)
    return row


def _measured(size: ModelSize, weights: str, device: str, resolution: int, rank: int) -> dict[str, Any]:
    try:
        return measure_step(size, weights, resolution=resolution, rank=rank, device=device)
    except (RuntimeError, MemoryError) as error:  # torch's out-of-memory errors are RuntimeErrors
        if not is_out_of_memory(error):
            raise
        return {"out_of_memory": True, "device": torch.cuda.get_device_name()}
