"""The work of `zero2hero zero`: frames by `FrameJob`, edited by Zero-Stage."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..backbones.sd.unet import UNetBackbone
from ..correspondence.match import Correspondence
from ..zero_stage.stage import ZeroStage
from .clip import Clip, Masks, fingerprint, note
from .frames import FrameJob, tensor_digest

WEAK = 0.5  # confidence below which a match counts as weak


def state_of(args: argparse.Namespace, stage: ZeroStage, clip: Clip) -> dict[str, Any]:
    """What the frames are made of. Two runs with equal states give equal frames."""
    height, width = clip.size_hw
    settings = asdict(stage.settings) | {"layers": list(stage.settings.layers)}
    files = {name: fingerprint(getattr(args, name)) for name in ("video", "reference", "mask", "matches")}
    return {
        "version": __version__,
        "model": stage.backbone.name,
        "model sha256": model_digest(stage.backbone),
        "prediction_type": stage.backbone.prediction_type,
        "prompt sha256": tensor_digest([stage.editor.context]),
        "batch": args.batch,
        "device": stage.backbone.device.type,
        "dtype": str(stage.backbone.dtype).removeprefix("torch."),
        "anchor": args.anchor,
        "frames": clip.indices,
        "size": [width, height],
        "policy": clip.policy,
        **settings,
        **{f"{name} sha256": digest for name, digest in files.items()},
    }


def model_digest(backbone: UNetBackbone) -> str:
    """What tells weights apart: a digest of the first numbers of every tensor of UNet and autoencoder."""
    return tensor_digest([*backbone.unet.state_dict().values(), *backbone.vae.state_dict().values()], 64)


class ZeroJob(FrameJob):
    """Zero-Stage on the frames of a clip."""

    command, state_name = "zero", "zero.json"

    def __init__(
        self,
        args: argparse.Namespace,
        out: Path,
        stage: ZeroStage,
        clip: Clip,
        masks: Masks | None,
        matches: Mapping[int, Correspondence] | None,
        notes: list[str],
    ):
        super().__init__(args, out, clip, notes)
        self.stage, self.masks, self.matches = stage, masks, matches

    def part_seconds(self) -> dict[str, float]:
        """Seconds of the parts of Zero-Stage."""
        return self.stage.seconds

    def edit(self, numbers: list[int]) -> list[torch.Tensor]:
        """Frames in the reference's look."""
        frames = self.clip.frames(numbers)
        indices = [self.clip.indices[number] for number in numbers]
        matches: Sequence[Correspondence] | None = None
        if self.stage.settings.k != -1:
            known = self.matches
            matches = [
                self.stage.correspond(frame, index) if known is None else known[index]
                for frame, index in zip(frames, indices, strict=True)
            ]
        masks = None if self.masks is None else self.masks.batch(numbers)
        edited = self.stage.edit(frames, indices, matches, masks)
        for place, index in enumerate(indices):
            self.report_row(index, edited[place], frames[place], match_row(matches[place]) if matches else {})
        return list(edited)

    def summary(self) -> dict[str, Any]:
        """Share of weak matches; many are said aloud."""
        weak = [row["weak"] for row in self.rows.values() if "weak" in row]
        share = sum(weak) / len(weak) if weak else None
        if share is not None and share > 0.5:
            note(
                self.notes,
                f"{share:.0%} of the matches are weak (confidence below {WEAK}): expect smears; choose an anchor that "
                "shows more of the object, or a model that fits the footage",
            )
        return {"weak_matches": share}


def match_row(matches: Correspondence) -> dict[str, float]:
    """What is reported of a frame's matches: mean confidence, share of weak ones, mean cycle error (share of side)."""
    return {
        "confidence": float(matches.confidence.mean()),
        "weak": float((matches.confidence < WEAK).float().mean()),
        "cycle_error": float(matches.cycle.mean()),
    }
