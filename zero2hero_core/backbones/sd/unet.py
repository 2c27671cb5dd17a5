"""Stable Diffusion UNets (SD 1.5 and 2.1 layouts, and the bundled tiny one) behind the small call surface that the
stages use.

The only thing done to the model is an attention processor on the first self-attention of each decoder transformer: it
hands query, key and value to a hook `(layer, query, key, value) -> output` when one is given, and is the stock
attention otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from ...attention.guidance import plain_attention
from ...attention.protocol import ALL, AttentionHook, HookSlot
from ...checks import InputError, check_images, check_range
from ..surface import LatentDistribution, UNetSurface
from .controlnet import Residuals


class HookedAttention:
    """Attention processor of one decoder layer (diffusers calls it with the module and its input)."""

    def __init__(self, layer: int, slot: HookSlot):
        self.layer, self.slot = layer, slot

    def __call__(
        self, attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None, **_: Any
    ) -> torch.Tensor:
        """Self-attention of hidden states (B, N, C)."""
        hook = self.slot.hook
        needs = ALL if hook is None else hook.needs(self.layer)

        def heads(name: str, linear: torch.nn.Module) -> torch.Tensor | None:
            if name not in needs:
                return None
            split: torch.Tensor = linear(hidden_states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            return split

        query, key, value = heads("query", attn.to_q), heads("key", attn.to_k), heads("value", attn.to_v)
        if hook is None:
            out = plain_attention(self.layer, query, key, value)
        else:
            out = hook(self.layer, query, key, value)
        out = out.transpose(1, 2).flatten(2).to(hidden_states.dtype)
        projection: torch.Tensor = attn.to_out[1](attn.to_out[0](out))
        return projection


class _StopForward(Exception):
    """Ends a forward pass once the wanted module has been computed."""


def output_of(module: torch.nn.Module, run: Callable[[], Any]) -> torch.Tensor:
    """What `module` gives in the pass `run`, which ends there."""
    outputs: list[torch.Tensor] = []

    def stop(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
        outputs.append(output)
        raise _StopForward

    handle = module.register_forward_hook(stop)
    try:
        run()
    except _StopForward:
        pass
    finally:
        handle.remove()
    return outputs[0]


def decoder_attentions(unet: Any) -> dict[int, Any]:
    """First self-attention of each decoder transformer, by layer number (3 * up block + position; paper's layers 3 to
    11).

    Raises: InputError when the UNet is not of the SD 1.x / 2.x layout.
    """
    blocks = unet.up_blocks
    if len(blocks) != 4 or any(len(getattr(block, "attentions", ())) != 3 for block in blocks[1:]):
        raise InputError(
            "UNet: expected SD 1.5 / 2.1 layout (four up blocks, three attentions in each of the last three), "
            f"got {len(blocks)} up blocks; choose a Stable Diffusion 1.5 or 2.1 model."
        )
    return {
        3 * index + place: attention.transformer_blocks[0].attn1
        for index, block in enumerate(blocks)
        if index
        for place, attention in enumerate(block.attentions)
    }


class Posterior:
    """Latent distribution of images; what it gives is scaled for the UNet and float32 (N, C, h, w)."""

    def __init__(self, distribution: Any, scaling_factor: float):
        self._distribution, self._scale = distribution, scaling_factor

    def mode(self) -> torch.Tensor:
        """The most likely latents."""
        latents: torch.Tensor = self._distribution.mode().float() * self._scale
        return latents

    def sample(self, generator: torch.Generator) -> torch.Tensor:
        """One random draw."""
        latents: torch.Tensor = self._distribution.sample(generator).float() * self._scale
        return latents


class UNetCalls:
    """The calls of a UNet backbone that are alike whoever runs UNet and autoencoder (diffusers here, or a host)."""

    alphas_cumprod: torch.Tensor

    def posterior(self, images: torch.Tensor) -> LatentDistribution:
        """What the encoder says of images (N, 3, H, W) in [0, 1]."""
        raise NotImplementedError

    def size_of_layer(self, layer: int, latent_hw: tuple[int, int]) -> tuple[int, int]:
        """Token grid (h, w) of an attention layer for latents of a size."""
        shrink = 2 ** (3 - layer // 3)
        return latent_hw[0] // shrink, latent_hw[1] // shrink

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Latents (N, C, h, w), float32, of images (N, 3, H, W) in [0, 1]: the posterior's mode."""
        return self.posterior(images).mode()

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timestep: int) -> torch.Tensor:
        """Forward diffusion of latents to a timestep."""
        alpha = self.alphas_cumprod[timestep]
        return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise


class UNetBackbone(UNetCalls):
    """A UNet, its autoencoder and its noise schedule.

    Args:
        unet: diffusers `UNet2DConditionModel` of the SD layout.
        vae: diffusers `AutoencoderKL` or an object with its `encode` / `decode`.
        prediction_type: "epsilon" or "v_prediction".
        alphas_cumprod: (T,), the training schedule.
        empty_embedding: text embedding of the empty prompt, (1, L, D).
        scaling_factor: latents = posterior x scaling_factor.
        prompt_encoder: prompt -> (1, L, D), or None where only the empty prompt is at hand.
        name: shown in reports.
        recommended: settings that suit this model better than the paper's (`timestep`, `block`, `ensemble`,
            `adain_start`, `track`).
    """

    def __init__(
        self,
        unet: Any,
        vae: Any,
        *,
        prediction_type: str,
        alphas_cumprod: torch.Tensor,
        empty_embedding: torch.Tensor,
        scaling_factor: float,
        prompt_encoder: Callable[[str], torch.Tensor] | None = None,
        name: str = "unet",
        recommended: Mapping[str, Any] | None = None,
    ):
        if prediction_type not in ("epsilon", "v_prediction"):
            raise InputError(f'prediction_type: expected "epsilon" or "v_prediction", got "{prediction_type}".')
        self.unet, self.vae, self.prediction_type, self.name = unet, vae, prediction_type, name
        self.alphas_cumprod = alphas_cumprod.float().cpu()
        self.empty_embedding, self.scaling_factor = empty_embedding, scaling_factor
        self.prompt_encoder, self.recommended = prompt_encoder, recommended or {}
        self.layers = decoder_attentions(unet)
        processor = next(iter(self.layers.values())).processor  # a second backbone of the same UNet shares its slot
        self._slot = processor.slot if isinstance(processor, HookedAttention) else HookSlot()
        for layer, attention in self.layers.items():
            attention.set_processor(HookedAttention(layer, self._slot))

    @property
    def device(self) -> torch.device:
        """Where the UNet computes."""
        device: torch.device = next(self.unet.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Floating point type of the UNet."""
        dtype: torch.dtype = next(self.unet.parameters()).dtype
        return dtype

    @property
    def factor(self) -> int:
        """Pixels per latent cell (8 for SD)."""
        config = self.vae.config
        channels = getattr(config, "block_out_channels", None)
        return 2 ** (len(channels) - 1) if channels else int(config.factor)

    @property
    def multiple(self) -> int:
        """Frame sides must be multiples of this: the latent cell times the UNet's three halvings."""
        return self.factor << (len(self.unet.up_blocks) - 1)

    def encode_prompt(self, prompt: str) -> torch.Tensor:
        """Text embedding (1, L, D).

        Raises: InputError for a prompt where no text encoder or tokenizer is loaded.
        """
        if not prompt:
            return self.empty_embedding.to(self.device, self.dtype)
        if self.prompt_encoder is None:
            raise InputError(
                f'prompt: model "{self.name}" holds the empty prompt only; leave the prompt out '
                "or load a model with a text encoder."
            )
        return self.prompt_encoder(prompt).to(self.device, self.dtype)

    @torch.no_grad()
    def posterior(self, images: torch.Tensor) -> Posterior:
        """What the encoder says of images (N, 3, H, W) in [0, 1].

        Raises: InputError when the sides are no multiples of `multiple`.
        """
        check_images("images", images)
        if any(side % self.multiple for side in images.shape[-2:]):
            raise InputError(
                f"images: expected sides that are multiples of {self.multiple} for this model, "
                f"got {images.shape[-1]} x {images.shape[-2]}; resize or pad them."
            )
        distribution = self.vae.encode((images * 2 - 1).to(self.device, self.vae.dtype)).latent_dist
        return Posterior(distribution, self.scaling_factor)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) in [0, 1], float32, of latents (N, C, h, w)."""
        pictures: torch.Tensor = self.vae.decode((latents / self.scaling_factor).to(self.vae.dtype)).sample
        return (pictures.float() / 2 + 0.5).clamp(0, 1)

    @contextmanager
    def hooked(self, hook: AttentionHook | None) -> Iterator[None]:
        """Within the block every pass of the UNet goes through `hook`."""
        before, self._slot.hook = self._slot.hook, hook
        try:
            yield
        finally:
            self._slot.hook = before

    @torch.no_grad()
    def predict_noise(
        self,
        latents: torch.Tensor,
        timestep: int,
        context: torch.Tensor,
        hook: AttentionHook | None = None,
        residuals: Residuals | None = None,
    ) -> torch.Tensor:
        """Noise (B, C, h, w), float32, in `latents` at a training timestep 0..T-1.

        The sampler computes in float32 whatever the UNet computes in. `context` (1, L, D) is shared by the batch, or
        (B, L, D). residuals: of ControlNets.
        """
        more: dict[str, Any] = {}
        if residuals is not None:
            more = {
                "down_block_additional_residuals": residuals.down,
                "mid_block_additional_residual": residuals.middle,
            }
        with self.hooked(hook):
            inputs = latents.to(self.dtype)
            result = self.unet(inputs, timestep, context.expand(latents.shape[0], -1, -1), **more)
            out: torch.Tensor = result.sample.float()
        if self.prediction_type == "epsilon":
            return out
        alpha = self.alphas_cumprod[timestep]
        return alpha.sqrt() * out + (1 - alpha).sqrt() * latents

    @torch.no_grad()
    def features(self, latents: torch.Tensor, timestep: int, context: torch.Tensor, block: int) -> torch.Tensor:
        """Output (B, C', h', w') of decoder block `block` (0..3) for noisy latents; what comes after the block is not
        computed."""
        check_range("block", block, 0, len(self.unet.up_blocks) - 1)
        return output_of(
            self.unet.up_blocks[block],
            lambda: self.unet(latents.to(self.dtype), timestep, context.expand(latents.shape[0], -1, -1)),
        )


if TYPE_CHECKING:
    _surface: type[UNetSurface] = UNetBackbone
