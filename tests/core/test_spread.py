"""Places spread over a row."""

from __future__ import annotations

import pytest

from zero2hero_core.spread import spread


@pytest.mark.parametrize(
    ("count", "most", "places"),
    [(1, 8, [0]), (2, 8, [0, 1]), (5, 3, [0, 2, 4]), (16, 4, [0, 5, 10, 15]), (8, 8, list(range(8)))],
)
def test_places_are_even_with_both_ends(count: int, most: int, places: list[int]) -> None:
    assert spread(count, most) == places
