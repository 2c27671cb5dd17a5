"""The job of `zero2hero keyframes`: which frames to edit, how much of the clip they show, and which to edit next."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..checks import InputError, setting
from ..files.guard import Results
from ..files.json_file import write_json
from ..flow.clip import ClipFlows
from ..flow.dis import dis_flow, opencv
from ..flow.warp import FlowFunction
from ..propagation.coverage import Adviser, Choice, clip_coverage
from ..propagation.coverage_picture import coverage_picture
from ..propagation.key_frames import KeyFrameSettings, check_different, check_keys, select_key_frames
from ..propagation.survey import Survey, survey_clip, uncounted
from ..video.image_reader import image_size, read_image
from ..video.image_writer import write_image
from ..video.resize import resize_frames
from ..video.source import FrameSource, open_frames
from .clip import check_paths, same_picture, start_is
from .folder import job_folder
from .frame_numbers import frame_numbers_text
from .listener import Counter, Listener, Notes
from .request import flat_values

PICTURE, REPORT, KEYS = "coverage.png", "report.json", "keys"
RESULTS = Results((PICTURE, REPORT), ((KEYS, r"key_\d{6,}\.png"),))
_SMALL = 160  # width of the frames in the picture
Step = Callable[[], object]


@dataclass(frozen=True)
class KeyFrames:
    """What was chosen; frames are places in the clip, from 0.

    keys: in order. coverage: share of each frame that the keys show. survey: of the clip. anchor: the one frame that
    shows most of the clip, and following: the frame to edit after the keys; None where they were not looked for (they
    are with method "advice" only), and the latter where every frame is a key.
    """

    keys: tuple[int, ...]
    coverage: tuple[float, ...]
    survey: Survey
    anchor: Choice | None = None
    following: Choice | None = None

    @property
    def mean(self) -> float:
        """Mean of the coverage."""
        return sum(self.coverage) / len(self.coverage)

    def picture(
        self, numbers: Sequence[int] | None = None, pictures: dict[int, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """The plot of the coverage, (3, H, W). Args: see `propagation.coverage_picture`."""
        advised = None if self.following is None else self.following.frame
        return coverage_picture(
            self.coverage, self.keys, self.survey.cuts, numbers=numbers, pictures=pictures, advised=advised
        )


@dataclass(frozen=True)
class KeyFramesRequest:
    """Which clip, how key frames are chosen, and where the results go.

    video, start, stop, stride, max_frames: as in `ClipRequest`. keys: frames that are keys already, by their numbers in
    the original clip.
    """

    video: str
    settings: KeyFrameSettings
    out: str | Path
    keys: tuple[int, ...] = ()
    start: int = 0
    stop: int | None = None
    stride: int = 1
    max_frames: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_different(self.keys)


def choose_key_frames(
    frames: Iterable[torch.Tensor],
    count: int,
    settings: KeyFrameSettings,
    keys: Sequence[int] = (),
    *,
    flow: FlowFunction = dis_flow,
    flows: ClipFlows | None = None,
    on_frame: Step = uncounted,
    on_chain: Step = uncounted,
) -> KeyFrames:
    """Look at a clip once and choose its key frames.

    Args: frames, count, flow, flows: see `propagation.survey.survey_clip`. keys:
        frames that are keys already, places in the clip. on_frame: called after each frame; on_chain: after each frame
        that was tried as a key, or followed as one.
    Raises: InputError.
    """
    check_keys(keys, count)
    if flow is dis_flow and flows is None:
        opencv()
    survey = survey_clip(frames, count, flow=flow, flows=flows, step=on_frame)
    if settings.method != "advice":
        chosen = select_key_frames(survey, settings, keys)
        return KeyFrames(chosen, clip_coverage(survey, chosen, step=on_chain), survey)
    adviser = Adviser(survey, step=on_chain)
    anchor = adviser.choose()
    chosen = select_key_frames(survey, settings, keys, adviser=adviser)
    return KeyFrames(chosen, clip_coverage(survey, chosen, step=on_chain), survey, anchor, adviser.choose())


def run(request: KeyFramesRequest, listener: Listener) -> dict[str, Any]:
    """Choose key frames and write them; nothing is written before all are chosen. Returns the report."""
    check_paths(request.video)
    with job_folder(flat_values(request), "keyframes", RESULTS, remedies=("overwrite",)) as out:
        return _run(request, out, listener)


def _run(request: KeyFramesRequest, out: Path, listener: Listener) -> dict[str, Any]:
    begin, notes = time.perf_counter(), Notes(listener)
    with start_is("start"), _open(request) as source:
        for text in source.notes:
            notes.add(text)
        _check_edits(request, source)
        numbers = [source.index_of(place) for place in range(len(source))]
        places = [_place(number, numbers) for number in request.keys]
        progress, tried = Counter(listener, "frames", len(source)), Counter(listener, "frames tried")
        result = choose_key_frames(
            source, len(source), request.settings, places, on_frame=progress.step, on_chain=tried.step
        )
        out.mkdir(parents=True, exist_ok=True)
        pictures = _write_keys(out, source, result, numbers)
        advised = result.following
        if advised is not None:
            pictures[advised.frame] = _small(source[advised.frame])
        write_image(out / PICTURE, result.picture(numbers, pictures), overwrite=request.overwrite)
    report = _report(request, result, numbers, source.size_hw)
    report |= {"notes": notes, "seconds": {"total": time.perf_counter() - begin}}
    write_json(out / REPORT, report)
    _say(report, request, listener)
    return report


def _open(request: KeyFramesRequest) -> FrameSource:
    return open_frames(
        request.video,
        start=request.start,
        stop=request.stop,
        stride=request.stride,
        maximum=request.max_frames,
        multiple=1,
    )


def _place(number: int, numbers: Sequence[int]) -> int:
    """The place of a frame of the original clip among the chosen ones."""
    if number not in numbers:
        every = f", every {numbers[1] - numbers[0]}" if len(numbers) > 1 and numbers[1] > numbers[0] + 1 else ""
        chosen = f"{numbers[0]} to {numbers[-1]}{every}"
        raise InputError(f"{setting('keys')}: expected frames that are looked at ({chosen}), got {number}.")
    return list(numbers).index(number)


def _check_edits(request: KeyFramesRequest, source: FrameSource) -> None:
    """Refuse to replace a key frame of an earlier run that was edited since."""
    folder = Path(request.out) / KEYS
    for file in sorted(folder.glob("key_*.png")) if folder.is_dir() else ():
        digits = file.stem.removeprefix("key_")
        places = [place for place in range(len(source)) if digits.isdecimal() and source.index_of(place) == int(digits)]
        if not places or image_size(file) != source.size_hw or not same_picture(read_image(file), source[places[0]]):
            raise InputError(
                f"{file}: is not the frame of this clip as an earlier run wrote it; if it is your edit, move it to "
                f"another folder first, or choose another {setting('out')}."
            )


def _write_keys(out: Path, source: FrameSource, result: KeyFrames, numbers: Sequence[int]) -> dict[int, torch.Tensor]:
    """Write the key frames as they are; returns a few of them by place, for the picture."""
    (out / KEYS).mkdir(exist_ok=True)
    pictures = {}
    shown = set(result.keys[:: max(1, len(result.keys) // 12)])
    for place in result.keys:
        frame = source[place]
        write_image(out / key_file(numbers[place]), frame, overwrite=True)
        if place in shown:
            pictures[place] = _small(frame)
    return pictures


def _small(frame: torch.Tensor) -> torch.Tensor:
    height, width = frame.shape[-2:]
    return resize_frames(frame[None], (max(1, round(height * _SMALL / width)), _SMALL))[0]


def key_file(number: int) -> str:
    """The file of a key frame in the folder of the results, by its number in the original clip."""
    return f"{KEYS}/key_{number:06d}.png"


def _report(
    request: KeyFramesRequest, result: KeyFrames, numbers: Sequence[int], size_hw: tuple[int, int]
) -> dict[str, Any]:
    survey, chosen = result.survey, request.settings
    return {
        "command": "keyframes",
        "video": str(request.video),
        "method": chosen.method,
        "settings": flat_values(chosen),
        "size": [size_hw[1], size_hw[0]],
        "count": len(numbers),
        "keys": [numbers[place] for place in result.keys],
        "files": [key_file(numbers[place]) for place in result.keys],
        "cuts": [numbers[place] for place in survey.cuts],
        "shots": [[numbers[shot[0]], numbers[shot[-1]]] for shot in survey.shots],
        "coverage": result.mean,
        "anchor": _choice(result.anchor, numbers),
        "next": _choice(result.following, numbers),
        "flow_size": [survey.size_hw[1], survey.size_hw[0]],
        "frames": [
            {"index": number, "coverage": share, "difference": difference, "unexplained": unexplained}
            for number, share, difference, unexplained in zip(
                numbers, result.coverage, survey.differences, survey.unexplained, strict=True
            )
        ],
    }


def _choice(choice: Choice | None, numbers: Sequence[int]) -> dict[str, Any] | None:
    return None if choice is None else {"frame": numbers[choice.frame], "gain": choice.gain}


def _say(report: dict[str, Any], request: KeyFramesRequest, listener: Listener) -> None:
    keys = report["keys"]
    listener.say(f"{len(keys)} key frame{'s' * (len(keys) > 1)} of {report['count']}: {frame_numbers_text(keys)}")
    if report["cuts"]:
        listener.say(f"new shots begin at {frame_numbers_text(report['cuts'])}")
    listener.say(f"the keys show {report['coverage']:.0%} of the clip, as far as optical flow can follow it")
    if report["anchor"]:
        anchor = report["anchor"]
        listener.say(f"the best single frame is {anchor['frame']}: it shows {anchor['gain']:.0%}")
    if report["next"]:
        following = report["next"]
        listener.say(f"the frame to edit next is {following['frame']}: it adds {following['gain']:.1%}")
    listener.say(f"{request.out}: {KEYS}/, {PICTURE}, {REPORT}")
