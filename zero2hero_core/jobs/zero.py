"""The job of `zero2hero zero`: Zero-Stage on the frames of a clip; frames and video are written as it goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..backbones.sd.unet import UNetBackbone
from ..backbones.surface import UNetSurface
from ..checks import InputError, setting
from ..correspondence.file import ClipCorrespondence, load_correspondences
from ..correspondence.match import Correspondence
from ..files.guard import Results
from ..version import __version__
from ..zero_stage.settings import ZeroStageSettings
from ..zero_stage.stage import ZeroStage
from .clip import (
    TINY_SIZE,
    Clip,
    ClipRequest,
    Masks,
    check_also,
    check_paths,
    open_clip,
    original_frame,
    read_reference,
)
from .folder import job_folder
from .frames import BatchJob, OutputRequest, check_video, frame_results
from .listener import Listener, Notes
from .matching import EXPECT, MANY_WEAK, check_tokens, match_row, weak_text
from .models import SDModel, load_unet
from .request import flat_values
from .state import file_digest, tensor_digest

STATE = "zero.json"
MATCH_SETTINGS = ("timestep", "block", "ensemble", "neighbourhood", "track")


@dataclass(frozen=True)
class ZeroRequest:
    """Zero-Stage on a clip.

    reference: the edited anchor, a picture file. mask: where to edit: a picture for all frames, or a folder, glob or
    video with one per frame. matches: a file of `correspond`. also: further edited frames, index -> picture. batch:
    frames at once; halved if memory is short.
    """

    clip: ClipRequest
    model: SDModel
    settings: ZeroStageSettings
    output: OutputRequest
    reference: str
    mask: str | None = None
    matches: str | None = None
    batch: int = 2
    also: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_also(self.clip, self.also)
        if self.also and self.matches:
            raise InputError(f"{setting('matches')}: are of one anchor, got {len(self.also) + 1} edited frames.")


class ZeroWork:
    """Zero-Stage on frames of one clip that are at hand: the composition that commands, nodes and benchmarks share.

    Args: anchor, reference: (3, H, W). frames: by index, for following tokens. matches: of frames by index; computed
    where None. masks: numbers of frames -> (B, 1, H, W). further: more edited frames, see `ZeroStage`.
    Raises: InputError when settings, matches and frames do not fit together.
    """

    def __init__(
        self,
        backbone: UNetSurface,
        anchor: torch.Tensor,
        reference: torch.Tensor,
        anchor_index: int,
        settings: ZeroStageSettings,
        frames: Mapping[int, torch.Tensor] | None = None,
        matches: Mapping[int, Correspondence] | None = None,
        masks: Callable[[Sequence[int]], torch.Tensor] | None = None,
        further: Sequence[tuple[int, torch.Tensor, torch.Tensor]] = (),
    ):
        self.stage = ZeroStage(backbone, anchor, reference, anchor_index, settings, frames, further=further)
        self.matches, self.masks = matches, masks
        check_tokens(self.stage)

    def check_matches(self) -> None:
        """Raise `InputError` unless the matches are of the frames' grids."""
        for one in (self.matches or {}).values():
            for grid in self.stage.editor.grids:
                one.level(grid)

    @property
    def settings(self) -> ZeroStageSettings:
        """The settings, with what suits the model filled in."""
        return self.stage.settings

    def matches_of(self, frames: torch.Tensor, indices: Sequence[int]) -> list[Correspondence] | None:
        """The matches of frames (B, 3, H, W); None where all tokens are read."""
        if self.settings.k == -1:
            return None
        matches = self.matches
        return [
            self.stage.correspond(frame, index) if matches is None else matches[index]
            for frame, index in zip(frames, indices, strict=True)
        ]

    def edit(
        self, frames: torch.Tensor, indices: Sequence[int], numbers: Sequence[int]
    ) -> tuple[torch.Tensor, list[Correspondence] | None]:
        """Frames (B, 3, H, W) in the reference's look, float32 in [0, 1], and their matches. numbers: for the masks."""
        matches = self.matches_of(frames, indices)
        masks = None if self.masks is None else self.masks(numbers)
        return self.stage.edit(frames, indices, matches, masks), matches

    def edit_latents(self, frames: torch.Tensor, indices: Sequence[int], numbers: Sequence[int]) -> torch.Tensor:
        """The same as clean latents (B, C, h, w)."""
        masks = None if self.masks is None else self.masks(numbers)
        return self.stage.edit_latents(frames, indices, self.matches_of(frames, indices), masks)

    def bank_values(self, widths: Mapping[int, int], batch: int) -> int:
        """How many numbers the inversions keep: keys, values and queries of each layer at each step, for the reference
        and a batch of frames. widths: channels by layer."""
        editor = self.stage.editor
        one = [next(iter(self.matches.values()))] if self.matches else []
        selections = editor.selections(one, None if self.masks is None else self.masks([0]))
        numbers = 0
        for layer, selection in selections.items():
            h, w = editor.grids[layer // 3 - 1]
            needs = len(selection.reference_needs()) + batch * len(selection.target_needs())
            numbers += h * w * widths[layer] * needs
        return numbers * editor.settings.num_inference_steps


def results(output: OutputRequest) -> Results:
    """What the job writes in its folder."""
    return frame_results(STATE, output.video_name)


def run(request: ZeroRequest, listener: Listener) -> dict[str, Any]:
    """Do the job; nothing is written before every input has been checked. Returns the report."""
    check_paths(request.clip.video, request.reference, request.mask, request.matches, *request.also.values())
    remedies = ("resume", "overwrite")
    with job_folder(flat_values(request), "zero", results(request.output), remedies=remedies) as out:
        return _run(request, out, listener)


def _run(request: ZeroRequest, out: Path, listener: Listener) -> dict[str, Any]:
    notes, settings = Notes(listener), request.settings
    matches = load_correspondences(Path(request.matches)) if request.matches else None
    backbone = load_unet(request.model, settings.prompt)
    clip_request = replace(request.clip, size=request.clip.size or (TINY_SIZE if request.model.tiny else None))
    clip = open_clip(clip_request, backbone.multiple, notes)
    check_video(request.output, clip_request.video, clip, notes)
    reference = read_reference(request.reference, clip, notes)
    masks = Masks(request.mask, clip) if request.mask else None
    anchor = clip_request.start if clip_request.anchor is None else clip_request.anchor
    further = [
        (index, original_frame(clip_request, index, clip, "also"), read_reference(path, clip, notes))
        for index, path in sorted(request.also.items())
    ]
    work = ZeroWork(
        backbone,
        clip.anchor,
        reference,
        anchor,
        settings,
        clip.by_index(),
        matches.frames if matches else None,
        masks.batch if masks else None,
        further,
    )
    if matches is not None:
        _check_matches(matches, clip, work, request, anchor)
    _note_no_ops(request, notes, clip, masks)
    job = ZeroJob(request.output, out, clip_request.video, clip, request.batch, notes, work)
    return job.run(_state(request, backbone, work, clip, anchor), listener)


def _check_matches(matches: ClipCorrespondence, clip: Clip, work: ZeroWork, request: ZeroRequest, anchor: int) -> None:
    (h, w), (file_h, file_w), name = clip.size_hw, matches.size_hw, f"{setting('matches')} {request.matches}"
    missing = [index for index in clip.indices if index not in matches.frames]
    comparisons: list[tuple[str, object, object]] = [
        ("anchor", anchor, matches.anchor_index),
        ("frame size", f"{w} x {h}", f"{file_w} x {file_h}"),
        ("k", work.settings.k, matches.settings.get("k")),
        ("model", work.stage.backbone.name, matches.settings.get("model")),
        ("video", file_digest(request.clip.video), matches.settings.get("video sha256")),
    ]
    for what, expected, actual in comparisons:
        if expected != actual:
            raise InputError(f"{name}: expected {what} {expected}, got {actual}; make it with equal options.")
    if missing:
        raise InputError(
            f"{name}: expected all {len(clip.indices)} chosen frames, but {len(missing)} are missing, the first is "
            f"{missing[0]}; choose the same frames in both commands."
        )
    work.check_matches()


def _note_no_ops(request: ZeroRequest, notes: Notes, clip: Clip, masks: Masks | None) -> None:
    """Settings that change nothing are said aloud."""
    settings = request.settings
    if masks is not None:
        masks.tell_empty(notes)
    if settings.guidance_scale != 1 and not settings.prompt:
        notes.add(f"{setting('guidance_scale')} changes nothing without {setting('prompt')}")
    if request.matches and settings.k == -1:
        notes.add(f"{setting('matches')} changes nothing with {setting('k')} -1, which reads all tokens")
    names = [setting(name) for name in MATCH_SETTINGS if getattr(settings, name) is not None]
    if names and (request.matches or settings.k == -1):
        notes.add(f"{', '.join(names)}: no effect, {'the matches are given' if request.matches else 'k is -1'}")


def _state(request: ZeroRequest, backbone: UNetBackbone, work: ZeroWork, clip: Clip, anchor: int) -> dict[str, Any]:
    """What the frames are made of. Two runs with equal states give equal frames."""
    height, width = clip.size_hw
    stage = work.stage
    settings = asdict(stage.settings) | {"layers": list(stage.settings.layers)}
    files = {"video": request.clip.video}
    files |= {name: getattr(request, name) for name in ("reference", "mask", "matches")}
    files |= {f"reference {index}": path for index, path in sorted(request.also.items())}
    return {
        "version": __version__,
        "model": backbone.name,
        "model sha256": model_digest(backbone),
        "prediction_type": backbone.prediction_type,
        "prompt sha256": tensor_digest([stage.editor.context]),
        "batch": request.batch,
        "device": backbone.device.type,
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "anchor": anchor,
        "frames": clip.indices,
        "size": [width, height],
        "policy": clip.policy,
        **settings,
        **{f"{name} sha256": file_digest(path) for name, path in files.items()},
    }


def model_digest(backbone: UNetBackbone) -> str:
    """What tells weights apart: a digest of the first numbers of every tensor of UNet and autoencoder."""
    return tensor_digest([*backbone.unet.state_dict().values(), *backbone.vae.state_dict().values()], 64)


class ZeroJob(BatchJob):
    """Zero-Stage on the frames of a clip."""

    command, state_name = "zero", STATE

    def __init__(
        self,
        output: OutputRequest,
        out: Path,
        video: str,
        clip: Clip,
        batch: int,
        notes: Notes,
        work: ZeroWork,
    ):
        super().__init__(output, out, video, clip, batch, notes)
        self.work = work

    def part_seconds(self) -> dict[str, float]:
        """Seconds of the parts of Zero-Stage."""
        return self.work.stage.seconds

    def edit(self, numbers: list[int]) -> list[torch.Tensor]:
        """Frames in the reference's look."""
        frames = self.clip.frames(numbers)
        indices = [self.clip.indices[number] for number in numbers]
        pictures, matches = self.work.edit(frames, indices, numbers)
        for place, index in enumerate(indices):
            self.report_row(index, pictures[place], frames[place], match_row(matches[place]) if matches else {})
        return list(pictures)

    def summary(self) -> dict[str, Any]:
        """Share of weak matches; many are said aloud."""
        weak = [row["weak"] for row in self.rows.values() if "weak" in row]
        share = sum(weak) / len(weak) if weak else None
        if share is not None and share > MANY_WEAK:
            self.notes.add(f"{weak_text(share)}: {EXPECT}")
        return {"weak_matches": share}
