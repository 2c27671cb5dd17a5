"""Laws of patch synthesis on random pictures."""

from __future__ import annotations

import pytest
import torch

from zero2hero_core.checks import InputError, ShapeError
from zero2hero_core.metrics.psnr import psnr
from zero2hero_core.propagation import patch_torch
from zero2hero_core.propagation.guides import Guide, places
from zero2hero_core.propagation.patch_synthesis import PatchSettings, synthesize

SIZE = (30, 26)
QUICK = PatchSettings(votes=2, searches=2)


def picture(seed: int, size_hw: tuple[int, int] = SIZE) -> torch.Tensor:
    return torch.rand((3, *size_hw), generator=torch.Generator().manual_seed(seed))


def identity(size_hw: tuple[int, int] = SIZE) -> torch.Tensor:
    return places(size_hw).permute(1, 2, 0)


@pytest.mark.parametrize("weighted_vote", [False, True])
@pytest.mark.parametrize("levels", [1, 2])
def test_equal_guides_from_the_identity_give_the_style_bit_for_bit(levels: int, weighted_vote: bool) -> None:
    style = picture(0)
    style[:, :12] = 0.3  # a flat part, where a place is as good as the next but for its occurrence
    frame = picture(1)
    frame[:, :12] = 0.6
    settings = PatchSettings(levels=levels, votes=2, weighted_vote=weighted_vote)
    result = synthesize(style, [Guide(frame, frame, 6.0)], settings, field=identity())
    assert torch.equal(result.picture, style)
    assert torch.equal(result.field.float(), identity())
    assert not result.error.any()


def test_from_a_random_field_equal_guides_bring_the_style_back_nearly() -> None:
    y, x = torch.meshgrid(torch.linspace(0, 1, 48), torch.linspace(0, 1, 48), indexing="ij")
    frame = torch.stack([x, y, (x * 9).sin() * 0.5 + 0.5])
    style = torch.stack([(x * 7).cos() * 0.5 + 0.5, (y * 5 + x).sin() * 0.5 + 0.5, x])
    result = synthesize(style, [Guide(frame, frame, 6.0)])
    assert float(psnr(result.picture[None], style[None])) > 30


def test_a_shift_of_the_guides_shifts_the_style() -> None:
    style, frame = picture(0), picture(1)
    shifted = frame.roll((2, -3), (1, 2))
    result = synthesize(style, [Guide(frame, shifted, 6.0)], field=identity() + torch.tensor([2.0, -1.0]))
    inner = (slice(None), slice(8, -8), slice(8, -8))
    assert torch.equal(result.picture[inner], style.roll((2, -3), (1, 2))[inner])


@pytest.mark.parametrize("near", [False, True])
def test_torch_and_compiled_make_one_picture(near: bool) -> None:
    guides = [Guide(picture(1), picture(2, (24, 28)), 6.0)]
    field = identity((24, 28)) * torch.tensor([25 / 27, 29 / 23]) if near else None
    settings = PatchSettings(votes=1, searches=2, weighted_vote=near)
    results = [
        synthesize(picture(0), guides, settings, field=field, seed=4, engine=engine) for engine in (None, patch_torch)
    ]
    assert torch.equal(results[0].field, results[1].field)
    assert torch.equal(results[0].picture, results[1].picture)
    assert torch.equal(results[0].error, results[1].error)


def test_the_seed_decides() -> None:
    guides = [Guide(picture(1), picture(2), 6.0)]
    pictures = [synthesize(picture(0), guides, QUICK, seed=seed).picture for seed in (1, 1, 2)]
    assert torch.equal(pictures[0], pictures[1]) and not torch.equal(pictures[0], pictures[2])


def test_masks_none_all_and_half() -> None:
    style, guides = picture(0), [Guide(picture(1), picture(2), 6.0)]
    mask = torch.ones(SIZE)
    free = synthesize(style, guides, QUICK, field=identity())
    assert torch.equal(synthesize(style, guides, QUICK, field=identity(), mask=mask).picture, free.picture)
    nothing = synthesize(style, guides, QUICK, field=identity(), mask=mask * 0)
    assert torch.equal(nothing.picture, style) and not nothing.error.any()
    mask[:, 13:] = 0
    half = synthesize(style, guides, QUICK, field=identity(), mask=mask)
    assert torch.equal(half.picture[..., 13:], style[..., 13:])
    assert not torch.equal(half.picture[..., :13], style[..., :13])
    assert (half.error[:, :13] > 0).all() and not half.error[:, 13:].any()


def test_every_guide_counts_by_its_weight() -> None:
    """Two guides ask for two different places: the heavier one wins."""
    style = picture(0)
    there = style.roll(2, 2)
    for weights, wanted in (((6.0, 0.1), style), ((0.1, 6.0), there)):
        guides = [Guide(style, style, weights[0]), Guide(style, there, weights[1])]
        result = synthesize(style, guides, PatchSettings(style_weight=0, votes=2), field=identity())
        assert torch.equal(result.picture[:, 8:-8, 8:-8], wanted[:, 8:-8, 8:-8])


def test_wrong_input_is_refused() -> None:
    style, guide = picture(0), Guide(picture(1), picture(2), 6.0)
    with pytest.raises(InputError, match="at least one guide"):
        synthesize(style, [])
    with pytest.raises(ShapeError, match="guide 0, key"):
        synthesize(style[:, 1:], [guide])
    with pytest.raises(ShapeError, match="field"):
        synthesize(style, [guide], field=identity()[1:])
    with pytest.raises(InputError, match="field: expected finite"):
        synthesize(style, [guide], field=identity() * float("nan"))
    with pytest.raises(InputError, match="got NaN"):
        synthesize(style, [Guide(picture(1), picture(2) * float("nan"), 6.0)])
    with pytest.raises(InputError, match="at least 11 pixels"):
        synthesize(style[:, :10], [Guide(picture(1)[:, :10], picture(2), 6.0)])


@pytest.mark.parametrize(("name", "value"), [("patch", 4), ("patch", 1), ("votes", 0), ("levels", 0), ("radius", 0)])
def test_wrong_settings_are_refused(name: str, value: int) -> None:
    with pytest.raises(InputError, match=name):
        PatchSettings(**{name: value})  # type: ignore[arg-type]
