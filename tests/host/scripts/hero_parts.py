"""What the Hero-Stage scripts share: pictures, LoRA files with random weights."""

from __future__ import annotations

from pathlib import Path

import comfy.sample
import torch
from zero2hero_ext.zero2hero_core.backbones.lora import HeroLoRA, LoRASpec
from zero2hero_ext.zero2hero_core.backbones.lora_file import HeroMetadata, save_lora


def pictures(count: int, size: int, seed: int = 0) -> torch.Tensor:
    """IMAGE (count, size, size, 3): smooth random colours."""
    small = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    large = torch.nn.functional.interpolate(small, (size, size), mode="bicubic", align_corners=True)
    return large.clamp(0, 1).movedim(1, -1).contiguous()


def random_lora(backbone, path: Path, rank: int = 4, mode: str = "explicit") -> HeroLoRA:
    """A LoRA with random weights on a core backbone, also written to a file."""
    count = 2 if mode == "explicit" else 1
    lora = HeroLoRA(backbone, count, LoRASpec(rank, alpha=2.0 * rank), generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in lora.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5 / parameter.shape[-1] ** 0.5)
    save_lora(path, lora, HeroMetadata.of(lora, mode=mode))
    return lora


def sampled(model, conditioning) -> torch.Tensor:
    """What the host's own sampler makes of a MODEL of the tiny DiT in two steps."""
    noise = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(9))
    blank = torch.zeros_like(noise)
    return comfy.sample.sample(model, noise, 2, 1.0, "euler", "simple", conditioning, conditioning, blank, seed=9)
