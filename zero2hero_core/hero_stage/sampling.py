"""Sampling with conditions: the part of Hero-Stage that training (for its evaluations) and restoring share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import torch

from ..attention.conditions import Condition
from ..backbones.surface import DiTSurface, LoRASurface
from ..checks import InputError, check_range, check_shape
from ..diffusion.flow_matching import flow_sigmas

KINDS = ("zero", "frame")  # what a condition shows: the Zero-Stage result, or the original frame


@dataclass(frozen=True)
class RestoreSettings:
    """Settings of sampling; the defaults are the authors'.

    samples: results from so many noises (in pairs of opposite sign) are averaged: nearer to the truth on the average,
    softer where the model is not sure. strengths: one per condition, or one for all; 1 is as trained, 0 leaves the
    condition out.
    """

    num_inference_steps: int = 25
    guidance_scale: float = 3.5
    seed: int = 0
    samples: int = 1
    strengths: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        check_range("steps", self.num_inference_steps, 1, 1000)
        check_range("guidance", self.guidance_scale, 0, 100)
        check_range("samples", self.samples, 1, 64)
        check_range("seed", self.seed, 0, 2**64 - 1)
        for value in self.strengths:
            check_range("strength", value, 0, 100)

    @classmethod
    def suited(cls, advice: Mapping[str, Any], **values: Any) -> RestoreSettings:
        """Settings from what is given, else from a model's advice (`DiTSurface.recommended`), else the defaults."""
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in advice.items() if name in names} | values)

    def strength(self, place: int, count: int) -> float:
        """Strength of condition `place` of `count`."""
        if len(self.strengths) not in (1, count):
            raise InputError(f"strengths: expected 1 or {count} (one per condition), got {len(self.strengths)}.")
        return self.strengths[place if len(self.strengths) > 1 else 0]


def run_conditions(
    backbone: DiTSurface,
    lora: LoRASurface | None,
    kinds: Sequence[str],
    inputs: Sequence[torch.Tensor],
    noise_hw: tuple[int, int],
    *,
    guidance: float,
    strengths: Sequence[float] | None = None,
) -> list[Condition]:
    """One pass per condition with its LoRA on; conditions of strength 0 cost nothing.

    Args: kinds: what each shows, of `KINDS`; it decides the place in the position ids where the family has one.
    inputs: packed latents (B, C, h, w), one per condition.
    """
    results = []
    for place, (kind, packed) in enumerate(zip(kinds, inputs, strict=True)):
        check_shape(f"condition {place + 1} ({kind})", packed, ("N", backbone.channels, "h", "w"))
        strength = 1.0 if strengths is None else strengths[place]
        if strength == 0:
            continue
        if lora is None:
            condition = backbone.condition(packed, KINDS.index(kind), noise_hw, guidance=guidance, strength=strength)
        else:
            with lora.active(place):
                condition = backbone.condition(
                    packed, KINDS.index(kind), noise_hw, guidance=guidance, strength=strength
                )
        results.append(condition)
    return results


@torch.no_grad()
def restore_latents(
    backbone: DiTSurface,
    lora: LoRASurface | None,
    kinds: Sequence[str],
    inputs: Sequence[torch.Tensor],
    noise: torch.Tensor,
    settings: RestoreSettings,
    *,
    progress: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """Restored packed latents (B, C, h, w), float32, from noise (B * samples, C, h, w), a frame's samples in a row.

    The conditions are run once; their keys and values serve all steps and samples. Args: progress: called with the
    steps done.
    """
    h, w = noise.shape[-2:]
    strengths = [settings.strength(place, len(inputs)) for place in range(len(inputs))]
    guidance = settings.guidance_scale
    conditions = run_conditions(backbone, lora, kinds, inputs, (h, w), guidance=guidance, strengths=strengths)
    steps = settings.num_inference_steps
    sigmas = flow_sigmas(steps, backbone.family.mu(h * w, steps) if backbone.family.mu else None)
    total, step_count = torch.zeros(1, device=backbone.device), 0
    for start in noise.unflatten(0, (-1, settings.samples)).unbind(1):  # one after the other: memory of one
        x = start.to(backbone.device, torch.float32)
        for sigma, following in pairwise(sigmas):
            velocity = backbone.velocity(x, sigma.expand(len(x)), conditions, guidance=guidance)
            x = x + velocity * float(following - sigma)
            step_count += 1
            if progress:
                progress(step_count)
        total = total + x / settings.samples
    return total
