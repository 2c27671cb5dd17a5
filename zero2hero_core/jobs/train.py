"""The job of `zero2hero hero train`: Hero-Stage's LoRA for one clip, in a folder where it can be resumed."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..backbones.flux.dit import DiTBackbone
from ..checks import InputError, Unfinished, Zero2HeroError, setting
from ..files.guard import Results, content, final_path
from ..files.json_file import write_json
from ..hero_stage.training.run import RESULTS, TrainingRun
from ..hero_stage.training.trainer import HeroSettings
from ..memory_batches import is_out_of_memory
from ..paper import MODES
from ..version import __version__
from ..video.source import open_frames
from .adapter import Start, find_start
from .clip import Clip, ClipRequest, Pictures, check_also, check_paths, original_frame, read_reference, same_picture
from .folder import job_folder
from .frames import REPORT
from .hero_settings import RestoreChoice, TrainingChoice
from .listener import Listener, Notes
from .material import Material
from .models import DiTModel, load_dit
from .request import flat_values
from .state import check_same, file_digest, read_state, tensor_digest
from .training import LORA, PLOT, STATE, RunSettings, Training, expected_memory, run_to_the_end
from .zero_frames import ZeroFrames, open_hero_clip

RUN_STATE = "train.json"
ALL_RESULTS = RESULTS | Results((REPORT, RUN_STATE))


@dataclass(frozen=True)
class TrainRequest:
    """A training of Hero-Stage.

    reference: the edited anchor. zero: folders of Zero-Stage; of several, the first that has a frame counts.
    zero_anchor: one whose reference was the anchor itself, for the mode implicit. also: further edited frames, index ->
    picture. truth: true frames, one per chosen frame, for the evaluations. out, resume, overwrite: as `OutputRequest`.
    """

    clip: ClipRequest
    model: DiTModel
    training: TrainingChoice
    restoring: RestoreChoice
    reference: str
    zero: tuple[str, ...]
    out: str | Path
    zero_anchor: str | None = None
    also: Mapping[int, str] = field(default_factory=dict)
    truth: str | None = None
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.training.mode == "implicit" and not self.zero_anchor:
            raise InputError(
                f"{setting('mode')} implicit: needs {setting('zero_anchor')}, Zero-Stage frames with the anchor as the "
                "reference."
            )
        check_also(self.clip, self.also)

    @property
    def anchor(self) -> int:
        """Index of the frame that was edited."""
        return self.clip.start if self.clip.anchor is None else self.clip.anchor


def run(request: TrainRequest, listener: Listener) -> dict[str, Any]:
    """Check every input, then train; returns the report.

    Raises: InputError; Unfinished when cancelled or out of memory: a checkpoint is kept, if there was one.
    """
    check_paths(request.clip.video, request.reference, request.truth, *request.zero, request.zero_anchor)
    with job_folder(flat_values(request), "hero train", ALL_RESULTS, remedies=("resume", "overwrite")) as out:
        return _run(request, out, listener)


def _run(request: TrainRequest, out: Path, listener: Listener) -> dict[str, Any]:
    start, notes = time.perf_counter(), Notes(listener)
    zero = ZeroFrames(request.zero)
    backbone = load_dit(request.model)
    begun = find_start(request.training, backbone, notes)
    settings = request.training.settings(backbone.recommended, begun.metadata if begun else None)
    clip = open_hero_clip(request.clip, zero, backbone.multiple, notes, tiny=request.model.tiny)
    material = _material(request, clip, zero, notes)
    state = _state(request, backbone, settings, clip)
    if begun is not None:  # without one the state is what it was before there were any
        state["adapter sha256"] = file_digest(str(begun.path))
    _check_state(request, out, state)
    float32 = backbone.dtype == torch.float32
    weights = request.model.weights or ("fp32" if float32 else "bf16")
    estimate = expected_memory(
        backbone, settings, clip.size_hw, weights=weights, device=backbone.device.type, float32=float32
    )
    listener.say(estimate.text())
    try:
        training_run = _prepare(request, out, backbone, settings, begun, material, clip, state, listener)
        _begin(request, out, state)
        first_step = run_to_the_end(training_run, listener, resume=request.resume)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        remedy = (
            f"out of memory while training: lower it with {setting('checkpointing')}, {setting('weights')} fp8 or nf4, "
            f"a smaller {setting('rank')}, {setting('size')} or {setting('draws')}"
        )
        if (out / STATE).exists():  # of other settings
            raise Zero2HeroError(f"{remedy}, and start again with {setting('overwrite')}.") from error
        raise Unfinished(remedy) from error
    report = _report(out, training_run, first_step, notes) | {"state": state}
    report["seconds"]["total"] = round(time.perf_counter() - start, 3)
    write_json(out / REPORT, report)
    steps, last = training_run.trainer.done, report["evaluations"][-1]
    listener.say(f"{steps} steps; anchor {last['psnr_anchor']:.2f} dB after training: {final_path(out / LORA)}")
    return report


def _material(request: TrainRequest, clip: Clip, zero: ZeroFrames, notes: Notes) -> Material:
    """References, originals and Zero-Stage frames, checked."""
    paths = {request.anchor: request.reference} | dict(request.also)
    references, anchors = {}, {request.anchor: clip.anchor}
    for index, path in sorted(paths.items()):
        check_paths(path)
        if index != request.anchor:
            anchors[index] = original_frame(request.clip, index, clip, "also")
        references[index] = read_reference(path, clip, notes)
    if "zero" in MODES[request.training.mode]:
        zero.need(sorted(references))
    pictures = clip.by_index()
    frames = Pictures((*clip.indices, *anchors), lambda i: anchors[i] if i in anchors else pictures[i])
    target = None
    if request.training.mode == "implicit":
        folder = ZeroFrames([request.zero_anchor or ""], "zero_anchor")
        folder.need(clip.indices)
        target = folder.pictures(clip.size_hw, clip.indices)
    initial = zero.pictures(clip.size_hw, (*clip.indices, *anchors))
    if "zero" in MODES[request.training.mode]:
        for index, reference in references.items():
            if same_picture(initial[index], reference):
                notes.add(
                    f"the initial picture of frame {index} is the edit itself: there is nothing to learn from it; make "
                    "it with `zero2hero zero`, or `zero2hero propagate --round-trip`"
                )
    return Material(references, frames, initial, target)


def _state(request: TrainRequest, backbone: DiTBackbone, settings: HeroSettings, clip: Clip) -> dict[str, Any]:
    """What the LoRA is made of. Two runs with equal states give equal weights after equally many steps."""
    height, width = clip.size_hw
    files = {"video": request.clip.video, "reference": request.reference, "truth": request.truth}
    files |= {f"zero {number}": str(Path(folder) / "frames") for number, folder in enumerate(request.zero)}
    if request.zero_anchor:
        files["zero_anchor"] = str(Path(request.zero_anchor) / "frames")
    files |= {f"reference {index}": path for index, path in request.also.items()}
    return {
        "version": __version__,
        "model": backbone.name,
        "model sha256": tensor_digest(backbone.transformer.state_dict().values(), 64),
        "text sha256": tensor_digest([backbone.text.tokens]),
        "device": backbone.device.type,
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "weights": request.model.weights,
        "anchor": request.anchor,
        "frames": clip.indices,
        "size": [width, height],
        "policy": clip.policy,
        **{name: value for name, value in asdict(settings).items() if name != "steps"},  # a run may be made longer
        **{f"{name} sha256": file_digest(path) for name, path in files.items()},
    }


def _check_state(request: TrainRequest, out: Path, state: dict[str, Any]) -> None:
    """Raise `InputError` when a run cannot be resumed; writes nothing. Without a checkpoint, it may change."""
    if request.resume and (out / STATE).exists():
        check_same(read_state(out / RUN_STATE), state)
    elif request.resume and content(out) and not (out / RUN_STATE).exists():
        raise InputError(f"{setting('resume')}: {out} holds no {RUN_STATE} of an earlier run; choose its folder.")


def _begin(request: TrainRequest, out: Path, state: dict[str, Any]) -> None:
    if request.resume and (out / STATE).exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    for name in (STATE, LORA, PLOT, "log.csv", REPORT):  # what is old goes before the new state comes
        (out / name).unlink(missing_ok=True)
    for sample in (out / "samples").glob("step_*.png"):
        sample.unlink()
    write_json(out / RUN_STATE, json.loads(json.dumps(state)))


def _prepare(
    request: TrainRequest,
    out: Path,
    backbone: DiTBackbone,
    settings: HeroSettings,
    begun: Start | None,
    material: Material,
    clip: Clip,
    state: dict[str, Any],
    listener: Listener,
) -> TrainingRun:
    """Everything up to the first step, so that bad input is refused before anything is written."""
    restoring = request.restoring.settings(backbone.recommended)
    same_noise, start = not request.restoring.new_noise, begun.state if begun else None
    training = Training(backbone, material, settings, restoring, same_noise=same_noise, start=start)
    metadata = training.metadata(clip.size_hw, str(state["video sha256"]), str(state["reference sha256"]))
    samples, truths = _evaluation_frames(request, clip, material, training.stage.kinds)
    choices = request.training
    options = RunSettings(choices.save_every, choices.evaluate_every, choices.patience)
    return training.in_folder(out, metadata, request.anchor, samples, listener, truths=truths, settings=options)


def _evaluation_frames(
    request: TrainRequest, clip: Clip, material: Material, kinds: tuple[str, ...]
) -> tuple[tuple[int, ...], dict[int, torch.Tensor]]:
    """The frames that are restored now and then, and the truth of them where it is known."""
    usable = [index for index in clip.indices if "zero" not in kinds or index in material.zero]
    indices = request.training.evaluate_frames
    if indices is None:
        indices = (usable[0], usable[len(usable) // 2], usable[-1]) if usable else ()
    if unknown := [index for index in indices if index not in usable]:
        raise InputError(
            f"{setting('evaluate_frames')}: frame {unknown[0]} is not a chosen frame with a Zero-Stage result."
        )
    truths: dict[int, torch.Tensor] = {}
    if request.truth:
        name = f"{setting('truth')} {request.truth}"
        with open_frames(request.truth, multiple=1) as source:
            if len(source) != (count := len(clip.indices)):
                raise InputError(f"{name}: expected {count} frames, one per chosen frame, got {len(source)}.")
            for index in indices:
                frame = clip.fit(source.frames([clip.indices.index(index)]))
                if frame is None:
                    raise InputError(f"{name}: expected the clip's aspect ratio.")
                truths[index] = frame[0]
    return tuple(indices), truths


def _report(out: Path, training: TrainingRun, first_step: int, notes: list[str]) -> dict[str, Any]:
    rows = training.log.rows()
    losses = [row["loss"] for row in rows if "loss" in row]
    steps = training.trainer.done - first_step
    return {
        "command": "hero train",
        "lora": str(final_path(out / LORA)),
        "steps": training.trainer.done,
        "resumed_at": first_step,
        "stopped_early": training.stopped_early,
        "loss": {"first": losses[0], "last_mean": sum(losses[-20:]) / len(losses[-20:])} if losses else None,
        "evaluations": [row for row in rows if "psnr_anchor" in row],
        "notes": notes,
        "seconds": {name: round(value, 3) for name, value in training.seconds.items()},
        "seconds_per_step": round(training.seconds["train"] / steps, 4) if steps else None,
    }
