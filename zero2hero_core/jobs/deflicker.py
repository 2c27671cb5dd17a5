"""The job of `zero2hero deflicker`: a clip that any tool stylised frame by frame, steadied along the original's motion;
frames and video are written as it goes."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..checks import InputError, setting
from ..files.guard import Results
from ..flow.clip import ClipFlows
from ..flow.dis import opencv
from ..flow.warp import check_flow_picture
from ..metrics.temporal import warp_error
from ..propagation.deflicker import Deflicker, DeflickerSettings
from ..version import __version__
from ..video.source import FrameSource, open_frames, read_image
from .clip import Clip, ClipRequest, check_paths, is_same_aspect, open_clip
from .folder import job_folder
from .frames import FrameJob, OutputRequest, check_video, frame_results
from .listener import Listener, Notes
from .request import flat_values
from .state import file_digest

STATE = "deflicker.json"


@dataclass(frozen=True)
class DeflickerRequest:
    """A stylised clip to steady.

    clip: the original, which gives motion and sound; without a size the frames get that of the stylised clip. stylised:
    a video, folder or glob with as many frames as are chosen of the original.
    """

    clip: ClipRequest
    stylised: str
    output: OutputRequest
    settings: DeflickerSettings


def deflickered(
    original: torch.Tensor, stylised: torch.Tensor, settings: DeflickerSettings, listener: Listener | None = None
) -> Iterator[torch.Tensor]:
    """The frames (3, H, W) of a stylised clip in memory, steadied, in order.

    Args: original, stylised: (N, 3, H, W) in [0, 1].
    Raises: InputError when their numbers differ, frames are too small or OpenCV is missing; ShapeError when their sizes
    differ.
    """
    listener = listener or Listener()
    if len(original) != len(stylised):
        raise InputError(
            f"{setting('stylised')}: expected {len(original)} frames, one for each of the original, got "
            f"{len(stylised)}; choose the same stretch."
        )
    check_flow_picture(setting("original"), original[0])
    opencv()
    work = Deflicker(original.__getitem__, stylised.__getitem__, len(stylised), settings)
    for number in range(len(stylised)):
        picture = work.frame(number)
        listener.preview(picture)
        yield picture
        listener.progress("frames", number + 1, len(stylised))


def results(output: OutputRequest) -> Results:
    """What the job writes in its folder."""
    return frame_results(STATE, output.video_name)


def run(request: DeflickerRequest, listener: Listener) -> dict[str, Any]:
    """Do the job; nothing is written before every input has been checked. Returns the report."""
    check_paths(request.clip.video, request.stylised)
    remedies = ("resume", "overwrite")
    with job_folder(flat_values(request), "deflicker", results(request.output), remedies=remedies) as out:
        return _run(request, out, listener)


def _run(request: DeflickerRequest, out: Path, listener: Listener) -> dict[str, Any]:
    notes = Notes(listener)
    opencv()
    native = open_frames(request.stylised, multiple=1)
    size = request.clip.size or native.size_hw
    clip = open_clip(replace(request.clip, size=size), 1, notes)
    check_flow_picture(setting("video"), clip.anchor)
    check_video(request.output, request.clip.video, clip, notes)
    stylised = open_frames(request.stylised, size=clip.size_hw, multiple=1)
    _check_stylised(request, clip, native)
    if request.settings.strength == 0 or request.settings.window == 0:
        notes.add(f"{setting('strength')} or {setting('window')} is 0: the stylised clip stays as it is")
    job = DeflickerJob(request, out, clip, stylised, notes, listener)
    return job.run(_state(request, clip), listener)


def _check_stylised(request: DeflickerRequest, clip: Clip, stylised: FrameSource) -> None:
    name = f"{setting('stylised')} {request.stylised}"
    if len(stylised) != len(clip.indices):
        raise InputError(
            f"{name}: expected {len(clip.indices)} frames, one for each chosen frame of the original, got "
            f"{len(stylised)}; choose the frames that were stylised."
        )
    if not is_same_aspect(stylised.size_hw, clip.size_hw):
        (h, w), (height, width) = stylised.size_hw, clip.size_hw
        raise InputError(f"{name}: expected the shape of the frames, {width} x {height}, got {w} x {h}.")


def _state(request: DeflickerRequest, clip: Clip) -> dict[str, Any]:
    """What the frames are made of. Two runs with equal states give equal frames."""
    height, width = clip.size_hw
    return {
        "version": __version__,
        "frames": clip.indices,
        "size": [width, height],
        "policy": clip.policy,
        **asdict(request.settings),
        "video sha256": file_digest(request.clip.video),
        "stylised sha256": file_digest(request.stylised),
    }


class DeflickerJob(FrameJob):
    """A stylised clip, steadied frame by frame."""

    command, state_name = "deflicker", STATE

    def __init__(
        self,
        request: DeflickerRequest,
        out: Path,
        clip: Clip,
        stylised: FrameSource,
        notes: Notes,
        listener: Listener,
    ):
        super().__init__(request.output, out, request.clip.video, clip, notes)
        self.stylised, self.listener = stylised, listener
        self.work = self._work(request.settings)
        self.frame_seconds = 0.0

    def _work(self, settings: DeflickerSettings) -> Deflicker:
        return Deflicker(
            lambda number: self.clip.frames([number])[0], self.stylised.__getitem__, len(self.stylised), settings
        )

    def pictures(self) -> Iterator[tuple[int, torch.Tensor]]:
        """The missing frames, steadied; none depends on what became of another."""
        for number, index in enumerate(self.clip.indices):
            if index in self.done:
                continue
            start = time.perf_counter()
            picture = self.work.frame(number)
            self.report_row(index, picture, self.work.pictures(number)[1], {})
            self.frame_seconds += time.perf_counter() - start
            yield number, picture

    def part_seconds(self) -> dict[str, float]:
        """Seconds of the work on frames."""
        return {"deflicker": self.frame_seconds}

    def summary(self) -> dict[str, Any]:
        """Mean warp error along the original's motion, of the stylised clip and of the result.

        Read from the files, pair by pair, so that a resumed run reports what an unbroken one does.
        """
        motion = self._work(DeflickerSettings(window=1))
        before: list[float] = []
        after: list[float] = []
        previous = None
        for number, index in enumerate(self.clip.indices):
            picture = read_image(self.path_of(index))
            if previous is not None:
                motion.forget(number)
                there, back = motion.steps(number - 1)
                flows = ClipFlows(there.flow[None], back.flow[None])
                stylised = torch.stack([motion.pictures(n)[1] for n in (number - 1, number)])
                before.append(float(warp_error(stylised, flows)))
                after.append(float(warp_error(torch.stack([previous, picture]), flows)))
            previous = picture
            self.listener.progress("measure", number + 1, len(self.clip.indices))
        return {"warp_error": {"stylised": _mean(before), "result": _mean(after)}}

    def _say(self, report: dict[str, Any], listener: Listener) -> None:
        super()._say(report, listener)
        before, after = report["warp_error"].values()
        if before is not None:
            listener.say(f"warp error {before:.2e} before, {after:.2e} after")


def _mean(values: list[float]) -> float | None:
    numbers = [value for value in values if not math.isnan(value)]  # nan: a pair without a visible pixel
    return sum(numbers) / len(numbers) if numbers else None
