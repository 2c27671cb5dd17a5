"""Hero-Stage (Zero-to-Hero, arXiv 2505.23134): restore Zero-Stage frames with the LoRA that was trained on one pair.

Here are the pictures: encoding of the conditions, noise, one decode per frame. Sampling is in
`hero_stage.sampling`, training in `hero_stage.training`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import torch

from ..backbones.surface import DiTSurface, LoRASurface
from ..checks import InputError, ShapeError, check_images
from .sampling import KINDS, RestoreSettings, restore_latents

__all__ = ["HeroStage", "RestoreSettings"]

DiT = TypeVar("DiT", bound=DiTSurface)


class HeroStage(Generic[DiT]):
    """Restores frames of one clip.

    Args:
        lora: trained adapters; None runs the base model on the conditions as they are.
        kinds: what the conditions show, "zero" and "frame" (`training.pairs.MODES`).
        same_noise: one noise for all frames, which keeps the clip steady (the authors' way); else one per frame.
    Raises: InputError when kinds, adapters and strengths do not go together.
    """

    def __init__(
        self,
        backbone: DiT,
        lora: LoRASurface | None,
        kinds: Sequence[str],
        settings: RestoreSettings | None = None,
        *,
        same_noise: bool = True,
    ):
        if not kinds or set(kinds) - set(KINDS):
            raise InputError(f"conditions: expected some of {', '.join(KINDS)}, got {', '.join(kinds) or 'none'}.")
        if lora is not None and lora.count != len(kinds):
            raise InputError(f"LoRA: expected one for {len(kinds)} conditions ({', '.join(kinds)}), got {lora.count}.")
        self.backbone, self.lora, self.kinds = backbone, lora, tuple(kinds)
        self.settings, self.same_noise = settings or RestoreSettings(), same_noise
        self.settings.strength(0, len(kinds))  # raises where their number is another

    def noise(self, indices: Sequence[int], size_hw: tuple[int, int]) -> torch.Tensor:
        """Starting noise (B * samples, C, h, w) of frames by their index; the batch size changes nothing.

        Every second sample of a frame starts from the negative of the one before it: what the result owes to the noise
        is nearly odd in it, and cancels in the average.
        """
        samples = self.settings.samples
        rows = []
        for index in indices:
            seed = self.settings.seed if self.same_noise else (self.settings.seed * 1_000_003 + index + 1) % 2**63
            generator = torch.Generator().manual_seed(seed)
            noise = torch.randn((samples + 1) // 2, self.backbone.channels, *size_hw, generator=generator)
            rows.append(torch.stack([noise, -noise], 1).flatten(0, 1)[:samples])
        return torch.cat(rows)

    def restore(self, zero: torch.Tensor | None, frames: torch.Tensor | None, indices: Sequence[int]) -> torch.Tensor:
        """Restored frames (B, 3, H, W), float32 in [0, 1].

        Args: zero: Zero-Stage results; frames: the originals, both (B, 3, H, W) in [0, 1], None where no condition
        shows them; indices: places of the frames in the clip. H and W are multiples of the backbone's `multiple`.
        Raises: InputError for missing pictures, ShapeError for a wrong number or size of them.
        """
        sources = {"zero": zero, "frame": frames}
        inputs = []
        for kind in self.kinds:
            pictures = sources[kind]
            if pictures is None:
                raise InputError(f"Hero-Stage: expected pictures for the condition '{kind}', got none.")
            check_images(kind, pictures)
            if len(pictures) != len(indices):
                raise ShapeError(f"{kind}: expected {len(indices)} pictures, got {len(pictures)}.")
            if any(side % self.backbone.multiple for side in pictures.shape[-2:]):
                raise ShapeError(
                    f"{kind}: expected sides that are multiples of {self.backbone.multiple}, "
                    f"got {pictures.shape[-1]} x {pictures.shape[-2]}; resize them first."
                )
            inputs.append(self.backbone.encode(pictures))
        sizes = {tuple(packed.shape[-2:]) for packed in inputs}
        if len(sizes) > 1:
            raise ShapeError(f"conditions: expected one size, got packed grids {sorted(sizes)}.")
        h, w = sizes.pop()
        noise = self.noise(indices, (h, w))
        return self.backbone.decode(
            restore_latents(self.backbone, self.lora, self.kinds, inputs, noise, self.settings)
        ).cpu()
