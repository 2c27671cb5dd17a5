"""Zero-Stage as the authors run it, written plainly: the other side of `zero_speed.py` and an oracle of `tests/parity`.

Follows arXiv 2505.23134 with the habits of the authors' implementation that cost time and change nothing in the result:
two samples a step (text and unconditional, guidance scale 0), a decode after every inversion and every sampling step,
Q, K and V of both images kept for all steps, the anchor's features again for every frame, the image encoded once per
noise draw, a loop over tokens for top-k, dense N x N float masks, one frame at a time. As in theirs, the feature pass
ends after the wanted block, and the attention that is going to be replaced is computed first and thrown away. Draws are
those of `ZeroStage.features`, so that the two can be compared number by number.
Differs, in its own favour: their hooks also run one dense attention per layer and step only to read Q, K and V, and
they deep-copy all that was stored; both are left out here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ...stopwatch import Stopwatch
from .straightforward_parts import Bank, DecoderAttention, block_features, masked_attention, three_level_masks


class Codec(Protocol):
    """What is needed of an autoencoder."""

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images (N, 3, H, W) in [0, 1] -> latents scaled for the UNet: the posterior's mode, or a sample where a
        generator is given."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> images (N, 3, H, W) in [0, 1]."""
        ...


@dataclass(frozen=True)
class PlainSettings:
    """Settings of a run, with the names and the meaning of `ZeroStageSettings`; k = -1 for all tokens."""

    num_inference_steps: int
    k: int = 1
    seed: int = 0
    timestep: int = 261
    block: int = 1
    ensemble: int = 8
    gamma: float = 1.0
    tau: float = 1.0


def ddim_timesteps(num_inference_steps: int) -> list[int]:
    """Return the schedule, last timestep first: leading spacing with offset 1, over 1000 training timesteps."""
    return [i * (1000 // num_inference_steps) + 1 for i in reversed(range(num_inference_steps))]


class Straightforward:
    """The procedure on one model: inversion, features and sampling of one image at a time.

    Args:
        unet: UNet2DConditionModel with epsilon prediction and Stable Diffusion's four-level layout.
        codec: see `Codec`.
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
        noise: torch.Tensor = empty + 0.0 * (text - empty)
        return noise

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
        noise = torch.randn(latents.shape, generator=generator).to(latents)
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


def _stream(seed: int, index: int) -> torch.Generator:
    """The random numbers of a frame, as `ZeroStage.features` draws them; the anchor's are the same every time."""
    return torch.Generator().manual_seed((seed * 1_000_003 + index) % 2**63)


@torch.no_grad()
def run_straightforward(
    unet: Any,
    codec: Codec,
    empty_embedding: Tensor,
    alphas_cumprod: Tensor,
    frames: Tensor,
    anchor_index: int,
    reference: Tensor,
    settings: PlainSettings,
    watch: Stopwatch | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Return the frames in the look of the reference, and the seconds of each part (decodes counted where they happen).

    Source: arXiv 2505.23134, Zero-Stage, as described in the module's text.
    Args:
        unet, codec, empty_embedding, alphas_cumprod: as for `Straightforward`.
        frames: (N, 3, H, W) in [0, 1]; H and W as the UNet's levels need them (SD: multiples of 64).
        anchor_index: the frame that was edited; reference: its edit, (1, 3, H, W).
        watch: counts the seconds; one on the wall when None.
    """
    model = Straightforward(unet, codec, empty_embedding, alphas_cumprod, settings.num_inference_steps)
    source = (settings.timestep, settings.block, settings.ensemble)
    watch = watch or Stopwatch(frames.device)
    with watch.part("reference inversion"):
        reference_states, reference_bank = model.invert(codec.encode(reference))
    images = []
    for index, frame in enumerate(frames.split(1)):
        with watch.part("inversion"):
            states, bank = model.invert(codec.encode(frame))
        with watch.part("features"):
            target = model.features(frame, *source, _stream(settings.seed, index))
            anchor = model.features(frames[anchor_index][None], *source, _stream(settings.seed, anchor_index))
        with watch.part("masks"):
            masks = three_level_masks(target, anchor, settings.k)
        with watch.part("sampling"):
            start = adain(states[-1], reference_states[-1])
            images.append(model.sample(start, bank, reference_bank, masks, settings.gamma, settings.tau)[1])
    return torch.cat(images), dict(watch.seconds)
