"""What a training of Hero-Stage reads, and the frames that it is looked at by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..backbones.flux.dit import DiTBackbone
from ..hero_stage.stage import HeroStage
from ..hero_stage.training.latents import encode_clip
from ..hero_stage.training.pairs import ClipLatents
from ..hero_stage.training.trainer import HeroSettings


@dataclass(frozen=True)
class Material:
    """Pictures (3, H, W) in [0, 1] by index of the frame.

    references: the edits of anchors. frames: the originals. zero: Zero-Stage results; may lack frames. zero_target:
    Zero-Stage results with the anchor itself as the reference, which the mode implicit alone needs.
    """

    references: Mapping[int, torch.Tensor]
    frames: Mapping[int, torch.Tensor]
    zero: Mapping[int, torch.Tensor]
    zero_target: Mapping[int, torch.Tensor] | None = None

    def latents(self, backbone: DiTBackbone, settings: HeroSettings) -> ClipLatents:
        """Latents that the mode draws its pairs from."""
        anchors, target = list(self.references), self.zero_target
        indices = anchors if target is None else list(target)
        return encode_clip(
            backbone,
            settings,
            references=self.references,
            zero={index: self.zero[index] for index in anchors} if "zero" in settings.kinds else {},
            frames={index: self.frames[index] for index in dict.fromkeys((*indices, *anchors))},
            zero_target={} if target is None else {index: target[index] for index in indices},
        )

    def restored(self, stage: HeroStage[Any], indices: Sequence[int]) -> torch.Tensor:
        """Frames (B, 3, H, W) restored one by one: while a training goes on, it has the memory."""
        pictures = []
        for index in indices:
            zero = self.zero[index][None] if "zero" in stage.kinds else None
            pictures.append(stage.restore(zero, self.frames[index][None], [index]))
        return torch.cat(pictures)
