"""The job of `zero2hero hero restore`: Hero-Stage on the frames of a clip."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..backbones.flux.dit import DiTBackbone
from ..backbones.surface import DiTSurface, LoRASurface
from ..checks import InputError
from ..files.guard import Results
from ..hero_stage.lora.file import load_lora
from ..hero_stage.sampling import KINDS, RestoreSettings
from ..hero_stage.stage import HeroStage
from ..memory_batches import halving
from ..paper import MODES
from ..version import __version__
from .clip import Clip, ClipRequest, check_paths
from .folder import job_folder
from .frames import BatchJob, OutputRequest, check_video, frame_results
from .hero_settings import RestoreChoice
from .listener import Listener, Notes
from .models import DiTModel, load_dit
from .request import flat_values
from .state import file_digest, tensor_digest
from .zero_frames import ZeroFrames, open_hero_clip

STATE = "hero.json"


@dataclass(frozen=True)
class RestoreRequest:
    """Restoring of a clip.

    zero: folders of Zero-Stage; of several, the first that has a frame counts. lora: the trained LoRA; one file per
    condition if it is foreign. batch: frames at once; halved if memory is short.
    """

    clip: ClipRequest
    model: DiTModel
    restoring: RestoreChoice
    output: OutputRequest
    zero: tuple[str, ...]
    lora: tuple[str, ...]
    batch: int = 4


def results(output: OutputRequest) -> Results:
    """What the job writes in its folder."""
    return frame_results(STATE, output.video_name)


def restored_frames(
    backbone: DiTSurface,
    lora: LoRASurface,
    kinds: tuple[str, ...],
    settings: RestoreSettings,
    zero: Mapping[int, torch.Tensor] | torch.Tensor,
    frames: torch.Tensor,
    batch: int,
    listener: Listener,
    *,
    same_noise: bool = True,
    begin: Callable[[list[int]], None] = lambda indices: None,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield (index, restored frame (3, H, W)) of frames that are at hand. zero: their Zero-Stage results, (N, 3, H, W).
    begin: called before each batch with its indices.

    Raises: InputError; Zero2HeroError when one frame alone does not fit into memory.
    """
    stage = HeroStage(backbone, lora, kinds, settings, same_noise=same_noise)

    def work(now: list[int]) -> list[torch.Tensor]:
        begin(now)
        worn = torch.stack([zero[index] for index in now])
        pictures = stage.restore(worn, frames[now], now)
        listener.preview(pictures[-1])
        return list(pictures)

    yield from halving(work, range(len(frames)), batch)


def run(request: RestoreRequest, listener: Listener) -> dict[str, Any]:
    """Check every input, then restore; returns the report."""
    check_paths(request.clip.video, *request.zero, *request.lora)
    remedies = ("resume", "overwrite")
    with job_folder(flat_values(request), "hero restore", results(request.output), remedies=remedies) as out:
        return _run(request, out, listener)


def _run(request: RestoreRequest, out: Path, listener: Listener) -> dict[str, Any]:
    notes = Notes(listener)
    zero = ZeroFrames(request.zero)
    backbone = load_dit(request.model)
    clip = open_hero_clip(request.clip, zero, backbone.multiple, notes, tiny=request.model.tiny)
    check_video(request.output, request.clip.video, clip, notes)
    lora, metadata = load_lora([Path(name) for name in request.lora], backbone)
    if metadata is not None:
        if metadata.mode not in MODES:
            raise InputError(f"{request.lora[0]}: was trained in mode {metadata.mode}, which is unknown here.")
        kinds = MODES[metadata.mode]
        height, width = clip.size_hw
        if metadata.resolution not in ("", f"{width}x{height}"):
            notes.add(f"the LoRA was trained at {metadata.resolution}, the frames are {width}x{height}")
    else:
        kinds = KINDS[: lora.count]  # the authors' order
        notes.add(f"the LoRA is of a foreign format: its conditions are taken for {' and '.join(kinds)}")
    if "zero" in kinds:
        zero.need(clip.indices)
    settings = request.restoring.settings(backbone.recommended)
    stage = HeroStage(backbone, lora, kinds, settings, same_noise=not request.restoring.new_noise)
    job = RestoreJob(request.output, out, request.clip.video, clip, request.batch, notes, stage, zero)
    return job.run(_state(request, stage, clip), listener)


def _state(request: RestoreRequest, stage: HeroStage[DiTBackbone], clip: Clip) -> dict[str, Any]:
    """What the frames are made of. Two runs with equal states give equal frames."""
    height, width = clip.size_hw
    backbone = stage.backbone
    files: dict[str, str | None] = {"video": request.clip.video}
    files |= {f"zero {number}": str(Path(folder) / "frames") for number, folder in enumerate(request.zero)}
    files |= {f"lora {number}": name for number, name in enumerate(request.lora)}
    return {
        "version": __version__,
        "model": backbone.name,
        "model sha256": tensor_digest(backbone.transformer.state_dict().values(), 64),
        "text sha256": tensor_digest([backbone.text.tokens]),
        "batch": request.batch,
        "device": backbone.device.type,
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "weights": request.model.weights,
        "conditions": list(stage.kinds),
        "same_noise": stage.same_noise,
        "frames": clip.indices,
        "size": [width, height],
        "policy": clip.policy,
        **asdict(stage.settings),
        **{f"{name} sha256": file_digest(path) for name, path in files.items()},
    }


class RestoreJob(BatchJob):
    """Hero-Stage on the frames of a clip."""

    command, state_name = "hero restore", STATE

    def __init__(
        self,
        output: OutputRequest,
        out: Path,
        video: str,
        clip: Clip,
        batch: int,
        notes: Notes,
        stage: HeroStage[DiTBackbone],
        zero: ZeroFrames,
    ):
        super().__init__(output, out, video, clip, batch, notes)
        self.stage, self.zero = stage, zero
        self.restore_seconds = 0.0

    def part_seconds(self) -> dict[str, float]:
        """Seconds of restoring."""
        return {"restore": self.restore_seconds}

    def edit(self, numbers: list[int]) -> list[torch.Tensor]:
        """Restored frames."""
        start = time.perf_counter()
        frames = self.clip.frames(numbers)
        indices = [self.clip.indices[number] for number in numbers]
        zero = None
        if "zero" in self.stage.kinds:
            zero = torch.stack([self.zero.read(index, self.clip.size_hw) for index in indices])
        pictures = self.stage.restore(zero, frames, indices)
        for place, index in enumerate(indices):
            self.report_row(index, pictures[place], frames[place], {})
        self.restore_seconds += time.perf_counter() - start
        return list(pictures)
