"""Diffusion transformers of the FLUX family behind the small call surface that Hero-Stage uses.

The model itself stays as it is; an attention processor on every attention layer hands query, key and value (after
normalisation and rotary embedding, text rows first) to a hook when one is given. Layers are numbered in the order in
which they run: double blocks, then single blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch

from ...attention.conditions import (
    Condition,
    ConditionCapture,
    ConditionInject,
    PassEnds,
    from_tokens,
    pack_latents,
    position_ids,
    to_tokens,
    unpack_latents,
)
from ...attention.protocol import AttentionHook, HookSlot
from ...diffusion.flow_matching import flux1_mu, flux2_mu
from ..surface import Family, LatentCodec, TextEmbedding, TrainableDiT
from .attention import attention_layers, install_hooks

__all__ = ["FLUX1", "FLUX2", "TINY", "DiTBackbone", "Family", "LatentCodec", "PlainCodec", "TextEmbedding"]


def _same_time(index: int) -> float:
    return 0.0


def _later_times(index: int) -> float:
    return 10.0 * (index + 1)


FLUX1 = Family("flux1", 3, _same_time, numbers_text=False, has_pooled=True, mu=flux1_mu)
FLUX2 = Family("flux2", 4, _later_times, numbers_text=True, has_pooled=False, mu=flux2_mu)
TINY = Family("tiny", 3, _later_times, numbers_text=False, has_pooled=True)


class DiTBackbone:
    """A FLUX transformer, its latent codec and its empty prompt.

    Args:
        transformer: diffusers `FluxTransformer2DModel` or `Flux2Transformer2DModel`.
        family: see `Family`.
        codec: pictures <-> packed latents; None when only latents are worked on.
        text: default text embedding.
        recommended: what suits the model where the user says nothing ("rank", "learning_rate", "draws", "steps",
            "num_inference_steps", "samples" ...).
    """

    multiple = 16  # sides of pictures: the autoencoder's cell of 8 pixels, packed 2 x 2

    def __init__(
        self,
        transformer: Any,
        family: Family,
        *,
        codec: LatentCodec | None = None,
        text: TextEmbedding,
        name: str = "",
        recommended: Mapping[str, Any] | None = None,
    ):
        self.transformer, self.family, self.text = transformer, family, text
        self.recommended = dict(recommended or {})
        self.name = name or family.name
        self._codec = codec
        self.slot: HookSlot = install_hooks(transformer)
        self.layers = attention_layers(transformer)

    @property
    def device(self) -> torch.device:
        """Where the transformer is."""
        device: torch.device = next(self.transformer.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Type that activations are computed in."""
        dtype: torch.dtype = self.transformer.x_embedder.weight.dtype
        return dtype

    @property
    def channels(self) -> int:
        """Channels C of packed latents."""
        channels: int = self.transformer.config.in_channels
        return channels

    @contextmanager
    def hooked(self, hook: AttentionHook | None) -> Iterator[None]:
        """Run passes with a hook on every attention layer."""
        before, self.slot.hook = self.slot.hook, hook
        try:
            yield
        finally:
            self.slot.hook = before

    def _run(
        self,
        packed: torch.Tensor,
        sigma: torch.Tensor,
        guidance: float | torch.Tensor,
        ids: torch.Tensor,
        text: TextEmbedding,
    ) -> torch.Tensor:
        """One pass: packed latents (N, C, h, w), sigma (N,) in [0, 1] -> velocity of the same shape, float32."""
        count, device, dtype = len(packed), self.device, self.dtype
        words = text.tokens.to(device, dtype).expand(count, -1, -1)
        text_ids = torch.zeros(words.shape[1], self.family.axes, device=device)
        if self.family.numbers_text:
            text_ids[:, -1] = torch.arange(words.shape[1], device=device)
        inputs: dict[str, Any] = {}
        if self.family.has_pooled:
            assert text.pooled is not None
            inputs["pooled_projections"] = text.pooled.to(device, dtype).expand(count, -1)
        if getattr(self.transformer.config, "guidance_embeds", False):
            inputs["guidance"] = torch.as_tensor(guidance, dtype=torch.float32, device=device).expand(count)
        out = self.transformer(
            hidden_states=to_tokens(packed.to(device, dtype)),
            encoder_hidden_states=words,
            timestep=sigma.to(device, torch.float32),
            img_ids=ids.to(device),
            txt_ids=text_ids,
            return_dict=False,
            **inputs,
        )[0]
        return from_tokens(out.float(), (packed.shape[2], packed.shape[3]))

    def condition(
        self,
        packed: torch.Tensor,
        index: int,
        noise_hw: tuple[int, int],
        *,
        guidance: float | torch.Tensor,
        text: TextEmbedding | None = None,
        strength: float = 1.0,
    ) -> Condition:
        """Condition pass `index` of images given as packed latents (N, C, h, w): timestep 0, attention to itself.

        The caller has that condition's LoRA switched on. Args: noise_hw: grid of the noisy latents.
        """
        source = text or self.text
        blank = TextEmbedding(source.tokens[:1, :1] * 0, source.pooled)  # the text stream goes unread here
        ids = position_ids(
            (packed.shape[2], packed.shape[3]),
            self.family.axes,
            like_hw=noise_hw,
            time=self.family.condition_times(index),
        )
        recomputes = self.transformer.gradient_checkpointing and torch.is_grad_enabled()  # must run to their ends
        hook = ConditionCapture(text_tokens=1, last=None if recomputes else len(self.layers) - 1)
        with self.hooked(hook), suppress(PassEnds):
            self._run(packed, torch.zeros(len(packed)), guidance, ids, blank)
        return Condition(hook.keys_values, strength)

    def velocity(
        self,
        packed: torch.Tensor,
        sigma: torch.Tensor,
        conditions: Sequence[Condition] = (),
        *,
        guidance: float | torch.Tensor,
        text: TextEmbedding | None = None,
    ) -> torch.Tensor:
        """Flow-matching velocity (noise - latents) of noisy packed latents, (N, C, h, w), float32.

        Args: sigma: (N,) in [0, 1]; conditions: what `condition` returned, in their order.
        """
        ids = position_ids((packed.shape[2], packed.shape[3]), self.family.axes)
        with self.hooked(ConditionInject(conditions) if conditions else None):
            return self._run(packed, sigma, guidance, ids, text or self.text)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) in [0, 1] -> packed latents (N, C, h, w), float32."""
        assert self._codec is not None
        return self._codec.encode(images)

    def decode(self, packed: torch.Tensor) -> torch.Tensor:
        """Packed latents -> images (N, 3, H, W) in [0, 1]."""
        assert self._codec is not None
        return self._codec.decode(packed)


if TYPE_CHECKING:
    _surface: type[TrainableDiT] = DiTBackbone


class PlainCodec:
    """Codec over an autoencoder with diffusers' surface: latents shifted, scaled and packed 2 x 2 (FLUX.1, tiny)."""

    def __init__(self, vae: Any, *, scaling_factor: float, shift_factor: float = 0.0):
        self.vae, self.scaling_factor, self.shift_factor = vae, scaling_factor, shift_factor

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Most likely latents of images (N, 3, H, W) in [0, 1], packed."""
        weight = next(self.vae.parameters())
        latents = self.vae.encode(images.to(weight) * 2 - 1).latent_dist.mode().float()
        return pack_latents((latents - self.shift_factor) * self.scaling_factor)

    @torch.no_grad()
    def decode(self, packed: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) in [0, 1], float32."""
        weight = next(self.vae.parameters())
        latents = unpack_latents(packed) / self.scaling_factor + self.shift_factor
        images: torch.Tensor = self.vae.decode(latents.to(weight)).sample.float()
        return (images / 2 + 0.5).clamp(0, 1)
