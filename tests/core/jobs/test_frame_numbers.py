"""Frame numbers as text."""

from __future__ import annotations

import pytest

from zero2hero_core.checks import InputError
from zero2hero_core.jobs.frame_numbers import frame_numbers_text, read_frame_numbers


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("", ()), ("12", (12,)), ("31, 0,12", (31, 0, 12)), ("3 3\n5;", (3, 3, 5)), (" , ", ())],
)
def test_numbers_are_read_as_they_stand(text: str, numbers: tuple[int, ...]) -> None:
    assert read_frame_numbers("keys", text) == numbers
    assert read_frame_numbers("keys", frame_numbers_text(numbers)) == numbers


@pytest.mark.parametrize("text", ["a", "1-3", "-1", "1.5"])
def test_what_is_no_number_is_named(text: str) -> None:
    with pytest.raises(InputError, match=f"keys: expected frame numbers like 0,12,31, got '{text}'"):
        read_frame_numbers("keys", text)


def test_text_by_hand() -> None:
    assert frame_numbers_text([0, 12, 31]) == "0,12,31"
