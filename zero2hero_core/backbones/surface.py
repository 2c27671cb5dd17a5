"""What a stage may ask of a model: protocols that the diffusers backbones and a host's native models both satisfy.

Pictures are (N, 3, H, W) in [0, 1]; latents (N, C, h, w) are float32, scaled for the model that works on them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from ..attention.conditions import Condition
from ..attention.features import FeatureGuidance
from ..attention.guidance import Guidance, Pass
from ..attention.protocol import AttentionHook, HookSlot


class LatentCodec(Protocol):
    """Pictures <-> the latents that a model works on; packed ones for a diffusion transformer."""

    def encode(self, images: torch.Tensor, /) -> torch.Tensor:
        """Images (N, 3, H, W) in [0, 1] -> latents (N, C, h, w), float32."""
        ...

    def decode(self, latents: torch.Tensor, /) -> torch.Tensor:
        """Latents -> images (N, 3, H, W) in [0, 1]."""
        ...


class ModelSurface(Protocol):
    """What every model tells and does."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    @property
    def recommended(self) -> Mapping[str, Any]:
        """Settings that suit this model where the user says nothing; empty where it advises none."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Floating point type that it computes in."""
        ...

    @property
    def multiple(self) -> int:
        """Sides of pictures must be multiples of this."""
        ...

    def encode(self, images: torch.Tensor, /) -> torch.Tensor:
        """Latents of images, the most likely ones; packed (N, C, h, w) for a diffusion transformer."""
        ...

    def decode(self, latents: torch.Tensor, /) -> torch.Tensor:
        """Images, float32, of latents."""
        ...


class LatentDistribution(Protocol):
    """What an encoder says of images."""

    def mode(self) -> torch.Tensor:
        """The most likely latents (N, C, h, w)."""
        ...

    def sample(self, generator: torch.Generator) -> torch.Tensor:
        """One random draw (N, C, h, w)."""
        ...


class UNetSurface(ModelSurface, Protocol):
    """A Stable Diffusion UNet with its autoencoder and noise schedule, as Zero-Stage uses it."""

    @property
    def alphas_cumprod(self) -> torch.Tensor:
        """Training schedule (T,), float32, on the CPU."""
        ...

    def size_of_layer(self, layer: int, latent_hw: tuple[int, int]) -> tuple[int, int]:
        """Token grid (h, w) of an attention layer (3 to 11) for latents of a size."""
        ...

    def encode_prompt(self, prompt: str) -> torch.Tensor:
        """Text embedding (1, L, D). Raises: InputError for a prompt that this model cannot encode."""
        ...

    def posterior(self, images: torch.Tensor) -> LatentDistribution:
        """What the encoder says of images. Raises: InputError when the sides are no multiples of `multiple`."""
        ...

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timestep: int) -> torch.Tensor:
        """Forward diffusion of latents to a training timestep 0..T-1."""
        ...

    def predict_noise(
        self, latents: torch.Tensor, timestep: int, context: torch.Tensor, hook: AttentionHook | None = None
    ) -> torch.Tensor:
        """Noise (B, C, h, w), float32, in latents at a timestep, for a text (1, L, D) that the batch shares.

        `hook` decides what decoder self-attention gives in this pass.
        """
        ...

    def features(self, latents: torch.Tensor, timestep: int, context: torch.Tensor, block: int) -> torch.Tensor:
        """Output (B, C', h', w') of decoder block 0..3 for noisy latents."""
        ...


class GuidedDenoiser(ModelSurface, Protocol):
    """A Stable Diffusion UNet with its prompts and ControlNets, as text-guided stages paint frames with it.

    It knows what to say and what to show of every frame of the clip by the frame's number.
    """

    @property
    def alphas_cumprod(self) -> torch.Tensor:
        """Training schedule (T,), float32, on the CPU."""
        ...

    def size_of_layer(self, layer: int, latent_hw: tuple[int, int]) -> tuple[int, int]:
        """Token grid (h, w) of an attention layer (3 to 11) for latents of a size."""
        ...

    def posterior(self, images: torch.Tensor) -> LatentDistribution:
        """What the encoder says of images. Raises: InputError when the sides are no multiples of `multiple`."""
        ...

    def guided_noise(
        self,
        latents: torch.Tensor,
        now: Pass,
        guidances: Sequence[Guidance] = (),
        features: Sequence[FeatureGuidance] = (),
        *,
        controlled: bool = True,
    ) -> torch.Tensor:
        """Noise (B, C, h, w), float32, in latents of the frames `now.frames`, after classifier-free guidance.

        Guidances are called for the pass with the prompt and for that with the negative one, which
        `Pass.conditional` tells apart. controlled: False leaves the ControlNets out.
        """
        ...


@dataclass(frozen=True)
class TextEmbedding:
    """What the text encoders gave: tokens (1 or B, T, D), and pooled (1 or B, P) where the family has it."""

    tokens: torch.Tensor
    pooled: torch.Tensor | None = None


@dataclass(frozen=True)
class Family:
    """What differs between the families of diffusion transformers.

    condition_times: value of the time axis in the position ids of condition 0, 1, ...: 0 as the noise tokens for
    FLUX.1 (authors' choice); FLUX.2 was trained with reference images at 10, 20, ...
    numbers_text: FLUX.2 numbers text tokens on the last axis; FLUX.1 leaves them at 0.
    mu: shift of the sampling noise levels from the number of noise tokens and of steps; None for none.
    """

    name: str
    axes: int
    condition_times: Callable[[int], float]
    numbers_text: bool
    has_pooled: bool
    mu: Callable[[int, int], float] | None = None


class DiTSurface(ModelSurface, Protocol):
    """A diffusion transformer with its latent codec and default text, as Hero-Stage restores with it."""

    @property
    def family(self) -> Family:
        """What it shares with the models of its kind."""
        ...

    @property
    def channels(self) -> int:
        """Channels C of packed latents."""
        ...

    @property
    def text(self) -> TextEmbedding:
        """The text that passes are given unless told otherwise."""
        ...

    def condition(
        self,
        packed: torch.Tensor,
        index: int,
        noise_hw: tuple[int, int],
        *,
        guidance: float,
        text: TextEmbedding | None = None,
        strength: float = 1.0,
    ) -> Condition:
        """Condition pass `index` of images given as packed latents (N, C, h, w): timestep 0, attention to itself; it
        ends at the last layer's keys and values. The caller has that condition's LoRA switched on.

        Args: noise_hw: grid of the noisy latents, whose position ids the condition's are scaled to.
        """
        ...

    def velocity(
        self,
        packed: torch.Tensor,
        sigma: torch.Tensor,
        conditions: Sequence[Condition] = (),
        *,
        guidance: float,
        text: TextEmbedding | None = None,
    ) -> torch.Tensor:
        """Flow-matching velocity (noise - latents) of noisy packed latents, (N, C, h, w), float32; sigma: (N,)."""
        ...


class TrainableDiT(DiTSurface, Protocol):
    """A diffusion transformer that adapters can be put on and trained through."""

    @property
    def transformer(self) -> Any:
        """The module itself, with diffusers' names; adapters are put on its linear layers."""
        ...

    @property
    def slot(self) -> HookSlot:
        """Holds the hook of the pass that is running."""
        ...

    def hooked(self, hook: AttentionHook | None) -> AbstractContextManager[None]:
        """Run passes with a hook on every attention layer."""
        ...


class LoRASurface(Protocol):
    """Adapters of the conditions: all are off unless `active`."""

    @property
    def count(self) -> int:
        """Number of conditions that it has adapters for."""
        ...

    def active(self, index: int, /) -> AbstractContextManager[None]:
        """Inside, the adapters of condition `index` are on."""
        ...


@runtime_checkable
class StoredSmaller(Protocol):
    """A linear layer whose weight is stored in a form that only the layer itself can read."""

    def wide_weight(self) -> torch.Tensor:
        """The weight (out, in) that it applies, float64 on the CPU."""
        ...
