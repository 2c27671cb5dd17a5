"""The work of `zero2hero hero restore`: frames by `FrameJob`, restored by Hero-Stage."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..checks import InputError
from ..cli.folder import job_folder
from ..cli.hero_inputs import ZeroFrames, load_hero_model, open_hero_clip, restore_settings
from ..files.guard import Results
from ..hero_stage.lora.file import load_lora
from ..hero_stage.stage import HeroStage
from ..hero_stage.training.pairs import MODES
from . import clip as cli_inputs
from . import frames as cli_frames
from .clip import Clip
from .frames import FrameJob, frame_results, tensor_digest


def restore(args: argparse.Namespace) -> dict[str, Any]:
    """Check every input, then restore; returns the report."""
    cli_inputs.check_paths(args.video, *args.zero, *args.lora)
    with job_folder(args, "hero restore", restore_results(args), remedy="--resume or --overwrite") as out:
        return _restore(args, out)


def restore_results(args: argparse.Namespace) -> Results:
    """What the command writes in --out."""
    return frame_results("hero.json", args.video_name)


def _restore(args: argparse.Namespace, out: Path) -> dict[str, Any]:
    notes: list[str] = []
    zero = ZeroFrames(args.zero)
    backbone = load_hero_model(args)
    clip = open_hero_clip(args, zero, notes, backbone.multiple)
    cli_frames.check_video(args, clip, notes)
    lora, metadata = load_lora([Path(name) for name in args.lora], backbone)
    if metadata is not None:
        kinds = MODES.get(metadata.mode)
        if kinds is None:
            raise InputError(f"{args.lora[0]}: was trained in mode {metadata.mode}, which is unknown here.")
        height, width = clip.size_hw
        if metadata.resolution not in ("", f"{width}x{height}"):
            cli_inputs.note(notes, f"the LoRA was trained at {metadata.resolution}, the frames are {width}x{height}")
    else:
        kinds = ("zero", "frame")[: lora.count]  # the authors' order
        cli_inputs.note(notes, f"the LoRA is of a foreign format: its conditions are taken for {' and '.join(kinds)}")
    if "zero" in kinds:
        zero.need(clip.indices)
    stage = HeroStage(backbone, lora, kinds, restore_settings(args, backbone), same_noise=not args.new_noise)
    return RestoreJob(args, out, stage, clip, zero, notes).run(_state_of(args, stage, clip))


def _state_of(args: argparse.Namespace, stage: HeroStage, clip: Clip) -> dict[str, Any]:
    """What the frames are made of. Two runs with equal states give equal frames."""
    height, width = clip.size_hw
    backbone = stage.backbone
    files: dict[str, str | None] = {"video": args.video}
    files |= {f"zero {number}": str(Path(folder) / "frames") for number, folder in enumerate(args.zero)}
    files |= {f"lora {number}": name for number, name in enumerate(args.lora)}
    return {
        "version": __version__,
        "model": backbone.name,
        "model sha256": tensor_digest(backbone.transformer.state_dict().values(), 64),
        "text sha256": tensor_digest([backbone.text.tokens]),
        "batch": args.batch,
        "device": backbone.device.type,
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "weights": args.weights,
        "conditions": list(stage.kinds),
        "same_noise": stage.same_noise,
        "frames": clip.indices,
        "size": [width, height],
        "policy": clip.policy,
        **asdict(stage.settings),
        **{f"{name} sha256": cli_inputs.fingerprint(path) for name, path in files.items()},
    }


class RestoreJob(FrameJob):
    """Hero-Stage on the frames of a clip."""

    command, state_name = "hero restore", "hero.json"

    def __init__(
        self, args: argparse.Namespace, out: Path, stage: HeroStage, clip: Clip, zero: ZeroFrames, notes: list[str]
    ):
        super().__init__(args, out, clip, notes)
        self.stage, self.zero = stage, zero
        self.spent = 0.0

    def part_seconds(self) -> dict[str, float]:
        """Seconds of restoring."""
        return {"restore": self.spent}

    def edit(self, numbers: list[int]) -> list[torch.Tensor]:
        """Restored frames."""
        started = time.perf_counter()
        frames = self.clip.frames(numbers)
        indices = [self.clip.indices[number] for number in numbers]
        zero = None
        if "zero" in self.stage.kinds:
            zero = torch.stack([self.zero.read(index, self.clip.size_hw) for index in indices])
        restored = self.stage.restore(zero, frames, indices)
        for place, index in enumerate(indices):
            self.report_row(index, restored[place], frames[place], {})
        self.spent += time.perf_counter() - started
        return list(restored)
