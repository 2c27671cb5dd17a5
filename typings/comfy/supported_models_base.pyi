from typing import Any

import torch

from .latent_formats import LatentFormat
from .model_base import BaseModel

class BASE:
    unet_extra_config: dict[str, Any]
    sampling_settings: dict[str, Any]
    latent_format: type[LatentFormat]
    supported_inference_dtypes: list[torch.dtype]
    memory_usage_factor: float
    custom_operations: type | None
    def __init__(self, unet_config: dict[str, Any]) -> None: ...
    def set_inference_dtype(self, dtype: torch.dtype | None, manual_cast_dtype: torch.dtype | None) -> None: ...
    def get_model(self, state_dict: dict[str, torch.Tensor], prefix: str = ...) -> BaseModel: ...
