"""The laws of a carried change: what it must give back exactly, and what its operators do to light and to slips."""

from __future__ import annotations

import pytest
import torch

from zero2hero_core.checks import InputError, ShapeError
from zero2hero_core.metrics.psnr import psnr
from zero2hero_core.propagation.change import ChangeSettings, KeyChange, Operator

OPERATORS: tuple[Operator, ...] = ("auto", "difference", "ratio", "affine")
SIZE = (40, 56)


def noise(seed: int, size: tuple[int, int] = SIZE) -> torch.Tensor:
    return torch.rand(3, *size, generator=torch.Generator().manual_seed(seed))


def smooth_picture(seed: int, size: tuple[int, int] = SIZE) -> torch.Tensor:
    small = noise(seed, (8, 10))[None]
    return torch.nn.functional.interpolate(small, size, mode="bicubic", align_corners=False)[0].clamp(0.1, 0.9)


def wild_flow() -> torch.Tensor:
    return 4 * torch.randn(*SIZE, 2, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("frame_size", [SIZE, (100, 140)])
def test_an_edit_that_changes_nothing_gives_every_frame_back(operator: Operator, frame_size: tuple[int, int]) -> None:
    key, frame = noise(0), noise(1, frame_size)
    trust = noise(2)[0]
    picture, _ = KeyChange(key, key, ChangeSettings(operator)).carry(frame, wild_flow(), trust)
    assert float((picture - frame).abs().max()) < 1e-6


@pytest.mark.parametrize("operator", [*OPERATORS, "pixels"])
def test_the_key_itself_gets_its_edit(operator: Operator) -> None:
    key, edit = noise(0), noise(1)
    picture, error = KeyChange(key, edit, ChangeSettings(operator)).carry(key, torch.zeros(*SIZE, 2))
    assert float((picture - edit).abs().max()) < 1e-5  # reading at whole pixels rounds
    assert float(error.abs().max()) < 1e-6


@pytest.mark.parametrize("operator", [*OPERATORS, "pixels"])
def test_a_key_that_moved_by_whole_pixels_takes_its_edit_along(operator: Operator) -> None:
    key, edit = noise(0), noise(1)
    flow = torch.tensor([3.0, -2.0]).expand(*SIZE, 2)
    picture, _ = KeyChange(key, edit, ChangeSettings(operator)).carry(key.roll((2, -3), (1, 2)), flow)
    inner = (slice(None), slice(14, -14), slice(14, -14))  # out of reach of what came in at the border
    assert float((picture - edit.roll((2, -3), (1, 2)))[inner].abs().max()) < 0.02


@pytest.mark.parametrize(("operator", "exact"), [("ratio", True), ("auto", True), ("difference", False)])
def test_half_the_light_halves_a_dyed_surface_by_ratio_only(operator: Operator, exact: bool) -> None:
    key = torch.full((3, *SIZE), 0.6)
    edit = key * torch.tensor([1.0, 0.5, 0.25])[:, None, None]
    picture, _ = KeyChange(key, edit, ChangeSettings(operator)).carry(key / 2, torch.zeros(*SIZE, 2))
    assert (float((picture - edit / 2).abs().max()) < 0.06) is exact


def test_a_slipped_match_cancels_by_slope_and_leaves_an_echo_by_difference() -> None:
    key = smooth_picture(3)
    edit = 1 - key
    flow = torch.full((*SIZE, 2), 0.7)  # the truth is 0
    quality = {}
    for operator in ("difference", "affine"):
        settings = ChangeSettings(operator, radius=0)  # type: ignore[arg-type]
        picture, _ = KeyChange(key, edit, settings).carry(key, flow)
        quality[operator] = float(psnr(picture[None], edit[None]))
    assert quality["affine"] > quality["difference"] + 6


def test_what_is_not_trusted_takes_the_change_of_its_colour_nearby() -> None:
    frame = torch.full((3, 64, 64), 0.2)
    frame[:, :, 32:] = 0.8
    edit = frame.clone()
    edit[0, :, :32] += 0.3  # the dark half only
    trust = torch.ones(64, 64)
    trust[28:36] = 0
    flow = torch.zeros(64, 64, 2)
    flow[28:36, :32, 0] = 32  # matched with the other half
    flow[28:36, 32:, 0] = -32
    plain, _ = KeyChange(frame, edit, ChangeSettings("difference", radius=0)).carry(frame, flow, trust)
    filled, error = KeyChange(frame, edit, ChangeSettings("difference", radius=8)).carry(frame, flow, trust)
    assert float((plain - edit)[0, 28:36].abs().mean()) > 0.2
    assert float((filled - edit)[0, 28:36].abs().max()) < 0.03
    assert float(error[28:36].min()) == 1 and float(error[:10].max()) < 0.1


def test_without_any_trust_the_carried_change_is_still_near() -> None:
    key, edit = smooth_picture(4), smooth_picture(5)
    picture, error = KeyChange(key, edit).carry(key, torch.zeros(*SIZE, 2), torch.zeros(SIZE))
    assert float(psnr(picture[None], edit[None])) > 25 and float(error.min()) == 1


def test_a_detail_that_the_key_does_not_show_is_an_error() -> None:
    key = torch.full((3, *SIZE), 0.5)
    frame = key.clone()
    frame[:, 20, 30] = 1.0
    _, error = KeyChange(key, key / 2).carry(frame, torch.zeros(*SIZE, 2))
    assert float(error[20, 30]) > 0.9 and float(error[:8].max()) < 0.05


@pytest.mark.parametrize("operator", [*OPERATORS, "pixels"])
@pytest.mark.parametrize("levels", [(0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.5, 0.5, 1.0)])
def test_flat_pictures_give_finite_values(operator: Operator, levels: tuple[float, float, float]) -> None:
    key, edit, frame = (torch.full((3, *SIZE), level) for level in levels)
    picture, error = KeyChange(key, edit, ChangeSettings(operator)).carry(frame, wild_flow(), torch.zeros(SIZE))
    assert float(picture.min()) >= 0 and float(picture.max()) <= 1 and bool(torch.isfinite(error).all())


def test_a_larger_frame_keeps_its_own_detail_and_gets_the_change_at_its_edges() -> None:
    frame = torch.full((3, 160, 224), 0.2)
    frame[:, :, 101:] = 0.8
    frame = frame + 0.02 * (noise(6, (160, 224)) - 0.5)
    truth = frame.clone()
    truth[0, :, :101] += 0.3
    key, edit = (torch.nn.functional.adaptive_avg_pool2d(picture, SIZE) for picture in (frame, truth))
    picture, error = KeyChange(key, edit).carry(frame, torch.zeros(*SIZE, 2))
    plain = frame + torch.nn.functional.interpolate((edit - key)[None], (160, 224), mode="bilinear")[0]
    assert picture.shape == frame.shape and error.shape == (160, 224)
    assert float(psnr(picture[None], truth[None])) > float(psnr(plain[None], truth[None])) + 3


def test_settings_and_shapes_are_checked() -> None:
    with pytest.raises(InputError, match=r"operator: expected one of auto, .* got 'mean'"):
        ChangeSettings("mean")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"radius: expected a whole number, got 1.5"):
        ChangeSettings(radius=1.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"edge: expected a value"):
        ChangeSettings(edge=0)
    key = noise(0)
    with pytest.raises(ShapeError, match="edit"):
        KeyChange(key, key[:, :-1])
    carrier = KeyChange(key, key)
    with pytest.raises(ShapeError, match=r"frame: expected the key's size"):
        carrier.carry(key[:, :-1], torch.zeros(*SIZE, 2))
    with pytest.raises(ShapeError, match="flow"):
        carrier.carry(key, torch.zeros(8, 8, 2))
    with pytest.raises(ShapeError, match="trust"):
        carrier.carry(key, torch.zeros(*SIZE, 2), torch.zeros(8, 8))
