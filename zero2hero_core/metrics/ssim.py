"""Structural similarity of pictures in its two usual forms, the authors' preparation of pictures, and what all measures
share: the check of their arguments and the weighted mean."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F

from ..checks import InputError, ShapeError, check_images

Form = Literal["uniform", "gaussian"]
_WINDOWS = {"uniform": 7, "gaussian": 11}
_SIGMA = 1.5
_C1, _C2 = 0.01**2, 0.03**2


def ssim(
    pictures: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor | None = None, *, form: Form = "uniform"
) -> torch.Tensor:
    """Structural similarity of each picture with its truth, mean over pixels and channels.

    (2 m_x m_y + C1) (2 c_xy + C2) / ((m_x^2 + m_y^2 + C1) (v_x + v_y + C2)) with the means, variances and the
    covariance of a window around each pixel, C1 = 0.01^2, C2 = 0.03^2; windows lie wholly in the picture.
    By hand: black against white is C1 / (1 + C1) = 0.0001.

    Source: Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity", eq. 13.
    "gaussian" is the paper's: 11 x 11 windows of sigma 1.5, population variances. "uniform" is scikit-image's default,
    which the authors of arXiv 2505.23134 use: 7 x 7 windows of equal weights, unbiased variances.

    Args:
        pictures, truth: (N, 3, H, W) in [0, 1], sides from 7 (uniform) or 11 (gaussian) up.
        mask: (N, 1, H, W) in [0, 1], weight of the pixel in the middle of each window; everywhere 1 when None.
        form: "uniform" or "gaussian".
    Returns: (N,) in [-1, 1]; 1 where the pictures are equal, nan where the mask is empty.
    Raises: ShapeError when the shapes differ or a side is too short; InputError for another form.
    """
    if form not in get_args(Form):
        raise InputError(f"form: expected one of {', '.join(get_args(Form))}, got {form!r}.")
    check_pair(pictures, truth, mask)
    window = _WINDOWS[form]
    if min(pictures.shape[-2:]) < window:
        raise ShapeError(
            f"ssim: expected sides from {window} pixels up for {form} windows, got {tuple(pictures.shape[-2:])} "
            "(height, width); enlarge the pictures."
        )
    inner = (..., slice(window // 2, -(window // 2)), slice(window // 2, -(window // 2)))
    values = []
    for index in range(len(pictures)):  # one by one: the maps are in double precision
        one = slice(index, index + 1)
        similar = _similarity(pictures[one].double(), truth[one].double(), form)
        values.append(weighted_mean(similar, None if mask is None else mask[one][inner]))
    return torch.cat(values).float()


def _similarity(x: torch.Tensor, y: torch.Tensor, form: Form) -> torch.Tensor:
    # Double precision: variances are differences of nearly equal numbers.
    count = _WINDOWS["uniform"] ** 2
    correction = count / (count - 1) if form == "uniform" else 1.0
    mean_x, mean_y = _window_mean(x, form), _window_mean(y, form)
    var_x = correction * (_window_mean(x * x, form) - mean_x**2)
    var_y = correction * (_window_mean(y * y, form) - mean_y**2)
    covariance = correction * (_window_mean(x * y, form) - mean_x * mean_y)
    similar = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    return similar / ((mean_x**2 + mean_y**2 + _C1) * (var_x + var_y + _C2))


def _window_mean(values: torch.Tensor, form: Form) -> torch.Tensor:
    window = _WINDOWS[form]
    if form == "uniform":
        return F.avg_pool2d(values, window, 1)
    places = torch.arange(window, dtype=values.dtype, device=values.device) - window // 2
    bell = torch.softmax(-(places**2) / (2 * _SIGMA**2), 0)
    planes = values.flatten(0, 1)[:, None]
    planes = F.conv2d(F.conv2d(planes, bell.view(1, 1, -1, 1)), bell.view(1, 1, 1, -1))
    means: torch.Tensor = planes[:, 0].unflatten(0, values.shape[:2])
    return means


def check_pair(
    pictures: torch.Tensor,
    truth: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    *,
    other: str = "truth",
    frames: int = 1,
) -> None:
    """Raise unless `pictures` are at least `frames` pictures (N, 3, H, W), `truth` as many of the same size, and `mask`
    (N, 1, H, W).

    Args: other: what the second clip is called in the message.
    Raises: ShapeError; InputError when there are too few frames.
    """
    check_images("pictures", pictures)
    if len(pictures) < frames:
        raise InputError(f"pictures: expected a clip of at least {frames} frames, got {len(pictures)}.")
    if truth is not None:
        if truth.shape != pictures.shape:
            raise ShapeError(
                f"{other}: expected equal shapes, got {tuple(truth.shape)} and {tuple(pictures.shape)} of the "
                "pictures; resize or cut one of them."
            )
        check_images(other, truth)
    shape = (len(pictures), 1, *pictures.shape[-2:])
    if mask is not None and tuple(mask.shape) != shape:
        raise ShapeError(
            f"mask: expected {shape}, one weight for each pixel of each picture, got {tuple(mask.shape)}; "
            "resize it, or repeat one mask for all pictures with mask.expand(N, 1, H, W)."
        )


def weighted_mean(values: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Mean over channels and pixels of each picture, each pixel weighted by its mask: sum(w v) / (C sum(w)).

    Args: values: (N, C, H, W); mask: (N, 1, H, W), everywhere 1 when None.
    Returns: (N,), the type of `values`; nan where the mask is empty.
    """
    if mask is None:
        return values.mean((1, 2, 3))
    weight = mask.to(values)
    return (values * weight).sum((1, 2, 3)) / (weight.sum((1, 2, 3)) * values.shape[1])
