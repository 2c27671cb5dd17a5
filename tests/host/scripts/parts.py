"""What the scripts share: widgets of our nodes, pictures, LoRA files of random weights, Cancel in the middle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sample
import torch
from zero2hero_ext.zero2hero_core.hero_stage.lora.adapters import HeroLoRA, LoRASpec
from zero2hero_ext.zero2hero_core.hero_stage.lora.file import HeroMetadata, save_lora
from zero2hero_ext.zero2hero_core.hero_stage.sampling import RestoreSettings, restore_latents
from zero2hero_ext.zero2hero_core.hero_stage.stage import HeroStage

# Widgets of DIFTCorrespondence, MaskedCiAKSampler, HeroRestore and HeroLoRATrainer, small and quick.
MATCH = {"anchor_index": 0, "max_k": 8, "timestep": -1, "block": -1, "ensemble": 1, "neighbourhood": 1.0, "seed": 3}
MATCH |= {"track": "auto"}
SAMPLE = {"tokens": "fixed", "k": 1, "gamma": 1.0, "tau": 1.0, "steps": 2, "layers": "all (3-11)"}
SAMPLE |= {"adain_start": True, "batch": 2}
RESTORE = {"steps": 3, "samples": 2, "zero_strength": 1.0, "frame_strength": 1.0}
RESTORE |= {"seed": 0, "same_noise": True, "batch_size": 2}
TRAIN = {"anchor_index": 0, "mode": "explicit", "rank": 2, "steps": 4, "learning_rate": 0.0, "seed": 0}
TRAIN |= {"weights": "as loaded", "checkpointing": False, "light": 0.0, "crop": 0.0}
TRAIN |= {"evaluate_every": 0, "save_every": 100}


class LatentsOnly:
    """A VAE that is asked for its channels and nothing else."""

    def __init__(self, channels: int) -> None:
        self.latent_channels = channels


class Pressed:
    """Counts calls of a unit of work and presses Cancel at the start of one of them, after a look around."""

    def __init__(self, owner: Any, name: str, at: int = 0, look: Callable[[], None] = lambda: None) -> None:
        self.owner, self.name, self.at, self.look = owner, name, at, look
        self.calls, self.plain = 0, getattr(owner, name)

    def __enter__(self) -> Pressed:
        def counted(*given: Any, **named: Any) -> Any:
            self.calls += 1
            if self.calls == self.at:
                self.look()
                comfy.model_management.interrupt_current_processing()
            return self.plain(*given, **named)

        setattr(self.owner, self.name, counted)
        return self

    def __exit__(self, *_: object) -> None:
        setattr(self.owner, self.name, self.plain)


def outcome(node: Any, **given: Any) -> str:
    """How a node ends. The host, too, lets go of the exception: its frames hold the node's tensors."""
    try:
        node.execute(**given)
    except comfy.model_management.InterruptProcessingException:
        return "cancelled"
    return "went through"


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest between two elements."""
    return float((one.float() - other.float()).abs().max())


def pictures(count: int, size: int, seed: int = 0) -> torch.Tensor:
    """IMAGE (count, size, size, 3): smooth random colours."""
    small = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    large = torch.nn.functional.interpolate(small, (size, size), mode="bicubic", align_corners=True)
    return large.clamp(0, 1).movedim(1, -1).contiguous()


def random_lora(backbone: Any, path: Path, rank: int = 4, mode: str = "explicit") -> HeroLoRA:
    """A LoRA with random weights on a core backbone, also written to a file."""
    count = 2 if mode == "explicit" else 1
    lora = HeroLoRA(backbone, count, LoRASpec(rank, alpha=2.0 * rank), generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in lora.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5 / parameter.shape[-1] ** 0.5)
    save_lora(path, lora, HeroMetadata.of(lora, mode=mode))
    return lora


def restored(backbone: Any, lora: Any, channels: int) -> torch.Tensor:
    """What two steps make of two frames whose conditions, 4 x 4 tokens each, are random."""
    kinds, settings = ("zero", "frame"), RestoreSettings(num_inference_steps=2)
    generator = torch.Generator().manual_seed(5)
    inputs = [torch.randn(2, channels, 4, 4, generator=generator) for _ in kinds]
    noise = HeroStage(backbone, None, kinds, settings).noise([0, 1], (4, 4))
    return restore_latents(backbone, lora, kinds, inputs, noise, settings)


def sampled(model: Any, conditioning: Any) -> torch.Tensor:
    """What the host's own sampler makes of a MODEL of the tiny DiT in two steps."""
    noise = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(9))
    blank = torch.zeros_like(noise)
    return comfy.sample.sample(model, noise, 2, 1.0, "euler", "simple", conditioning, conditioning, blank, seed=9)
