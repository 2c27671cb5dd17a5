"""A flow as a picture to look at: the direction as hue, the length as saturation."""

from __future__ import annotations

import math

import torch

from ..checks import check_shape


def flow_colours(flow: torch.Tensor, longest: float | None = None) -> torch.Tensor:
    """White where nothing moves; red to the right, yellow-green down, cyan to the left, violet up; fuller the farther.

    Args: flow: (H, W, 2) in pixels. longest: the length of full colour; when None the flow's own, but for its longest
        hundredth, and one pixel at least.
    Returns: (3, H, W) in [0, 1].
    Raises: ShapeError.
    """
    check_shape("flow", flow, ("H", "W", 2))
    length = flow.float().norm(dim=-1)
    full = longest_of(flow) if longest is None else longest
    saturation = (length / max(full, 1e-6)).clamp(0, 1)
    hue = torch.atan2(flow[..., 1].float(), flow[..., 0].float()) / (2 * math.pi)  # 0 to the right, growing downwards
    # Each channel is 1 within a sixth of the circle around its hue, 0 from a third on.
    parts = [((hue - centre + 0.5) % 1 - 0.5).abs() for centre in (0, 1 / 3, 2 / 3)]
    pure = torch.stack([(2 - 6 * part).clamp(0, 1) for part in parts])
    return torch.lerp(torch.ones_like(pure), pure, saturation)


def longest_of(flow: torch.Tensor) -> float:
    """The length in pixels that a hundredth of the vectors of flows (..., 2) exceed, one at least."""
    length = flow.float().norm(dim=-1).flatten()
    step = max(1, len(length) // 100_000)
    return max(1.0, float(torch.quantile(length[::step], 0.99)))
