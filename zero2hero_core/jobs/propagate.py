"""The job of `zero2hero propagate`: edited key frames carried to all frames of a clip, without a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..checks import InputError, Zero2HeroError, check_range, setting
from ..files.guard import Results
from ..propagation.engine import KeyFrame
from ..propagation.settings import PropagationSettings
from ..propagation.witness import WitnessSettings
from ..version import __version__
from ..video.image_reader import image_notes
from ..video.resize import resize_frames
from ..video.source import read_image
from .clip import Clip, ClipRequest, Masks, Pictures, check_paths, open_clip, original_frame, same_picture
from .folder import job_folder
from .frames import FRAMES, FrameJob, OutputRequest, check_video, frame_results
from .listener import Counter, Listener, Notes
from .propagation import FAINT, Finish, Propagation, Result, any_faint, check_keys, fits_within, put_within
from .request import flat_values
from .spool import Spool
from .state import file_digest
from .zero_frames import ZeroFrames

STATE, WALKS = "propagate.json", "walks"


@dataclass(frozen=True)
class PropagateRequest:
    """Edited frames, and the clip that they are carried through.

    key: index of an edited frame -> its picture file.
    mask: where to edit: a picture for all frames, or a folder, glob or video with one per frame.
    witness: what another method made of the clip in the edit's look, a folder of `zero`, `hero restore`, `propagate`,
        or any video: mixed in where what is carried is not trusted. witness_strength: 0 to 1, how much at most.
    repair: the same of a tool whose result is to be kept, and freed of its drift.
    keep_unedited: places that the edit leaves alone, as far as it shows, stay the source's.
    """

    clip: ClipRequest
    settings: PropagationSettings
    output: OutputRequest
    key: Mapping[int, str]
    mask: str | None = None
    witness: str | None = None
    repair: str | None = None
    witness_strength: float = 1.0
    keep_unedited: bool = False

    def __post_init__(self) -> None:
        check_range(setting("witness_strength"), self.witness_strength, 0, 1)
        if self.repair and self.witness:
            raise InputError(
                f"{setting('repair')}, {setting('witness')}: expected one of them, got both; leave one out."
            )


def results(output: OutputRequest) -> Results:
    """What the job writes in its folder."""
    return frame_results(STATE, output.video_name) | Results(series=((WALKS, r".+\.safetensors"),))


def run(request: PropagateRequest, listener: Listener) -> dict[str, Any]:
    """Do the job; nothing is written before every input has been checked. Returns the report."""
    check_paths(request.clip.video, request.mask, request.witness, request.repair, *request.key.values())
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
    witness, given = None, request.repair or request.witness
    if given:
        witness = ZeroFrames((given,), "repair" if request.repair else "witness")
        witness.bind(clip.indices)
        witness.need(clip.indices)
    keep_unedited = request.keep_unedited
    if keep_unedited and any_faint(keys):
        keep_unedited = False
        notes.add(FAINT)
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
    settings = WitnessSettings(strength=request.witness_strength)
    pictures = witness.pictures(clip.size_hw, clip.indices) if witness else None
    finish = Finish(pictures, bool(request.repair), settings, keep_unedited)
    job = PropagateJob(request.output, out, request.clip.video, clip, notes, work, masks, finish)
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
        **_finish_state(request),
    }


def _finish_state(request: PropagateRequest) -> dict[str, Any]:
    """What is done beyond carrying; nothing where nothing is, as in earlier versions."""
    state: dict[str, Any] = {}
    for name in ("witness", "repair"):
        if given := getattr(request, name):
            frames = Path(given) / FRAMES
            state[f"{name} sha256"] = file_digest(str(frames if frames.is_dir() else given))
    if request.witness:
        state["witness_strength"] = request.witness_strength
    if request.keep_unedited:
        state["keep_unedited"] = True
    return state


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
        finish: Finish,
    ):
        super().__init__(output, out, video, clip, notes)
        self.work, self.masks, self.finish = work, masks, finish
        self._numbers = {index: number for number, index in enumerate(clip.indices)}

    def pictures(self) -> Iterator[tuple[int, torch.Tensor]]:
        """The frames that are missing, stretch by stretch."""
        for result in self.work.results(self.done):
            if result.index in self._numbers:
                number = self._numbers[result.index]
                yield number, self._put(number, result)

    def _put(self, number: int, result: Result) -> torch.Tensor:
        picture, row = self.finish.put(result)
        if self.masks is not None:
            picture = put_within(self.masks.batch([number])[0], picture, result.frame)
        error = round(float(result.carried.error.mean()), 4)
        self.report_row(result.index, picture, result.frame, {"error": error, **row})
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
