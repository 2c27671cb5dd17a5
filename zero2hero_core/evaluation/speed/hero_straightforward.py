"""Hero-Stage as the authors run it, written plainly: the other side of `hero_speed.py`.

Follows arXiv 2505.23134 and EasyControl's design: text, noise and both conditions go through the transformer in one
masked pass, every LoRA is computed on all rows and masked, the pictures of the pair are encoded again at every training
step, and the condition tokens are computed again at every sampling step. Attention is torch's own, with the mask as a
bias, as theirs is. Draws are those of `HeroTrainer.step`, so that the two can be compared number by number.

Differs, in its own favour: the authors also run the text encoders at every training step, and they build the mask again
in every attention layer; both are left out here.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from ...backbones.flux.dit import DiTBackbone, LatentCodec
from ...diffusion.flow_matching import flow_sigmas, mix_noise
from ...hero_stage.lora.adapters import HeroLoRA
from ...hero_stage.sampling import RestoreSettings
from ...hero_stage.training.trainer import HeroSettings
from ...stopwatch import Stopwatch
from .hero_concatenated import ConditionLoRA, concatenated_velocity, peft_condition_lora


def plain_loss(
    backbone: DiTBackbone,
    added: ConditionLoRA,
    latents: Sequence[Tensor],
    noise: Tensor,
    sigma: Tensor,
    *,
    guidance: float,
) -> Tensor:
    """Flow-matching loss of a pair at some noise levels, each with its own copy of the conditions.

    Args: added: what the adapters add. latents: packed, of the conditions and of the target, (1, C, h, w) each. noise
    (B, C, h, w), sigma (B,).
    """
    *conditions, target = [x.expand(len(sigma), -1, -1, -1) for x in latents]
    predicted = concatenated_velocity(
        backbone,
        mix_noise(target, noise, sigma),
        sigma.to(backbone.device),
        conditions,
        guidance=guidance,
        lora=added,
        lora_on_all_rows=True,
    )
    return F.mse_loss(predicted, noise - target)


class PlainTrainer:
    """Loss, backward, clipping and AdamW on adapters that it shares with a `HeroTrainer`.

    Args:
        codec: encodes the pictures; in a step that does not encode, what it gave at first is used.
        pictures: of the conditions and of the target, (1, 3, H, W) each in [0, 1].
    """

    def __init__(
        self,
        backbone: DiTBackbone,
        lora: HeroLoRA,
        settings: HeroSettings,
        codec: LatentCodec,
        pictures: Sequence[Tensor],
    ) -> None:
        self.backbone, self.settings, self.codec, self.pictures = backbone, settings, codec, pictures
        self.latents, self.added = self.encode(), peft_condition_lora(backbone.transformer)
        self.parameters = lora.parameters()
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.generator = torch.Generator().manual_seed(settings.seed)

    def encode(self) -> list[Tensor]:
        """Packed latents of the pictures, on the backbone's device."""
        return [self.codec.encode(picture).to(self.backbone.device) for picture in self.pictures]

    def step(self, *, encode: bool, watch: Stopwatch | None = None) -> float:
        """One update; returns the loss. Args: watch: counts the seconds of encoding and of the masked pass."""
        watch = watch or Stopwatch(self.backbone.device)
        latents = self.latents
        if encode:
            with watch.part("encoding"):
                latents = self.encode()
        draws = self.settings.draws
        torch.randint(1, (1,), generator=self.generator)  # the choice of a pair: there is one
        sigma = torch.rand(draws, generator=self.generator)
        noise = torch.randn(draws, *latents[0].shape[1:], generator=self.generator).to(self.backbone.device)
        with torch.enable_grad():
            guidance = self.settings.guidance_scale
            with watch.part("masked pass"):
                loss = plain_loss(self.backbone, self.added, latents, noise, sigma, guidance=guidance)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return float(loss.detach())


@torch.no_grad()
def plain_restore(
    backbone: DiTBackbone, conditions: Sequence[Tensor], noise: Tensor, settings: RestoreSettings, *, steps: int
) -> Tensor:
    """Packed latents after the first `steps` sampling steps, the conditions beside the noise in each of them."""
    h, w = noise.shape[-2:]
    total = settings.num_inference_steps
    sigmas = flow_sigmas(total, backbone.family.mu(h * w, total) if backbone.family.mu else None)
    added = peft_condition_lora(backbone.transformer)
    x = noise.to(backbone.device, torch.float32)
    for sigma, following in list(pairwise(sigmas))[:steps]:
        velocity = concatenated_velocity(
            backbone,
            x,
            sigma.expand(len(x)).to(backbone.device),
            conditions,
            guidance=settings.guidance_scale,
            lora=added,
            lora_on_all_rows=True,
        )
        x = x + velocity * float(following - sigma)
    return x
