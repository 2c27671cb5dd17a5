"""How much of a clip its key frames show, and which frame to edit first, or next.

A key covers a pixel of another frame as far as the flow chained from the frame to the key and the flow chained back
agree there (`flow.occlusion.agreement`): what flow can carry, which is less than what the eye finds again. Chains end
at cuts, and where nothing agrees any more. Maps are kept in cells of 4 x 4 pixels of the small size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..checks import check_index
from ..flow.occlusion import agreement
from ..flow.warp import chain_flows
from .survey import Survey, uncounted

CANDIDATES = 24  # frames that are tried as a key before the best of them is moved to and fro
_CELL = 4
_LOST = 0.02  # share of a frame below which a chain ends
_BESIDE = 2  # keys on each side that count for a frame
_FULL = 255


@dataclass(frozen=True)
class Choice:
    """A frame to edit. frame: its number; gain: mean share of a frame, over the clip, that it shows and no key does."""

    frame: int
    gain: float


def clip_coverage(survey: Survey, keys: Sequence[int], *, step: Callable[[], object] = uncounted) -> tuple[float, ...]:
    """Share of each frame that the keys show, in [0, 1]: of up to two keys on each side of it, in its own shot.

    Args: keys: frame numbers from 0. step: called after each key.
    Returns: N values; 1 for a key, 0 for a frame that no key reaches.
    Raises: InputError for a key outside the clip.
    """
    return tuple(float(value) for value in _covered(survey, keys, step).float().mean((1, 2)) / _FULL)


class Adviser:
    """Which frame shows most of a clip that no key shows yet.

    The search is not exhaustive. Up to 24 frames, spread evenly over all shots by their length, are tried as keys; then
    the best of them is moved to either side by half their distance as long as that shows more, by a quarter, and so on
    down to single frames. Where coverage rises and falls slowly that finds the best frame.

    Args: step: called after each frame that was tried.
    """

    def __init__(self, survey: Survey, keys: Sequence[int] = (), *, step: Callable[[], object] = uncounted) -> None:
        self._survey, self._step = survey, step
        self._maps: dict[int, tuple[range, torch.Tensor]] = {}
        self._candidates = _candidates(survey.shots)
        self.begin(keys)

    def begin(self, keys: Sequence[int]) -> None:
        """Start again with these keys; what is known of frames that were tried is kept."""
        self._covered = _covered(self._survey, keys, self._step)
        self._keys = set(keys)

    def choose(self) -> Choice | None:
        """The frame that shows most of what no key shows yet; None where every frame is a key."""
        free = [frame for frame in range(len(self._survey)) if frame not in self._keys]
        if not free:
            return None
        tried = [frame for frame in self._candidates if frame not in self._keys] or free[:1]
        best = max(tried, key=lambda frame: (self._gain(frame), -frame))
        shot = _shot_of(self._survey, best)
        reach = max(1, len(shot) // max(1, sum(frame in shot for frame in self._candidates))) // 2
        while reach:
            beside = [frame for frame in (best - reach, best + reach) if frame in shot and frame not in self._keys]
            better = max(beside, key=self._gain, default=best)
            if self._gain(better) > self._gain(best):
                best = better
            else:
                reach //= 2
        return Choice(best, self._gain(best))

    def add(self, frame: int) -> None:
        """From now on `frame` is a key."""
        reached, cells = self._map(frame)
        part = self._covered[reached.start : reached.stop]
        torch.maximum(part, cells, out=part)
        self._keys.add(frame)

    def _gain(self, frame: int) -> float:
        reached, cells = self._map(frame)
        part = self._covered[reached.start : reached.stop]
        new = (torch.maximum(part, cells) - part).sum(dtype=torch.int64)
        return int(new) / (_FULL * self._covered.numel())

    def _map(self, frame: int) -> tuple[range, torch.Tensor]:
        if frame not in self._maps:
            self._maps[frame] = key_map(self._survey, frame)
            self._step()
        return self._maps[frame]


def key_map(survey: Survey, key: int, within: range | None = None) -> tuple[range, torch.Tensor]:
    """What one key shows of the frames around it.

    Args: key: frame number. within: frames that count, its shot when None.
    Returns: the frames that it reaches, the key among them, and for each a map (h, w) of cells from 0 to 255: (n, h, w)
        uint8.
    Raises: InputError for a key outside the clip.
    """
    check_index("key", key, len(survey))
    within = _shot_of(survey, key) if within is None else within
    height, width = survey.size_hw
    up = [_cells(share) for share in _agreements(survey, key, range(key + 1, within.stop))]
    down = [_cells(share) for share in _agreements(survey, key, range(key - 1, within.start - 1, -1))]
    own = _cells(torch.ones(height, width))
    return range(key - len(down), key + len(up) + 1), torch.stack([*reversed(down), own, *up])


def _agreements(survey: Survey, key: int, frames: Iterable[int]) -> Iterator[torch.Tensor]:
    """How far the chains between the key and each of the frames agree, in the frame, (h, w); ends where they are
    lost."""
    total = back = None
    for frame in frames:
        later = frame > key
        pair = frame - 1 if later else frame
        ways = (survey.backward[pair], survey.forward[pair]) if later else (survey.forward[pair], survey.backward[pair])
        step, away = (way.float() for way in ways)  # to the frame nearer to the key, and from there
        total = step if total is None else chain_flows(step, total)
        back = away if back is None else chain_flows(back, away)
        share = agreement(total, back)
        if float(share.mean()) < _LOST:
            return
        yield share


def _covered(survey: Survey, keys: Sequence[int], step: Callable[[], object]) -> torch.Tensor:
    """(N, h, w) uint8: how far each cell of each frame is shown by the keys beside it."""
    height, width = survey.size_hw
    covered = torch.zeros(len(survey), *_cells(torch.zeros(height, width)).shape, dtype=torch.uint8)
    ordered = sorted(keys)
    for place, key in enumerate(ordered):
        check_index("key", key, len(survey))
        shot = _shot_of(survey, key)
        first = ordered[place - _BESIDE] + 1 if place >= _BESIDE else 0
        stop = ordered[place + _BESIDE] if place + _BESIDE < len(ordered) else len(survey)
        reached, cells = key_map(survey, key, range(max(first, shot.start), min(stop, shot.stop)))
        part = covered[reached.start : reached.stop]
        torch.maximum(part, cells, out=part)
        step()
    return covered


def _candidates(shots: Sequence[range]) -> list[int]:
    """Up to `CANDIDATES` frames, in the middle of equal parts of the shots; the longest parts are divided first."""
    parts = dict.fromkeys(sorted(shots, key=len, reverse=True)[:CANDIDATES], 0)
    for _ in range(min(CANDIDATES, sum(map(len, parts)))):
        open_shots = [shot for shot in parts if parts[shot] < len(shot)]
        if not open_shots:
            break
        shot = max(open_shots, key=lambda one: len(one) / (parts[one] + 0.5))
        parts[shot] += 1
    return sorted(
        shot.start + (2 * part + 1) * len(shot) // (2 * count) for shot, count in parts.items() for part in range(count)
    )


def _shot_of(survey: Survey, frame: int) -> range:
    return next(shot for shot in survey.shots if frame in shot)


def _cells(share: torch.Tensor) -> torch.Tensor:
    """(H, W) in [0, 1] -> means of cells, (h, w) uint8 from 0 to 255."""
    means = F.avg_pool2d(share[None, None], _CELL, ceil_mode=True)[0, 0]
    return means.mul(_FULL).round().to(torch.uint8)
