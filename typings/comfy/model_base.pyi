from typing import Any

import torch

class BaseModel(torch.nn.Module):
    diffusion_model: Any
    latent_format: Any
    model_config: Any
    manual_cast_dtype: torch.dtype | None
    def __init__(self, model_config: Any, *, device: torch.device | None = ...) -> None: ...
    def load_model_weights(self, sd: dict[str, torch.Tensor], unet_prefix: str = ...) -> BaseModel: ...
    def get_dtype(self) -> torch.dtype: ...

class Flux(BaseModel): ...
