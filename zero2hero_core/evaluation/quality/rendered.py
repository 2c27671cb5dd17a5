"""Methods measured on rendered clips, where the truth is known: matches against exact geometry, pictures against the
second appearance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial

import torch
import torch.nn.functional as F

from ...backbones.sd.unet import UNetBackbone
from ...correspondence.match import Correspondence
from ...metrics.psnr import pck, psnr
from ...tiny.scenes.scene import Scene
from ...zero_stage.settings import ZeroStageSettings
from ...zero_stage.stage import ZeroStage
from .clips import TaskClip
from .methods import run_method
from .specs import Spec, zero_settings
from .tools import Tools

# their names in reports -> in `methods.METHODS`
METHODS = {"zero": "zero", "cia": "cross-image", "pixel_swap": "pixel swap", "identity": "identity"}


@dataclass
class ClipResult:
    """What was measured on one clip.

    psnr: method -> dB inside the object by frame, the anchor left out; psnr_frame: dB of the whole frame; pck: share of
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


class SharedMatches(Tools):
    """Tools for methods with equal settings on one clip: they share a stage, and each frame is matched once.

    Args: result: holds the pictures that other methods have made.
    """

    def __init__(self, backbone: UNetBackbone, result: ClipResult) -> None:
        super().__init__(self._pictures_of)
        self.zero = backbone
        self._result = result
        self._stages: dict[ZeroStageSettings, ZeroStage[UNetBackbone]] = {}
        self._matches: dict[tuple[ZeroStageSettings, int], Correspondence] = {}

    def _pictures_of(self, clip: TaskClip, spec: Spec, frames: Sequence[int]) -> torch.Tensor:
        name = next((name for name, method in METHODS.items() if method == spec.method), spec.method)
        return self._result.pictures[name][[self._result.frames.index(frame) for frame in frames]]

    def stage(self, clip: TaskClip, spec: Spec) -> ZeroStage[UNetBackbone]:
        """Zero-Stage, once for each settings."""
        settings = zero_settings(spec)
        if settings not in self._stages:
            self._stages[settings] = super().stage(clip, spec)
        return self._stages[settings]

    def match(self, stage: ZeroStage[UNetBackbone], clip: TaskClip, frames: Sequence[int]) -> list[Correspondence]:
        """Matches of frames with the anchor, each once."""
        for frame in frames:
            if (stage.settings, frame) not in self._matches:
                (self._matches[stage.settings, frame],) = super().match(stage, clip, [frame])
        return [self._matches[stage.settings, frame] for frame in frames]


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


def measure_matches(result: ClipResult, clip: TaskClip) -> None:
    """Fill in PCK of features, raw patches (the better of two widths) and identity over all frames but the anchor."""
    scene, anchor = result.scene, clip.frames[clip.anchor]
    grid = result.matches[0].finest.size_hw[0]
    places: dict[str, list[torch.Tensor]] = {"features": [], "rgb 1": [], "rgb 3": [], "identity": []}
    truths, visibles, objects = [], [], []
    axis = (torch.arange(grid) + 0.5) / grid
    identity = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    for frame, match in zip(result.frames, result.matches, strict=True):
        if frame == clip.anchor:  # it matches itself: nothing to measure
            continue
        coords, visible = scene.correspondence(frame, clip.anchor, grid)
        truths.append(coords / scene.size)
        visibles.append(visible)
        objects.append(F.adaptive_avg_pool2d(scene.render(frame)[1], grid)[0] > 0.5)
        places["features"].append(match.finest.coords_xy().cpu())
        places["rgb 1"].append(rgb_matches(clip.frames[frame], anchor, grid, 1))
        places["rgb 3"].append(rgb_matches(clip.frames[frame], anchor, grid, 3))
        places["identity"].append(identity)
    truth, visible, inside = torch.stack(truths), torch.stack(visibles), torch.stack(objects)
    shares = {name: pck(torch.stack(coords), truth, visible) for name, coords in places.items()}
    rgb = max(shares["rgb 1"], shares["rgb 3"])
    result.pck = {"features": shares["features"], "rgb": rgb, "identity": shares["identity"]}
    result.pck_object = pck(torch.stack(places["features"]), truth, visible & inside)


def scene_clip(scene: Scene, anchor: int = 0) -> TaskClip:
    """A scene as a clip whose reference is the anchor's second appearance."""
    frames, truth = scene.frames(0), scene.frames(1)
    return TaskClip("scene", "rendered", "", frames, truth[anchor], anchor, scene.masks(), dict(enumerate(truth)))


def evaluate_clip(
    backbone: UNetBackbone,
    scene: Scene,
    frames: Sequence[int],
    *,
    settings: ZeroStageSettings | None = None,
    methods: Sequence[str] = tuple(METHODS),
    further: Mapping[str, Spec] | None = None,
    progress: Callable[[str, int], object] = lambda name, done: None,
) -> ClipResult:
    """Run methods on chosen frames of a scene, whose anchor is frame 0, and measure them.

    Args:
        settings: of Zero-Stage, also where the others use it.
        methods: some of `METHODS`.
        further: methods that start from the pictures of those, name -> spec.
        progress: called with (name, frames or training steps done).
    """
    options = asdict(settings or ZeroStageSettings())
    seed = options.pop("seed")
    specs = {name: Spec(METHODS[name], options, seed) for name in methods} | dict(further or {})
    clip, result = scene_clip(scene), ClipResult(scene, list(frames))
    tools = SharedMatches(backbone, result)
    stage = tools.stage(clip, Spec("zero", options, seed))
    result.matches = tools.match(stage, clip, result.frames)
    for name, spec in specs.items():
        tools.progress = partial(progress, name)
        outcome = run_method(tools, clip, spec, result.frames)
        result.pictures[name] = outcome.pictures
        result.seconds |= {f"{name} {part}": seconds for part, seconds in outcome.seconds.items()}
    result.seconds = stage.seconds | result.seconds
    measure_matches(result, clip)
    places = [place for place, frame in enumerate(result.frames) if frame != clip.anchor]
    indices = [result.frames[place] for place in places]
    assert clip.masks is not None  # a scene has them
    truth, masks = clip.truths(indices), clip.masks[indices]
    for name, pictures in result.pictures.items():
        result.psnr[name] = psnr(pictures[places], truth, masks)
        result.psnr_frame[name] = psnr(pictures[places], truth)
    result.autoencoder = float(psnr(backbone.decode(backbone.encode(truth)).cpu(), truth).mean())
    return result
