"""From a clip's pictures to what Hero-Stage trains on: everything is encoded once, before the training."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ...backbones.surface import DiTSurface
from .pairs import ClipLatents, PairViews
from .trainer import HeroSettings
from .views import UNLIT, VIEWS, pair_views


@torch.no_grad()
def encode_clip(
    backbone: DiTSurface,
    settings: HeroSettings,
    *,
    references: Mapping[int, torch.Tensor],
    zero: Mapping[int, torch.Tensor],
    frames: Mapping[int, torch.Tensor],
    zero_target: Mapping[int, torch.Tensor] | None = None,
) -> ClipLatents:
    """Latents that a mode draws its pairs from, on the CPU.

    Args: pictures (3, H, W) in [0, 1] by frame index, see `ClipLatents`; frames holds at least those of references.
    The further views of each reference have a random stream of their own, from the settings' seed.
    """

    def encode(picture: torch.Tensor) -> torch.Tensor:
        return backbone.encode(picture[None]).cpu()

    def encode_many(pictures: torch.Tensor) -> torch.Tensor:
        return torch.cat([encode(picture) for picture in pictures])

    def encode_all(pictures: Mapping[int, torch.Tensor]) -> dict[int, torch.Tensor]:
        return {index: encode(picture) for index, picture in pictures.items()}

    views: dict[int, PairViews] = {}
    light = settings.light if "frame" in settings.kinds else 0.0
    shift = settings.shift if settings.mode != "implicit" else 0  # which has pairs of many frames
    if light or shift:
        sources = {"zero": zero, "frame": frames}
        for index, reference in references.items():
            if any(index not in sources[kind] for kind in settings.kinds):
                continue  # `training_pairs` names what is missing
            inputs = {kind: sources[kind][index] for kind in settings.kinds}
            parts, edits = pair_views(inputs, reference, VIEWS, light=light, shift=shift, seed=settings.seed + index)
            latents = {
                kind: encode(part[0]).expand(VIEWS, -1, -1, -1) if kind in UNLIT and not shift else encode_many(part)
                for kind, part in parts.items()
            }
            views[index] = PairViews(latents, encode_many(edits))
    return ClipLatents(
        references=encode_all(references),
        zero=encode_all(zero),
        frames=encode_all(frames),
        zero_target=encode_all(zero_target or {}),
        views=views,
    )
