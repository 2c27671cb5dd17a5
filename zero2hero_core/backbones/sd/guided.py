"""A Stable Diffusion UNet with its prompts and ControlNets: `backbones.surface.GuidedDenoiser` on diffusers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from ...attention.features import LEVELS, FeatureGuidance, guide_features
from ...attention.guidance import Guidance, GuidedPass, Pass
from ..surface import GuidedDenoiser, LatentDistribution
from .controlnet import Control, Residuals
from .unet import UNetBackbone


class GuidedUNet:
    """A backbone with what to say and what to show.

    Args:
        backbone: UNet, autoencoder and schedule.
        positive, negative: text embeddings (1, L, D); the empty prompt's without them.
        guidance_scale: of classifier-free guidance; 1 leaves the negative pass out.
        controls: ControlNets, whose residuals add up; they act in both passes.
        prompts: text embeddings (1, L, D) of single frames by number, in place of `positive`.
    """

    def __init__(
        self,
        backbone: UNetBackbone,
        positive: torch.Tensor | None = None,
        negative: torch.Tensor | None = None,
        *,
        guidance_scale: float = 1.0,
        controls: Sequence[Control] = (),
        prompts: Mapping[int, torch.Tensor] | None = None,
    ):
        self.backbone, self.guidance_scale, self.controls = backbone, guidance_scale, tuple(controls)
        empty = backbone.encode_prompt("")
        self.positive = empty if positive is None else positive.to(empty)
        self.negative = empty if negative is None else negative.to(empty)
        self.prompts = {frame: embedding.to(empty) for frame, embedding in (prompts or {}).items()}
        self.name, self.recommended, self.multiple = backbone.name, backbone.recommended, backbone.multiple
        self.alphas_cumprod = backbone.alphas_cumprod

    @property
    def device(self) -> torch.device:
        """Where the UNet computes."""
        return self.backbone.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating point type of the UNet."""
        return self.backbone.dtype

    def size_of_layer(self, layer: int, latent_hw: tuple[int, int]) -> tuple[int, int]:
        """Token grid (h, w) of an attention layer for latents of a size."""
        return self.backbone.size_of_layer(layer, latent_hw)

    def posterior(self, images: torch.Tensor) -> LatentDistribution:
        """What the encoder says of images (N, 3, H, W) in [0, 1]. Raises: as `UNetBackbone.posterior`."""
        return self.backbone.posterior(images)

    def encode(self, images: torch.Tensor, /) -> torch.Tensor:
        """Latents (N, C, h, w), float32, of images (N, 3, H, W) in [0, 1]: the posterior's mode."""
        return self.backbone.encode(images)

    def decode(self, latents: torch.Tensor, /) -> torch.Tensor:
        """Images (N, 3, H, W) in [0, 1], float32, of latents (N, C, h, w)."""
        return self.backbone.decode(latents)

    @torch.no_grad()
    def guided_noise(
        self,
        latents: torch.Tensor,
        now: Pass,
        guidances: Sequence[Guidance] = (),
        features: Sequence[FeatureGuidance] = (),
        *,
        controlled: bool = True,
    ) -> torch.Tensor:
        """See `GuidedDenoiser.guided_noise`."""
        controls = self.controls if controlled else ()
        positive = torch.cat([self.prompts.get(frame, self.positive) for frame in now.frames])
        eps = self._pass(latents, replace(now, conditional=True), positive, guidances, features, controls)
        if self.guidance_scale == 1:
            return eps
        negative = self.negative.expand(len(latents), -1, -1)
        without = self._pass(latents, replace(now, conditional=False), negative, guidances, features, controls)
        return without + self.guidance_scale * (eps - without)

    def _pass(
        self,
        latents: torch.Tensor,
        now: Pass,
        context: torch.Tensor,
        guidances: Sequence[Guidance],
        features: Sequence[FeatureGuidance],
        controls: Sequence[Control],
    ) -> torch.Tensor:
        residuals: Residuals | None = None
        for control in controls:
            if control.acts(now.timestep, len(self.alphas_cumprod)):
                more = control.residuals(latents.to(self.dtype), now.timestep, context, now.frames)
                residuals = more if residuals is None else residuals.plus(more)
        with self._features_guided(features, now):
            hook = GuidedPass(guidances, now) if guidances else None
            return self.backbone.predict_noise(latents, now.timestep, context, hook, residuals)

    @contextmanager
    def _features_guided(self, features: Sequence[FeatureGuidance], now: Pass) -> Iterator[None]:
        """Within the block, features that enter a level go through their guidances."""
        with ExitStack() as hooks:
            for level in LEVELS:
                if any(guidance.acts(level, now.step) for guidance in features):
                    block = self.backbone.unet.up_blocks[level]
                    handle = block.register_forward_pre_hook(_guiding(features, now, level), with_kwargs=True)
                    hooks.callback(handle.remove)
            yield


def _guiding(features: Sequence[FeatureGuidance], now: Pass, level: int) -> Any:
    def guide(_block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (guide_features(features, now, level, args[0]), *args[1:]), kwargs
        changed = guide_features(features, now, level, kwargs["hidden_states"])
        return args, kwargs | {"hidden_states": changed}

    return guide


if TYPE_CHECKING:
    _surface: type[GuidedDenoiser] = GuidedUNet
