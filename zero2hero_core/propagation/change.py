"""The change that an edit made to one key frame, carried to another frame of the clip.

With K the key frame, E its edit, F the frame and m(x) the place of x in the key:

    out(x) = E(m) + J(m) (F(x) - K(m))

The frame's departure from the key comes on top of the edit, times a gain J, which tells the operators apart: 1 is the
*difference* (the frame plus what the edit added), 0 the carried *pixels*, (E + e) / (K + e) the *ratio* (light), and
the local slope of E over K, a guided filter's (He et al., TPAMI 2013, eq. 5), the *affine* map of colours: what a
slightly wrong match reads beside its place is then wrong in key and edit alike, and cancels.

"auto" takes the departure's high band, which is slips, by slope; its low band it takes as it is, and as far as that is
a gain g of the key's colours, which is light, the change gets the same gain: + g (E - K). One gain for three channels
has no dark channel to divide by, which is where the ratio breaks down.

All of it is kept as what is added to the frame, so that an edit that changes nothing adds exactly nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F

from ..checks import InputError, ShapeError, check_images, check_range, check_shape, setting
from ..flow.warp import warp_backward
from .colour_prior import colour_regression
from .edge_fill import apply_fit, box_mean, coarse_fit_along_edges, enlarge

Operator = Literal["auto", "difference", "ratio", "affine", "pixels"]
_DARK = 0.05  # added below a ratio, so that black is no division by nothing
_LIGHT = 0.5  # a larger gain is a wrong match and no light; downwards a change may fade away with the frame
_FLAT = 1e-3  # variance of the key below which no slope is read from it
_COARSE = 128  # short side, about, at which light is told from detail and the change is made smooth
_MIDDLE = 256  # short side, about, at which colours are learned
_AROUND = 0.6  # mean trust of a neighbourhood that needs no other's say
_FLOOR = 1e-3  # say of a place that is not trusted at all


@dataclass(frozen=True)
class ChangeSettings:
    """How a change is carried. The constants were chosen on rendered validation clips and are flat there: half or twice
    of each costs about 0.1 dB. Real clips, darkened and coloured, decided where rendered ones did not.

    operator: see the module.
    radius: half side of the neighbourhoods in which the carried change is made smooth along the frame's edges, as the
        share of the short side in 1/128; 0 for none.
    light_radius: half side of the means, taken twice, that tell light from detail, likewise.
    edge: difference of colours, of 1, above which an edge is kept.
    departure: difference of detail between frame and key at which a match is trusted half.
    ambiguity: deviation of the change among places of one colour at which that colour tells half as much.
    Raises: InputError.
    """

    operator: Operator = "auto"
    radius: int = 3
    light_radius: int = 2
    edge: float = 0.02
    departure: float = 0.1
    ambiguity: float = 0.06

    def __post_init__(self) -> None:
        if self.operator not in get_args(Operator):
            names = ", ".join(get_args(Operator))
            raise InputError(f"{setting('operator')}: expected one of {names}, got {self.operator!r}.")
        for name, low in (("radius", 0), ("light_radius", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise InputError(f"{setting(name)}: expected a whole number, got {value!r}.")
            check_range(setting(name), value, low, 64)
        for name in ("edge", "departure", "ambiguity"):
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
        key, edit = key.float(), edit.float().to(key.device)
        self._size = (key.shape[1], key.shape[2])
        scale = max(1, min(self._size) // _COARSE)
        self._coarse = (math.ceil(self._size[0] / scale), math.ceil(self._size[1] / scale))
        self._bank = torch.cat([key, edit - key, *_gains(key, edit - key, self.settings.operator)])

    def carry(
        self, frame: torch.Tensor, flow: torch.Tensor, trust: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A frame with the change of the key.

        Args:
            frame: (3, H', W') in [0, 1]: of the key's size, or larger; then the change is found at the key's size and
                brought to the frame's along its edges.
            flow: (H, W, 2) in pixels, frame -> key, at the key's size.
            trust: (H, W) in [0, 1], how far each place of the flow is to be trusted; None trusts all.
        Returns: picture (3, H', W') in [0, 1], and error (H', W') in [0, 1], how little each place is to be trusted:
            0 where the flow is trusted and brings the frame's own detail back.
            To join the pictures of two keys, mix them by 1 - error; their mistakes differ, and a mean of both is nearer
            to the truth than the better one.
        Raises: ShapeError.
        """
        check_shape("frame", frame, (3, "H", "W"))
        check_images("frame", frame[None])
        check_shape("flow", flow, (*self._size, 2))
        if frame.shape[1] < self._size[0] or frame.shape[2] < self._size[1]:
            raise ShapeError(f"frame: expected the key's size, {self._size}, or more, got {tuple(frame.shape[1:])}.")
        large = frame.to(self._bank.device, torch.float32)
        small = large if large.shape[1:] == self._size else F.adaptive_avg_pool2d(large[None], self._size)[0]
        if trust is None:
            trust = torch.ones(self._size)
        check_shape("trust", trust, self._size)
        change, weight = self._change(small, flow, trust.to(small))
        if self.settings.operator == "pixels" and large is small:
            return (small + change).clamp(0, 1), 1 - weight
        picture = self._add(large, small, change, weight)
        return picture.clamp_(0, 1), 1 - enlarge(weight[None], large.shape[1:])[0]

    def _change(
        self, frame: torch.Tensor, flow: torch.Tensor, trust: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What is to be added to a frame (3, H, W), and how far each place of it is to be trusted (H, W)."""
        bank = warp_backward(self._bank, flow)
        departure, change = frame - bank[:3], bank[3:6]
        light = self._light(departure)
        detail = departure - light
        if self.settings.operator == "auto":
            gain = _light_gain(light, bank[9:12])
            change = change + bank[6:9] * detail + gain * bank[12:15]
        elif len(bank) > 6:
            change = change + bank[6:9] * departure
        return change, trust / (1 + detail.square().mean(0) / self.settings.departure**2)

    def _light(self, departure: torch.Tensor) -> torch.Tensor:
        """The low band of a departure (3, H, W)."""
        radius, coarse = self.settings.light_radius, F.adaptive_avg_pool2d(departure[None], self._coarse)[0]
        return enlarge(box_mean(box_mean(coarse, radius), radius), self._size)

    def _add(
        self, large: torch.Tensor, small: torch.Tensor, change: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        """The frame plus its change: as it is where it is trusted, smooth along the frame's edges where it is not."""
        if self.settings.radius == 0:
            return large + enlarge(change, large.shape[1:])
        arguments = (weight + _FLOOR, self.settings.radius, self.settings.edge**2, self._coarse)
        slope, offset = coarse_fit_along_edges(change, small, *arguments)
        slope, offset = self._with_prior(slope, offset, small, change, weight)
        # The root: footage has finer changes than rendered clips, which would gain 0.1 dB without it.
        rest = weight.sqrt() * (change - apply_fit(slope, offset, small))
        if large is small:
            return small + apply_fit(slope, offset, small) + rest
        offset, picture = offset + rest, torch.empty_like(large)
        for channel in range(3):  # one by one to save memory
            added = (enlarge(slope[channel], large.shape[1:]) * large).sum(0)
            picture[channel] = large[channel] + added + enlarge(offset[channel : channel + 1], large.shape[1:])[0]
        return picture

    def _with_prior(
        self, slope: torch.Tensor, offset: torch.Tensor, small: torch.Tensor, change: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The fit, and in its place, where nothing around is trusted, what the frame's trusted places of the same
        colour change to, as far as they agree."""
        scale = max(1, min(self._size) // _MIDDLE)
        size = (math.ceil(self._size[0] / scale), math.ceil(self._size[1] / scale))
        colours, changes, trust = (
            values if scale == 1 else F.adaptive_avg_pool2d(values[None], size)[0]
            for values in (small, change, weight[None])
        )
        mean, variance, known = colour_regression(changes, colours, trust[0].square())
        around = box_mean(F.adaptive_avg_pool2d(weight[None], self._coarse), self.settings.radius)
        alone = 1 - (enlarge(around, size)[0] / _AROUND).clamp(0, 1)
        share = alone * known / (1 + variance / self.settings.ambiguity**2)
        share, prior = enlarge(share[None], self._size), enlarge(share * mean, self._size)
        return slope * (1 - share), offset * (1 - share) + prior


def _gains(key: torch.Tensor, change: torch.Tensor, operator: Operator) -> list[torch.Tensor]:
    """What the gain of an operator is beyond 1, (3, H, W); for "auto" that of detail, then the means of
    the key and of the change that light works on."""
    if operator == "difference":
        return []
    if operator == "pixels":
        return [torch.full_like(key, -1.0)]
    radius = max(1, round(min(key.shape[1:]) / 128))
    slope = _slope(change, key, radius)
    if operator == "affine":
        return [slope]
    if operator == "ratio":
        return [(change / (key + _DARK)).clamp(-1, 2)]
    return [slope, *(box_mean(box_mean(values, radius), radius) for values in (key, change))]


def _slope(change: torch.Tensor, key: torch.Tensor, radius: int) -> torch.Tensor:
    """Local slope of the change over the key, channel by channel; 0 where the key is flat. All (3, H, W)."""
    mean_key, mean_change = box_mean(key, radius), box_mean(change, radius)
    variance = (box_mean(key * key, radius) - mean_key * mean_key).clamp_min(0)
    covariance = box_mean(key * change, radius) - mean_key * mean_change
    return (covariance / (variance + _FLAT)).clamp(-2, 2)


def _light_gain(departure: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """What light adds, as a share of the key's colours, (H, W): least squares over the channels, less where a gain
    leaves much of the departure unexplained. Both (3, H, W)."""
    gain = (departure * key).sum(0) / (key.square().sum(0) + _DARK)
    left, whole = (departure - gain * key).square().sum(0), departure.square().sum(0)
    return gain.clamp(-1, _LIGHT) * (1 - left / (whole + 1e-5)).clamp(0, 1)
