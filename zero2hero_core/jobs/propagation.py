"""Edited key frames carried to all frames of a clip: the composition that command, node and benchmarks share.

A clip falls into shots, which nothing crosses, and a shot into stretches between its key frames. A stretch with a key
at one end is walked once, outward from the key. A stretch between two keys is walked from both: first backward, which
is kept on disk, then forward, and each frame is blended as it comes. What is kept in memory does not grow with the
clip.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import torch

from ..checks import InputError, setting
from ..flow.clip import ClipFlows
from ..flow.warp import FlowFunction
from ..propagation.blending import blend
from ..propagation.chain import FlowPair
from ..propagation.drift import mend_drift
from ..propagation.engine import Carried, KeyFrame, Walk, begin_walk
from ..propagation.settings import PropagationSettings
from ..propagation.survey import find_cuts
from ..propagation.witness import WitnessSettings, edited_places, is_faint, mix_witness
from ..video.resize import resize_frames
from .clip import is_same_aspect
from .spool import Spool

_BLOCK_BYTES = 2**28  # of frames that are read ahead, so that a walk backward does not decode each frame anew
ROUND_TRIP = 8  # frames there: far enough for wear, near enough to stay a picture of the key
_HALF = torch.float16  # of pictures that wait on disk: half a level of 8 bits


@dataclass(frozen=True)
class Stretch:
    """Frames of one shot between two keys, or before the first or after the last one.

    left, right: index of the key on either side, None at an end of the shot. indices: of the frames between, rising.
    """

    left: int | None
    right: int | None
    indices: tuple[int, ...]


def stretches(frames: Sequence[int], keys: Collection[int], cuts: Collection[int] = ()) -> list[Stretch]:
    """The stretches of a clip, in its order; a shot without a key is one with neither.

    Args: frames: indices of all frames, rising, keys among them. cuts: indices of first frames of shots.
    """
    result = []
    starts = sorted({frames[0], *(cut for cut in cuts if frames[0] < cut <= frames[-1])})
    for first, after in pairwise([*starts, frames[-1] + 1]):
        shot = [index for index in frames if first <= index < after]
        marks = [None, *(index for index in shot if index in keys), None]
        for left, right in pairwise(marks):
            low = first - 1 if left is None else left
            high = after if right is None else right
            between = tuple(index for index in shot if low < index < high)
            if between:
                result.append(Stretch(left, right, between))
    return result


@dataclass(frozen=True)
class Result:
    """What became of a frame. index: of the frame; frame: (3, H, W), the original."""

    index: int
    frame: torch.Tensor
    carried: Carried


@dataclass(frozen=True)
class Finish:
    """What is done to carried frames.

    witness: what another method or tool made of the frames, (3, H, W) by index; a witness of another size is brought to
    the frame's. repair: the witness is a tool's result, which is to be kept and freed of its drift; else it is mixed in
    where what was carried is not trusted. keep_unedited: what nobody edited is made the source's.
    """

    witness: Mapping[int, torch.Tensor] | None = None
    repair: bool = False
    settings: WitnessSettings = field(default_factory=WitnessSettings)
    keep_unedited: bool = False

    def put(self, result: Result) -> tuple[torch.Tensor, dict[str, float]]:
        """The picture (3, H, W) of a frame, and what is reported of it: shares of the witness, and of edited places."""
        carried, row = result.carried, dict[str, float]()
        if self.witness is not None and result.index in self.witness:
            drawn = _at_size(self.witness[result.index], (int(result.frame.shape[-2]), int(result.frame.shape[-1])))
            if self.repair:
                carried, share = mend_drift(carried, drawn, result.frame)
            else:
                carried, share = mix_witness(carried, drawn, result.frame, self.settings)
            row["witness"] = round(float(share.mean()), 4)
        picture = carried.picture
        if self.keep_unedited:
            edited = edited_places(result.carried, result.frame)
            picture = put_within(edited, picture, result.frame)
            row["edited"] = round(float(edited.mean()), 4)
        return picture, row


FAINT = "the edit changes much of its frame by little, so no place is held to be unedited"


def any_faint(keys: Sequence[KeyFrame]) -> bool:
    """Whether one of the edits changes much of its frame by little; then nothing tells what it left alone."""
    return any(is_faint(_at_size(key.edit, (key.frame.shape[-2], key.frame.shape[-1])), key.frame) for key in keys)


class Propagation:
    """The edits of key frames, carried to all other frames.

    Args:
        frames: all frames (3, H, W) by index, each read when it is asked for.
        keys: the key frames; their indices are among those of `frames`.
        spool: where walks are kept.
        cuts: indices of the first frames of shots; None looks for them, if the settings say so, when the work begins.
        flow: (source, target) -> (H, W, 2) of frames that are neighbours here; `steady_flow` where None. flows: of
            frames 0, 1, 2 ..., found already, at any size.
        resumable: keep walks so that they can be taken up again.
        on_step: called after each frame of each walk with what is done in words; may raise to stop.
    Raises: InputError, ShapeError when keys and frames do not fit together.
    """

    def __init__(
        self,
        frames: Mapping[int, torch.Tensor],
        keys: Sequence[KeyFrame],
        settings: PropagationSettings,
        spool: Spool,
        *,
        cuts: Collection[int] | None = None,
        flow: FlowFunction | None = None,
        flows: ClipFlows | None = None,
        resumable: bool = True,
        on_step: Callable[[str], None] = lambda what: None,
    ):
        self.settings, self._frames, self._spool, self._on_step = settings, frames, spool, on_step
        self._flow, self._flows, self._resumable, self._cuts = flow, flows, resumable, cuts
        self.keys = {key.index: key for key in sorted(keys, key=lambda key: key.index)}
        check_keys([key.index for key in keys], frames)

    @cached_property
    def cuts(self) -> list[int]:
        """Indices of the first frames of shots."""
        indices = sorted(self._frames)
        if self._cuts is not None:
            return sorted(self._cuts)
        if not self.settings.cuts or len(indices) < 3:
            return []
        known = self._spool.get("cuts") if self._resumable else None
        if known is None:
            pictures = (self._frames[index] for index in indices)
            places = find_cuts(pictures, step=lambda: self._on_step("looking for cuts"))
            known = {"cuts": torch.tensor([indices[place] for place in places], dtype=torch.long)}
            if self._resumable:
                self._spool.put("cuts", known)
        return [int(index) for index in known["cuts"]]

    @cached_property
    def stretches(self) -> list[Stretch]:
        """The clip's stretches."""
        return stretches(sorted(self._frames), self.keys, self.cuts)

    @property
    def uncarried(self) -> list[int]:
        """Frames of shots without a key, which stay as they are."""
        return [index for part in self.stretches if part.left is part.right is None for index in part.indices]

    @property
    def steps(self) -> int:
        """How many frames all walks step over: those between two keys twice."""
        return sum(len(part.indices) * (2 if None not in (part.left, part.right) else 1) for part in self.stretches)

    def results(self, done: Collection[int] = ()) -> Iterator[Result]:
        """Yield what was carried to the keys and then to stretch after stretch, without frames that are done. A walk
        that was kept goes on where it was, to the same bytes."""
        for index, key in self.keys.items():
            if index not in done:
                carried = self._round_trip(key) if self.settings.round_trip else self._exact(key)
                yield Result(index, key.frame, carried)
        for part in self.stretches:
            if set(part.indices) <= set(done):
                continue
            for result in self._stretch(part, done):
                if result.index not in done:
                    yield result

    def _exact(self, key: KeyFrame) -> Carried:
        """A key's own edit; one that is smaller than the frame is put on it."""
        height, width = key.frame.shape[-2:]
        if key.edit.shape == key.frame.shape:
            return Carried(key.edit, key.edit.new_zeros(height, width))
        return Carried(begin_walk(key, self.settings, self._flow).carry_key(), key.edit.new_zeros(height, width))

    def _round_trip(self, key: KeyFrame) -> Carried:
        """A key's edit carried over the longest stretch beside it, at most `ROUND_TRIP` frames, and back."""
        beside = [part for part in self.stretches if key.index in (part.left, part.right)]
        if not beside:
            return self._exact(key)
        part = max(beside, key=lambda part: len(part.indices))
        way = (part.indices if part.left == key.index else part.indices[::-1])[:ROUND_TRIP]
        there = self._last(key, way)
        frame = self._frames[way[-1]]
        edit = _at_size(there.picture, (key.edit.shape[-2], key.edit.shape[-1]))
        return self._last(KeyFrame(way[-1], frame, edit), (*way[-2::-1], key.index))

    def _last(self, key: KeyFrame, way: Sequence[int]) -> Carried:
        """What a walk brings to the last frame of its way."""
        walk = begin_walk(key, self.settings, self._flow)
        before = key.index
        for index in way:
            carried = walk.step(self._frames[index], self._pair(before, index))
            before = index
            self._on_step(f"round trip from frame {key.index}")
        return carried

    def _stretch(self, part: Stretch, done: Collection[int]) -> Iterator[Result]:
        if part.left is None and part.right is None:
            for index in part.indices:
                frame = self._frames[index]
                yield Result(index, frame, Carried(frame, frame.new_ones(frame.shape[-2:])))
                self._on_step("frames without a key")
        elif part.left is None or part.right is None:
            indices = part.indices if part.right is None else part.indices[::-1]
            key = part.left if part.right is None else part.right
            assert key is not None
            yield from self._walk(key, indices, done, "out")
        else:
            yield from self._between(part.left, part.right, part.indices, done)

    def _walk(
        self, key: int, indices: Sequence[int], done: Collection[int], name: str, *, keep: bool = True
    ) -> Iterator[Result]:
        """Outward from a key; frames that are done before the place where the walk was kept are passed over."""
        walk, keep = begin_walk(self.keys[key], self.settings, self._flow), keep and self._resumable
        state_name = f"walk-{name}-{key:06d}-{indices[0]:06d}"
        first = self._take_up(walk, state_name, indices, done) if keep else 0
        before = indices[first - 1] if first else key
        for index, frame in self._read(indices[first:]):
            yield Result(index, frame, walk.step(frame, self._pair(before, index)))
            before = index
            if keep:
                self._spool.put(state_name, {**walk.state(), "index": torch.tensor(index)})
            self._on_step(f"{name} from frame {key}")
        self._spool.drop(state_name)

    def _pair(self, before: int, index: int) -> FlowPair | None:
        """The known flows of a frame to its neighbour and back."""
        if self._flows is None:
            return None
        place = min(before, index)
        ways = (self._flows.backward[place], self._flows.forward[place])  # of the later frame, of the earlier one
        return ways if index > before else ways[::-1]

    def _take_up(self, walk: Walk, name: str, indices: Sequence[int], done: Collection[int]) -> int:
        """Bring a walk to where it was kept; returns how many frames it has behind it."""
        state = self._spool.get(name)
        if state is None:
            return 0
        passed = indices.index(int(state.pop("index"))) + 1
        if not set(indices[:passed]) <= set(done):
            return 0
        walk.restore(state)
        return passed

    def _between(self, left: int, right: int, indices: Sequence[int], done: Collection[int]) -> Iterator[Result]:
        names = {index: f"back-{right:06d}-{index:06d}" for index in indices}
        kept = {index for index in indices if self._spool.has(names[index])}
        backward = self._walk(right, indices[::-1], kept, "back") if len(kept) < len(indices) else ()
        for result in backward:
            back = result.carried
            tensors = {"picture": back.picture.to(_HALF), "error": back.error.to(_HALF)}
            self._spool.put(names[result.index], tensors)
        forward = self._walk(left, indices, (), "forth", keep=False)  # each frame of it needs all before it, not more
        for number, result in enumerate(forward):
            ahead, behind = result.carried, self._take_back(names, result.index)
            share = (number + 1) / (len(indices) + 1)
            sides = (ahead.picture, behind.picture, ahead.error, behind.error)
            picture, chosen = blend(*sides, share, self.settings.blending)
            error = torch.where(chosen, behind.error, ahead.error)
            yield Result(result.index, result.frame, Carried(picture, error))
        for name in names.values():
            self._spool.drop(name)

    def _take_back(self, names: Mapping[int, str], index: int) -> Carried:
        """What the walk backward brought to a frame. names: of what it kept, by frame, in their order in time."""
        kept = self._spool.get(names[index])
        assert kept is not None
        return Carried(kept["picture"].float(), kept["error"].float())

    def _read(self, indices: Sequence[int]) -> Iterator[tuple[int, torch.Tensor]]:
        """Frames in this order; a way backward reads blocks forward."""
        if len(indices) < 2 or indices[0] < indices[1]:
            yield from ((index, self._frames[index]) for index in indices)
            return
        size = next(iter(self.keys.values())).frame.numel() * 4
        block = max(1, _BLOCK_BYTES // size)
        for first in range(0, len(indices), block):
            chosen = indices[first : first + block]
            ahead = {index: self._frames[index] for index in reversed(chosen)}
            yield from ((index, ahead.pop(index)) for index in chosen)


def check_keys(indices: Sequence[int], frames: Mapping[int, torch.Tensor]) -> None:
    """Raise `InputError` unless there are keys, each once, and each a frame of the clip."""
    name = setting("key")
    if not indices:
        raise InputError(f"{name}: expected at least one edited frame, got none; give one.")
    for place, index in enumerate(indices):
        if index in indices[:place]:
            raise InputError(f"{name}: expected each frame once, got frame {index} twice; leave one out.")
        if index not in frames:
            first, last = min(frames), max(frames)
            span = "among which it is not" if first <= index <= last else f"{first} to {last}"
            raise InputError(f"{name}: expected one of the chosen frames ({span}), got {index}; choose another.")


def key_frames(frames: Mapping[int, torch.Tensor], edits: Sequence[tuple[int, torch.Tensor]]) -> list[KeyFrame]:
    """Key frames of edits (3, h, w) by index; one of the frames' shape is reduced to their size, or left smaller.

    Raises: InputError for a key that is no frame or comes twice, or an edit of another aspect ratio.
    """
    check_keys([index for index, _ in edits], frames)
    keys = []
    for index, edit in edits:
        frame = frames[index]
        (h, w), (height, width) = edit.shape[-2:], frame.shape[-2:]
        if not is_same_aspect((h, w), (height, width)):
            raise InputError(
                f"edits: expected the shape of the frames ({width} x {height}), but the edit of frame {index} is "
                f"{w} x {h}; resize it without cropping."
            )
        keys.append(KeyFrame(index, frame, edit if fits_within(edit, frame) else _at_size(edit, (height, width))))
    return keys


def fits_within(edit: torch.Tensor, frame: torch.Tensor) -> bool:
    """Whether an edit can stay as it is: of the frame's size, or smaller in both directions."""
    (h, w), (height, width) = edit.shape[-2:], frame.shape[-2:]
    return (h, w) == (height, width) or (h < height and w < width)


def put_within(mask: torch.Tensor, picture: torch.Tensor, frame: torch.Tensor) -> torch.Tensor:
    """The picture where the mask is white, the frame to the bit where it is black. (1, H, W), (3, H, W), (3, H, W)."""
    return torch.where(mask > 0, torch.lerp(frame, picture, mask), frame)


def _at_size(picture: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    return resize_frames(picture[None], size_hw)[0]
