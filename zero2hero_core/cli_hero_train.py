"""The work of `zero2hero hero train`."""

from __future__ import annotations

import argparse
import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from zero2hero_core import __version__

from . import cli_inputs
from .backbones.dit import DiTBackbone
from .backbones.lora_file import HeroMetadata
from .checks import InputError, Zero2HeroError
from .cli_frames import REPORT, check_same, read_state, tensor_digest
from .cli_hero_inputs import (
    ZeroFrames,
    extra_references,
    hero_settings,
    load_hero_model,
    open_hero_clip,
    restore_settings,
)
from .cli_inputs import Clip
from .cli_shared import progress, say, write_json
from .hero_memory import ModelSize, estimate_training
from .hero_stage import HeroStage
from .hero_training import MODES, ClipLatents, HeroSettings, HeroTrainer, training_pairs
from .hero_training_run import LORA, PLOT, STATE, Evaluation, RunSettings, TrainingRun
from .memory_batches import is_out_of_memory
from .relight import VARIANTS, light_variants
from .resize import resize_frames
from .video import open_frames

RUN_STATE = "train.json"


@dataclass(frozen=True)
class _Material:
    """Pictures that training and evaluation read."""

    clip: Clip
    zero: ZeroFrames
    references: dict[int, torch.Tensor]
    originals: Callable[[int], torch.Tensor]
    zero_target: ZeroFrames | None


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Check every input, then train; returns the report."""
    started = time.perf_counter()
    notes: list[str] = []
    out = Path(args.out)
    cli_inputs.check_paths(args.video, args.reference, args.truth, *args.zero, args.zero_anchor)
    cli_inputs.check_folder(out, may_exist=args.resume or args.overwrite, remedy="--resume or --overwrite")
    if args.mode == "implicit" and not args.zero_anchor:
        raise InputError("--mode implicit: needs --zero-anchor, Zero-Stage frames with the anchor as the reference.")
    zero = ZeroFrames(args.zero)
    backbone = load_hero_model(args)
    settings = hero_settings(args, backbone)
    clip = open_hero_clip(args, zero, notes, backbone.multiple)
    material = _read_material(args, clip, zero, notes)
    state = _state_of(args, backbone, settings, clip)
    _check_state(args, out, state)
    _say_memory(args, backbone, settings, clip)
    try:
        run = _prepare(args, out, backbone, settings, material, state)
        _begin(args, out, state)
        done = _train(args, run)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        again = "start again with --overwrite" if (out / STATE).exists() else "give the same command with --resume"
        raise Zero2HeroError(
            "out of memory while training: lower it with --checkpointing, --weights fp8 or nf4, a smaller --rank, "
            f"--size or --draws, and {again}."
        ) from error
    report = _report(args, out, run, done, notes) | {"state": state}
    report["seconds"]["total"] = round(time.perf_counter() - started, 3)
    write_json(out / REPORT, report)
    last = report["evaluations"][-1]
    say(args, f"{run.trainer.done} steps; anchor {last['psnr_anchor']:.2f} dB after training: {out / LORA}")
    return report


def _read_material(args: argparse.Namespace, clip: Clip, zero: ZeroFrames, notes: list[str]) -> _Material:
    paths = {args.anchor: args.reference} | extra_references(args)
    references, anchors = {}, {args.anchor: clip.anchor}
    for index, path in sorted(paths.items()):
        cli_inputs.check_paths(path)
        if index != args.anchor:
            anchors[index] = _original(args.video, index, clip)
        references[index] = cli_inputs.read_reference(path, clip, notes)
    if "zero" in MODES[args.mode]:
        zero.need(sorted(references))
    known = {index: number for number, index in enumerate(clip.indices)}

    def original(index: int) -> torch.Tensor:
        return anchors[index] if index in anchors else clip.frames([known[index]])[0]

    target = ZeroFrames([args.zero_anchor], "--zero-anchor") if args.mode == "implicit" else None
    if target is not None:
        target.need(clip.indices)
    return _Material(clip, zero, references, original, target)


def _original(video: str, index: int, clip: Clip) -> torch.Tensor:
    """A frame of the clip, chosen or not."""
    with cli_inputs.start_is("--also"), open_frames(video, start=index, maximum=1, multiple=1) as source:
        return resize_frames(source.frames([0]), clip.size_hw, clip.policy)[0]


def _say_memory(args: argparse.Namespace, backbone: DiTBackbone, settings: HeroSettings, clip: Clip) -> None:
    h, w = clip.size_hw
    estimate = estimate_training(
        ModelSize.from_config(backbone.transformer.config, text_tokens=backbone.text.tokens.shape[1]),
        resolution=(h, w),
        rank=settings.rank,
        weights=args.weights or ("fp32" if backbone.dtype == torch.float32 else "bf16"),
        conditions=len(settings.kinds),
        checkpointing=settings.checkpointing,
        optimiser=settings.optimiser,
        batch=settings.batch,
        draws=settings.draws,
    )
    say(args, estimate.text())


def _state_of(args: argparse.Namespace, backbone: DiTBackbone, settings: HeroSettings, clip: Clip) -> dict[str, Any]:
    """What the LoRA is made of. Two runs with equal states give equal weights after equally many steps."""
    height, width = clip.size_hw
    files = {name: cli_inputs.fingerprint(getattr(args, name)) for name in ("video", "reference", "truth")}
    for number, folder in enumerate(args.zero):
        files[f"zero {number}"] = cli_inputs.fingerprint(str(Path(folder) / "frames"))
    if args.zero_anchor:
        files["zero_anchor"] = cli_inputs.fingerprint(str(Path(args.zero_anchor) / "frames"))
    for index, path in extra_references(args).items():
        files[f"reference {index}"] = cli_inputs.fingerprint(path)
    return {
        "version": __version__,
        "model": backbone.name,
        "model sha256": tensor_digest(backbone.transformer.state_dict().values(), 64),
        "text sha256": tensor_digest([backbone.text.tokens]),
        "device": backbone.device.type,
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "weights": args.weights,
        "anchor": args.anchor,
        "frames": clip.indices,
        "size": [width, height],
        "policy": clip.policy,
        **{name: value for name, value in asdict(settings).items() if name != "steps"},  # a run may be made longer
        **{f"{name} sha256": digest for name, digest in files.items()},
    }


def _check_state(args: argparse.Namespace, out: Path, state: dict[str, Any]) -> None:
    """Raise `InputError` when a run cannot be resumed; writes nothing. Without a checkpoint, it may change."""
    if args.resume and (out / STATE).exists():
        check_same(read_state(out / RUN_STATE), state)
    elif args.resume and out.is_dir() and any(out.iterdir()) and not (out / RUN_STATE).exists():
        raise InputError(f"--resume: {out} holds no {RUN_STATE} of an earlier run; choose its folder.")


def _begin(args: argparse.Namespace, out: Path, state: dict[str, Any]) -> None:
    if args.resume and (out / STATE).exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    for name in (STATE, LORA, PLOT, "log.csv", REPORT):  # what is old goes before the new state comes
        (out / name).unlink(missing_ok=True)
    for sample in (out / "samples").glob("step_*.png"):
        sample.unlink()
    write_json(out / RUN_STATE, json.loads(json.dumps(state)))


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Inside, Ctrl-C sets a flag that is looked at between steps, so that no update is cut in two; a second one ends at
    once."""
    asked = False

    def note_it(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    try:
        before = signal.signal(signal.SIGINT, note_it)
    except ValueError:  # not the main thread: whoever runs us has other means
        yield lambda: False
        return
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


def _prepare(
    args: argparse.Namespace,
    out: Path,
    backbone: DiTBackbone,
    settings: HeroSettings,
    material: _Material,
    state: dict[str, Any],
) -> TrainingRun:
    """Everything up to the first step, so that bad input is refused before anything is written."""
    trainer = HeroTrainer(backbone, training_pairs(settings.mode, _latents(backbone, settings, material)), settings)
    height, width = material.clip.size_hw
    metadata = HeroMetadata.of(
        trainer.lora,
        mode=settings.mode,
        resolution=f"{width}x{height}",
        clip_hash=str(state["video sha256"]),
        anchor_hash=str(state["reference sha256"]),
    )
    stage = HeroStage(
        backbone, trainer.lora, settings.kinds, restore_settings(args, backbone), same_noise=not args.new_noise
    )
    evaluation = _evaluation(args, stage, material)
    options = RunSettings(args.save_every, args.evaluate_every, args.patience)
    return TrainingRun(trainer, out, metadata, evaluation, options)


def _train(args: argparse.Namespace, run: TrainingRun) -> int:
    """Train to the end; returns the step it began at."""
    done = run.resume() if args.resume else 0
    with _asked_to_stop() as stop, progress(args) as bar:
        task = bar.add_task("training", total=run.trainer.settings.total, completed=done)
        run.stop = stop
        run.progress = lambda step, loss: bar.update(task, completed=step, description=f"training, loss {loss:.3f}")
        run.run()
    return done


@torch.no_grad()
def _latents(backbone: DiTBackbone, settings: HeroSettings, material: _Material) -> ClipLatents:
    size = material.clip.size_hw

    def encode(pictures: dict[int, torch.Tensor]) -> dict[int, torch.Tensor]:
        return {index: backbone.encode(picture[None]).cpu() for index, picture in pictures.items()}

    anchors = list(material.references)
    wanted = material.clip.indices if material.zero_target is not None else anchors
    zero = {i: material.zero.read(i, size) for i in anchors} if "zero" in settings.kinds else {}
    target = {} if material.zero_target is None else {i: material.zero_target.read(i, size) for i in wanted}
    lit = {}
    if settings.light and "frame" in settings.kinds:
        for index, reference in material.references.items():
            variants = light_variants(
                material.originals(index), reference, VARIANTS, settings.light, settings.seed + index
            )
            frames, edits = (torch.cat([backbone.encode(p[None]).cpu() for p in part]) for part in variants)
            lit[index] = (frames, edits)
    return ClipLatents(
        lit=lit,
        references=encode(material.references),
        zero=encode(zero),
        frames=encode({i: material.originals(i) for i in {*wanted, *anchors}}),
        zero_target=encode(target),
    )


def _evaluation(args: argparse.Namespace, stage: HeroStage, material: _Material) -> Evaluation:
    clip, size = material.clip, material.clip.size_hw
    usable = [i for i in clip.indices if "zero" not in stage.kinds or material.zero.path(i) is not None]
    asked = args.evaluate_frames
    if asked is None:
        asked = (usable[0], usable[len(usable) // 2], usable[-1]) if usable else ()
    if unknown := [i for i in asked if i not in usable]:
        raise InputError(f"--evaluate-frames: frame {unknown[0]} is not a chosen frame with a Zero-Stage result.")
    truths = {}
    if args.truth:
        with open_frames(args.truth, multiple=1) as source:
            if len(source) != (count := len(clip.indices)):
                raise InputError(
                    f"--truth {args.truth}: expected {count} frames, one per chosen frame, got {len(source)}."
                )
            for index in asked:
                fitted = clip.fit(source.frames([clip.indices.index(index)]))
                if fitted is None:
                    raise InputError(f"--truth {args.truth}: expected the clip's aspect ratio.")
                truths[index] = fitted[0]

    def restore(indices: list[int]) -> torch.Tensor:
        pictures = []
        for index in indices:  # one by one: the training's memory is taken already
            zero = material.zero.read(index, size)[None] if "zero" in stage.kinds else None
            pictures.append(stage.restore(zero, material.originals(index)[None], [index]))
        return torch.cat(pictures)

    zero = {i: material.zero.read(i, size) for i in truths if material.zero.path(i)}
    return Evaluation(restore, (args.anchor, material.references[args.anchor]), truths, zero, tuple(asked))


def _report(args: argparse.Namespace, out: Path, run: TrainingRun, begun: int, notes: list[str]) -> dict[str, Any]:
    rows = run.log.rows()
    losses = [row["loss"] for row in rows if "loss" in row]
    steps = run.trainer.done - begun
    return {
        "command": "hero train",
        "lora": str(out / LORA),
        "steps": run.trainer.done,
        "resumed_at": begun,
        "stopped_early": run.stopped_early,
        "loss": {"first": losses[0], "last_mean": sum(losses[-20:]) / len(losses[-20:])} if losses else None,
        "evaluations": [row for row in rows if "psnr_anchor" in row],
        "notes": notes,
        "seconds": {name: round(value, 3) for name, value in run.seconds.items()},
        "seconds_per_step": round(run.seconds["train"] / steps, 4) if steps else None,
    }
