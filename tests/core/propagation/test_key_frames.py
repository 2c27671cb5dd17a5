"""Which frames are keys: by hand, by laws, and against a naive reading of the law."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from moving import HEIGHT, WIDTH

from zero2hero_core.checks import InputError
from zero2hero_core.propagation.cuts import shots_of
from zero2hero_core.propagation.key_frames import (
    KeyFrameSettings,
    adaptive_keys,
    select_key_frames,
    spread_keys,
    uniform_keys,
)
from zero2hero_core.propagation.survey import Survey

METHODS = ("uniform", "adaptive", "advice")


def survey(count: int, cuts: tuple[int, ...] = (), differences: tuple[float, ...] | None = None) -> Survey:
    """A still clip."""
    values = (0.0,) * count
    still = tuple(torch.zeros(HEIGHT, WIDTH, 2).half() for _ in range(count - 1))
    return Survey(differences or values, values, cuts, (HEIGHT, WIDTH), still, still)


def changes(count: int, seed: int) -> tuple[float, ...]:
    return tuple(torch.rand(count, generator=torch.Generator().manual_seed(seed)).tolist())


def test_uniform_by_hand() -> None:
    assert uniform_keys([range(0, 25)], [0, 24], 10) == (0, 10, 20, 24)
    assert uniform_keys([range(0, 25)], [0], 10) == (0, 10, 20)
    assert uniform_keys([range(0, 25)], [0, 7, 24], 10) == (0, 7, 17, 24)
    assert uniform_keys([range(0, 12), range(12, 20)], [0, 11, 12, 19], 5) == (0, 5, 10, 11, 12, 17, 19)


def test_spread_by_hand() -> None:
    assert spread_keys([range(0, 21)], [0, 20], 5) == (0, 5, 10, 15, 20)
    assert spread_keys([range(0, 11), range(11, 32)], [0, 10, 11, 31], 6) == (0, 5, 10, 11, 21, 31)
    assert spread_keys([range(0, 4)], [0, 3], 9) == (0, 1, 2, 3)
    assert spread_keys([range(0, 21)], [0], 3) == (0, 7, 14)


def test_adaptive_by_hand() -> None:
    differences = [0.0] * 13
    differences[11], differences[5] = 2.0, 1.0
    assert adaptive_keys(differences, [range(0, 13)], [0, 12], 2, 8) == (0, 5, 12)
    differences[10] = 3.0
    assert adaptive_keys(differences, [range(0, 13)], [0, 12], 2, 8) == (0, 5, 10, 12)
    assert adaptive_keys(differences, [range(0, 13)], [0, 12], 2, 8, count=3) == (0, 10, 12)


def test_the_largest_gap_is_served_first() -> None:
    """All change is in the first half; the second half gets its keys nevertheless."""
    differences = [1.0 - index / 100 if index < 30 else 0.0 for index in range(61)]
    assert adaptive_keys(differences, [range(0, 61)], [0, 30, 60], 5, 20, count=5) == (0, 5, 30, 35, 60)


def naive(differences: tuple[float, ...], count: int, smallest: int, largest: int) -> tuple[int, ...]:
    keys = [0, count - 1]
    while True:
        keys.sort()
        gaps = sorted(pairwise(keys), key=lambda gap: (gap[0] - gap[1], gap[0]))
        for start, stop in gaps:
            inner = [i for i in range(start, stop) if i - start >= smallest and stop - i >= smallest]
            if stop - start > largest and inner:
                keys.append(max(inner, key=lambda i: differences[i]))
                break
        else:
            return tuple(keys)


@pytest.mark.parametrize("seed", range(8))
def test_adaptive_is_the_law_read_naively_and_keeps_its_gaps(seed: int) -> None:
    count, (smallest, largest) = 40 + 9 * seed, [(2, 6), (5, 20), (1, 1), (3, 4), (5, 8), (4, 10), (2, 3), (5, 9)][seed]
    differences = changes(count, seed)
    keys = adaptive_keys(differences, [range(0, count)], [0, count - 1], smallest, largest)
    assert keys == naive(differences, count, smallest, largest)
    gaps = [stop - start for start, stop in pairwise(keys)]
    assert max(gaps) <= max(largest, 2 * smallest - 1) and min(gaps) >= smallest


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [1, 2, 3, 17])
def test_clips_of_any_length_have_keys(method: Any, count: int) -> None:
    keys = select_key_frames(survey(count), KeyFrameSettings(method, every=4, smallest_gap=2, largest_gap=6))
    assert list(keys) == sorted(set(keys)) and set(keys) <= set(range(count))
    if method != "advice":
        assert {0, count - 1} <= set(keys)
        assert all(stop - start <= 6 for start, stop in pairwise(keys))
    else:
        assert len(keys) == 1


@pytest.mark.parametrize("method", ["uniform", "adaptive"])
def test_every_shot_has_its_own_ends(method: Any) -> None:
    cuts = (7, 8, 30)
    clip = survey(50, cuts, changes(50, 3))
    settings = KeyFrameSettings(method, every=9, smallest_gap=3, largest_gap=9)
    keys = select_key_frames(clip, settings)
    for shot in shots_of(cuts, 50):
        inner = [key for key in keys if key in shot]
        assert inner[0] == shot[0] and inner[-1] == shot[-1]
        alone = survey(len(shot), (), clip.differences[shot.start : shot.stop])
        assert [key - shot.start for key in inner] == list(select_key_frames(alone, settings))
    one_sided = KeyFrameSettings(method, every=9, smallest_gap=3, largest_gap=9, two_sided=False)
    assert {0, 7, 8, 30} <= set(select_key_frames(clip, one_sided))
    assert 49 not in select_key_frames(clip, one_sided)


def test_equal_gaps_are_uniform() -> None:
    clip = survey(23, (), changes(23, 1))
    equal = KeyFrameSettings("adaptive", smallest_gap=5, largest_gap=5)
    assert select_key_frames(clip, equal) == (0, 5, 10, 15, 20, 22)
    assert select_key_frames(clip, KeyFrameSettings("adaptive", smallest_gap=5, largest_gap=5, count=3)) == (0, 11, 22)


@pytest.mark.parametrize("method", METHODS)
def test_keys_so_far_stay_and_count_is_kept(method: Any) -> None:
    settings = KeyFrameSettings(method, smallest_gap=2, largest_gap=4, count=6)
    keys = select_key_frames(survey(40, (), changes(40, 5)), settings, [21, 8])
    assert {8, 21} <= set(keys) and len(keys) == 6


def test_advice_takes_one_more_than_there_are() -> None:
    clip = survey(20, (12,))
    assert len(select_key_frames(clip, KeyFrameSettings("advice"))) == 1
    keys = select_key_frames(clip, KeyFrameSettings("advice"), [3])
    assert len(keys) == 2 and keys[0] == 3 and keys[1] >= 12
    assert select_key_frames(survey(2), KeyFrameSettings("advice"), [1, 0]) == (0, 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "random"}, "method: expected one of uniform, adaptive, advice, got 'random'"),
        ({"every": 0}, "every: expected a whole number from 1 up, got 0"),
        ({"count": 0}, "count: expected a whole number from 1 up"),
        ({"smallest_gap": 9, "largest_gap": 4}, r"smallest_gap: expected at most largest_gap \(4\), got 9"),
    ],
)
def test_settings_that_make_no_sense(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        KeyFrameSettings(**values)


@pytest.mark.parametrize(
    ("values", "keys", "message"),
    [
        ({}, [20], r"keys: expected 0 to 19 \(the clip has 20 frames\), got 20"),
        ({}, [3, 5, 3], "keys: expected each frame once, got 3 twice"),
        ({"count": 21}, [], "count: expected at most 20"),
        ({"count": 1, "method": "advice"}, [3, 4], "count: expected 2 or more, as many as there are keys, got 1"),
        ({"count": 3}, [7], "count: expected 5 or more, for the first and last frames of all shots"),
    ],
)
def test_keys_that_make_no_sense(values: dict[str, Any], keys: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        select_key_frames(survey(20, (9,)), KeyFrameSettings(**values), keys)
