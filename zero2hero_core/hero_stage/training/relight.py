"""Other light on the training pair: it tells Hero-Stage to take the light from the frame, the look from Zero-Stage.

The one true pair shows one light. A LoRA that has seen nothing else learns the brightness of the anchor by heart and
repeats it on frames that are lit otherwise. So anchor and reference are lit anew together, while the Zero-Stage result,
which carries the anchor's light in every frame, stays as it is. Not in the paper.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ...checks import check_images, check_range

EXPOSURE, SLOPE, FIELD, TINT = 0.2, 0.2, 0.2, 0.05  # standard deviations of the logarithm of the gain
KNOTS = 4  # values of the field along a side


def relight(pictures: torch.Tensor, generator: torch.Generator, strength: float = 1.0) -> torch.Tensor:
    """Pictures (N, 3, H, W) in [0, 1] under one other light: the same random gain for all of them.

    The gain's logarithm is a plane over the picture (exposure, slope to the right and downwards), in half of the cases
    a smooth random field (a turning object's light changes where the background's stays), and a tint; strength scales
    it.
    """
    check_images("pictures", pictures)
    check_range("light", strength, 0, 10)
    h, w = pictures.shape[-2:]
    draw = torch.randn(6, generator=generator)
    y, x = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    gain = EXPOSURE * draw[0] + SLOPE * (draw[1] * x + draw[2] * y)
    knots = torch.randn(1, 1, KNOTS, KNOTS, generator=generator)
    if torch.rand((), generator=generator) < 0.5:
        gain = gain + FIELD * F.interpolate(knots, size=(h, w), mode="bicubic", align_corners=True)[0, 0]
    gain = ((gain + TINT * draw[3:, None, None]) * strength).exp()
    return (pictures * gain.to(pictures)).clamp(0, 1)
