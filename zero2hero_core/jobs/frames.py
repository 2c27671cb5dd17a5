"""Work on the frames of a clip one by one: PNG files, a state file to resume from, the video at the end."""

from __future__ import annotations

import json
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from ..checks import InputError, Unfinished, Zero2HeroError, setting
from ..files.guard import Results, content, final_path
from ..files.json_file import write_json
from ..files.names import check_name, temporary_name
from ..memory_batches import halving
from ..metrics.psnr import psnr
from ..version import __version__
from ..video.audio import silence_reason
from ..video.image_writer import write_image
from ..video.source import read_image
from ..video.writer import VideoWriter
from .clip import Clip, same_picture
from .listener import Listener, Notes
from .state import check_same, read_state

REPORT, FRAMES = "report.json", "frames"
SUFFIXES = (".mp4", ".mov", ".webm", ".mkv")
_FRAME = r"frame_\d{6,}\.png"
_OWN = re.compile(rf"{_FRAME}|\.frame_.*\.partial\.png")


@dataclass(frozen=True)
class OutputRequest:
    """Where frames and video go.

    out: the folder. resume: go on with an interrupted run. overwrite: replace the results of an earlier run.
    video_name: a file name with the suffix of its container. codec, crf: see `VideoWriter`. no_audio: leave the clip's
    sound out.
    """

    out: str | Path
    resume: bool = False
    overwrite: bool = False
    video_name: str = "edited.mp4"
    codec: str | None = None
    crf: int | None = None
    no_audio: bool = False


def frame_results(state_name: str, video_name: str) -> Results:
    """What a `FrameJob` writes."""
    return Results((state_name, video_name, REPORT), ((FRAMES, _FRAME),))


def check_video(output: OutputRequest, video: str, clip: Clip, notes: Notes | None = None) -> None:
    """Raise `InputError` when the video could not be written as asked for; creates nothing.

    Args: video: the file that sound comes from. notes: that the video will have no sound although the file has some is
    told there.
    """
    name = Path(output.video_name)
    if name.name != output.video_name or name.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"{setting('video_name')}: expected a file name that ends in {', '.join(SUFFIXES)}, "
            f"got {output.video_name}."
        )
    check_name(name)
    there = next(path for path in Path(output.out).absolute().parents if path.is_dir())
    VideoWriter(temporary_name(there / name), clip.source.fps, **_video_options(output, video, clip)).abort()
    if notes is not None and not output.no_audio and (reason := _silence(video, clip)):
        notes.add(f"the video is written without sound: {reason}")


def _video_options(output: OutputRequest, video: str, clip: Clip) -> dict[str, Any]:
    source = clip.source
    options: dict[str, Any] = {"codec": output.codec, "crf": output.crf}
    if not source.even:  # a variable frame rate is kept: the picture stays in step with the sound
        options["times"] = [source.time_of(place) - source.time_of(0) for place in range(len(source))]
    if source.has_audio and not output.no_audio and not _silence(video, clip):
        start, stop = _span(clip)
        options |= {"audio_from": video, "audio_start": start, "audio_stop": stop}
    return options


def _span(clip: Clip) -> tuple[float, float]:
    """When the chosen frames begin and end, in seconds of the original."""
    first, last = (clip.source.time_of(place) for place in (0, len(clip.source) - 1))
    return max(first, 0.0), last + 1 / float(clip.source.fps)


def _silence(video: str, clip: Clip) -> str:
    """Why the chosen frames have no sound although the file has some, else ""."""
    return silence_reason(video, *_span(clip)) if clip.source.has_audio else ""


class FrameJob(ABC):
    """One run: `run(state)` returns the report. Subclasses say what is done to frames.

    command: name in the report. state_name: file that tells what the frames are made of.
    """

    command: ClassVar[str]
    state_name: ClassVar[str]

    def __init__(self, output: OutputRequest, out: Path, video: str, clip: Clip, notes: Notes):
        self.output, self.out, self.video, self.clip, self.notes = output, out, video, clip, notes
        self.done: set[int] = set()  # original indices of finished frames
        self.rows: dict[int, dict[str, Any]] = {}  # what is reported of the frames edited in this run
        self.seconds: dict[str, float] = {}

    def path_of(self, index: int) -> Path:
        """The PNG file of a frame, by its index in the original clip."""
        return self.out / FRAMES / f"frame_{index:06d}.png"

    def run(self, state: dict[str, Any], listener: Listener) -> dict[str, Any]:
        """Begin or resume, edit what is missing, write video and report.

        Raises: Unfinished when interrupted, cancelled or out of memory; the finished frames are kept.
        """
        start = time.perf_counter()
        self._begin(state)
        reused = len(self.done)
        try:
            self._edit_missing(listener)
            video_start = time.perf_counter()
            self._write_video(state, listener)
            self.seconds["video"] = time.perf_counter() - video_start
        except (KeyboardInterrupt, Zero2HeroError) as error:
            if isinstance(error, InputError):
                raise
            what = "interrupted" if isinstance(error, KeyboardInterrupt) else error.text.rstrip(".")
            raise Unfinished(
                f"{what}; {len(self.done)} of {len(self.clip.indices)} frames are finished in {self.out / FRAMES}"
            ) from error
        self.seconds["total"] = time.perf_counter() - start
        report = self._report(state, reused)
        write_json(self.out / REPORT, report)
        self._say(report, listener)
        return report

    def _begin(self, state: dict[str, Any]) -> None:
        state_file, frames = self.out / self.state_name, self.out / FRAMES
        resumed = self.output.resume and state_file.exists()
        if resumed:
            check_same(read_state(state_file), state)
        elif self.output.resume and content(self.out):
            raise InputError(
                f"{setting('resume')}: {self.out} holds no {self.state_name} of an earlier run; choose its folder."
            )
        self.out.mkdir(parents=True, exist_ok=True)
        for file in frames.iterdir() if frames.is_dir() else ():
            if _OWN.fullmatch(file.name) and (file.name.startswith(".") or not resumed):
                file.unlink()
        if not resumed:  # what is old goes before the new state comes: a frame never belongs to another state
            for name in (REPORT, self.output.video_name):
                (self.out / name).unlink(missing_ok=True)
            write_json(state_file, state)
        frames.mkdir(exist_ok=True)
        self.done = {index for index in self.clip.indices if resumed and self._is_finished(index)}

    def _is_finished(self, index: int) -> bool:
        try:
            return tuple(read_image(self.path_of(index)).shape[-2:]) == self.clip.size_hw
        except InputError:  # missing or damaged: made again
            return False

    def _edit_missing(self, listener: Listener) -> None:
        total = len(self.clip.indices)
        listener.progress("frames", len(self.done), total)
        for number, picture in self.pictures():
            index = self.clip.indices[number]
            if index not in self.done:
                write_image(self.path_of(index), picture, overwrite=True)
                self.done.add(index)
                listener.progress("frames", len(self.done), total)
            if listener.cancelled():
                raise Zero2HeroError("cancelled")

    @abstractmethod
    def pictures(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Yields (number, picture (3, H, W)) of the chosen frames that are missing; leaves a row about each by
        `report_row`. A resumed run must give the same frames, to the bit, as an unbroken one."""

    def part_seconds(self) -> dict[str, float]:
        """Seconds by part of the work on frames."""
        return {}

    def summary(self) -> dict[str, Any]:
        """What the report says beyond the frames."""
        return {}

    def report_row(self, index: int, picture: torch.Tensor, frame: torch.Tensor, more: dict[str, Any]) -> None:
        """Keep what is reported of a frame. Raises: Zero2HeroError when the model gave no numbers."""
        if not bool(torch.isfinite(picture).all()):
            raise Zero2HeroError(
                f"the model gave values that are no numbers; try {setting('dtype')} float32 or bfloat16"
            )
        row: dict[str, Any] = {"psnr_to_input": float(psnr(picture[None], frame[None]))}
        self.rows[index] = row | {"unchanged": same_picture(picture, frame)} | more

    def _write_video(self, state: dict[str, Any], listener: Listener) -> None:
        made_by = f"zero2hero {__version__}"
        metadata = {"comment": made_by, "zero2hero": json.dumps({k: v for k, v in state.items() if k != "frames"})}
        options = _video_options(self.output, self.video, self.clip) | {"metadata": metadata, "overwrite": True}
        with VideoWriter(self.out / self.output.video_name, self.clip.source.fps, **options) as writer:
            for number, index in enumerate(self.clip.indices):
                writer.write(read_image(self.path_of(index)))
                listener.progress("video", number + 1, len(self.clip.indices))

    def _report(self, state: dict[str, Any], reused: int) -> dict[str, Any]:
        more = self.summary()
        if self.rows and all(row["unchanged"] for row in self.rows.values()):
            self.notes.add("the result equals the input")
        audio = "audio_from" in _video_options(self.output, self.video, self.clip)
        rows = [
            {"index": i, "file": f"{FRAMES}/{self.path_of(i).name}"} | self.rows.get(i, {}) for i in self.clip.indices
        ]
        new, seconds = len(self.rows), self.seconds | self.part_seconds()
        per_frame = sum(value for part, value in self.part_seconds().items() if part != "reference")
        return {
            "command": self.command,
            "state": state,
            "video": str(final_path(self.out / self.output.video_name)),
            "frames": rows,
            "count": len(rows),
            "reused": reused,
            "fps": float(self.clip.source.fps),
            "fps_fraction": str(self.clip.source.fps),
            "audio": audio,
            **more,
            "notes": self.notes,
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
            "seconds_per_frame": round(per_frame / new, 3) if new else None,
        }

    def _say(self, report: dict[str, Any], listener: Listener) -> None:
        count, reused = report["count"], report["reused"]
        before = f" ({reused} from before)" if reused else ""
        sound = ", with sound" if report["audio"] else ""
        listener.say(f"{count} frames{before}, {report['fps']:g} per second{sound}: {report['video']}")


class BatchJob(FrameJob):
    """Work on frames that do not depend on each other, in batches that are halved where memory is short.

    batch: frames at once.
    """

    def __init__(self, output: OutputRequest, out: Path, video: str, clip: Clip, batch: int, notes: Notes):
        super().__init__(output, out, video, clip, notes)
        self.batch = batch

    def pictures(self) -> Iterator[tuple[int, torch.Tensor]]:
        """The missing frames, in the batches of an unbroken run."""
        total, batch = len(self.clip.indices), self.batch
        groups = [range(first, min(first + batch, total)) for first in range(0, total, batch)]
        todo = [n for group in groups if any(self.clip.indices[m] not in self.done for m in group) for n in group]
        return halving(self.edit, todo, batch)

    @abstractmethod
    def edit(self, numbers: list[int]) -> list[torch.Tensor]:
        """Pictures (3, H, W) of the chosen frames with these numbers; leaves a row about each by `report_row`."""
