"""Masks and true matches from depth maps.

Depth maps have `SUBSAMPLES` samples along each side of a pixel; sample (i, j) lies at ((j + 0.5) / SUBSAMPLES,
(i + 0.5) / SUBSAMPLES), so that the middle sample of a pixel is at its centre.
"""

from __future__ import annotations

import numpy as np

from .camera import Camera
from .job import SUBSAMPLES

TOLERANCE = 2e-3  # relative difference of depths up to which two of them are one surface


def coverage(part: np.ndarray) -> np.ndarray:
    """Share of each pixel (S, S), 0 to 1, that belongs to the object: the mean of its samples with part > 0."""
    size = part.shape[0] // SUBSAMPLES
    shares: np.ndarray = (part > 0).reshape(size, SUBSAMPLES, size, SUBSAMPLES).mean((1, 3)).astype(np.float32)
    return shares


def at_centres(samples: np.ndarray) -> np.ndarray:
    """The samples at the pixels' centres."""
    return samples[SUBSAMPLES // 2 :: SUBSAMPLES, SUBSAMPLES // 2 :: SUBSAMPLES]


def match_frames(
    source: Camera, source_depth: np.ndarray, target: Camera, target_depth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where the points at the pixel centres of one frame lie in another.

    A point is visible where its depth agrees with the other frame's. That depth is interpolated between samples as its
    inverse, which is exact on planes; across an edge it agrees with neither side, so up to a third of a pixel beside
    edges counts as hidden.

    Args: source_depth, target_depth: (S * SUBSAMPLES, S * SUBSAMPLES), along the optical axis, above 0.
    Returns: coordinates (S, S, 2) in pixels, float32; visible (S, S), bool.
    """
    size = source_depth.shape[0] // SUBSAMPLES
    axis = np.arange(size) + 0.5
    centres = np.stack(np.meshgrid(axis, axis), -1)
    coords, depth = target.project(source.unproject(centres, at_centres(source_depth).astype(np.float64)))
    inside = ((coords >= 0) & (coords < size)).all(-1) & (depth > 0)
    seen = _bilinear(1 / target_depth.astype(np.float64), coords * SUBSAMPLES - 0.5)
    return coords.astype(np.float32), inside & (np.abs(depth * seen - 1) < TOLERANCE)


def _bilinear(samples: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Values of `samples` (H, W) at `places` (..., 2), (x, y) from sample 0; outside, the border goes on."""
    height, width = samples.shape
    x, y = np.clip(places[..., 0], 0, width - 1), np.clip(places[..., 1], 0, height - 1)
    left, top = np.minimum(x.astype(int), width - 2), np.minimum(y.astype(int), height - 2)
    u, v = x - left, y - top
    upper = samples[top, left] * (1 - u) + samples[top, left + 1] * u
    lower = samples[top + 1, left] * (1 - u) + samples[top + 1, left + 1] * u
    values: np.ndarray = upper * (1 - v) + lower * v
    return values
