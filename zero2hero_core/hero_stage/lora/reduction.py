"""A LoRA of a smaller rank that does nearly the same: for what is shipped with a package."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ...checks import InputError, check_range


def reduce_rank(state: Mapping[str, torch.Tensor], rank: int) -> dict[str, torch.Tensor]:
    """Adapter weights whose products up @ down are the nearest ones of that rank (truncated singular values), for an
    alpha that equals the rank before and after.

    Args: state: as `HeroLoRA.state_dict` gives it.
    Raises: InputError for a larger rank, or adapters that end with a bias.
    """
    reduced: dict[str, torch.Tensor] = {}
    for key, down in state.items():
        if not key.endswith("lora_A.weight"):
            if not key.endswith("lora_B.weight"):
                raise InputError(f"LoRA: expected adapters without a bias, got {key}.")
            continue
        check_range("rank", rank, 1, len(down))
        other = key.replace("lora_A", "lora_B")
        up, values, rows = torch.linalg.svd(state[other].double() @ down.double(), full_matrices=False)
        root = values[:rank].sqrt()
        reduced[key] = (root[:, None] * rows[:rank]).to(down.dtype).contiguous()
        reduced[other] = (up[:, :rank] * root).to(down.dtype).contiguous()
    return reduced
