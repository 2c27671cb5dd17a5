"""Pixel swap: move reference patches to the target through the best match, no generation (baseline of arXiv
2505.23134, Table 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..correspondence.match import LevelMatches


def pixel_swap(reference: torch.Tensor, matches: LevelMatches) -> torch.Tensor:
    """Each cell of the target filled with the reference patch of its best match.

    Args: reference: (3, H, W), H and W multiples of the grid; matches: one level, usually the finest.
    Returns: (3, H, W).
    """
    height, width = reference.shape[-2:]
    h, w = matches.size_hw
    patch = (height // h, width // w)
    patches = F.unfold(reference[None], patch, stride=patch)
    columns = patches[:, :, matches.indices[:, 0].long().to(reference.device)]
    return F.fold(columns, (height, width), patch, stride=patch)[0]
