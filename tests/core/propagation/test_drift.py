"""Frames of another tool, mended."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from zero2hero_core.checks import ShapeError
from zero2hero_core.metrics.psnr import psnr
from zero2hero_core.propagation.drift import mend_drift
from zero2hero_core.propagation.engine import Carried

SIDE = 128


def scene() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A frame with detail, its truth (a square is recoloured), and doubt: half of the square is lost."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(1, 3, 24, 24, generator=generator)
    frame = F.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic")[0].clamp(0, 1) * 0.6 + 0.15
    truth = frame.clone()
    truth[0, 32:96, 32:96] += 0.2
    doubt = torch.full((SIDE, SIDE), 0.05)
    doubt[32:96, 64:96] = 0.95
    return frame, truth, doubt


def carried(frame: torch.Tensor, truth: torch.Tensor, doubt: torch.Tensor) -> Carried:
    """The change is lost where it is in doubt."""
    return Carried(torch.where(doubt > 0.5, frame, truth), doubt)


def quality(picture: torch.Tensor, truth: torch.Tensor) -> float:
    return float(psnr(picture[None], truth[None])[0])


def test_colours_and_sharpness_come_back() -> None:
    frame, truth, doubt = scene()
    blurred = F.avg_pool2d(truth[None], 5, 1, 2, count_include_pad=False)[0]
    walked = (blurred * torch.tensor([1.15, 0.9, 1.1])[:, None, None] - 0.02).clamp(0, 1)
    mended, share = mend_drift(carried(frame, truth, doubt), walked, frame)
    before, alone = quality(walked, truth), quality(carried(frame, truth, doubt).picture, truth)
    assert quality(mended.picture, truth) > max(before, alone) + 3
    assert torch.equal(mended.error, doubt)
    assert float(share[40:88, 70:90].min()) == pytest.approx(0.9)


def test_what_nobody_edited_is_the_source() -> None:
    frame, truth, doubt = scene()
    mended, share = mend_drift(carried(frame, truth, doubt), truth * 0.9, frame)
    assert torch.equal(mended.picture[:, :24], frame[:, :24]) and float(share[:24].max()) == 0


def test_an_edited_frame_stays() -> None:
    frame, truth, _ = scene()
    known = Carried(truth, torch.zeros(SIDE, SIDE))
    mended, share = mend_drift(known, truth * 0.5, frame)
    assert mended is known and float(share.max()) == 0


def test_an_edit_of_the_whole_picture_is_fitted_to_what_is_trusted() -> None:
    frame, _, doubt = scene()
    truth = (frame * torch.tensor([1.2, 0.8, 0.7])[:, None, None] + 0.1).clamp(0, 1)
    mended, _ = mend_drift(Carried(truth, doubt * 0.5 + 0.1), (truth * 0.8).clamp(0, 1), frame)
    assert quality(mended.picture, truth) > quality(truth * 0.8, truth) + 10


def test_sizes() -> None:
    frame, truth, doubt = scene()
    with pytest.raises(ShapeError, match="witness"):
        mend_drift(Carried(truth, doubt), truth[:, :64], frame)
