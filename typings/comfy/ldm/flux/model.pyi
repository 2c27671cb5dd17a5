from dataclasses import dataclass

import torch

@dataclass
class FluxParams:  # the fields differ between hosts
    in_channels: int

class Flux(torch.nn.Module):
    params: FluxParams
