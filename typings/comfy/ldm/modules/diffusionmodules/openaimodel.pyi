import torch

class UNetModel(torch.nn.Module):
    num_classes: int | str | None
    in_channels: int
    output_blocks: torch.nn.ModuleList
