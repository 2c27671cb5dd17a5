import torch

class LatentFormat:
    latent_channels: int
    scale_factor: float
    def process_in(self, latent: torch.Tensor) -> torch.Tensor: ...
    def process_out(self, latent: torch.Tensor) -> torch.Tensor: ...
