"""Frames of another tool, mended: what drifts with their distance from the edited frame is the light and colour of the
whole, sharpness, and places.

Three things are known of every frame whatever a tool made of it: its own structure, where the edit changed nothing,
and, as far as it is trusted, the carried change. So the tool's colours are fitted to what is known (a gain and an
offset for each channel); what the tool changed is made smooth along the frame's own edges, which takes its blur and its
slips off; and what nobody edited is the source's. Measured on simulated drift (colour walk, blur, warps), 48 frames.
"""

from __future__ import annotations

import torch

from ..checks import check_images, check_shape
from .edge_fill import apply_fit, coarse_fit_along_edges
from .engine import Carried
from .witness import edited_places

_SHARE = 0.9  # of the tool's frame against the carried change
_TRUST = 8  # power of the trust by which edited places tell of colours
_TOLD = 0.05  # weight of edited places that are trusted, beside those that nobody edited
_GAIN = (0.5, 2.0)  # what drift of light may be
_CHANGE = (15.0, 30.0)  # levels of 255 between which a tool's change is an edit and no remainder of its drift
_DOUBT = (0.6, 0.9)  # doubt between which the tool alone is believed
_RADIUS = 3  # half side of neighbourhoods along the frame's edges, pixels at a short side of 256
_EDGE = 0.02  # difference of colours, of 1, above which an edge is kept
_USUAL_SIDE = 256


def mend_drift(carried: Carried, made: torch.Tensor, frame: torch.Tensor) -> tuple[Carried, torch.Tensor]:
    """A tool's frame without its drift.

    Args: made: (3, H, W) in [0, 1], the tool's frame, of the carried picture's size. frame: (3, H, W), the original.
    An edited frame, of which nothing is in doubt, stays as it is.
    Returns: the picture, with the doubt of what was carried; the tool's share (H, W) in [0, 1].
    Raises: ShapeError.
    """
    check_shape("witness", made, carried.picture.shape)
    check_images("witness", made[None])
    check_shape("frame", frame, carried.picture.shape)
    if not bool(carried.error.any()):
        return carried, torch.zeros_like(carried.error)
    edited, trust = edited_places(carried, frame), (1 - carried.error.clamp(0, 1))[None]
    told = (1 - edited) * trust**2 + edited * _TOLD * trust**_TRUST + 1e-5
    change = _matched(made, carried.picture, told) - frame
    height, width = int(frame.shape[1]), int(frame.shape[2])
    scale = max(1, min(height, width) // _USUAL_SIDE)
    coarse = (-(-height // scale), -(-width // scale))
    even = torch.ones(height, width, device=frame.device)
    slope, offset = coarse_fit_along_edges(change, frame, even, _RADIUS, _EDGE**2, coarse)
    drawn = (frame + apply_fit(slope, offset, frame)).clamp(0, 1)
    edited = torch.maximum(edited, _told_by_tool(drawn - frame, carried.error))
    share = _SHARE * edited
    mended = torch.lerp(frame, torch.lerp(carried.picture, drawn, _SHARE), edited)
    return Carried(mended, carried.error), share[0]


def _told_by_tool(change: torch.Tensor, doubt: torch.Tensor) -> torch.Tensor:
    """Where the tool alone tells that a place was edited: (1, H, W). What comes into view is carried to no place."""
    low, high = (level / 255 for level in _CHANGE)
    changed = ((change.abs().amax(0, keepdim=True) - low) / (high - low)).clamp(0, 1)
    return changed * ((doubt - _DOUBT[0]) / (_DOUBT[1] - _DOUBT[0])).clamp(0, 1)


def _matched(picture: torch.Tensor, known: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A picture whose channels have the gain and offset that bring them nearest to a known one. weight: (1, H, W)."""
    total = weight.sum()
    mean, aim = ((weight * values).sum((1, 2), keepdim=True) / total for values in (picture, known))
    spread = (weight * (picture - mean) ** 2).sum((1, 2), keepdim=True) + 1e-6
    gain = (weight * (picture - mean) * (known - aim)).sum((1, 2), keepdim=True) / spread
    return ((picture - mean) * gain.clamp(*_GAIN) + aim).clamp(0, 1)
