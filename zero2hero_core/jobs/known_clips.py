"""Clips whose truth is known, and what carriers make of their edit: pictures on disk that a universal adapter learns
from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..backbones.surface import UNetSurface
from ..checks import InputError, setting
from ..files.json_file import write_json
from ..hero_stage.training.clip_pairs import WORN, TruePicture
from ..propagation.settings import PropagationSettings
from ..spread import spread
from ..version import __version__
from ..video.image_writer import write_image
from ..video.source import read_image
from ..zero_stage.settings import ZeroStageSettings
from .listener import Listener
from .propagation import Propagation, key_frames
from .spool import Spool
from .state import read_state
from .zero import ZeroWork

ZERO, CARRIED = "zero", "carried"
CARRIERS = (ZERO, CARRIED, WORN)  # Zero-Stage, propagation, simulated
_STATE = "pictures.json"
_BATCH = 4
_DRAWS = 2  # of feature noise: a quarter of the usual time, and the same wear


@dataclass(frozen=True)
class KnownClip:
    """A clip whose truth is known.

    name: of its folder; digest: of its content. anchor: index of the edited frame. frames, truths: (3, H, W) in [0, 1]
    by index, each read when it is asked for; the truth of the anchor is its edit.
    """

    name: str
    digest: str
    anchor: int
    frames: Mapping[int, torch.Tensor]
    truths: Mapping[int, torch.Tensor]

    def chosen(self, most: int) -> list[int]:
        """At most so many frames that have a truth, spread over the clip, and the anchor."""
        indices = sorted(self.truths)
        return sorted({self.anchor, *(indices[place] for place in spread(len(indices), max(most, 2)))})


class CarriedClip:
    """What carriers made of a clip, in a folder: `CARRIER_NNNNNN.png`. A `TrueClip` for `hero_stage.training`."""

    def __init__(self, clip: KnownClip, folder: Path, numbers: Sequence[int]):
        self.clip, self.folder, self.numbers = clip, folder, list(numbers)

    def path(self, number: int, carrier: str) -> Path:
        """The picture that a carrier made of a frame."""
        return self.folder / f"{carrier}_{number:06d}.png"

    def read(self, number: int, carrier: str) -> TruePicture:
        """See `TrueClip.read`."""
        carried = None if carrier == WORN else read_image(self.path(number, carrier))
        return TruePicture(self.clip.frames[number], self.clip.truths[number], carried)

    def make(self, carriers: Sequence[str], unet: UNetSurface | None) -> bool:
        """Make what is missing of the pictures; returns whether anything was. unet: for Zero-Stage.

        Pictures that were made of other content, or by another version, are made again.
        """
        state = {
            "version": __version__,
            "clip": self.clip.digest,
            "frames": self.numbers,
            "model": unet.name if unet else "",
        }
        path = self.folder / _STATE
        before = read_state(path) if path.exists() else {}
        there = (
            set(before.get("carriers", ())) if all(before.get(key) == value for key, value in state.items()) else set()
        )
        missing = [name for name in carriers if name != WORN and name not in there]
        if not missing:
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        for name in missing:
            pictures = self._zero(unet) if name == ZERO else self._carried()
            for number, picture in pictures.items():
                write_image(self.path(number, name), picture, overwrite=True)
        write_json(path, {**state, "carriers": sorted({*there, *missing})})
        return True

    def _zero(self, unet: UNetSurface | None) -> dict[int, torch.Tensor]:
        assert unet is not None
        clip: KnownClip = self.clip
        pictures: dict[int, torch.Tensor] = {}
        settings = ZeroStageSettings(ensemble=_DRAWS)
        edit = clip.truths[clip.anchor]
        work = ZeroWork(unet, clip.frames[clip.anchor], edit, clip.anchor, settings, clip.frames)
        order = sorted(self.numbers, key=lambda index: abs(index - clip.anchor))
        for first in range(0, len(order), _BATCH):
            numbers = order[first : first + _BATCH]
            frames = torch.stack([clip.frames[number] for number in numbers])
            pictures |= dict(zip(numbers, work.edit(frames, numbers, numbers)[0], strict=True))
        return pictures

    def _carried(self) -> dict[int, torch.Tensor]:
        clip = self.clip
        keys = key_frames(clip.frames, [(clip.anchor, clip.truths[clip.anchor])])
        spool = Spool(self.folder / "walks")
        work = Propagation(clip.frames, keys, PropagationSettings(round_trip=True), spool, resumable=False)
        pictures = {result.index: result.carried.picture for result in work.results()}
        return {number: pictures[number] for number in self.numbers}


def check_carriers(carriers: Sequence[str]) -> None:
    """Raise `InputError` for a carrier that is not known, or none."""
    if not carriers or set(carriers) - set(CARRIERS):
        names = ", ".join(carriers) or "none"
        raise InputError(f"{setting('carriers')}: expected some of {', '.join(CARRIERS)}, got {names}.")


def make_all(
    clips: Sequence[KnownClip],
    folder: Path,
    carriers: Sequence[str],
    frames: int,
    unet: UNetSurface | None,
    listener: Listener,
) -> list[CarriedClip]:
    """The pictures of all clips, in folders of their names; what is there already stays.

    Args: frames: of each clip, at most.
    Raises: InputError for two clips of one name, or a clip that has fewer truths than a pair needs.
    """
    names: set[str] = set()
    made = []
    for place, clip in enumerate(clips):
        if clip.name in names:
            raise InputError(f"{setting('clips')}: expected clips of different names, got {clip.name} twice.")
        if clip.anchor not in clip.truths:
            raise InputError(f"{setting('clips')}: {clip.name} has no truth of its anchor, frame {clip.anchor}.")
        names.add(clip.name)
        carried = CarriedClip(clip, folder / clip.name, clip.chosen(frames))
        carried.make(carriers, unet)
        made.append(carried)
        listener.progress("pictures", place + 1, len(clips))
    return made
