"""What keys show of a clip whose motion is known exactly, and which frame shows most."""

from __future__ import annotations

import pytest
from moving import HEIGHT, WIDTH, pan_flow

from zero2hero_core.checks import InputError
from zero2hero_core.propagation.coverage import Adviser, Choice, clip_coverage, key_map
from zero2hero_core.propagation.survey import Survey


def survey(*speeds: float, cuts: tuple[int, ...] = ()) -> Survey:
    """A clip that moves by these speeds from frame to frame."""
    ways = [pan_flow(speed) for speed in speeds]
    values = (0.0,) * (len(speeds) + 1)
    forward, backward = (tuple(way[side].half() for way in ways) for side in (0, 1))
    return Survey(values, values, cuts, (HEIGHT, WIDTH), forward, backward)


def test_one_frame_is_its_own_key() -> None:
    assert clip_coverage(survey(), [0]) == (1.0,) and clip_coverage(survey(), []) == (0.0,)


def test_a_still_clip_is_covered_by_any_frame() -> None:
    assert clip_coverage(survey(0, 0, 0), [2]) == (1.0,) * 4


def test_a_pan_loses_what_leaves_the_picture() -> None:
    """12 of 96 pixels a frame: in eighths, from the key outwards, both ways."""
    assert clip_coverage(survey(12, 12, 12, 12), [2]) == pytest.approx([6 / 8, 7 / 8, 1, 7 / 8, 6 / 8], abs=0.01)
    steps: list[int] = []
    both = clip_coverage(survey(12, 12, 12, 12), [4, 0], step=lambda: steps.append(1))
    assert both == pytest.approx([1, 1, 1, 1, 1], abs=0.01) and len(steps) == 2  # what leaves one comes into the other


def test_chains_end_at_cuts_and_where_nothing_agrees() -> None:
    assert clip_coverage(survey(0, 0, 0, 0, cuts=(2,)), [1]) == (1.0, 1.0, 0.0, 0.0, 0.0)
    reached, cells = key_map(survey(0, 95, 0), 0)
    assert reached == range(0, 2) and cells.shape == (2, HEIGHT // 4, WIDTH // 4)
    broken = survey(0, 0, 0)
    one_way = Survey(
        broken.differences,
        broken.unexplained,
        (),
        broken.size_hw,
        broken.forward,
        (*broken.backward[:2], 9 + broken.backward[2]),
    )
    assert clip_coverage(one_way, [0])[2:] == (1.0, 0.0)


def test_two_keys_on_each_side_count() -> None:
    assert clip_coverage(survey(*[0.0] * 8), [0, 1, 2])[8] == 1.0
    moving = survey(*[12.0] * 6)
    assert clip_coverage(moving, [0, 2, 3])[5] == pytest.approx(6 / 8, abs=0.01)
    reached, _ = key_map(moving, 0, range(0, 3))
    assert reached == range(0, 3)


def test_the_middle_of_a_pan_shows_most() -> None:
    choice = Adviser(survey(*[12.0] * 6)).choose()
    assert choice is not None and choice.frame == 3
    assert choice.gain == pytest.approx((1 + 2 * (7 + 6 + 5) / 8) / 7, abs=0.01)


def test_the_search_finds_the_best_of_a_long_clip_without_trying_all() -> None:
    """70 frames of a fast pan and 30 still ones: a still one shows most; and of the rest the middle."""
    tried: list[int] = []
    adviser = Adviser(survey(*[12.0] * 70, *[0.0] * 30), step=lambda: tried.append(1))
    choice = adviser.choose()
    assert choice is not None and 70 <= choice.frame <= 100 and choice.gain == pytest.approx(34.5 / 101, abs=0.02)
    assert 24 <= len(tried) < 40


def test_the_next_frame_adds_what_the_keys_do_not_show() -> None:
    clip = survey(*[0.0] * 9, cuts=(6,))
    adviser = Adviser(clip)
    first = adviser.choose()
    assert first is not None and first.frame in range(0, 6) and first.gain == pytest.approx(0.6)
    adviser.add(first.frame)
    second = adviser.choose()
    assert second is not None and second.frame in range(6, 10) and second.gain == pytest.approx(0.4)
    again = Adviser(clip, [first.frame]).choose()
    assert again == second
    adviser.begin([0, 1])
    assert adviser.choose() == second


def test_nothing_is_advised_where_every_frame_is_a_key() -> None:
    assert Adviser(survey(0), [0, 1]).choose() is None
    assert Adviser(survey(0, 0), [0, 1]).choose() == Choice(2, 0.0)


def test_many_shots_share_the_candidates() -> None:
    clip = survey(*[0.0] * 99, cuts=tuple(range(2, 100, 2)))
    choice = Adviser(clip).choose()
    assert choice is not None and choice.gain == pytest.approx(0.02)


def test_a_key_outside_the_clip_is_refused() -> None:
    with pytest.raises(InputError, match=r"key: expected 0 to 1 \(the clip has 2 frames\), got 2"):
        clip_coverage(survey(0), [2])
