"""Guides of patch synthesis: what a key frame and a target frame must agree in for a patch to be carried over.

Source: guides and weights of Rerender A Video's propagation (arXiv 2306.07954, section 4.3), after "Stylizing Video by
Example" (Jamriska et al., SIGGRAPH 2019). Differs: edges keep their sign; places have two channels and fractions, so
that one pixel counts in a wide picture too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..checks import InputError, check_range, check_shape
from ..luma import luma_of


@dataclass(frozen=True)
class Guide:
    """What patches are compared by: key (C, h, w) beside the style, target (C, H, W) beside the result, in [-1, 1];
    weight: of all channels together."""

    key: torch.Tensor
    target: torch.Tensor
    weight: float


@dataclass(frozen=True)
class GuideWeights:
    """Weight of every guide, divided by its channels when it is used; 0 leaves a guide out.

    colour: the original frames; edges: their Laplacian; position: where in the key a place lies; temporal: the previous
    result; mask: of an object; features: of a diffusion model or any other.
    """

    colour: float = 6.0
    edges: float = 0.5
    position: float = 4 / 3  # theirs is 2 over three channels, of which one never differs
    temporal: float = 0.5
    mask: float = 2.0
    features: float = 2.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_range(name, value, 0, 100)
        if not self.colour + self.edges + self.position:
            raise InputError("colour, edges, position: expected one of these weights above 0, got 0 for all of them.")


@dataclass(frozen=True)
class Pair:
    """The same kind of picture of key and target, (C, H, W) each, or (H, W) masks."""

    key: torch.Tensor
    target: torch.Tensor


def frame_guides(
    key_frame: torch.Tensor,
    target_frame: torch.Tensor,
    flow: torch.Tensor,
    weights: GuideWeights | None = None,
    *,
    temporal: Pair | None = None,
    masks: Pair | None = None,
    features: Pair | None = None,
) -> tuple[Guide, ...]:
    """The guides from a key frame to a target frame.

    Args:
        key_frame, target_frame: the originals, (3, H, W) in [0, 1].
        flow: from target to key, (H, W, 2) in pixels.
        temporal: the edited key (3, H, W), and the previous result moved to this frame; left out when None.
        masks: of an object, (H, W) in [0, 1]; left out when None.
        features: (C, h, w) of any size and scale; left out when None.
    Raises: ShapeError when sizes differ.
    """
    weights = weights or GuideWeights()
    check_shape("key_frame", key_frame, (3, "H", "W"))
    check_shape("target_frame", target_frame, key_frame.shape)
    height, width = (int(side) for side in key_frame.shape[-2:])
    check_shape("flow", flow, (height, width, 2))
    result = [
        Guide(key_frame, target_frame, weights.colour),
        Guide(edges(key_frame), edges(target_frame), weights.edges),
    ]
    if weights.position:
        longer, home = max(height, width), places((height, width), flow.device)
        there = home + flow.permute(2, 0, 1)
        limit = there.new_tensor([width - 1, height - 1])[:, None, None]
        result.append(Guide(home / longer, there.clamp_min(0).minimum(limit) / longer, weights.position))
    if temporal is not None:
        check_shape("temporal, key", temporal.key, key_frame.shape)
        check_shape("temporal, target", temporal.target, key_frame.shape)
        result.append(Guide(temporal.key, temporal.target, weights.temporal))
    if masks is not None:
        check_shape("masks, key", masks.key, (height, width))
        check_shape("masks, target", masks.target, (height, width))
        result.append(Guide(masks.key[None].float(), masks.target[None].float(), weights.mask))
    if features is not None:
        check_shape("features, key", features.key, ("C", "h", "w"))
        check_shape("features, target", features.target, (features.key.shape[0], "h", "w"))
        result.append(_feature_guide(features, (height, width), weights.features))
    return tuple(guide for guide in result if guide.weight)


def edges(picture: torch.Tensor) -> torch.Tensor:
    """Laplacian of a picture's luma: 4 in the centre, -1 at the four neighbours, border repeated, cut to [-1, 1].

    Args: picture: (3, H, W) in [0, 1].   Returns: (1, H, W).
    """
    luma = luma_of(picture)
    wide = F.pad(luma[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    around = wide[:-2, 1:-1] + wide[2:, 1:-1] + wide[1:-1, :-2] + wide[1:-1, 2:]
    return (4 * luma - around).clamp(-1, 1)[None]


def places(size_hw: tuple[int, int], device: torch.device | None = None) -> torch.Tensor:
    """(x, y) of every pixel, (2, H, W) float32."""
    y, x = (torch.arange(side, device=device, dtype=torch.float32) for side in size_hw)
    return torch.stack([x.expand(size_hw), y[:, None].expand(size_hw)])


def _feature_guide(features: Pair, size_hw: tuple[int, int], weight: float) -> Guide:
    """Features of both sides at the frame's size, brought to [0, 1] by one scale for all."""
    low = min(float(side.amin()) for side in (features.key, features.target))
    high = max(float(side.amax()) for side in (features.key, features.target))
    key, target = (
        F.interpolate((side[None].float() - low) / max(high - low, 1e-12), size_hw, mode="bilinear")[0]
        for side in (features.key, features.target)
    )
    return Guide(key, target, weight)
