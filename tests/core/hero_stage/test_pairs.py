"""The pairs that each mode trains on (paper, Table 1)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from zero2hero_core.checks import InputError
from zero2hero_core.hero_stage.training.pairs import ClipLatents, PairViews, TrainingPair, training_pairs
from zero2hero_core.paper import MODES

CHANNELS, GRID = 32, (2, 2)


def numbered(offset: int, indices: tuple[int, ...]) -> dict[int, torch.Tensor]:
    return {index: torch.full((1, CHANNELS, *GRID), float(offset + index)) for index in indices}


CLIP = ClipLatents(
    references=numbered(100, (7, 3)),
    zero=numbered(200, (3, 7)),
    frames=numbered(300, (3, 5, 7)),
    zero_target=numbered(400, (3, 5)),
)
# As (what the conditions show..., target); the hundreds tell which picture, the rest which frame.
PAIRS = {
    "explicit": [(203, 303, 103), (207, 307, 107)],  # b, one for each reference
    "implicit": [(203, 103), (207, 107), (403, 303), (405, 305)],  # a and c
    "zero-ref": [(203, 103), (207, 107)],  # a
    "tgt-ref": [(303, 103), (307, 107)],
}


def as_numbers(pairs: list[TrainingPair]) -> list[tuple[float, ...]]:
    return [tuple(float(t.mean()) for t in (*pair.conditions, pair.target)) for pair in pairs]


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_makes_the_pairs_of_the_paper(mode):
    assert as_numbers(training_pairs(mode, CLIP)) == PAIRS[mode]


def test_the_only_reference_is_drawn_as_often_as_all_other_frames_together():
    one = replace(CLIP, references=numbered(100, (3,)), zero_target=numbered(400, (3, 5)))
    assert as_numbers(training_pairs("implicit", one)) == [(203, 103)] * 2 + [(403, 303), (405, 305)]
    for mode in ("explicit", "zero-ref", "tgt-ref"):
        assert as_numbers(training_pairs(mode, one)) == PAIRS[mode][:1]


def test_further_views_stand_behind_their_pair():
    def both(offset: int) -> torch.Tensor:
        return torch.cat(list(numbered(offset, (1, 2)).values()))

    views = {3: PairViews({"frame": both(500), "zero": both(700)}, both(600))}
    clip = replace(CLIP, references=numbered(100, (3, 7)), views=views)
    pair, last = (203, 303, 103), (207, 307, 107)
    assert as_numbers(training_pairs("explicit", clip)) == [pair, (701, 501, 601), (702, 502, 602), last]
    assert as_numbers(training_pairs("tgt-ref", clip)) == [(303, 103), (501, 601), (502, 602), (307, 107)]
    assert as_numbers(training_pairs("zero-ref", clip)) == [(203, 103), (701, 601), (702, 602), (207, 107)]


@pytest.mark.parametrize(
    ("mode", "missing", "message"),
    [
        ("explicit", "zero", "mode explicit: expected the Zero-Stage result of frame 3, got none"),
        ("explicit", "frames", "mode explicit: expected the original of frame 3, got none"),
        ("zero-ref", "zero", "mode zero-ref: expected the Zero-Stage result of frame 3, got none"),
        ("tgt-ref", "frames", "mode tgt-ref: expected the original of frame 3, got none"),
        ("implicit", "zero_target", "mode implicit: expected Zero-Stage results with the anchor itself"),
        ("implicit", "frames", "mode implicit: expected the original of frame 3, got none"),
        ("explicit", "references", "mode explicit: expected at least one reference, got none"),
    ],
)
def test_a_mode_names_what_is_missing(mode, missing, message):
    with pytest.raises(InputError, match=message):
        training_pairs(mode, replace(CLIP, **{missing: {}}))


@pytest.mark.parametrize("mode", ["zero-ref", "tgt-ref"])
def test_a_mode_asks_for_nothing_that_it_does_not_use(mode):
    unused = {"zero-ref": {"frames": {}, "zero_target": {}}, "tgt-ref": {"zero": {}, "zero_target": {}}}[mode]
    assert as_numbers(training_pairs(mode, replace(CLIP, **unused))) == PAIRS[mode]
