"""One frame carried by patches."""

from __future__ import annotations

import pytest
import torch

from zero2hero_core.checks import ShapeError
from zero2hero_core.propagation.guides import GuideWeights
from zero2hero_core.propagation.patch_carry import CarrySettings, carry_patches
from zero2hero_core.propagation.patch_synthesis import PatchSettings

SIZE = (28, 32)
QUICK = CarrySettings(PatchSettings(votes=2, searches=2))


def picture(seed: int) -> torch.Tensor:
    return torch.rand((3, *SIZE), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("previous", [False, True])
def test_without_motion_the_key_comes_back_bit_for_bit(previous: bool) -> None:
    key, frame = picture(0), picture(1)
    result = carry_patches(key, frame, frame, torch.zeros(*SIZE, 2), key if previous else None, QUICK)
    assert torch.equal(result.picture, key)
    assert result.error.shape == SIZE and not result.error.any()


def test_a_shifted_frame_gets_the_shifted_key() -> None:
    key, frame = picture(0), picture(1)
    target, flow = frame.roll((2, -4), (1, 2)), torch.zeros(*SIZE, 2)
    flow[..., 0], flow[..., 1] = 4.0, -2.0
    result = carry_patches(key, frame, target, flow, None, QUICK)
    assert torch.equal(result.picture[:, 6:-6, 6:-8], key.roll((2, -4), (1, 2))[:, 6:-6, 6:-8])
    assert result.field[14, 14].tolist() == [18, 12]


def test_a_wrong_flow_is_mended_by_the_frames() -> None:
    key, frame = picture(0), picture(1)
    settings = CarrySettings(PatchSettings(), GuideWeights(position=0))
    wrong = torch.full((*SIZE, 2), 1.6)
    result = carry_patches(key, frame, frame, wrong, None, settings)
    assert torch.equal(result.picture[:, 8:-8, 8:-8], key[:, 8:-8, 8:-8])


def test_outside_the_mask_the_frame_stays_bit_for_bit() -> None:
    key, frame, target = picture(0), picture(1), picture(2)
    flow, mask = torch.zeros(*SIZE, 2), torch.zeros(SIZE)
    assert torch.equal(carry_patches(key, frame, target, flow, None, QUICK, mask=mask).picture, target)
    free = carry_patches(key, frame, target, flow, None, QUICK).picture
    assert torch.equal(carry_patches(key, frame, target, flow, None, QUICK, mask=mask + 1).picture, free)
    mask[:14] = 1
    half = carry_patches(key, frame, target, flow, None, QUICK, mask=mask)
    assert torch.equal(half.picture[:, 14:], target[:, 14:])
    assert not torch.equal(half.picture[:, :14], target[:, :14])
    mask[:14] = 0.25
    soft = carry_patches(key, frame, target, flow, None, QUICK, mask=mask)
    torch.testing.assert_close(soft.picture[:, :14], 0.75 * target[:, :14] + 0.25 * half.picture[:, :14])


def test_wrong_sizes_are_refused() -> None:
    key, frame, flow = picture(0), picture(1), torch.zeros(*SIZE, 2)
    with pytest.raises(ShapeError, match="key_frame"):
        carry_patches(key, frame[:, 1:], frame, flow)
    with pytest.raises(ShapeError, match="previous"):
        carry_patches(key, frame, frame, flow, key[:, 1:])
    with pytest.raises(ShapeError, match="flow"):
        carry_patches(key, frame, frame, flow[1:])
