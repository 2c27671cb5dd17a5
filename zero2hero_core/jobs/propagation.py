"""Edited key frames carried to all frames of a clip: the composition that command, node and benchmarks share.

A clip falls into shots, which nothing crosses, and a shot into stretches between its key frames. A stretch with a key
at one end is walked once, outward from the key. A stretch between two keys is walked from both: first backward, which
is kept on disk, then forward, and each frame is blended as it comes. What is kept in memory does not grow with the
clip.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file

from ..checks import InputError, setting
from ..files.tensor_file import write_tensors
from ..flow.clip import ClipFlows
from ..flow.warp import FlowFunction
from ..propagation.blending import blend
from ..propagation.chain import FlowPair
from ..propagation.engine import Carried, KeyFrame, Walk, begin_walk
from ..propagation.settings import PropagationSettings
from ..propagation.survey import find_cuts
from ..video.resize import resize_frames
from .clip import is_same_aspect

_BLOCK_BYTES = 2**28  # of frames that are read ahead, so that a walk backward does not decode each frame anew
ROUND_TRIP = 8  # frames there: far enough for wear, near enough to stay a picture of the key
_HALF = torch.float16  # of pictures that wait on disk: half a level of 8 bits


class Spool:
    """Tensors by name in files of a folder, for what must wait or be taken up again. The folder comes with the first.

    Args: folder: of the spool alone.
    """

    def __init__(self, folder: Path):
        self._folder = folder

    def put(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Keep tensors under a name; the file is whole or not there."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_tensors(self._path(name), {key: value.contiguous() for key, value in tensors.items()}, {})

    def get(self, name: str) -> dict[str, torch.Tensor] | None:
        """What was kept under a name, None where nothing was."""
        path = self._path(name)
        return load_file(path) if path.exists() else None

    def has(self, name: str) -> bool:
        """Whether something is kept under a name."""
        return self._path(name).exists()

    def drop(self, name: str) -> None:
        """Forget what was kept under a name."""
        self._path(name).unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the folder with all that is in it."""
        if self._folder.is_dir():
            for path in self._folder.glob("*.safetensors"):
                path.unlink()
            self._folder.rmdir()

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"


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


class Propagation:
    """The edits of key frames, carried to all other frames.

    Args:
        frames: all frames (3, H, W) by index, each read when it is asked for.
        keys: the key frames; their indices are among those of `frames`.
        spool: where walks are kept.
        cuts: indices of the first frames of shots; None looks for them, if the settings say so.
        flow: (source, target) -> (H, W, 2) of frames that are neighbours here; `steady_flow` where None. flows: of
            frames 0, 1, 2 ..., found already, at any size.
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
        on_step: Callable[[str], None] = lambda what: None,
    ):
        self.settings, self._frames, self._spool, self._on_step = settings, frames, spool, on_step
        self._flow, self._flows = flow, flows
        self.keys = {key.index: key for key in sorted(keys, key=lambda key: key.index)}
        check_keys([key.index for key in keys], frames)
        self.cuts = sorted(self._find_cuts() if cuts is None else cuts)
        self.stretches = stretches(sorted(frames), self.keys, self.cuts)

    def _find_cuts(self) -> list[int]:
        indices = sorted(self._frames)
        if not self.settings.cuts or len(indices) < 3:
            return []
        known = self._spool.get("cuts")
        if known is None:
            pictures = (self._frames[index] for index in indices)
            places = find_cuts(pictures, step=lambda: self._on_step("looking for cuts"))
            known = {"cuts": torch.tensor([indices[place] for place in places], dtype=torch.long)}
            self._spool.put("cuts", known)
        return [int(index) for index in known["cuts"]]

    @property
    def uncarried(self) -> list[int]:
        """Frames of shots without a key, which stay as they are."""
        return [index for part in self.stretches if part.left is part.right is None for index in part.indices]

    @property
    def steps(self) -> int:
        """How many frames all walks step over: those between two keys twice."""
        return sum(len(part.indices) * (2 if None not in (part.left, part.right) else 1) for part in self.stretches)

    def results(self, done: Collection[int] = ()) -> Iterator[tuple[int, Carried]]:
        """Yield (index, what was carried there) for the keys and then for stretch after stretch, without those that
        are done. A walk that was kept goes on where it was, to the same bytes."""
        for index, key in self.keys.items():
            if index not in done:
                yield index, self._round_trip(key) if self.settings.round_trip else self._exact(key)
        for part in self.stretches:
            if set(part.indices) <= set(done):
                continue
            for index, carried in self._stretch(part, done):
                if index not in done:
                    yield index, carried

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

    def _stretch(self, part: Stretch, done: Collection[int]) -> Iterator[tuple[int, Carried]]:
        if part.left is None and part.right is None:
            for index in part.indices:
                frame = self._frames[index]
                yield index, Carried(frame, frame.new_ones(frame.shape[-2:]))
                self._on_step("frames without a key")
        elif part.left is None or part.right is None:
            indices = part.indices if part.right is None else part.indices[::-1]
            key = part.left if part.right is None else part.right
            assert key is not None
            yield from self._walk(key, indices, done, "out")
        else:
            yield from self._between(part.left, part.right, part.indices, done)

    def _walk(
        self, key: int, indices: Sequence[int], done: Collection[int], name: str
    ) -> Iterator[tuple[int, Carried]]:
        """Outward from a key; frames that are done before the place where the walk was kept are passed over."""
        walk = begin_walk(self.keys[key], self.settings, self._flow)
        state_name = f"walk-{name}-{key:06d}-{indices[0]:06d}"
        first = self._take_up(walk, state_name, indices, done)
        before = indices[first - 1] if first else key
        for index, frame in self._read(indices[first:]):
            yield index, walk.step(frame, self._pair(before, index))
            before = index
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

    def _between(
        self, left: int, right: int, indices: Sequence[int], done: Collection[int]
    ) -> Iterator[tuple[int, Carried]]:
        names = {index: f"back-{right:06d}-{index:06d}" for index in indices}
        kept = {index for index in indices if self._spool.has(names[index])}
        backward = self._walk(right, indices[::-1], kept, "back") if len(kept) < len(indices) else ()
        for index, carried in backward:
            self._spool.put(names[index], {"picture": carried.picture.to(_HALF), "error": carried.error.to(_HALF)})
        forward = self._walk(left, indices, (), "forth")
        for number, (index, ahead) in enumerate(forward):
            behind = self._take_back(names, index)
            share = (number + 1) / (len(indices) + 1)
            sides = (ahead.picture, behind.picture, ahead.error, behind.error)
            picture, chosen = blend(*sides, share, self.settings.blending)
            yield index, Carried(picture, torch.where(chosen, behind.error, ahead.error))
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
