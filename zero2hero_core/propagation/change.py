"""The change that an edit made to one key frame, carried to another frame of the clip.

With K the key frame, E its edit, F the frame and m(x) the place of x in the key:

    out(x) = E(m) + J(m) (F(x) - K(m))

The frame's departure from the key comes on top of the edit, times a gain J, which tells the operators apart: 1 is the
*difference* (the frame plus what the edit added), 0 the carried *pixels*, (E + e) / (K + e) the *ratio* (light), and
the local slope of E over K, a guided filter's (He et al., TPAMI 2013, eq. 5), the *affine* map of colours: what a
slightly wrong match reads beside its place is then wrong in key and edit alike, and cancels. "auto" takes light, the
low band of the departure, by ratio and the rest by slope.

All of it is kept as what is added to the frame, so that an edit that changes nothing adds exactly nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F

from ..checks import InputError, ShapeError, check_images, check_range, check_shape, setting
from ..flow.warp import warp_backward
from .edge_fill import apply_fit, box_mean, fit_along_edges

Operator = Literal["auto", "difference", "ratio", "affine", "pixels"]
_DARK = 0.05  # added to both sides of a ratio, so that black is no division by nothing
_MOST = 3.0  # gains beyond this are noise of dark or flat places


@dataclass(frozen=True)
class ChangeSettings:
    """How a change is carried. Constants were chosen on rendered validation clips.

    operator: see the module; radius: half side, in pixels, of the neighbourhoods in which the carried change is made
    smooth along the frame's edges, 0 for none; edge: difference of colours, of 1, above which an edge is kept;
    slope_radius: half side of the neighbourhoods of the local slope; light_radius: that of the mean that tells light
    from detail; departure: difference of colours at which a match is trusted half as much.
    Raises: InputError.
    """

    operator: Operator = "auto"
    radius: int = 6
    edge: float = 0.01
    slope_radius: int = 2
    light_radius: int = 4
    departure: float = 0.1

    def __post_init__(self) -> None:
        if self.operator not in get_args(Operator):
            names = ", ".join(get_args(Operator))
            raise InputError(f"{setting('operator')}: expected one of {names}, got {self.operator!r}.")
        for name, low in (("radius", 0), ("slope_radius", 1), ("light_radius", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise InputError(f"{setting(name)}: expected a whole number of pixels, got {value!r}.")
            check_range(setting(name), value, low, 256)
        for name in ("edge", "departure"):
            check_range(setting(name), getattr(self, name), 1e-3, 1)


class KeyChange:
    """A key frame and its edit, and what carrying needs of them, computed once.

    Args: key, edit: (3, H, W) in [0, 1], of one size.
    Raises: ShapeError.
    """

    def __init__(self, key: torch.Tensor, edit: torch.Tensor, settings: ChangeSettings | None = None) -> None:
        check_shape("key", key, (3, "H", "W"))
        check_images("key", key[None])
        check_shape("edit", edit, key.shape)
        check_images("edit", edit[None])
        self.settings = settings or ChangeSettings()
        self.key, self.edit = key.float(), edit.float()
        self._bank = torch.cat([self.key, self.edit - self.key, *self._gains()])

    def _gains(self) -> list[torch.Tensor]:
        """What the gain of the operator is beyond 1, (3, H, W); for "auto" that of detail, then that of light."""
        operator, change = self.settings.operator, self.edit - self.key
        if operator == "difference":
            return []
        if operator == "pixels":
            return [torch.full_like(self.key, -1.0)]
        gains = []
        if operator in ("affine", "auto"):
            gains.append(_slope(change, self.key, self.settings.slope_radius))
        if operator in ("ratio", "auto"):
            change, key = (
                box_mean(box_mean(values, 2), 2) if operator == "auto" else values for values in (change, self.key)
            )
            gains.append((change / (key + _DARK)).clamp(-1, _MOST - 1))
        return gains

    def carry(
        self, frame: torch.Tensor, flow: torch.Tensor, trust: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A frame with the change of the key.

        Args:
            frame: (3, H', W') in [0, 1]: of the key's size, or larger; then the change is found at the key's size and
                brought to the frame's along its edges.
            flow: (H, W, 2) in pixels, frame -> key, at the key's size.
            trust: (H, W) in [0, 1], how far each place of the flow is to be trusted; None trusts all.
        Returns: picture (3, H', W') in [0, 1], and error (H', W') in [0, 1], how little each place is to be trusted.
        Raises: ShapeError.
        """
        height, width = self.key.shape[1:]
        check_shape("frame", frame, (3, "H", "W"))
        check_images("frame", frame[None])
        check_shape("flow", flow, (height, width, 2))
        large = frame.float().to(self.key.device)
        if frame.shape[1] < height or frame.shape[2] < width:
            raise ShapeError(
                f"frame: expected the key's size {(height, width)} or a larger one, got {tuple(frame.shape[1:])}."
            )
        small = large if large.shape == self.key.shape else F.adaptive_avg_pool2d(large[None], (height, width))[0]
        if trust is None:
            trust = torch.ones(height, width, device=self.key.device)
        check_shape("trust", trust, (height, width))
        change, weight = self._change(small, flow, trust.float().to(self.key.device))
        sure = weight.square()
        if self.settings.radius > 0 and self.settings.operator != "pixels":
            epsilon = self.settings.edge**2
            slope, offset = fit_along_edges(change, small, weight + 1e-3, self.settings.radius, epsilon)
            rest = sure * (change - apply_fit(slope, offset, small))
        else:
            slope, offset, rest = change.new_zeros(3, *change.shape), torch.zeros_like(change), change
        if large is small:
            picture = small + apply_fit(slope, offset, small) + rest
        else:
            picture, weight = _enlarge(large, slope, offset + rest), _resize(weight[None], large)[0]
        return picture.clamp(0, 1), 1 - weight

    def _change(
        self, frame: torch.Tensor, flow: torch.Tensor, trust: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What is to be added to a frame (3, H, W), and how far each place of it is to be trusted (H, W)."""
        bank = warp_backward(self._bank, flow)
        departure, change = frame - bank[:3], bank[3:6]
        radius = self.settings.light_radius
        light = box_mean(box_mean(departure, radius), radius)
        detail = departure - light
        if self.settings.operator == "auto":
            change = change + bank[6:9] * detail + bank[9:12] * light
        elif len(bank) > 6:
            change = change + bank[6:9] * departure
        ratio = detail.square().sum(0) / (3 * self.settings.departure**2)
        return change, trust / (1 + ratio)


def _slope(change: torch.Tensor, key: torch.Tensor, radius: int, epsilon: float = 1e-3) -> torch.Tensor:
    """Local slope of the change over the key, channel by channel; 0 where the key is flat. All (3, H, W)."""
    mean_key, mean_change = box_mean(key, radius), box_mean(change, radius)
    variance = (box_mean(key * key, radius) - mean_key * mean_key).clamp_min(0)
    covariance = box_mean(key * change, radius) - mean_key * mean_change
    return (covariance / (variance + epsilon)).clamp(-2, _MOST - 1)


def _resize(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.interpolate(values[None], like.shape[-2:], mode="bilinear", align_corners=False)[0]


def _enlarge(frame: torch.Tensor, slope: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """A large frame plus a change that is known as local fits of a smaller one, channel by channel to save memory."""
    channels = [
        frame[channel]
        + (_resize(slope[channel], frame) * frame).sum(0)
        + _resize(offset[channel : channel + 1], frame)[0]
        for channel in range(3)
    ]
    return torch.stack(channels)
