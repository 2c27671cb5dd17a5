"""Places spread over a row of things."""

from __future__ import annotations


def spread(count: int, most: int) -> list[int]:
    """At most `most` places of `count`, evenly apart, the first and the last among them; `most` from 2 up.

    By hand: 3 of 5 are 0, 2 and 4; 8 of 2 are 0 and 1.
    """
    return sorted({round(place * (count - 1) / (most - 1)) for place in range(most)})
