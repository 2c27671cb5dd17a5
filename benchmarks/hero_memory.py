"""Memory of a Hero-Stage training step at the sizes of the real models: a table as Markdown, and JSON.

Three ways, from cheap to sure:

    python benchmarks/hero_memory.py                          # computed from the sizes (zero2hero_core.hero_memory)
    python benchmarks/hero_memory.py --count                  # and counted: the real step on tensors without content
    python benchmarks/hero_memory.py --measure --device cuda  # and measured: the real step on random weights

Counting runs the package's own passes, adapters and checkpointing with the real shapes under torch's fake tensors and
adds up, operation by operation, what is alive; it needs no GPU and no memory. See live_bytes.py.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from live_bytes import Nf4Shape, counting

from zero2hero_core.backbones.dit import FLUX1, FLUX2, DiTBackbone, TextEmbedding
from zero2hero_core.backbones.dit_precision import store_linear, store_weights, stored_linears
from zero2hero_core.backbones.dit_restore import KINDS, run_conditions
from zero2hero_core.backbones.lora import HeroLoRA, LoRASpec, checkpoint_blocks
from zero2hero_core.hero_memory import CONTEXT, FLUX1_DEV, FLUX2_KLEIN_4B, ModelSize, estimate_training

GB = 10**9
RESULTS = Path(__file__).parent / "results" / "hero_memory_computed.json"
MODELS = (
    (FLUX1_DEV, "nf4"),
    (FLUX1_DEV, "fp8"),
    (FLUX2_KLEIN_4B, "bf16"),
    (FLUX2_KLEIN_4B, "fp8"),
    (FLUX2_KLEIN_4B, "nf4"),
)
# What the package promises at 512 px and rank 32, in GB.
BARS = {("FLUX.1-dev", "nf4"): 16, ("FLUX.2-klein-4B", "bf16"): 12, ("FLUX.2-klein-4B", "nf4"): 8}


# ---- models with the real shapes ----


def build(size: ModelSize) -> Any:
    """The diffusers transformer of a size, in bfloat16, with what tensors the surrounding mode or device gives."""
    import diffusers

    head = size.width // size.heads
    config: dict[str, Any] = {
        "in_channels": size.in_channels,
        "num_layers": size.double_blocks,
        "num_single_layers": size.single_blocks,
        "num_attention_heads": size.heads,
        "attention_head_dim": head,
        "joint_attention_dim": size.text_width,
        "guidance_embeds": size.guidance,
    }
    if size.fused:
        config |= {"mlp_ratio": size.mlp / size.width, "axes_dims_rope": (head // 4,) * 4}
    else:
        rest = head // 16 * 7
        config |= {"pooled_projection_dim": size.pooled_width, "axes_dims_rope": (head - 2 * rest, rest, rest)}
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        kind = diffusers.Flux2Transformer2DModel if size.fused else diffusers.FluxTransformer2DModel
        return kind(**config).requires_grad_(False)
    finally:
        torch.set_default_dtype(before)


def as_backbone(size: ModelSize, transformer: Any, device: str) -> DiTBackbone:
    """A backbone with a random prompt."""
    pooled = None if size.fused else torch.randn(1, size.pooled_width, device=device)
    text = TextEmbedding(torch.randn(1, size.text_tokens, size.text_width, device=device), pooled)
    return DiTBackbone(transformer, FLUX2 if size.fused else FLUX1, text=text, name=size.name)


def random_backbone(size: ModelSize, weights: str, device: str) -> DiTBackbone:
    """Random weights of the real size on a device, layer by layer into their stored form."""
    place = torch.device(device)
    with torch.device("meta"):
        transformer = build(size)
    small = stored_linears(transformer) if weights != "bf16" else {}
    for name, module in transformer.named_modules():
        for kind, parameter in list(module.named_parameters(recurse=False)):
            shape, norm = parameter.shape, "norm_" in name.rpartition(".")[2]
            filled = torch.ones(shape) if norm else torch.randn(shape, device=place, dtype=torch.bfloat16) * 0.02
            setattr(module, kind, torch.nn.Parameter(filled.to(place, torch.bfloat16), requires_grad=False))
        if name in small:
            store_linear(transformer, name, weights, place)
    store_weights(transformer, weights, place)
    return as_backbone(size, transformer, device)


# ---- counted ----


def count_step(size: ModelSize, weights: str, *, resolution: int, rank: int, checkpointing: bool = True) -> int:
    """Bytes at the peak of one explicit training step (two conditions), AdamW's states in, no CUDA context."""
    grid = (resolution // size.cell, resolution // size.cell)
    with counting() as live:
        transformer = build(size)
        for name, linear in stored_linears(transformer).items() if weights != "bf16" else ():
            if weights == "fp8":
                store_linear(transformer, name, weights, torch.device("cpu"))
            else:
                parent, _, child = name.rpartition(".")
                setattr(transformer.get_submodule(parent), child, Nf4Shape(linear))
        backbone = as_backbone(size, transformer, "cpu")
        lora = HeroLoRA(backbone, 2, LoRASpec(rank))
        checkpoint_blocks(backbone, lora, checkpointing)
        shown = [torch.randn(1, size.in_channels, *grid) for _ in range(2)]
        noisy, target = torch.randn(1, size.in_channels, *grid), torch.randn(1, size.in_channels, *grid)
        live.peak = live.alive()
        conditions = run_conditions(backbone, lora, KINDS, shown, grid, guidance=1.0)
        predicted = backbone.velocity(noisy, torch.rand(1), conditions, guidance=1.0)
        torch.nn.functional.mse_loss(predicted, target).backward()
        states = 8 * sum(parameter.numel() for parameter in lora.parameters())
        return live.peak + states


# ---- measured ----


def measure_step(size: ModelSize, weights: str, *, resolution: int, rank: int, device: str) -> dict[str, Any]:
    """The trainer's own step on random weights, three times; the peak as torch's allocator saw it."""
    from zero2hero_core.hero_training import HeroSettings, HeroTrainer
    from zero2hero_core.hero_training_pairs import TrainingPair

    backbone = random_backbone(size, weights, device)
    grid = (resolution // size.cell, resolution // size.cell)
    shown = tuple(torch.randn(1, size.in_channels, *grid) for _ in range(2))
    pair = TrainingPair(shown, torch.randn(1, size.in_channels, *grid))
    trainer = HeroTrainer(backbone, [pair], HeroSettings(rank=rank, checkpointing=True))
    cuda = torch.device(device).type == "cuda"
    seconds = []
    if cuda:
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


def rows(settings: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row per model, precision, resolution and rank, at two conditions with checkpointing."""
    for size, weights in MODELS:
        for resolution in settings.sizes:
            for rank in settings.ranks:
                given = {"resolution": resolution, "rank": rank}
                estimate = estimate_training(size, weights=weights, **given)
                row: dict[str, Any] = {"model": size.name, "weights": weights, **given}
                row |= {
                    "computed_bytes": estimate.total,
                    "parts": dict(estimate.parts),
                    "of_which_assumed_bytes": CONTEXT,
                }
                bar = BARS.get((size.name, weights)) if (resolution, rank) == (512, 32) else None
                if bar is not None:
                    row |= {"limit_bytes": bar * GB, "within_limit": estimate.total <= bar * GB}
                if settings.count:
                    row["counted_bytes"] = count_step(size, weights, **given)
                if settings.measure:
                    row["measured"] = measure_step(size, weights, device=settings.device, **given)
                yield row


def markdown(report: dict[str, Any]) -> str:
    """The rows as a table, in GB (10^9 bytes)."""
    first = report["rows"][0]
    columns = (
        ["computed"] + ["counted"] * ("counted_bytes" in str(report["rows"])) + ["measured"] * ("measured" in first)
    )
    head = ["model", "weights", "pixels", "rank", *(f"{name}, GB" for name in columns), "limit, GB"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in report["rows"]:
        values = {
            "computed": row["computed_bytes"],
            "counted": row["counted_bytes"] + CONTEXT if "counted_bytes" in row else None,
            "measured": row.get("measured", {}).get("reserved_bytes"),
        }
        cells = [row["model"], row["weights"], str(row["resolution"]), str(row["rank"])]
        cells += ["-" if values[name] is None else f"{values[name] / GB:.1f}" for name in columns]
        cells.append(f"{row['limit_bytes'] / GB:g}" if "limit_bytes" in row else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Print the table and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 768], help="sides of the pictures (512 768)")
    parser.add_argument("--ranks", type=int, nargs="+", default=[32, 128], help="LoRA ranks (32 128)")
    parser.add_argument("--count", action="store_true", help="count with fake tensors too (minutes)")
    parser.add_argument("--measure", action="store_true", help="run the step on random weights too (needs a GPU)")
    parser.add_argument("--device", default="cuda", help="for --measure (cuda)")
    parser.add_argument("--json", type=Path, help=f"report to write ({RESULTS.name}; with --measure none)")
    settings = parser.parse_args(arguments)
    if settings.measure and not (torch.device(settings.device).type == "cuda" and torch.cuda.is_available()):
        parser.error("--measure: expected a CUDA device, found none here; leave it out for computed figures.")
    report: dict[str, Any] = {
        "what": "one training step, explicit mode (two conditions), gradient checkpointing, AdamW with float32 states",
        "computed": "from tensor sizes, NOT measured; includes an assumed CUDA context",
        "rows": list(rows(settings)),
        "machine": {"torch": torch.__version__, "python": platform.python_version()},
    }
    if settings.count:
        report["counted"] = (
            "live bytes of the real step on tensors without content, NOT measured; no CUDA context in it"
        )
    print(markdown(report))
    path = settings.json or (None if settings.measure else RESULTS)
    if path is not None:
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        os.replace(part, path)


if __name__ == "__main__":
    main()
