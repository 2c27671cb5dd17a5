"""Further views of the training pair: other lights, and moved by some pixels."""

from __future__ import annotations

import pytest
import torch

from zero2hero_core.checks import InputError
from zero2hero_core.hero_stage.training.latents import encode_clip
from zero2hero_core.hero_stage.training.pairs import training_pairs
from zero2hero_core.hero_stage.training.trainer import HeroSettings
from zero2hero_core.hero_stage.training.views import VIEWS, move, pair_views
from zero2hero_core.tiny.dit import load_tiny_dit

SIZE = (24, 40)


def picture(seed: int) -> torch.Tensor:
    return 0.4 * torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(seed))


SHOWN, EDIT = {"zero": picture(0), "frame": picture(1)}, picture(2)


def place_of(view: torch.Tensor, original: torch.Tensor, most: int) -> list[tuple[int, int]]:
    """All shifts (down, right) that make the view of the original."""
    every = [(y, x) for y in range(-most, most + 1) for x in range(-most, most + 1)]
    return [shift for shift in every if torch.equal(move(original, shift), view)]


def test_a_picture_moves_down_and_right_and_is_mirrored_at_the_border():
    row = torch.arange(5.0).expand(3, 4, 5)
    assert move(row, (0, 2))[0, 0].tolist() == [2, 1, 0, 1, 2]
    assert move(row, (0, -1))[0, 0].tolist() == [1, 2, 3, 4, 3]
    assert move(row.mT, (1, 0))[0, :, 0].tolist() == [1, 0, 1, 2, 3]
    with pytest.raises(InputError, match="shift: expected less than the sides, got 4 for a picture of 5 x 4"):
        move(row, (4, 0))


def test_all_pictures_of_a_view_move_together():
    shown, edits = pair_views(SHOWN, EDIT, 6, shift=3)
    assert all(part.shape == (6, 3, *SIZE) for part in (*shown.values(), edits))
    places = [place_of(edit, EDIT, 3) for edit in edits]
    assert all(len(found) == 1 for found in places) and len({found[0] for found in places}) > 3
    for kind, original in SHOWN.items():
        assert [place_of(view, original, 3) for view in shown[kind]] == places


def test_light_is_equal_for_frame_and_edit_and_leaves_the_zero_stage_result():
    shown, edits = pair_views(SHOWN, EDIT, 4, light=1.0)
    assert all(torch.equal(view, SHOWN["zero"]) for view in shown["zero"])
    for frame, edit in zip(shown["frame"], edits, strict=True):
        gains = [lit / original for lit, original in ((frame, SHOWN["frame"]), (edit, EDIT))]
        unclipped = ((frame < 1) & (edit < 1) & (SHOWN["frame"] > 0.01) & (EDIT > 0.01)).nonzero(as_tuple=True)
        torch.testing.assert_close(gains[0][unclipped], gains[1][unclipped], rtol=1e-3, atol=1e-3)
    assert not torch.equal(edits[0], edits[1])


def test_views_are_repeatable_and_moving_them_changes_no_light():
    plain, again, other = (pair_views(SHOWN, EDIT, 3, light=1.0, seed=seed)[1] for seed in (0, 0, 1))
    assert torch.equal(plain, again) and not torch.equal(plain, other)
    both = pair_views(SHOWN, EDIT, 3, light=1.0, shift=2)[1]
    assert all(len(place_of(view, lit, 2)) == 1 for view, lit in zip(both, plain, strict=True))


@pytest.mark.parametrize(
    ("mode", "given", "count"),
    [
        ("explicit", {"shift": 8}, 1 + VIEWS),
        ("explicit", {"light": 1.0}, 1 + VIEWS),
        ("explicit", {}, 1),
        ("zero-ref", {"shift": 8}, 1 + VIEWS),
        ("zero-ref", {"light": 1.0}, 1),  # it shows no frame whose light could be told
        ("tgt-ref", {"shift": 8, "light": 1.0}, 1 + VIEWS),
        ("implicit", {"shift": 8, "light": 1.0}, 4),  # two of the reference, two of other frames
    ],
)
def test_which_modes_get_further_views(mode, given, count):
    pictures = {index: torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(index)) for index in range(4)}
    clip = encode_clip(
        load_tiny_dit(),
        HeroSettings(mode=mode, **given),
        references={0: pictures[0]},
        zero={0: pictures[1]},
        frames={0: pictures[2], 1: pictures[3]},
        zero_target={1: pictures[0], 0: pictures[3]},
    )
    pairs = training_pairs(mode, clip)
    assert len(pairs) == count
    if count > 1 and mode != "implicit":
        assert len({float(pair.target.sum()) for pair in pairs}) > VIEWS / 2
        first = "zero" in HeroSettings(mode=mode).kinds
        still = len({float(pair.conditions[0].sum()) for pair in pairs}) == 1
        assert still == (first and "shift" not in given)
    for place, kind in enumerate(HeroSettings(mode=mode).kinds):
        if kind == "frame":  # every view of a frame is under a light, or at a place, of its own
            assert len({float(pair.conditions[place].sum()) for pair in pairs}) > min(count, VIEWS) / 2


def test_a_missing_picture_is_named_where_the_pairs_are_made():
    one = {0: torch.rand(3, 32, 32)}
    clip = encode_clip(load_tiny_dit(), HeroSettings(light=1.0, shift=8), references=one, frames=one, zero={})
    with pytest.raises(InputError, match="expected the Zero-Stage result of frame 0, got none"):
        training_pairs("explicit", clip)


def test_every_seed_has_places_of_its_own():
    """Also seeds that a short period would throw together."""
    seen = set()
    for seed in range(260):
        views, _ = pair_views({"frame": SHOWN["frame"]}, EDIT, 4, shift=8, seed=seed)
        seen.add(tuple(view[0, 12, ::8].sum().item() for view in views["frame"]))
    assert len(seen) == 260
