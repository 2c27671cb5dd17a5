"""The whole method on a rendered clip with the bundled models, beside its baselines and the truth."""

from __future__ import annotations

import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from ..correspondence.pictures import matches_picture
from ..files.json_file import write_json
from ..jobs.listener import Listener
from ..tiny.dit import RECOMMENDED
from ..tiny.scenes.scene import Scene, split_seed
from ..tiny.unet import load_tiny
from ..video.labelled_grid import labelled_grid
from ..video.writer import VideoWriter, write_image
from ..zero_stage.settings import ZeroStageSettings
from .quality.rendered import ClipResult, evaluate_clip
from .quality.specs import Spec

VIDEO, COMPARISON, MATCHES, REPORT = "edited.mp4", "compare.png", "matches.png", "report.json"
COLUMNS = (
    "original",
    "reference look (truth)",
    "plain cross-image",
    "pixel swap",
    "Zero-Stage",
    "Hero-Stage",
    "result",
)
PARTS = {"zero": "Zero-Stage", "cia": "plain cross-image attention", "hero": "Hero-Stage training"}  # those that last


@dataclass(frozen=True)
class DemoRequest:
    """seed: which clip of the test range. frames, size: of the clip. steps: of Zero-Stage. train_steps: of Hero-Stage,
    which begins with the bundled adapter; None for what suits the model. overwrite: replace the results of an earlier
    run."""

    seed: int = 0
    frames: int = 16
    size: int = 256
    steps: int = 20
    train_steps: int | None = None
    overwrite: bool = False


def make_demo(request: DemoRequest, out: Path, listener: Listener) -> dict[str, Any]:
    """Render a clip, take its first frame's second appearance as the edit, run all methods, measure and draw them.

    Args: out: folder for `VIDEO`, `COMPARISON`, `MATCHES` and `REPORT`.
    Returns: the report.
    """
    started = time.perf_counter()
    scene = Scene(split_seed("test", request.seed), request.frames, request.size)
    train_steps = int(RECOMMENDED["adapter_steps"]) if request.train_steps is None else request.train_steps
    totals = {"zero": request.frames, "cia": request.frames, "hero": train_steps}

    def progress(name: str, done: int) -> None:
        if name in PARTS:
            listener.progress(PARTS[name], done, totals[name])

    hero = {"adapter": True, "steps": train_steps}
    result = evaluate_clip(
        load_tiny(),
        scene,
        range(request.frames),
        settings=ZeroStageSettings(num_inference_steps=request.steps),
        further={"hero": Spec("hero", hero), "mix": Spec("mix", {"hero": hero})},
        progress=progress,
    )
    report = _report(request, result)
    writing = time.perf_counter()
    write_image(out / COMPARISON, _comparison(result), overwrite=True)
    write_image(out / MATCHES, _matches(result), overwrite=True)
    with VideoWriter(out / VIDEO, Fraction(8), crf=12, overwrite=request.overwrite) as writer:
        writer.write(result.pictures["mix"])
    report["seconds"] |= {"writing": time.perf_counter() - writing, "total": time.perf_counter() - started}
    write_json(out / REPORT, report)
    return report


def _report(request: DemoRequest, result: ClipResult) -> dict[str, Any]:
    measures = {name: round(value, 4) for name, value in result.row().items()}
    clip = {
        "seed": request.seed,
        "frames": request.frames,
        "size": request.size,
        "edit": result.scene.edit,
        "anchor": 0,
    }
    return {
        "command": "demo",
        "clip": clip,
        "psnr": {name: measures[f"psnr.{name}"] for name in (*result.psnr, "autoencoder")},
        "psnr_frame": {name: measures[f"psnr_frame.{name}"] for name in result.psnr_frame},
        "pck": measures["pck.features"],
        "pck_rgb": measures["pck.rgb"],
        "pck_identity": measures["pck.identity"],
        "notes": [
            "mix: the result, Hero-Stage and the carried change together, as `zero2hero edit` ends",
            "psnr: dB inside the edited object, mean over all frames but the anchor; psnr_frame: over the whole frame",
            "pck: share of visible points whose match lies within 0.05 of the frame's side, the anchor left out",
        ],
        "seconds": dict(result.seconds),
    }


def _indices(result: ClipResult) -> list[int]:
    """The anchor and up to four other frames, evenly over the clip."""
    return sorted({round(i * (result.scene.num_frames - 1) / 4) for i in range(5)})


def _comparison(result: ClipResult) -> torch.Tensor:
    """Frames down, `COLUMNS` across."""
    methods = [result.pictures[name] for name in ("cia", "pixel_swap", "zero", "hero", "mix")]
    rows = [
        [result.scene.render(i, 0)[0], result.scene.render(i, 1)[0], *(pictures[i] for pictures in methods)]
        for i in _indices(result)
    ]
    return labelled_grid(rows, COLUMNS, [f"frame {i}" if i else "anchor" for i in _indices(result)])


def _matches(result: ClipResult) -> torch.Tensor:
    """Where the places of some frames lie in the anchor, by colour."""
    anchor = result.scene.render(0, 0)[0]
    lines = [matches_picture(result.matches[i], anchor, result.scene.render(i, 0)[0]) for i in _indices(result)[1:]]
    return torch.cat(lines, 1)
