from collections.abc import Callable, Sequence
from typing import Any

import torch

from .model_patcher import ModelPatcher

class VAE:
    first_stage_model: torch.nn.Module
    patcher: ModelPatcher
    device: torch.device
    downscale_ratio: int
    upscale_ratio: int
    latent_channels: int
    memory_used_encode: Callable[[Sequence[int], torch.dtype], float]
    memory_used_decode: Callable[[Sequence[int], torch.dtype], float]
    size: int | None
    def __init__(self, sd: dict[str, torch.Tensor] | None = ..., dtype: torch.dtype | None = ...) -> None: ...
    def encode(self, pixel_samples: torch.Tensor) -> torch.Tensor: ...
    def decode(self, samples_in: torch.Tensor) -> torch.Tensor: ...
    def spacial_compression_encode(self) -> Any: ...
