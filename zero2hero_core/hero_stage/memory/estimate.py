"""Memory of Hero-Stage, computed from a model's sizes before anything is loaded.

Counted are the tensors that training holds at its peak: stored weights, LoRA with gradients and
optimiser states, keys and values of the conditions, and what the backward pass keeps of each layer. What is kept was
read off the operations of the blocks and is checked against autograd's list of saved tensors
(tests/core/hero_stage/test_memory.py).

Left out: the text encoders, which run once and are dropped, and the autoencoder, which encodes before the first step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...checks import InputError, check_range
from .model_size import BYTES, FLUX1_DEV, FLUX2_KLEIN_4B, ModelSize

__all__ = [
    "FLUX1_DEV",
    "FLUX2_KLEIN_4B",
    "MemoryEstimate",
    "ModelSize",
    "Pass",
    "condition_bytes",
    "estimate_training",
    "kept_by_block",
    "kept_by_pass",
]

GIB = 2**30
OPTIMISERS = {"adamw": 8.0, "adamw8bit": 2.0 + 2 * 4 / 256}  # bytes of both states of a weight; 8-bit: scales per 256
CONTEXT = int(0.75 * GIB)  # CUDA context and the allocator's unused rest: an assumption, not a count
_FLOAT32 = 4  # adapters, their gradients and what they read; rotary embedding and norms of query and key


@dataclass(frozen=True)
class Pass:
    """One run through the transformer, of one picture.

    Args:
        image, text: tokens of the two streams.
        appended: tokens of conditions whose keys and values are appended.
        rank: of the LoRA that is on, 0 for none. Condition passes have one, and hand their keys and values out, where
            these are counted.
        value: bytes of a number, 2 or 4.
    """

    image: int
    text: int
    appended: int = 0
    rank: int = 0
    value: int = 2

    @property
    def tokens(self) -> int:
        """Of both streams."""
        return self.image + self.text


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by part, in the order of the table. Computed, not measured."""

    title: str
    parts: tuple[tuple[str, int], ...]

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return sum(size for _, size in self.parts)

    def text(self) -> str:
        """A table for people, in GiB."""
        rows = [*self.parts, ("total", self.total)]
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {size / GIB:7.2f} GiB" for name, size in rows]
        return "\n".join([f"{self.title} (computed, not measured)", *lines])

    def as_dict(self) -> dict[str, Any]:
        """For a JSON report."""
        return {"title": self.title, "computed": True, "bytes": dict(self.parts), "total_bytes": self.total}


def condition_bytes(blocks: int, tokens: int, width: int, value: int) -> int:
    """Bytes of the keys and values that one picture of a condition leaves.

    Args: blocks: of the transformer, each with one attention layer; tokens: of the picture; width: of a token; value:
    bytes of a number, 2 or 4.
    """
    return blocks * 2 * tokens * width * value


def kept_by_block(size: ModelSize, double: bool, run: Pass) -> int:
    """Bytes that the backward pass keeps of one block: the base is frozen, so linear layers keep nothing of their own.

    In the order of the block: inputs of the layer norms; of the query and key norms, in float32; what attention needs;
    the activation's inputs (SwiGLU keeps its gate's result too); inputs of adapters and their inner results, in
    float32, each adapter a copy of its own unless the model is in float32 itself.
    """
    d, m, n, c = size.width, size.mlp, run.tokens, run.value
    fused_single = size.fused and not double
    total = (2 if double else 1) * n * d * c
    if not fused_single:
        total += 2 * n * d * _FLOAT32 + n * m * c * (3 if size.fused else 1)
    else:
        # One projection into query, key, value and MLP is kept whole by any part of it that is kept.
        total += n * (3 * d + 2 * m) * c + n * m * c + (2 * n * d * _FLOAT32 if c < _FLOAT32 else 0)
    total += _kept_by_attention(size, run, value_is_kept=fused_single)
    if run.rank:
        reads = 1 if c == _FLOAT32 or fused_single else 3
        adapters = 1 if fused_single else 3
        rows = run.image if double else n
        total += reads * rows * d * _FLOAT32 + adapters * rows * run.rank * _FLOAT32
        if double:  # the output projection's
            total += rows * d * _FLOAT32 + rows * run.rank * _FLOAT32
    return total


def _kept_by_attention(size: ModelSize, run: Pass, *, value_is_kept: bool) -> int:
    d, n, c, keys = size.width, run.tokens, run.value, run.tokens + run.appended
    total = n * d * c  # query
    if not run.rank:
        total += keys * d * c + (0 if value_is_kept and not run.appended else keys * d * c)
    return total + n * d * c + n * size.heads * _FLOAT32  # its result, and a number per row and head


def kept_by_pass(size: ModelSize, run: Pass, *, checkpointing: bool) -> int:
    """Bytes that the backward pass keeps of a whole run; with checkpointing only what enters each block."""
    angles = run.tokens * (size.width // size.heads) // 2 * _FLOAT32  # of the rotary embedding: one for two channels
    if checkpointing:  # cosines and sines enter each block, every one twice
        return 4 * angles + size.blocks * run.tokens * size.width * run.value
    doubles = size.double_blocks * kept_by_block(size, True, run)
    singles = size.single_blocks * kept_by_block(size, False, run)
    unread = _after_keys(size, run) if run.rank else 0  # a condition pass ends at the last block's keys and values
    return 2 * angles + doubles + singles - unread + run.image * size.width * run.value


def _after_keys(size: ModelSize, run: Pass) -> int:
    """The part of a single block's bytes that queries, attention and MLP have."""
    d, n, c = size.width, run.tokens, run.value
    query = 0 if size.fused and c == _FLOAT32 else n * d * _FLOAT32
    return query + n * size.mlp * c + _kept_by_attention(size, run, value_is_kept=True)


def _working_set(size: ModelSize, run: Pass, weights: str) -> int:
    """What an operation has open at a time: the widest activation and its gradient, keys and values of attention and
    theirs, the rotary embedding in float32, and one layer's weights unpacked."""
    d, c, n = size.width, run.value, run.tokens
    widest = 3 * d + 2 * size.mlp if size.fused else d + size.mlp
    layer = size.widest_layer() * c if weights in ("fp8", "nf4") else 0
    return 2 * (n * widest + 2 * (n + run.appended) * d) * c + 3 * n * d * _FLOAT32 + layer


def _check_counts(weights: str, float32: bool, conditions: int, **counts: int) -> int:
    """Bytes of a number that is computed with. Raises: InputError for values outside their range."""
    if weights not in BYTES:
        raise InputError(f"weights: expected {', '.join(BYTES)}, got {weights!r}.")
    check_range("conditions", conditions, 0, 100)
    for name, value in counts.items():
        check_range(name, value, 1, 10**6)
    return 4 if float32 or weights == "fp32" else 2


def _context(device: str) -> tuple[tuple[str, int], ...]:
    return () if device == "cpu" else (("CUDA context and allocator (assumed)", CONTEXT),)


def _title(
    size: ModelSize, what: str, resolution: int | tuple[int, int], weights: str, conditions: int, rank: int
) -> str:
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    return f"{size.name} in {weights}, {what} at {height} x {width}, {conditions} conditions of rank {rank}"


def estimate_training(
    size: ModelSize,
    *,
    resolution: int | tuple[int, int],
    rank: int,
    weights: str = "bf16",
    conditions: int = 2,
    checkpointing: bool = True,
    optimiser: str = "adamw",
    batch: int = 1,
    draws: int = 1,
    condition_resolution: int | tuple[int, int] | None = None,
    device: str = "cuda",
    float32: bool = False,
) -> MemoryEstimate:
    """Memory at the peak of a training step: in the backward pass of the noise tokens, while the conditions' wait.

    Args:
        resolution: pixels, a side or (height, width); condition_resolution: None is the same.
        rank: of each condition's LoRA, on all its layers.
        weights: "fp32", "bf16", "fp8" or "nf4"; computed in bfloat16 unless they are fp32.
        optimiser: "adamw" (float32 states) or "adamw8bit".
        batch, draws: pairs a step, and noise levels a pair.
        device: "cpu" has no CUDA context.
        float32: computed in float32 although the weights are stored small, as on a CPU.

    Raises: InputError for values outside their range.
    """
    if optimiser not in OPTIMISERS:
        raise InputError(f"optimiser: expected one of {', '.join(OPTIMISERS)}, got {optimiser!r}.")
    c = _check_counts(weights, float32, conditions, rank=rank, batch=batch, draws=draws)
    condition_tokens, rows = size.tokens(condition_resolution or resolution), batch * draws
    noise = Pass(size.tokens(resolution), size.text_tokens, conditions * condition_tokens, 0, c)
    condition = Pass(condition_tokens, 1, 0, rank, c)
    lora = conditions * size.lora_parameters(rank)
    keys_values = conditions * condition_bytes(size.blocks, condition_tokens, size.width, c)
    activations = rows * kept_by_pass(size, noise, checkpointing=checkpointing)
    activations += batch * conditions * kept_by_pass(size, condition, checkpointing=checkpointing)
    parts = [
        (f"base weights ({weights})", size.weight_bytes(weights, c)),
        ("LoRA (float32)", _FLOAT32 * lora),
        ("LoRA gradients", _FLOAT32 * lora),
        (f"optimiser states ({optimiser})", round(OPTIMISERS[optimiser] * lora)),
        ("keys and values of the conditions", keys_values * batch * (1 if draws == 1 else 1 + draws)),
        ("their gradients", keys_values * rows),
        ("block inputs (checkpointing)" if checkpointing else "activations for the backward pass", activations),
    ]
    if checkpointing:
        blocks = [(run, double) for run in (noise, condition) for double in (True, False)]
        widest = max((rows if run is noise else batch) * kept_by_block(size, double, run) for run, double in blocks)
        parts.append(("one block, recomputed", widest))
    working = rows * _working_set(size, noise, weights)
    parts += [("working set of one operation", working), *_context(device)]
    return MemoryEstimate(_title(size, "training", resolution, weights, conditions, rank), tuple(parts))
