"""Tokens that are followed from frame to frame: by hand, on a pattern that repeats itself, and on a rendered clip."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from zero2hero_core.checks import InputError, ShapeError
from zero2hero_core.correspondence import track as t
from zero2hero_core.correspondence.match import match_features, unit_tokens
from zero2hero_core.metrics.psnr import pck
from zero2hero_core.tiny.scenes.scene import Scene, split_seed
from zero2hero_core.tiny.unet import load_tiny
from zero2hero_core.zero_stage.stage import ZeroStage, ZeroStageSettings

GRID = (6, 24)
PERIOD = 8  # tokens after which the pattern repeats itself


def pattern(shift: int) -> torch.Tensor:
    """Features (C, h, w) of stripes with a faint trend, moved to the right by `shift` tokens."""
    h, w = GRID
    y, x = torch.meshgrid(torch.arange(h).float(), torch.arange(w).float() - shift, indexing="ij")
    angles = [2 * torch.pi * x / PERIOD, 2 * torch.pi * y / h]
    return torch.stack([part for angle in angles for part in (angle.cos(), angle.sin())])


def noisy(shift: int) -> torch.Tensor:
    return pattern(shift) + 0.05 * torch.randn(4, *GRID, generator=torch.Generator().manual_seed(shift))


CLIP = {index: noisy(index) for index in range(12)}


def track(anchor: int = 0, clip: dict[int, torch.Tensor] = CLIP) -> t.ClipTrack:
    return t.ClipTrack(clip, anchor, lambda frame, index: frame, GRID)


def off_by(places: torch.Tensor, shift: int) -> torch.Tensor:
    """Distance in tokens, along x, from where the tokens came from; those that the anchor shows."""
    found = places.view(*GRID, 2)[:, max(shift, 0) : GRID[1] + min(shift, 0), 0] * GRID[1] - 0.5
    wanted = torch.arange(GRID[1]).float() - shift
    return (found - wanted[max(shift, 0) : GRID[1] + min(shift, 0)]).abs()


def test_a_repeating_pattern_is_followed_where_a_look_everywhere_is_lost() -> None:
    shift = 11
    alone = match_features(CLIP[shift], CLIP[0], [GRID] * 3, 1).finest.coords_xy().flatten(0, 1)
    assert float((off_by(alone, shift) > PERIOD / 2).float().mean()) > 0.2
    places = track().places(shift, CLIP[0])
    assert float(off_by(places, shift).max()) < 1.5


def test_matches_lie_around_the_places_that_were_followed() -> None:
    followed = track()
    near = t.search_near(followed.places(11, CLIP[0]), GRID)
    found = match_features(CLIP[11], CLIP[0], [(3, 12), GRID, GRID], 2, near=near)
    for level in found.levels:
        h, w = level.size_hw
        x = (level.indices % w + 0.5) / w * GRID[1] - 0.5
        centre = followed.places(11, CLIP[0])[:, 0].view(*GRID)
        centre = torch.nn.functional.adaptive_avg_pool2d(centre[None], (h, w)).flatten()[:, None] * GRID[1] - 0.5
        first = (x - centre).abs()[:, 0]
        assert float(first.max()) <= 1.5 * GRID[1] / w + 1e-3
    fewer = match_features(CLIP[11], CLIP[0], [(3, 12), GRID, GRID], 1, near=near)
    for few, many in zip(fewer.levels, found.levels, strict=True):
        assert torch.equal(few.indices, many.indices[:, : few.indices.shape[1]])
    exact = unit_tokens(CLIP[11]) @ unit_tokens(CLIP[0]).T
    scores = exact.gather(1, found.finest.indices.long())
    torch.testing.assert_close(found.finest.scores, scores)  # the plain similarity, whatever decided the order


def test_any_order_gives_the_same_places_and_outward_no_frame_is_read_twice() -> None:
    read: list[int] = []
    follow = t.ClipTrack(CLIP, 5, lambda frame, index: (read.append(index), frame)[1], GRID)
    outward = sorted(CLIP, key=lambda index: abs(index - 5))
    first = {index: (follow.features(index), follow.places(index, CLIP[5]))[1] for index in outward}
    assert sorted(read) == list(range(12))
    for order in (range(12), [0, 11, 3, 8]):
        again = track(5)
        for index in order:
            assert torch.equal(again.places(index, CLIP[5]), first[index])
    assert float(off_by(first[0], -5).max()) < 1.5 and float(off_by(first[11], 6).max()) < 1.5


def test_chunks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = track().places(4, CLIP[0])
    monkeypatch.setattr(t, "ROWS", 17)
    torch.testing.assert_close(track().places(4, CLIP[0]), whole)


def test_the_anchor_lies_where_it_is_and_others_must_be_known() -> None:
    assert torch.equal(track(3).places(3, CLIP[3]), t.token_places(GRID))
    with pytest.raises(ShapeError, match="frame 40: expected one of the clip"):
        track().places(40, CLIP[0])


def test_a_token_that_was_lost_is_found_again() -> None:
    unique = torch.randn(16, *GRID, generator=torch.Generator().manual_seed(3))
    clip = {0: unique, 1: torch.randn(16, *GRID, generator=torch.Generator().manual_seed(4)), 2: unique}
    cut = t.ClipTrack(clip, 0, lambda frame, index: frame, GRID)  # frame 1 shows something else
    distance = (cut.places(2, unique) - t.token_places(GRID)) * torch.tensor([GRID[1], GRID[0]])
    assert float((distance.abs().amax(-1) < 0.5).float().mean()) > 0.95


def test_between_tokens_is_a_weighted_mean_that_stays_in_the_picture() -> None:
    similarity = torch.full((3, 12), -1.0)
    similarity[0, 5] = similarity[0, 6] = similarity[2, 0] = similarity[1, 9] = 1.0
    places = t.between_tokens(similarity, similarity.argmax(1), (3, 4))
    expected = [[2 / 4, 1.5 / 3], [1.5 / 4, 2.5 / 3], [0.5 / 4, 0.5 / 3]]
    torch.testing.assert_close(places, torch.tensor(expected))


@pytest.mark.parametrize("given", [{"k": -1}, {"neighbourhood": 0.3}])
def test_where_nothing_can_be_followed_the_advice_is_left(given: dict[str, float]) -> None:
    settings = ZeroStageSettings(**given)  # type: ignore[arg-type]
    assert settings.resolve({"track": True}).track is False
    assert ZeroStageSettings().resolve({}).track is False and ZeroStageSettings().resolve({"track": True}).track


def test_a_neighbourhood_and_following_exclude_each_other() -> None:
    with pytest.raises(InputError, match="neighbourhood: .* choose one"):
        ZeroStageSettings(neighbourhood=0.2, track=True)


def test_a_rendered_ball_that_turns_is_followed() -> None:
    """Validation clip 0, whose spots look alike: at its end a look everywhere finds one match of eight."""
    scene, last = Scene(split_seed("validation", 0), 16, 256), 15
    frames = scene.frames(0)
    settings = ZeroStageSettings(ensemble=1)
    given = (load_tiny(), frames[0], frames[0], 0)
    stages = [
        ZeroStage(*given, settings, dict(enumerate(frames))),
        ZeroStage(*given, replace(settings, track=False), dict(enumerate(frames))),
        ZeroStage(*given, settings),  # it does not know the clip
    ]
    found = [stage.correspond(frames[last], last).finest.coords_xy() for stage in stages]
    truth, visible = scene.correspondence(last, 0, 32)
    visible &= torch.nn.functional.adaptive_avg_pool2d(scene.render(last)[1], 32)[0] > 0.5
    followed, alone, unknown = (pck(one[None], truth[None] / 256, visible[None]) for one in found)
    assert followed > alone + 0.3 and alone == unknown


def test_a_place_between_tokens_by_hand() -> None:
    """A token and its eight neighbours, weighted by exp(similarity / SOFT); what lies outside the grid counts for
    nothing, and neither does what lies two tokens away."""
    size = (3, 4)
    similarity = torch.zeros(4, 12)
    similarity[0, [5, 6]] = 0.5  # row 1, columns 1 and 2, equally alike
    similarity[1, 5], similarity[1, 7] = 0.5, 0.5  # two tokens apart
    similarity[2, 0], similarity[2, 4] = 0.5, 0.5 - t.SOFT * math.log(3)  # a corner, and what lies below it
    similarity[3, 11], similarity[3, 10] = 0.5, 0.5 - t.SOFT * math.log(3)  # the last corner, and what lies left of it
    found = t.between_tokens(similarity, torch.tensor([5, 5, 0, 11]), size)
    expected = torch.tensor([[0.5, 0.5], [1.5 / 4, 0.5], [0.5 / 4, (0.5 + 0.25) / 3], [(3.5 - 0.25) / 4, 2.5 / 3]])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
