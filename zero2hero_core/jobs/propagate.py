"""The job of `zero2hero propagate`: edited key frames carried to all frames of a clip, without a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..checks import Zero2HeroError, setting
from ..files.guard import Results
from ..propagation.engine import KeyFrame
from ..propagation.settings import PropagationSettings
from ..version import __version__
from ..video.image_reader import image_notes
from ..video.resize import resize_frames
from ..video.source import read_image
from .clip import Clip, ClipRequest, Masks, Pictures, check_paths, open_clip, original_frame, same_picture
from .folder import job_folder
from .frames import FrameJob, OutputRequest, check_video, frame_results
from .listener import Counter, Listener, Notes
from .propagation import Propagation, Result, check_keys, fits_within, put_within
from .request import flat_values
from .spool import Spool
from .state import file_digest

STATE, WALKS = "propagate.json", "walks"


@dataclass(frozen=True)
class PropagateRequest:
    """Edited frames, and the clip that they are carried through.

    key: index of an edited frame -> its picture file. mask: where to edit: a picture for all frames, or a folder, glob
    or video with one per frame.
    """

    clip: ClipRequest
    settings: PropagationSettings
    output: OutputRequest
    key: Mapping[int, str]
    mask: str | None = None


def results(output: OutputRequest) -> Results:
    """What the job writes in its folder."""
    return frame_results(STATE, output.video_name) | Results(series=((WALKS, r".+\.safetensors"),))


def run(request: PropagateRequest, listener: Listener) -> dict[str, Any]:
    """Do the job; nothing is written before every input has been checked. Returns the report."""
    check_paths(request.clip.video, request.mask, *request.key.values())
    remedies = ("resume", "overwrite")
    with job_folder(flat_values(request), "propagate", results(request.output), remedies=remedies) as out:
        return _run(request, out, listener)


def _run(request: PropagateRequest, out: Path, listener: Listener) -> dict[str, Any]:
    notes = Notes(listener)
    clip = open_clip(request.clip, 1, notes)
    check_video(request.output, request.clip.video, clip, notes)
    masks = Masks(request.mask, clip) if request.mask else None
    if masks is not None:
        masks.tell_empty(notes)
    frames = _with_keys(request, clip)
    check_keys(list(request.key), frames)
    keys = [read_key(index, path, clip, frames[index], notes) for index, path in sorted(request.key.items())]
    spool = Spool(out / WALKS)
    if not request.output.resume:
        spool.close()

    counters: dict[str, Counter] = {}

    def step(what: str) -> None:
        if not what.startswith("out "):  # its frames are counted as they are written
            counters.setdefault(what, Counter(listener, what)).step()
        if listener.cancelled():
            raise Zero2HeroError("cancelled")

    work = Propagation(frames, keys, request.settings, spool, on_step=step)
    job = PropagateJob(request.output, out, request.clip.video, clip, notes, work, masks)
    report = job.run(_state(request, clip), listener)
    spool.close()
    return report


def _with_keys(request: PropagateRequest, clip: Clip) -> Mapping[int, torch.Tensor]:
    """The chosen frames, and those key frames of the clip that were not chosen, by index."""
    chosen = clip.by_index()
    more = [index for index in request.key if index not in chosen]
    if not more:
        return chosen
    extra = {index: original_frame(request.clip, index, clip, "key") for index in more}
    return Pictures(sorted([*chosen, *more]), lambda index: extra[index] if index in extra else chosen[index])


def read_key(index: int, path: str, clip: Clip, frame: torch.Tensor, notes: Notes) -> KeyFrame:
    """An edited frame, at its own size or, where that is larger, at the frames'; its centre is cut out, and that said,
    if its shape is another."""
    picture = read_image(path)[None]
    for text in image_notes(path):
        notes.add(f"the edit of frame {index}: {text}")
    (h, w), (height, width) = picture.shape[-2:], clip.size_hw
    fitting = clip.fit(picture)
    if fitting is None:
        notes.add(
            f"the edit of frame {index} ({w} x {h}) has another aspect ratio than the clip ({width} x {height}): its "
            "centre was cut out; edit the frame without cropping it for an exact match"
        )
        fitting = resize_frames(picture, clip.size_hw, "crop")
    elif clip.policy == "resize" and fits_within(picture[0], frame):
        fitting = picture
    if same_picture(resize_frames(fitting, clip.size_hw)[0], frame):
        notes.add(f"the edit of frame {index} is the frame itself, so its surroundings keep their look")
    return KeyFrame(index, frame, fitting[0])


def _state(request: PropagateRequest, clip: Clip) -> dict[str, Any]:
    """What the frames are made of. Two runs with equal states give equal frames."""
    height, width = clip.size_hw
    return {
        "version": __version__,
        "keys": sorted(request.key),
        "frames": clip.indices,
        "size": [width, height],
        "policy": clip.policy,
        **asdict(request.settings),
        **{f"key {index} sha256": file_digest(path) for index, path in sorted(request.key.items())},
        "video sha256": file_digest(request.clip.video),
        "mask sha256": file_digest(request.mask),
    }


class PropagateJob(FrameJob):
    """The frames of one propagation."""

    command, state_name = "propagate", STATE

    def __init__(
        self,
        output: OutputRequest,
        out: Path,
        video: str,
        clip: Clip,
        notes: Notes,
        work: Propagation,
        masks: Masks | None,
    ):
        super().__init__(output, out, video, clip, notes)
        self.work, self.masks = work, masks
        self._numbers = {index: number for number, index in enumerate(clip.indices)}

    def pictures(self) -> Iterator[tuple[int, torch.Tensor]]:
        """The frames that are missing, stretch by stretch."""
        for result in self.work.results(self.done):
            if result.index in self._numbers:
                number = self._numbers[result.index]
                yield number, self._put(number, result)

    def _put(self, number: int, result: Result) -> torch.Tensor:
        picture = result.carried.picture
        if self.masks is not None:
            picture = put_within(self.masks.batch([number])[0], picture, result.frame)
        error = round(float(result.carried.error.mean()), 4)
        self.report_row(result.index, picture, result.frame, {"error": error})
        return picture

    def summary(self) -> dict[str, Any]:
        """The keys, and the frames that none of them reaches."""
        lonely = self.work.uncarried
        if lonely:
            self.notes.add(
                f"{len(lonely)} frames lie in shots without a key and stay as they are, the first is {lonely[0]}; edit "
                f"one of them and give it as a further {setting('key')}"
            )
        return {"keys": list(self.work.keys), "cuts": self.work.cuts}
