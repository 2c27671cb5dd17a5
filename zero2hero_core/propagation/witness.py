"""Two witnesses of one frame: what was carried to it, and what another method drew of it, mixed place by place.

Both are wrong, in different ways: the carried change is exact where matches hold, and lost where something turns into
view; a drawn frame is nowhere exact, and nowhere lost. What was measured on rendered validation clips, whose truth is
known, decided how they are mixed:

* Only the low band of their difference is taken over: which colour lies where is what a drawn frame knows better, its
  detail is what an autoencoder leaves of it.
* The share grows with the doubt of the carried change (`Carried.error`), to one half: of two that err alike and
  independently, the mean is nearer to the truth. Where nothing is left of its trust, what turned into view, the witness
  alone is believed.
* How wrong either is shows on the frame itself. Where the carried change is trusted it stands for the truth, and its
  distance from the witness is the witness's error. Where it is in doubt, the distance is that of both; as far as it is
  no larger there, the carried change is not what errs, and the witness has no say: footage that a model draws badly.
* Where the edit changes nothing, the source itself is known, and no witness is asked.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..checks import check_images, check_range, check_shape
from .edge_fill import box_mean
from .engine import Carried

_USUAL_SIDE = 256  # short side that numbers of pixels are for
_SMOOTH = 2  # half side of the means, taken twice, of doubt
_TRUST = 4  # power of the trust by which places tell of the witness's error
_NOISE = (1.5, 6.0)  # levels of 255 between which a change begins to be one
_FAINT = 0.25  # share of a key frame
_UNSURE = 0.9  # doubt from which a place may be edited though nothing was carried to it
_MARGIN = 2  # pixels around a change


@dataclass(frozen=True)
class WitnessSettings:
    """How a witness is weighed.

    strength: 1 is as measured, 0 leaves the witness out. share: of the witness in doubt. lost: doubt from which its
    share grows on, to the whole where the doubt is 1. reach: half side of the means,
    taken twice, that make the low band, in pixels at a short side of 256.
    """

    strength: float = 1.0
    share: float = 0.5
    lost: float = 0.8
    reach: int = 3

    def __post_init__(self) -> None:
        check_range("strength", self.strength, 0, 1)
        check_range("share", self.share, 0, 1)
        check_range("lost", self.lost, 0, 0.999)
        check_range("reach", self.reach, 0, 256)


def mix_witness(
    carried: Carried, witness: torch.Tensor, frame: torch.Tensor, settings: WitnessSettings | None = None
) -> tuple[Carried, torch.Tensor]:
    """What was carried, mixed with what another method drew.

    Args: witness: (3, H, W) in [0, 1] of the carried picture's size. frame: (3, H, W), the original.
    Returns: the mix, with the doubt of what was carried; the witness's share (H, W) in [0, 1].
    Raises: ShapeError.
    """
    settings = settings or WitnessSettings()
    picture, doubt = carried.picture, carried.error.clamp(0, 1)
    check_shape("witness", witness, picture.shape)
    check_images("witness", witness[None])
    check_shape("frame", frame, picture.shape)
    scale = min(picture.shape[1:]) / _USUAL_SIDE
    low = _mean(witness - picture, round(settings.reach * scale))
    edited = edited_places(carried, frame)
    say = _say(low.square().mean(0), doubt, edited[0])
    smooth = _mean(doubt[None], round(_SMOOTH * scale))
    gone = ((smooth - settings.lost) / (1 - settings.lost)).clamp(0, 1)
    share = settings.strength * say * torch.lerp(settings.share * smooth, torch.ones_like(gone), gone) * edited
    return Carried((picture + share * low).clamp(0, 1), doubt), share[0]


def _say(distance: torch.Tensor, doubt: torch.Tensor, edited: torch.Tensor) -> float:
    """The part of the witness, 0 to 1, that errors of both ask for: that of the carried change of their sum. All
    (H, W); distance: squared, of the low bands."""
    known, lost = (1 - doubt) ** _TRUST * edited + 1e-6, doubt**2 * edited + 1e-6
    witness, both = (float((weight * distance).sum() / weight.sum()) for weight in (known, lost))
    return max(0.0, both - witness) / max(both, 1e-9)


def edited_places(carried: Carried, frame: torch.Tensor) -> torch.Tensor:
    """Where an edit changes a frame, as far as what was carried to it tells: (1, H, W), 0 where it surely does not.

    Args: frame: (3, H, W) in [0, 1], the original, of the carried picture's size. A change of less than `_NOISE` levels
    is none; a doubtful place counts as edited. Soft at its edges, and wider than the change by a few pixels, so that no
    seam shows. Raises: ShapeError.
    """
    check_shape("frame", frame, carried.picture.shape)
    change = (carried.picture - frame).abs().amax(0, keepdim=True)
    low, high = (level / 255 for level in _NOISE)
    changed = ((change - low) / (high - low)).clamp(0, 1)
    unsure = ((carried.error - _UNSURE) / (1 - _UNSURE)).clamp(0, 1)[None]
    reach = max(1, round(min(frame.shape[1:]) / _USUAL_SIDE * _MARGIN))
    wide = F.max_pool2d(torch.maximum(changed, unsure)[None], 2 * reach + 1, 1, reach)[0]
    return box_mean(wide, reach)


def is_faint(edit: torch.Tensor, key: torch.Tensor) -> bool:
    """Whether an edit changes so much of a key frame by so little that what it left alone cannot be told from what it
    changed: a light grading, say, or a whole picture that was compressed again. Both (3, H, W) of one size."""
    check_shape("edit", edit, key.shape)
    change = (edit - key).abs().amax(0) * 255
    faint = (change > _NOISE[0] / 2) & (change < _NOISE[1])
    return bool(faint.float().mean() > _FAINT)


def _mean(values: torch.Tensor, radius: int) -> torch.Tensor:
    """A mean over a neighbourhood, taken twice."""
    return box_mean(box_mean(values, radius), radius)
