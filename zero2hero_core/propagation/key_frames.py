"""Which frames of a clip to edit: every so many, more of them where much changes, or those that show most of the clip.

Frames are numbered from 0. Shots are served one by one; the first and, where propagation comes from two sides, the last
frame of each is a key, except where keys are chosen by what they show.

Source of the adaptive law: FRESCO (arXiv 2403.12962), key-frame selection. Differs: the largest gap is served first, so
that no gap stays too large where another one changes more; shots are kept apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

from ..checks import InputError, setting
from .coverage import Adviser
from .survey import Survey

Method = Literal["uniform", "adaptive", "advice"]


@dataclass(frozen=True)
class KeyFrameSettings:
    """How key frames are chosen.

    method: "uniform", every `every` frames; "adaptive", gaps from `smallest_gap` to `largest_gap`, where the picture
    changes most; "advice", the frames that show most of what no key shows yet. count: how many keys in all: uniform
    spreads them evenly; adaptive takes at most so many; advice goes on until there are so many, and takes one more than
    there are without it. two_sided: the last frame of a shot is a key as well.

    Raises: InputError.
    """

    method: Method = "uniform"
    every: int = 10
    smallest_gap: int = 5
    largest_gap: int = 20
    count: int | None = None
    two_sided: bool = True

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            names = ", ".join(get_args(Method))
            raise InputError(f"{setting('method')}: expected one of {names}, got {self.method!r}.")
        for name in ("every", "smallest_gap", "largest_gap", "count"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{setting(name)}: expected a whole number from 1 up, got {value}.")
        if self.smallest_gap > self.largest_gap:
            raise InputError(
                f"{setting('smallest_gap')}: expected at most {setting('largest_gap')} ({self.largest_gap}), "
                f"got {self.smallest_gap}; exchange them or change one."
            )


def select_key_frames(
    survey: Survey, settings: KeyFrameSettings, keys: Sequence[int] = (), *, adviser: Adviser | None = None
) -> tuple[int, ...]:
    """The key frames of a clip, in order, with the keys so far among them.

    Args: keys: frames that are keys already. adviser: of this survey, for the method "advice"; a new one without.
    Raises: InputError when a key is outside the clip or named twice, or the count does not fit.
    """
    check_keys(keys, len(survey))
    _check_count(settings.count, len(survey), len(keys))
    if settings.method == "advice":
        return _advised_keys(adviser or Adviser(survey), settings.count, keys)
    fixed = _fixed_keys(survey.shots, keys, settings.two_sided)
    if settings.count is not None and settings.count < len(fixed):
        ends = "first and last frames" if settings.two_sided else "first frames"
        raise InputError(
            f"{setting('count')}: expected {len(fixed)} or more, for the {ends} of all shots and the keys so far are "
            f"taken anyway, got {settings.count}; {setting('method')} advice has no such frames."
        )
    if settings.method == "adaptive" and settings.smallest_gap < settings.largest_gap:
        gaps = (settings.smallest_gap, settings.largest_gap)
        return adaptive_keys(survey.differences, survey.shots, fixed, *gaps, settings.count)
    every = settings.every if settings.method == "uniform" else settings.largest_gap
    if settings.count is None:
        return uniform_keys(survey.shots, fixed, every)
    return spread_keys(survey.shots, fixed, settings.count)


def check_keys(keys: Sequence[int], count: int) -> None:
    """Raise `InputError` unless the keys are different frames of a clip of `count` frames."""
    check_different(keys)
    for key in keys:
        if not 0 <= key < count:
            raise InputError(f"{setting('keys')}: expected 0 to {count - 1} (the clip has {count} frames), got {key}.")


def check_different(keys: Sequence[int]) -> None:
    """Raise `InputError` when a key is named twice."""
    for place, key in enumerate(keys):
        if key in keys[:place]:
            raise InputError(f"{setting('keys')}: expected each frame once, got {key} twice; leave one out.")


def uniform_keys(shots: Iterable[range], fixed: Iterable[int], every: int) -> tuple[int, ...]:
    """The fixed keys, and every `every`-th frame after each of them up to the next.

    By hand: 0 and 24 in a shot of 25 frames, every 10: 0, 10, 20, 24.
    """
    keys: set[int] = set()
    for start, stop in _stretches(shots, fixed):
        keys.update(range(start, stop, every))
    return tuple(sorted(keys))


def spread_keys(shots: Iterable[range], fixed: Sequence[int], count: int) -> tuple[int, ...]:
    """`count` keys, the fixed ones among them, at distances as equal as whole frames and the fixed ones allow; fewer
    where there are not so many frames."""
    stretches = dict.fromkeys(_stretches(shots, fixed), 1)  # parts that each is divided into
    for _ in range(count - len(set(fixed))):
        open_ones = [one for one in stretches if stretches[one] < one[1] - one[0]]
        if not open_ones:
            break
        stretches[max(open_ones, key=lambda one: ((one[1] - one[0]) / stretches[one], -one[0]))] += 1
    inner = {
        start + (stop - start) * part // parts for (start, stop), parts in stretches.items() for part in range(parts)
    }
    return tuple(sorted(inner | set(fixed)))


def adaptive_keys(
    differences: Sequence[float],
    shots: Iterable[range],
    fixed: Iterable[int],
    smallest_gap: int,
    largest_gap: int,
    count: int | None = None,
) -> tuple[int, ...]:
    """Keys added until no gap within a shot is larger than `largest_gap`: into the largest gap, at the frame that
    differs most from the one before, not nearer than `smallest_gap` to another key.

    A gap stays when it is smaller than twice the smallest gap. By hand: fixed 0 and 12, gaps 2 to 8, differences all
    equal but the largest at 11 and the second largest at 5: 0, 5, 12.

    Args: differences: of each frame to the one before. fixed: keys to begin with. count: keys in all at most.
    Returns: frame numbers in order.
    """
    shots = list(shots)
    keys = set(fixed)
    while count is None or len(keys) < count:
        gaps = [(stop - start, -start) for start, stop in _stretches(shots, keys) if stop in keys]
        gaps += [(stop - 1 - start, -start) for start, stop in _stretches(shots, keys) if stop not in keys]
        wide = [gap for gap in gaps if gap[0] > largest_gap and gap[0] >= 2 * smallest_gap]
        if not wide:
            break
        length, start = max(wide)
        inner = range(-start + smallest_gap, -start + length - smallest_gap + 1)
        keys.add(max(inner, key=lambda frame: (differences[frame], -frame)))
    return tuple(sorted(keys))


def _advised_keys(adviser: Adviser, count: int | None, keys: Sequence[int]) -> tuple[int, ...]:
    chosen = list(keys)
    adviser.begin(keys)
    while len(chosen) < (len(keys) + 1 if count is None else count):
        choice = adviser.choose()
        if choice is None:
            break
        adviser.add(choice.frame)
        chosen.append(choice.frame)
    return tuple(sorted(chosen))


def _fixed_keys(shots: Iterable[range], keys: Iterable[int], two_sided: bool) -> tuple[int, ...]:
    fixed = set(keys)
    for shot in shots:
        fixed |= {shot[0], shot[-1]} if two_sided else {shot[0]}
    return tuple(sorted(fixed))


def _stretches(shots: Iterable[range], keys: Iterable[int]) -> list[tuple[int, int]]:
    """From each key to the next one, or to the end of the shot: first frame, and the frame before which it ends."""
    ordered = sorted(keys)
    stretches = []
    for shot in shots:
        marks = [key for key in ordered if key in shot]
        stretches += list(pairwise(marks))
        if marks:
            stretches.append((marks[-1], shot.stop))
    return stretches


def _check_count(count: int | None, frames: int, keys: int) -> None:
    if count is None:
        return
    if count > frames:
        raise InputError(f"{setting('count')}: expected at most {frames}, the frames of the clip, got {count}.")
    if count < keys:
        raise InputError(f"{setting('count')}: expected {keys} or more, as many as there are keys, got {count}.")
