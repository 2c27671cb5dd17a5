"""The host's MODEL, VAE and CONDITIONING as the backbone of Zero-Stage: `backbones.surface.UNetSurface` over native
objects.

LoRA, precision and offloading of the host apply, because the weights are loaded and run by the host. Attention is read
and replaced through attn1 patches on a clone of the MODEL; the MODEL itself stays as it is. What the host attaches to
sampling as a whole (wrappers of its samplers, hooks and ControlNets in the CONDITIONING) has no place in an inversion
and is not run.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import comfy.ldm.modules.attention as attention
import comfy.model_management as model_management
import torch

from ...zero2hero_core.attention.protocol import AttentionHook, HookSlot
from ...zero2hero_core.backbones.sd.unet import UNetCalls, output_of
from ...zero2hero_core.backbones.surface import UNetSurface
from ...zero2hero_core.checks import InputError, check_images, check_range
from ..convert.checks import check_vae
from .services import check_cancel, compute_dtype
from .unet_checks import LAYERS, check_model, check_sides, read_context, transformer_of

ATTACHMENT = "zero2hero"  # what a MODEL of ours carries along: {"name": ..., "recommended": {...}}


class HostPosterior:
    """Latent distribution of images, scaled for the UNet, float32 (N, C, h, w); a point where `spread` is None."""

    def __init__(self, mean: torch.Tensor, spread: torch.Tensor | None) -> None:
        self._mean, self._spread = mean, spread

    def mode(self) -> torch.Tensor:
        """The most likely latents."""
        return self._mean

    def sample(self, generator: torch.Generator) -> torch.Tensor:
        """One random draw."""
        if self._spread is None:
            return self._mean
        noise = torch.randn(self._mean.shape, generator=generator, device=generator.device)
        return self._mean + self._spread * noise.to(self._mean)


class _Slot(HookSlot):
    """The host deep-copies patches when a MODEL is cloned: a copy would drag all that was captured along, so there is
    none."""

    def __deepcopy__(self, _memo: dict[int, Any]) -> _Slot:
        return self


class _HookedAttention:
    """attn1 replacement of one layer: hands query, key and value (B, N, heads * d) to the hook as (B, heads, N, d)."""

    def __init__(self, layer: int, slot: _Slot) -> None:
        self.layer, self.slot = layer, slot

    def __deepcopy__(self, _memo: dict[int, Any]) -> _HookedAttention:
        return self

    def __call__(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, extra: dict[str, Any]
    ) -> torch.Tensor:
        hook = self.slot.hook
        assert hook is not None  # this patch is not in the options of a pass without one
        needs = hook.needs(self.layer)

        def heads(name: str, tensor: torch.Tensor) -> torch.Tensor | None:
            return tensor.unflatten(-1, (extra["n_heads"], -1)).transpose(1, 2) if name in needs else None

        out = hook(self.layer, heads("query", query), heads("key", key), heads("value", value))
        return out.transpose(1, 2).flatten(2).to(value.dtype)


def _pytorch_attention(_function: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
    """What the host takes on a CPU unless it is told otherwise makes a pass twice as long as this."""
    return attention.attention_pytorch(*args, **kwargs)


class HostUNet(UNetCalls):
    """MODEL, VAE and CONDITIONING for Zero-Stage.

    Args:
        model, vae, conditioning: as they come from the host's sockets; the first entry of the conditioning is used.
        on_call: called after each pass of the UNet (progress).
        extra_memory: bytes that the caller will keep on the device beside the weights and one pass.
        socket: what messages call the conditioning.
    Raises: InputError, with the socket's name, for anything but SD 1.x / 2.x parts that belong together.
    """

    def __init__(
        self,
        model: Any,
        vae: Any,
        conditioning: Any,
        *,
        on_call: Callable[[], None] | None = None,
        extra_memory: int = 0,
        socket: str = "conditioning",
    ) -> None:
        check_model(model)
        check_vae(vae, model)
        self.vae, self.on_call, self.extra_memory = vae, on_call, extra_memory
        self.empty_embedding = read_context(conditioning, model, socket)
        self._slot = _Slot()
        self.model = model.clone()
        self._plain = self.model.model_options["transformer_options"]  # the next line puts another in its place
        for layer in LAYERS:
            self.model.set_model_attn1_replace(_HookedAttention(layer, self._slot), "output", layer, 0)
        self._sigmas = model.get_model_object("model_sampling").sigmas.float().cpu()
        self.alphas_cumprod = 1 / (self._sigmas**2 + 1)
        attachment = model.get_attachment(ATTACHMENT) or {}
        self.name, self.recommended = (
            attachment.get("name", type(model.model).__name__),
            attachment.get("recommended", {}),
        )
        self._ready = 0  # latent cells that the UNet is loaded for

    @property
    def device(self) -> torch.device:
        """Where the UNet computes."""
        device: torch.device = self.model.load_device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Floating point type that the UNet computes in."""
        return compute_dtype(self.model.model)

    @property
    def factor(self) -> int:
        """Pixels per latent cell (8 for SD)."""
        return int(self.vae.spacial_compression_encode())

    @property
    def multiple(self) -> int:
        """Frame sides must be multiples of this: the latent cell times the UNet's three halvings."""
        return self.factor * 8

    def widths(self) -> dict[int, int]:
        """Channels of each attention layer."""
        blocks = self.model.model.diffusion_model.output_blocks
        return {layer: transformer_of(blocks[layer]).transformer_blocks[0].attn1.to_q.out_features for layer in LAYERS}

    def encode_prompt(self, prompt: str) -> torch.Tensor:
        """The text embedding of the CONDITIONING (1, L, D); there is no other."""
        if prompt:
            raise InputError("prompt: encode it with the host's CLIP Text Encode and connect it to `conditioning`.")
        return self.empty_embedding.to(self.device)

    @torch.no_grad()
    def posterior(self, images: torch.Tensor) -> HostPosterior:
        """What the VAE says of images (N, 3, H, W) in [0, 1]."""
        check_images("frames", images)
        check_sides("frames", images, self.multiple)
        self._ready = 0  # the VAE may have pushed the UNet out
        check_cancel()
        moments: list[torch.Tensor] = []
        gaussian = getattr(self.vae.first_stage_model, "regularization", None)
        handle = gaussian and gaussian.register_forward_pre_hook(lambda _, inputs: moments.append(inputs[0].float()))
        try:
            latents = self.vae.encode(images.movedim(1, -1))
        finally:
            if handle:
                handle.remove()
        mean = self._scale(latents)
        if sum(len(one) for one in moments) != len(images) or moments[0].shape[1] != 2 * mean.shape[1]:
            return HostPosterior(mean, None)  # no distribution, or encoded in tiles for want of memory
        log_variance = torch.cat(moments).chunk(2, 1)[1].clamp(-30, 20)
        return HostPosterior(mean, self._scale((log_variance / 2).exp()))

    def _scale(self, latents: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = self.model.model.latent_format.process_in(latents.float().to(self.device))
        return values

    def vae_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents as the host's LATENT holds them: not scaled for the UNet."""
        values: torch.Tensor = self.model.model.latent_format.process_out(latents)
        return values

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) in [0, 1], float32, of latents (N, C, h, w)."""
        check_cancel()
        self._ready = 0
        images: torch.Tensor = self.vae.decode(self.vae_latents(latents)).movedim(-1, 1)
        return images

    def _load(self, latents: torch.Tensor) -> None:
        cells = latents.shape[0] * latents.shape[-2] * latents.shape[-1]
        if cells > self._ready:
            memory = self.model.memory_required(list(latents.shape)) + self.extra_memory
            model_management.load_models_gpu([self.model], memory_required=memory)
            self._ready = cells

    def _denoise(
        self, latents: torch.Tensor, timestep: int, context: torch.Tensor, hook: AttentionHook | None = None
    ) -> torch.Tensor:
        """The host's pass: latents of unit variance in, the prediction of the noise-free latents at the host's scale
        out."""
        check_cancel()
        self._load(latents)
        sigma = self._sigmas[timestep].to(latents)
        options = dict(self._plain if hook is None else self.model.model_options["transformer_options"])
        batch = latents.shape[0]
        if self.device.type == "cpu" and attention.optimized_attention is attention.attention_sub_quad:
            options.setdefault("optimized_attention_override", _pytorch_attention)
        options |= {"cond_or_uncond": [0], "uuids": [uuid.UUID(int=0)], "sigmas": sigma.expand(batch)}
        self._slot.hook = hook
        try:
            inputs = latents * (sigma**2 + 1).sqrt()
            context = context.expand(batch, -1, -1)
            clean: torch.Tensor = self.model.model.apply_model(
                inputs, sigma.expand(batch), c_crossattn=context, transformer_options=options
            )
            return clean
        finally:
            self._slot.hook = None

    def _tell_call(self) -> None:
        if self.on_call is not None:
            self.on_call()

    @torch.no_grad()
    def predict_noise(
        self, latents: torch.Tensor, timestep: int, context: torch.Tensor, hook: AttentionHook | None = None
    ) -> torch.Tensor:
        """Noise (B, C, h, w), float32, in `latents` at a training timestep 0..T-1, whatever the MODEL predicts.

        `context` (1, L, D) is shared by the batch. `hook`: see `zero2hero_core.attention.protocol.AttentionHook`.
        """
        latents = latents.float()
        sigma: torch.Tensor = self._sigmas[timestep].to(latents)
        clean = self._denoise(latents, timestep, context, hook)
        self._tell_call()
        return (latents * (sigma**2 + 1).sqrt() - clean) / sigma

    @torch.no_grad()
    def features(self, latents: torch.Tensor, timestep: int, context: torch.Tensor, block: int) -> torch.Tensor:
        """Output (B, C', h', w') of decoder block `block` (0..3) for noisy latents; what comes after the block is not
        computed."""
        check_range("block", block, 0, 3)
        # On the block's last layer: the host calls the layers one by one, so a hook on the block would never fire.
        last = self.model.model.diffusion_model.output_blocks[3 * block + 2][-1]
        output = output_of(last, lambda: self._denoise(latents.float(), timestep, context))
        self._tell_call()
        return output


if TYPE_CHECKING:
    _surface: type[UNetSurface] = HostUNet
