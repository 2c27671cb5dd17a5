"""One picture of two: a frame as it comes from the key frame before it (forward) and from the one after it (backward).

`alpha` is the frame's share of the way from the first key to the second, 0 to 1; each side has an error map, 0 where it
can be trusted. A side counts for less the farther its key is: its error is weighted by its distance, so that at alpha 0
the forward picture is taken everywhere. Three parts, each optional: the choice of a side at every pixel, hard or soft;
a mix of both sides that keeps the contrast; and the gradients of the chosen side (`poisson`).

Follows the blend of Rerender-A-Video (arXiv 2306.07954, section 4.2) after Jamriska et al. 2019, "Stylizing video by
example". Differs: all is floating point, where they round to 8 bits; least squares are solved exactly, by a cosine
transform; what is added to gradients is limited, not the gradients, so that equal sides give their picture at strong
edges too; weights may be soft; a choice is not carried on from frame to frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from ..checks import InputError, check_range, check_shape
from .lab import lab_to_rgb, rgb_to_lab
from .poisson import gradients, screened_poisson

POISSON_WEIGHTS = (2.5, 0.5, 0.5)  # of L, a, b
LARGEST_GRADIENT = 100.0  # by which a gradient is changed, in 8-bit Lab


@dataclass(frozen=True)
class BlendSettings:
    """Which parts of the blend are done.

    choice: "hard" takes each pixel of one side; "soft" mixes by `mix_weights`. mix: bring both sides to one mean and
    contrast, mix them, and give them those of the chosen picture; with a hard choice the weight is `alpha` everywhere,
    so that the choice decides mean, contrast and gradients only. poisson: give the result the gradients of the chosen
    side. The last two are for pictures in [0, 1], the first for any values, such as differences. softness: the error
    that counts as none, in the unit of the error maps: 0.5 suits a distrust from 0 to 1, 0.05 differences of colour;
    sharpness: power of the errors in the soft weights, infinitely sharp is the hard choice.
    Raises: InputError.
    """

    choice: Literal["hard", "soft"] = "soft"
    mix: bool = False
    poisson: bool = False
    softness: float = 0.5
    sharpness: float = 1.0

    def __post_init__(self) -> None:
        if self.choice not in ("hard", "soft"):
            raise InputError(f"choice: expected hard or soft, got {self.choice!r}.")
        check_range("softness", self.softness, 1e-6, 1e6)
        check_range("sharpness", self.sharpness, 0.1, 100)


def choose(error_forward: torch.Tensor, error_backward: torch.Tensor, alpha: float) -> torch.Tensor:
    """Where the backward picture is taken: alpha E_forward >= (1 - alpha) E_backward, and nowhere at alpha 0.

    By hand: halfway between the keys the side of the smaller error, backward where they are equal.

    Args:
        error_forward, error_backward: error maps of this same frame, (H, W), from 0 up, smaller is better.
        alpha: 0 at the forward key to 1 at the backward key.
    Returns: (H, W) bool.
    Raises: ShapeError; InputError for an alpha outside 0 to 1.
    """
    _check_errors(error_forward, error_backward, alpha)
    backward = alpha * error_forward >= (1 - alpha) * error_backward
    return backward if alpha > 0 else torch.zeros_like(backward)


def mix_weights(
    error_forward: torch.Tensor,
    error_backward: torch.Tensor,
    alpha: float,
    *,
    softness: float = 0.5,
    sharpness: float = 1.0,
) -> torch.Tensor:
    """The share of the backward picture, f / (f + b) with f = alpha (E_forward + e)^p and b = (1 - alpha) (E_backward
    + e)^p: the soft form of `choose`.

    By hand: with equal errors it is alpha; halfway, with p = 1, e = 1 and errors of 2 and 0, it is 3/4.

    Args:
        error_forward, error_backward, alpha: as for `choose`.
        softness: e, the error that counts as none.
        sharpness: p, how much a larger error counts.
    Returns: (H, W) in [0, 1].
    Raises: ShapeError; InputError.
    """
    _check_errors(error_forward, error_backward, alpha)
    if alpha in (0, 1):
        return torch.full_like(error_forward, alpha)
    ratio = torch.log(error_forward + softness) - torch.log(error_backward + softness)
    odds = torch.logit(torch.tensor(alpha, dtype=torch.float64)).to(ratio)
    return torch.sigmoid(sharpness * ratio + odds)


def contrast_mix(
    forward: torch.Tensor, backward: torch.Tensor, weight: float | torch.Tensor, model: torch.Tensor
) -> torch.Tensor:
    """A mix of two pictures with the mean and the contrast of a third, per channel over the whole picture.

    A plain mean of two textures that do not lie on each other loses contrast: sides are standardised to mean 0 and
    deviation 1, mixed, standardised again, and given the mean and the deviation of `model`.

    Source: Heitz and Neyret 2018, "High-performance by-example noise using a histogram-preserving blending operator",
    its variance-preserving part.
    Args: forward, backward, model: (C, H, W); weight: share of `backward`, a number or (H, W).
    Returns: (C, H, W). A channel that is even in the mix is even at the model's mean.
    """
    check_shape("backward", backward, forward.shape)
    check_shape("model", model, forward.shape)
    mixed = torch.lerp(_standardised(forward), _standardised(backward), torch.as_tensor(weight).to(forward))
    mean, deviation = _moments(model)
    return _standardised(mixed) * deviation + mean


def blend(
    forward: torch.Tensor,
    backward: torch.Tensor,
    error_forward: torch.Tensor,
    error_backward: torch.Tensor,
    alpha: float,
    settings: BlendSettings | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One picture of the forward and the backward one, and where the backward one was chosen.

    Args:
        forward, backward: (3, H, W), in [0, 1] where `mix` or `poisson` is on, else any (C, H, W).
        error_forward, error_backward: (H, W), both of this frame (not in the order of the passes).
        alpha: 0 at the forward key to 1 at the backward key.
    Returns: picture (C, H, W), in [0, 1] where `mix` or `poisson` is on; mask (H, W) bool.
    Raises: ShapeError; InputError.
    """
    settings = settings or BlendSettings()
    check_shape("forward", forward, ("C", *error_forward.shape))
    check_shape("backward", backward, forward.shape)
    mask = choose(error_forward, error_backward, alpha)
    chosen = torch.where(mask, backward, forward)
    if settings.choice == "soft":
        weight = mix_weights(
            error_forward, error_backward, alpha, softness=settings.softness, sharpness=settings.sharpness
        ).to(forward)
    else:
        weight = torch.full_like(forward[0], alpha) if settings.mix else mask.to(forward)
    if not (settings.mix or settings.poisson):
        return (chosen if settings.choice == "hard" else torch.lerp(forward, backward, weight)), mask
    first, second = rgb_to_lab(forward), rgb_to_lab(backward)
    if settings.mix:
        mixed = contrast_mix(first, second, weight, torch.where(mask, second, first))
    else:
        mixed = torch.lerp(first, second, weight)
    if settings.poisson:
        across, down = (
            (torch.where(mask, b, a) - own).clamp(-LARGEST_GRADIENT, LARGEST_GRADIENT)
            for a, b, own in zip(gradients(first), gradients(second), gradients(mixed), strict=True)
        )
        mixed = mixed + screened_poisson(torch.zeros_like(mixed), across, down, torch.tensor(POISSON_WEIGHTS))
    return lab_to_rgb(mixed), mask


def _check_errors(error_forward: torch.Tensor, error_backward: torch.Tensor, alpha: float) -> None:
    check_shape("error_forward", error_forward, ("H", "W"))
    check_shape("error_backward", error_backward, error_forward.shape)
    check_range("alpha", alpha, 0, 1)


def _moments(picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of each channel, (C, 1, 1)."""
    return picture.mean((1, 2), keepdim=True), picture.std((1, 2), keepdim=True, correction=0)


def _standardised(picture: torch.Tensor) -> torch.Tensor:
    mean, deviation = _moments(picture)
    return (picture - mean) / deviation.clamp_min(1e-6)
