"""The job of `zero2hero guide`: key frames painted from a prompt, then carried to all frames."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..backbones.sources import HUB
from ..checks import InputError, setting
from ..files.guard import Results, begun_in, content, final_path
from ..files.json_file import write_json
from ..propagation.settings import PropagationSettings
from . import propagate
from .clip import TINY_SIZE, ClipRequest, check_paths, open_clip
from .folder import job_folder
from .frames import OutputRequest, check_video
from .guide_keys import CANNY, SIZE, Painting, paint_keys
from .key_painting import RESULTS, STATE
from .listener import Listener, Notes
from .models import SDModel
from .request import flat_values

KEYS = "keys"
MULTIPLE = 64  # of the sides of painted frames


@dataclass(frozen=True)
class GuideRequest:
    """A clip painted anew.

    clip: its size is what keys are painted at: a short side of 512, or 256 with the tiny model, unless it says more.
    full_size: carry the keys to frames of the clip's own size. carrying: see `PropagationSettings`.
    """

    clip: ClipRequest
    model: SDModel
    painting: Painting
    output: OutputRequest
    full_size: bool = False
    carrying: PropagationSettings = field(default_factory=PropagationSettings)


def results(output: OutputRequest) -> Results:
    """What the job writes in its folder."""
    return propagate.results(output) | RESULTS.below(KEYS)


def run(request: GuideRequest, listener: Listener) -> dict[str, Any]:
    """Do the job; nothing is written before every input has been checked. Returns one report.

    Raises: InputError; Unfinished when a part ended early: each part goes on where it was.
    """
    painting = request.painting
    control = None if painting.control == CANNY else painting.control
    check_paths(request.clip.video, painting.foreground, painting.controlnet, control, *painting.edit.values())
    if request.model.model and not request.model.model.startswith(HUB):
        check_paths(request.model.model)
    remedies = ("resume", "overwrite")
    with job_folder(flat_values(request), "guide", results(request.output), remedies=remedies) as out:
        return _run(request, out, listener)


def _run(request: GuideRequest, out: Path, listener: Listener) -> dict[str, Any]:
    start, output = time.perf_counter(), request.output
    if output.resume and content(out) and not (out / KEYS / STATE).exists():
        raise InputError(f"{setting('resume')}: {out} holds no earlier `zero2hero guide`; choose its folder.")
    sized = replace(request.clip, size=request.clip.size or (TINY_SIZE if request.model.tiny else SIZE))
    notes = Notes(listener)
    clip = open_clip(sized, MULTIPLE, notes)
    check_video(output, request.clip.video, clip)
    keys = paint_keys(request.painting, request.model, sized, clip, out / KEYS, output.resume, listener, notes)
    painted = time.perf_counter() - start

    resume = output.resume and (begun_in(out, "propagate") / propagate.STATE).exists()
    carried = propagate.PropagateRequest(
        clip=replace(request.clip, size=None if request.full_size else clip.size_hw),
        settings=request.carrying,
        output=replace(output, out=str(out), resume=resume, overwrite=not resume),
        key=keys,
    )
    report = propagate.run(carried, listener) | {
        "command": "guide",
        "key_files": {key: str(final_path(Path(path))) for key, path in keys.items()},
    }
    report["notes"] = list(dict.fromkeys([*notes, *report["notes"]]))
    report["seconds"] |= {"part keys": round(painted, 3), "total": round(time.perf_counter() - start, 3)}
    write_json(out / "report.json", report)
    return report
