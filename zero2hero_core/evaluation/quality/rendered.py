"""Measures on rendered clips, where the truth is known: matches against exact geometry, Zero-Stage against the second
appearance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F

from ...backbones.sd.unet import UNetBackbone
from ...correspondence.match import Correspondence
from ...metrics.psnr import pck, psnr
from ...propagation.pixel_swap import pixel_swap
from ...tiny.scenes.scene import Scene, split_seed
from ...zero_stage.stage import ZeroStage, ZeroStageSettings

METHODS = ("zero", "cia", "pixel_swap", "identity")


@dataclass
class ClipResult:
    """What was measured on one clip.

    psnr: dB inside the object, frames x method, the anchor left out; psnr_frame: dB of the whole frame; pck: share of
    visible points within 0.05 of the side, for "features", "rgb" (raw patches) and "identity"; pictures: method ->
    (N, 3, H, W); autoencoder: dB of encoding and decoding.
    """

    scene: Scene
    frames: list[int]
    psnr: dict[str, torch.Tensor] = field(default_factory=dict)
    psnr_frame: dict[str, torch.Tensor] = field(default_factory=dict)
    pck: dict[str, float] = field(default_factory=dict)
    pck_object: float = math.nan
    pictures: dict[str, torch.Tensor] = field(default_factory=dict)
    matches: list[Correspondence] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    autoencoder: float = math.nan

    def row(self) -> dict[str, float]:
        """Means over frames, flat."""
        means = {f"psnr.{name}": float(values.mean()) for name, values in self.psnr.items()}
        means |= {f"psnr_frame.{name}": float(values.mean()) for name, values in self.psnr_frame.items()}
        means |= {f"pck.{name}": value for name, value in self.pck.items()}
        return means | {"pck_object": self.pck_object, "psnr.autoencoder": self.autoencoder}


def rgb_matches(target: torch.Tensor, anchor: torch.Tensor, grid: int, cells: int) -> torch.Tensor:
    """Matches by raw colour: the anchor patch (cells x cells grid cells wide) with the smallest squared difference.

    Args: target, anchor: (3, S, S).
    Returns: places (grid, grid, 2) as shares of the side.
    """
    size = target.shape[-1]
    step = size // grid
    margin = step * (cells - 1) // 2

    def patches(picture: torch.Tensor) -> torch.Tensor:
        padded = F.pad(picture[None], (margin,) * 4, mode="replicate")
        return F.unfold(padded, step * cells, stride=step)[0].T

    best = torch.cdist(patches(target), patches(anchor)).argmin(1)
    return torch.stack([(best % grid + 0.5) / grid, (best // grid + 0.5) / grid], -1).view(grid, grid, 2)


def measure_matches(result: ClipResult, originals: torch.Tensor, anchor: int, grid: int) -> None:
    """Fill in PCK of features, raw patches (the better of two widths) and identity over all frames but the anchor."""
    scene = result.scene
    found: dict[str, list[torch.Tensor]] = {"features": [], "rgb 1": [], "rgb 3": [], "identity": []}
    truths, seen, objects = [], [], []
    axis = (torch.arange(grid) + 0.5) / grid
    identity = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    for frame, match in zip(result.frames, result.matches, strict=True):
        if frame == anchor:  # it matches itself: nothing to measure
            continue
        coords, visible = scene.correspondence(frame, anchor, grid)
        truths.append(coords / scene.size)
        seen.append(visible)
        objects.append(F.adaptive_avg_pool2d(scene.render(frame)[1], grid)[0] > 0.5)
        found["features"].append(match.finest.coords_xy().cpu())
        found["rgb 1"].append(rgb_matches(originals[frame], originals[anchor], grid, 1))
        found["rgb 3"].append(rgb_matches(originals[frame], originals[anchor], grid, 3))
        found["identity"].append(identity)
    truth, visible, inside = torch.stack(truths), torch.stack(seen), torch.stack(objects)
    shares = {name: pck(torch.stack(coords), truth, visible) for name, coords in found.items()}
    rgb = max(shares["rgb 1"], shares["rgb 3"])
    result.pck = {"features": shares["features"], "rgb": rgb, "identity": shares["identity"]}
    result.pck_object = pck(torch.stack(found["features"]), truth, visible & inside)


def evaluate_clip(
    backbone: UNetBackbone,
    scene: Scene,
    frames: Sequence[int],
    *,
    anchor: int = 0,
    settings: ZeroStageSettings | None = None,
    methods: Sequence[str] = METHODS,
    batch: int = 4,
    progress: Callable[[str, int], None] | None = None,
) -> ClipResult:
    """Run the methods on chosen frames of a scene (the anchor's second appearance is the reference) and measure them.

    Args: methods: some of "zero", "cia" (plain cross-image attention, k = -1), "pixel_swap", "identity"; progress:
    called with (method, frames done).
    """
    settings = settings or ZeroStageSettings()
    originals, truth, masks = scene.frames(0), scene.frames(1), scene.masks()
    result = ClipResult(scene, list(frames))
    stage = ZeroStage(backbone, originals[anchor], truth[anchor], anchor, settings, dict(enumerate(originals)))
    plain = ZeroStage(backbone, originals[anchor], truth[anchor], anchor, replace(settings, k=-1))
    result.matches = [stage.correspond(originals[frame], frame) for frame in frames]
    made: dict[str, list[torch.Tensor]] = {name: [] for name in methods}
    for start in range(0, len(result.frames), batch):
        part = result.frames[start : start + batch]
        matches = result.matches[start : start + batch]
        for name in methods:
            if name in ("zero", "cia"):
                pictures = (stage if name == "zero" else plain).edit(originals[part], part, matches)
            elif name == "pixel_swap":
                pictures = torch.stack([pixel_swap(truth[anchor], match.finest) for match in matches])
            else:
                pictures = originals[part]
            made[name].append(pictures)
            if progress:
                progress(name, len(part))
    result.pictures = {name: torch.cat(parts) for name, parts in made.items()}
    result.seconds = stage.seconds
    measure_matches(result, originals, anchor, result.matches[0].finest.size_hw[0])
    kept = [place for place, frame in enumerate(result.frames) if frame != anchor]
    wanted = [result.frames[place] for place in kept]
    for name, pictures in result.pictures.items():
        result.psnr[name] = psnr(pictures[kept], truth[wanted], masks[wanted])
        result.psnr_frame[name] = psnr(pictures[kept], truth[wanted])
    result.autoencoder = float(psnr(backbone.decode(backbone.encode(truth[wanted])).cpu(), truth[wanted]).mean())
    return result


def evaluate_split(
    backbone: UNetBackbone,
    split: str,
    clips: int,
    *,
    frames: Sequence[int] = (5, 10, 15),
    size: int = 256,
    first: int = 0,
    settings: ZeroStageSettings | None = None,
    methods: Sequence[str] = METHODS,
    progress: Callable[[int, dict[str, float]], None] | None = None,
) -> list[dict[str, float]]:
    """One row of measures per clip, for clips `first`, `first` + 1, ... of a split (sixteen frames each, anchor 0)."""
    rows = []
    for index in range(first, first + clips):
        scene = Scene(split_seed(split, index), 16, size)
        row = evaluate_clip(backbone, scene, frames, settings=settings, methods=methods).row()
        rows.append({"clip": float(index)} | row)
        if progress:
            progress(index, row)
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
