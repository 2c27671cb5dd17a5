"""The bundled tiny models measured on held-out rendered clips, and the project's bars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..backbones.sd.unet import UNetBackbone
from ..jobs.listener import Listener
from ..tiny.scenes.scene import Scene, split_seed
from ..tiny.unet import load_tiny, weights_metadata
from ..zero_stage.settings import ZeroStageSettings
from .quality.rendered import METHODS, evaluate_clip

LENGTH = 16  # frames of a clip
ENOUGH = 20  # clips, for the bars to count


@dataclass(frozen=True)
class EvaluationRequest:
    """clips: of a split, from clip `first` on. frames: to measure; frame 0 is the anchor. methods: some of `METHODS`.
    settings: of Zero-Stage. weights: folder of other weights; None for the bundled ones."""

    clips: int = ENOUGH
    first: int = 0
    split: str = "test"
    frames: tuple[int, ...] = (5, 10, 15)
    methods: tuple[str, ...] = tuple(METHODS)
    settings: ZeroStageSettings = field(default_factory=ZeroStageSettings)
    weights: Path | None = None


def evaluate_models(request: EvaluationRequest, listener: Listener) -> dict[str, Any]:
    """Mean, spread and minimum of each measure, the rows of all clips, and which bars are missed, as a report."""
    listener.progress("clips", 0, request.clips)
    rows = evaluate_split(
        load_tiny(request.weights),
        request.split,
        request.clips,
        first=request.first,
        frames=request.frames,
        settings=request.settings,
        methods=request.methods,
        progress=lambda done: listener.progress("clips", done, request.clips),
    )
    summary = summarise(rows)
    for name, values in summary.items():
        listener.say(f"{name:24s} {values['mean']:8.3f} +- {values['std']:.3f}   min {values['min']:.3f}")
    judged = request.split == "test" and request.clips >= ENOUGH and set(request.methods) == set(METHODS)
    return {
        "command": "tiny evaluate",
        "problems": missed_bars(summary) if judged else [],
        "split": request.split,
        "clips": request.clips,
        "frames": list(request.frames),
        "summary": summary,
        "rows": rows,
        "weights": weights_metadata(request.weights),
    }


def evaluate_split(
    backbone: UNetBackbone,
    split: str,
    clips: int,
    *,
    frames: Sequence[int] = (5, 10, 15),
    size: int = 256,
    first: int = 0,
    settings: ZeroStageSettings | None = None,
    methods: Sequence[str] = tuple(METHODS),
    progress: Callable[[int], object] = lambda done: None,
) -> list[dict[str, float]]:
    """One row of measures per clip, for clips `first`, `first` + 1, ... of a split (anchor 0).

    Args: progress: called with the number of clips that are done.
    """
    rows: list[dict[str, float]] = []
    for index in range(first, first + clips):
        scene = Scene(split_seed(split, index), LENGTH, size)
        row = evaluate_clip(backbone, scene, frames, settings=settings, methods=methods).row()
        rows.append({"clip": float(index)} | row)
        progress(len(rows))
    return rows


def summarise(rows: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean, standard deviation over clips, and minimum of every measure."""
    summary = {}
    for name in rows[0]:
        if name == "clip":
            continue
        values = torch.tensor([row[name] for row in rows], dtype=torch.float64)
        spread = float(values.std()) if len(values) > 1 else 0.0
        summary[name] = {"mean": float(values.mean()), "std": spread, "min": float(values.min())}
    return summary


def missed_bars(summary: dict[str, dict[str, float]]) -> list[str]:
    """What falls short of the project's bars on the mean of the clips, a sentence each."""
    mean = {name: values["mean"] for name, values in summary.items()}
    bars = [
        ("matches within 5 % of the side", mean["pck.features"], 0.85),
        ("matches against raw patches", mean["pck.features"], mean["pck.rgb"]),
        ("matches against identity", mean["pck.features"], mean["pck.identity"]),
        ("Zero-Stage against plain cross-image attention + 2 dB", mean["psnr.zero"], mean["psnr.cia"] + 2),
        ("Zero-Stage against identity", mean["psnr.zero"], mean["psnr.identity"]),
        ("autoencoder", mean["psnr.autoencoder"], 29.0),
    ]
    return [f"{name}: {value:.3f} is below {bar:.3f}." for name, value, bar in bars if not value >= bar]
