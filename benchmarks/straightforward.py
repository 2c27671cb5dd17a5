"""Zero-Stage as the authors run it, written plainly: the other side of `zero_speed.py` and an oracle of `tests/parity`.

Follows arXiv 2505.23134 with the habits of the authors' implementation that cost time and change nothing in the result:
two samples a step (text and unconditional, guidance scale 0), a decode after every inversion and every sampling step,
Q, K and V of both images kept for all steps, the anchor's features again for every frame, the image encoded once per
noise draw, a loop over tokens for top-k, dense N x N float masks, one frame at a time. As in theirs, the feature pass
ends after the wanted block, and the attention that is going to be replaced is computed first and thrown away.
Differs, in its own favour: their hooks also run one dense attention per layer and step only to read Q, K and V, and
they deep-copy all that was stored; both are left out here.

The autoencoder is any object with encode(images, generator=None) -> latents and decode(latents) -> images, images
(N, 3, H, W) in [0, 1] and latents scaled for the UNet: a `UNetBackbone` of this package, or `DiffusersCodec`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

# (layer, timestep) -> query, key, value, each (2 * heads, N, d)
Bank = dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]]


class Codec(Protocol):
    """What is needed of an autoencoder."""

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...


class DiffusersCodec:
    """An AutoencoderKL of diffusers behind the surface above."""

    def __init__(self, vae: Any) -> None:
        self.vae = vae

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the posterior's mode, or a sample with a generator, times the scaling factor."""
        posterior = self.vae.encode(images * 2 - 1).latent_dist
        latents = posterior.mode() if generator is None else posterior.sample(generator)
        return latents * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Return images clamped to [0, 1]."""
        return (self.vae.decode(latents / self.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)


def ddim_timesteps(num_inference_steps: int) -> list[int]:
    """Return the schedule, last timestep first: leading spacing with offset 1, over 1000 training timesteps."""
    return [i * (1000 // num_inference_steps) + 1 for i in reversed(range(num_inference_steps))]


class DecoderAttention:
    """Stores or replaces the nine decoder self-attentions (layers 3 to 11) by forward hooks; a context manager."""

    def __init__(self, unet: Any) -> None:
        self.unet = unet
        self.timestep = 0
        self.store: Bank | None = None
        self.replace: Callable[[int, Any, Tensor, Tensor], Tensor] | None = None

    def __enter__(self) -> DecoderAttention:
        self.handles = []
        for layer in range(3, 12):
            attention = self.unet.up_blocks[layer // 3].attentions[layer % 3].transformer_blocks[0].attn1
            self.handles.append(attention.register_forward_hook(self._hook(layer)))
        return self

    def __exit__(self, *exc_info: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _hook(self, layer: int) -> Callable[[Any, tuple[Tensor, ...], Tensor], Tensor | None]:
        def hook(attn: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            hidden_states = inputs[0]
            if self.store is not None:
                projections = (attn.to_q, attn.to_k, attn.to_v)
                query, key, value = (attn.head_to_batch_dim(project(hidden_states)) for project in projections)
                self.store[layer, self.timestep] = (query, key, value)
            if self.replace is None:
                return None
            return self.replace(layer, attn, hidden_states, attn.head_to_batch_dim(attn.to_q(hidden_states)))

        return hook


def masked_attention(attn: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, tau: float) -> Tensor:
    """Return softmax(tau q k^T / sqrt(d) + 100 M) v after the output projection; mask (1, N, N) of 0 and 1."""
    scores = torch.baddbmm(mask, query * tau, key.transpose(-1, -2), beta=100.0, alpha=attn.scale)
    hidden_states = attn.batch_to_head_dim(torch.bmm(scores.softmax(dim=-1), value))
    return attn.to_out[1](attn.to_out[0](hidden_states))


class _FeaturesReady(Exception):
    """Ends a feature pass after the wanted block."""


def block_features(unet: Any, latents: Tensor, timestep: int, context: Tensor, block: int) -> Tensor:
    """Return the output of up block `block`, shape (B, C, h, w); what comes after the block is not computed."""
    found: list[Tensor] = []

    def leave(module: Any, inputs: Any, output: Tensor) -> None:
        found.append(output)
        raise _FeaturesReady

    handle = unet.up_blocks[block].register_forward_hook(leave)
    try:
        unet(latents, timestep, encoder_hidden_states=context)
    except _FeaturesReady:
        pass
    finally:
        handle.remove()
    return found[0]


def topk_mask(target: Tensor, anchor: Tensor, k: int) -> Tensor:
    """Return the dense mask (1, N, N), made token by token: row i is 1 at the k anchor tokens most like target token i.

    Args:
        target, anchor: features, shape (1, C, h, w).
        k: tokens kept per row.
    """
    target_vectors = target.flatten(2)[0]
    anchor_vectors = F.normalize(anchor.flatten(2), dim=1)[0]
    mask = torch.zeros(1, target_vectors.shape[1], anchor_vectors.shape[1])
    for token in range(target_vectors.shape[1]):
        cosine = F.normalize(target_vectors[:, token], dim=0) @ anchor_vectors
        row = torch.zeros_like(cosine)
        row[torch.topk(cosine, k).indices] = 1
        mask[0, token] = row.cpu()
    return mask


def three_level_masks(target: Tensor, anchor: Tensor, k: int) -> list[Tensor]:
    """Return masks of the features' grid, of half and of double it: k, max(k // 4, 1), 4k tokens a row; -1 for all."""
    if k == -1:
        k = anchor.shape[2] * anchor.shape[3]
    masks = [topk_mask(target, anchor, k)]
    for scale, level_k in ((0.5, max(k // 4, 1)), (2, 4 * k)):
        size = (int(target.shape[2] * scale), int(target.shape[3] * scale))
        level = [F.interpolate(features, size=size, mode="bilinear") for features in (target, anchor)]
        masks.append(topk_mask(level[0], level[1], level_k))
    return masks


class Straightforward:
    """The procedure on one model: inversion, features and sampling of one image at a time.

    Args:
        unet: UNet2DConditionModel with epsilon prediction and Stable Diffusion's four-level layout.
        codec: see the module's text.
        empty_embedding: embedding of the empty prompt, shape (1, L, D).
        alphas_cumprod: shape (1000,).
        num_inference_steps: of inversion and of sampling.
    """

    def __init__(
        self, unet: Any, codec: Codec, empty_embedding: Tensor, alphas_cumprod: Tensor, num_inference_steps: int
    ) -> None:
        self.unet, self.codec, self.alphas = unet, codec, alphas_cumprod
        self.text_and_empty = torch.cat([empty_embedding, empty_embedding])  # both prompts are empty
        self.empty_embedding = empty_embedding
        self.timesteps = ddim_timesteps(num_inference_steps)
        self.stride = 1000 // num_inference_steps

    def _noise(self, latents: Tensor, timestep: int) -> Tensor:
        """Return the guided noise of two equal samples, with guidance scale 0: the second one's."""
        both = torch.cat([latents, latents])
        text, empty = self.unet(both, timestep, encoder_hidden_states=self.text_and_empty).sample.chunk(2)
        return empty + 0.0 * (text - empty)

    def invert(self, latents: Tensor) -> tuple[list[Tensor], Bank]:
        """Return the latents after every DDIM inversion step, and Q, K, V of the decoder; latents (1, C, h, w)."""
        bank: Bank = {}
        states = []
        with DecoderAttention(self.unet) as attention:
            attention.store = bank
            for timestep in reversed(self.timesteps):
                attention.timestep = timestep
                eps = self._noise(latents, timestep)
                source, destination = self.alphas[max(0, timestep - self.stride)], self.alphas[timestep]
                clean = (latents - (1 - source).sqrt() * eps) / source.sqrt()
                latents = destination.sqrt() * clean + (1 - destination).sqrt() * eps
                states.append(latents)
                self.codec.decode(latents)
        return states, bank

    def features(self, image: Tensor, timestep: int, block: int, ensemble: int, generator: torch.Generator) -> Tensor:
        """Return the mean over noise draws of the features of one image (1, 3, H, W); shape (1, C, h, w)."""
        latents = self.codec.encode(image.repeat(ensemble, 1, 1, 1), generator)
        noise = torch.randn(latents.shape, generator=generator, device=latents.device)
        alpha = self.alphas[timestep]
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        context = self.empty_embedding.repeat(ensemble, 1, 1)
        return block_features(self.unet, noisy, timestep, context, block).mean(0, keepdim=True)

    def sample(
        self, latents: Tensor, target: Bank, reference: Bank, masks: list[Tensor], gamma: float, tau: float
    ) -> tuple[Tensor, Tensor]:
        """Return the clean latents that the last step predicts, and their image.

        Args:
            latents: start, shape (1, C, h, w).
            target, reference: what `invert` stored of the frame and of the reference.
            masks: of `three_level_masks`; each layer takes the one with as many rows as it has tokens.
            gamma: share of the frame's stored queries, 0 to 1.
            tau: factor on the scores.
        """
        by_tokens = {mask.shape[1]: mask.to(latents) for mask in masks}

        def replace(layer: int, attn: Any, hidden_states: Tensor, query: Tensor) -> Tensor:
            stored_query = target[layer, attention.timestep][0]
            _, key, value = reference[layer, attention.timestep]
            mixed = gamma * stored_query + (1 - gamma) * query
            return masked_attention(attn, mixed, key, value, by_tokens[query.shape[1]], tau)

        with DecoderAttention(self.unet) as attention:
            attention.replace = replace
            for timestep in self.timesteps:
                attention.timestep = timestep
                eps = self._noise(latents, timestep)
                here, there = self.alphas[timestep], self.alphas[max(0, timestep - self.stride)]
                clean = (latents - (1 - here).sqrt() * eps) / here.sqrt()
                latents = there.sqrt() * clean + (1 - there).sqrt() * eps
                image = self.codec.decode(clean)
        return clean, image


def adain(latents: Tensor, reference: Tensor) -> Tensor:
    """Return latents with the reference's mean and (unbiased) standard deviation per channel; both (1, C, h, w)."""
    mean, std = latents.mean((2, 3), keepdim=True), latents.std((2, 3), keepdim=True)
    return (latents - mean) / (std + 1e-4) * reference.std((2, 3), keepdim=True) + reference.mean((2, 3), keepdim=True)


class PartTimer:
    """Adds up wall-clock seconds under names."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a with-block; waits for the GPU where there is one."""
        begin = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds[name] += time.perf_counter() - begin


@torch.no_grad()
def run_straightforward(
    unet: Any,
    vae: Codec,
    empty_embedding: Tensor,
    alphas_cumprod: Tensor,
    frames: Tensor,
    anchor_index: int,
    reference: Tensor,
    *,
    num_inference_steps: int,
    k: int,
    seed: int,
    timestep: int = 261,
    block: int = 1,
    ensemble: int = 8,
    gamma: float = 1.0,
    tau: float = 1.0,
) -> tuple[Tensor, dict[str, float]]:
    """Return the frames in the look of the reference, and the seconds of each part (decodes counted where they happen).

    Source: arXiv 2505.23134, Zero-Stage, as described in the module's text.
    Args:
        unet, vae, empty_embedding, alphas_cumprod: as for `Straightforward`.
        frames: (N, 3, H, W) in [0, 1]; H and W as the UNet's levels need them (SD: multiples of 64).
        anchor_index: the frame that was edited.
        reference: its edit, (1, 3, H, W).
        num_inference_steps, k, seed, timestep, block, ensemble, gamma, tau: settings; k = -1 for all tokens.
    """
    model = Straightforward(unet, vae, empty_embedding, alphas_cumprod, num_inference_steps)
    generator = torch.Generator(frames.device).manual_seed(seed)
    timer = PartTimer()
    with timer.part("reference inversion"):
        reference_states, reference_bank = model.invert(vae.encode(reference))
    images = []
    for frame in frames.split(1):
        with timer.part("inversion"):
            states, bank = model.invert(vae.encode(frame))
        with timer.part("features"):
            target = model.features(frame, timestep, block, ensemble, generator)
            anchor = model.features(frames[anchor_index : anchor_index + 1], timestep, block, ensemble, generator)
        with timer.part("masks"):
            masks = three_level_masks(target, anchor, k)
        with timer.part("sampling"):
            start = adain(states[-1], reference_states[-1])
            images.append(model.sample(start, bank, reference_bank, masks, gamma, tau)[1])
    return torch.cat(images), dict(timer.seconds)
