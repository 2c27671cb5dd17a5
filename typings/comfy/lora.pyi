from typing import Any

import torch

def calculate_weight(patches: Any, weight: torch.Tensor, key: str) -> torch.Tensor: ...
