"""The work of `zero2hero hero train`."""

from __future__ import annotations

import argparse
import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .. import __version__
from ..backbones.flux.dit import DiTBackbone
from ..checks import InputError, Zero2HeroError
from ..cli.console import progress, say
from ..cli.folder import job_folder
from ..cli.hero_inputs import (
    ZeroFrames,
    extra_references,
    hero_settings,
    load_hero_model,
    open_hero_clip,
    restore_settings,
)
from ..files.guard import Results, content, final_path
from ..files.json_file import write_json
from ..hero_stage.lora.file import HeroMetadata
from ..hero_stage.stage import HeroStage
from ..hero_stage.training.pairs import training_pairs
from ..hero_stage.training.run import LORA, PLOT, RESULTS, STATE, RunSettings, TrainingRun
from ..hero_stage.training.trainer import HeroSettings, HeroTrainer
from ..memory_batches import is_out_of_memory
from . import clip as cli_inputs
from .clip import Clip
from .frames import REPORT, check_same, read_state, tensor_digest
from .material import Material, clip_latents, evaluation_of, read_material, say_memory

RUN_STATE = "train.json"


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Check every input, then train; returns the report."""
    cli_inputs.check_paths(args.video, args.reference, args.truth, *args.zero, args.zero_anchor)
    with job_folder(args, "hero train", train_results(args), remedy="--resume or --overwrite") as out:
        return _checked(args, out)


def train_results(args: argparse.Namespace) -> Results:
    """What the command writes in --out."""
    return RESULTS | Results((REPORT, RUN_STATE))


def _checked(args: argparse.Namespace, out: Path) -> dict[str, Any]:
    started = time.perf_counter()
    notes: list[str] = []
    if args.mode == "implicit" and not args.zero_anchor:
        raise InputError("--mode implicit: needs --zero-anchor, Zero-Stage frames with the anchor as the reference.")
    zero = ZeroFrames(args.zero)
    backbone = load_hero_model(args)
    settings = hero_settings(args, backbone)
    clip = open_hero_clip(args, zero, notes, backbone.multiple)
    material = read_material(args, clip, zero, notes)
    state = _state_of(args, backbone, settings, clip)
    _check_state(args, out, state)
    say_memory(args, backbone, settings, clip)
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
    say(args, f"{run.trainer.done} steps; anchor {last['psnr_anchor']:.2f} dB after training: {final_path(out / LORA)}")
    return report


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
    elif args.resume and content(out) and not (out / RUN_STATE).exists():
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
    material: Material,
    state: dict[str, Any],
) -> TrainingRun:
    """Everything up to the first step, so that bad input is refused before anything is written."""
    trainer = HeroTrainer(backbone, training_pairs(settings.mode, clip_latents(backbone, settings, material)), settings)
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
    evaluation = evaluation_of(args, stage, material)
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


def _report(args: argparse.Namespace, out: Path, run: TrainingRun, begun: int, notes: list[str]) -> dict[str, Any]:
    rows = run.log.rows()
    losses = [row["loss"] for row in rows if "loss" in row]
    steps = run.trainer.done - begun
    return {
        "command": "hero train",
        "lora": str(final_path(out / LORA)),
        "steps": run.trainer.done,
        "resumed_at": begun,
        "stopped_early": run.stopped_early,
        "loss": {"first": losses[0], "last_mean": sum(losses[-20:]) / len(losses[-20:])} if losses else None,
        "evaluations": [row for row in rows if "psnr_anchor" in row],
        "notes": notes,
        "seconds": {name: round(value, 3) for name, value in run.seconds.items()},
        "seconds_per_step": round(run.seconds["train"] / steps, 4) if steps else None,
    }
