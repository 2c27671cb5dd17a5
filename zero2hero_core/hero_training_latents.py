"""From a clip's pictures to what Hero-Stage trains on: everything is encoded once, before the training."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from .backbones.dit import DiTBackbone
from .hero_training import HeroSettings
from .hero_training_pairs import ClipLatents
from .relight import VARIANTS, light_variants


@torch.no_grad()
def encode_clip(
    backbone: DiTBackbone,
    settings: HeroSettings,
    *,
    references: Mapping[int, torch.Tensor],
    zero: Mapping[int, torch.Tensor],
    frames: Mapping[int, torch.Tensor],
    zero_target: Mapping[int, torch.Tensor] | None = None,
    light_seed: int | None = None,
) -> ClipLatents:
    """Latents that a mode draws its pairs from, on the CPU.

    Args: pictures (3, H, W) in [0, 1] by frame index, see `ClipLatents`; frames holds at least those of references.
    light_seed: of the other lights, the settings' seed when None; each reference has a stream of its own.
    """

    def encode(picture: torch.Tensor) -> torch.Tensor:
        return backbone.encode(picture[None]).cpu()

    def encode_all(pictures: Mapping[int, torch.Tensor]) -> dict[int, torch.Tensor]:
        return {index: encode(picture) for index, picture in pictures.items()}

    lit = {}
    if settings.light and "frame" in settings.kinds:
        seed = settings.seed if light_seed is None else light_seed
        for index, reference in references.items():
            variants = light_variants(frames[index], reference, VARIANTS, settings.light, seed + index)
            shown, edits = (torch.cat([encode(picture) for picture in part]) for part in variants)
            lit[index] = (shown, edits)
    return ClipLatents(
        references=encode_all(references),
        zero=encode_all(zero),
        frames=encode_all(frames),
        zero_target=encode_all(zero_target or {}),
        lit=lit,
    )
