"""The job of `zero2hero correspond`: the matches of a clip with its anchor, as a file and as a picture."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..checks import InputError, setting
from ..correspondence.file import save_correspondences
from ..correspondence.match import Correspondence
from ..files.guard import Results
from ..files.json_file import write_json
from ..zero_stage.settings import ZeroStageSettings
from .clip import TINY_SIZE, Clip, ClipRequest, check_paths, open_clip
from .folder import job_folder
from .listener import Listener, Notes
from .matching import Matcher, match_row
from .models import SDModel, load_unet
from .request import flat_values
from .state import file_digest

FILE, PICTURE, REPORT = "correspondence.safetensors", "matches.png", "report.json"
RESULTS = Results((FILE, PICTURE, REPORT))


@dataclass(frozen=True)
class CorrespondRequest:
    """Which clip, model and settings; where the results go.

    frames: just these, in place of start, stop, stride and max_frames. rows: of the picture at most.
    """

    clip: ClipRequest
    model: SDModel
    settings: ZeroStageSettings
    out: str | Path
    overwrite: bool = False
    frames: tuple[int, ...] | None = None
    rows: int = 8

    def __post_init__(self) -> None:
        clip = self.clip
        if self.frames and (clip.start, clip.stop, clip.stride, clip.max_frames) != (0, None, 1, None):
            others = [setting(name) for name in ("start", "stop", "stride", "max_frames")]
            raise InputError(
                f"{setting('frames')}: expected without {', '.join(others[:-1])} and {others[-1]}; leave one way out."
            )


def run(request: CorrespondRequest, listener: Listener) -> dict[str, Any]:
    """Match; nothing is written before all frames are done. Returns the report."""
    check_paths(request.clip.video)
    with job_folder(flat_values(request), "correspond", RESULTS, remedies=("overwrite",)) as out:
        return _run(request, out, listener)


def _run(request: CorrespondRequest, out: Path, listener: Listener) -> dict[str, Any]:
    start, notes = time.perf_counter(), Notes(listener)
    backbone = load_unet(request.model, request.settings.prompt)
    clip_request = replace(request.clip, size=request.clip.size or (TINY_SIZE if request.model.tiny else None))
    clip = open_clip(clip_request, backbone.multiple, notes, request.frames)
    anchor = request.clip.anchor or 0
    matcher = Matcher(backbone, clip.anchor, anchor, clip.by_index(), request.settings)
    correspondence = matcher.match(clip.indices, listener, {"video sha256": file_digest(clip_request.video)})
    out.mkdir(parents=True, exist_ok=True)
    save_correspondences(out / FILE, correspondence, overwrite=request.overwrite)
    _write_picture(out / PICTURE, clip, correspondence.frames, request)
    rows = [{"index": index, **match_row(matches)} for index, matches in correspondence.frames.items()]
    report = {
        "command": "correspond",
        "anchor": anchor,
        "size": [clip.size_hw[1], clip.size_hw[0]],
        "settings": dict(correspondence.settings),
        "frames": rows,
        "mean": {name: sum(row[name] for row in rows) / len(rows) for name in rows[0] if name != "index"},
        "notes": notes,
        "seconds": {**matcher.seconds, "total": time.perf_counter() - start},
    }
    write_json(out / REPORT, report)
    for row in rows:
        sure, back = row["confidence"], row["cycle_error"]
        listener.say(f"frame {row['index']}: confidence {sure:.2f}, cycle error {back:.1%} of the side")
    listener.say(f"{request.out}: {PICTURE}, {FILE}")
    return report


def _write_picture(path: Path, clip: Clip, frames: Mapping[int, Correspondence], request: CorrespondRequest) -> None:
    from ..correspondence.pictures import matches_picture
    from ..video.image_writer import write_image

    count, last = min(request.rows, len(frames)), len(frames) - 1
    numbers = sorted({round(row * last / max(count - 1, 1)) for row in range(count)})
    rows = [matches_picture(frames[clip.indices[n]], clip.anchor, clip.frames([n])[0]) for n in numbers]
    write_image(path, torch.cat(rows, 1), overwrite=request.overwrite)
