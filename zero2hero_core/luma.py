"""How bright a colour is: the one place of the weights. Importing it imports nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# of red, green and blue: luma of ITU-R BT.601, as masks, flow and grey pictures take it
LUMA = (0.299, 0.587, 0.114)


def luma_of(picture: torch.Tensor) -> torch.Tensor:
    """Luma (H, W) of a picture (3, H, W), in its range and on its device, float32."""
    import torch

    return torch.einsum("chw,c->hw", picture.detach().float(), torch.tensor(LUMA, device=picture.device))
