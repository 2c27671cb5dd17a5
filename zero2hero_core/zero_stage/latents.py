"""Zero-Stage on latents: inversion, selection of reference tokens, sampling (Zero-to-Hero, arXiv 2505.23134).

With its defaults this is the authors' procedure: DDIM inversion of target and reference, AdaIN of the starting
latents, decoder self-attention replaced by attention to the matching reference tokens, sampling without guidance.
What changes no result is left out: the second guidance sample, pictures decoded on the way, the reference's inversion
more than once a clip, dense masks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from ..attention.capture_inject import Captured, CaptureHook, InjectHook, Selection
from ..backbones.sd.unet import UNetBackbone
from ..checks import InputError, check_range
from ..correspondence.match import Correspondence
from ..diffusion.adain import adain
from ..diffusion.ddim import DDIMSchedule

LAYERS = tuple(range(3, 12))
# where a model advises nothing
PAPER = {"timestep": 261, "block": 1, "ensemble": 8, "adain_start": True, "track": False}
ADAPTIVE_MAX = 8  # most tokens a query reads on the middle grid with k = "adaptive"


@dataclass(frozen=True)
class ZeroStageSettings:
    """Settings of a run; the defaults are the authors'.

    k: reference tokens per target token on the middle grid, -1 for all, or "adaptive". gamma, tau, layers: see
    `InjectHook`. timestep, block, ensemble: where features are read and over how many noise draws they are averaged;
    adain_start: give the starting latents the reference's mean and deviation; track: follow tokens from frame to frame
    (`correspondence_track`), where `ZeroStage` knows the clip; None takes the model's recommendation for any of these
    (the paper's 261, 1, 8, True and False where it has none). neighbourhood: search radius as a share of the
    longer side. guidance_scale: 1 means none. contrast: see `full_attention`; with k = -1 only. seed: of the feature
    noise; each frame has its own stream, so that the batch size changes nothing.
    """

    num_inference_steps: int = 20
    k: int | str = 1
    gamma: float = 1.0
    tau: float = 1.0
    layers: tuple[int, ...] = LAYERS
    timestep: int | None = None
    block: int | None = None
    ensemble: int | None = None
    neighbourhood: float | None = None
    prompt: str = ""
    guidance_scale: float = 1.0
    adain_start: bool | None = None
    contrast: float = 1.0
    seed: int = 0
    track: bool | None = None

    def __post_init__(self) -> None:
        if self.k != "adaptive" and not (isinstance(self.k, int) and (self.k == -1 or self.k >= 1)):
            raise InputError(f'k: expected a whole number from 1 up, -1 (all tokens) or "adaptive", got {self.k!r}.')
        check_range("steps", self.num_inference_steps, 1, 999)
        check_range("gamma", self.gamma, 0, 1)
        check_range("tau", self.tau, 0, 100)
        check_range("contrast", self.contrast, 0, 100)
        if self.contrast != 1.0 and self.k != -1:
            raise InputError(
                f"contrast: acts with k = -1 (all tokens) only, got k = {self.k}; set k to -1 or contrast to 1."
            )
        check_range("seed", self.seed, 0, 2**64 - 1)
        check_range("guidance_scale", self.guidance_scale, 0, 100)
        if self.ensemble is not None:
            check_range("ensemble", self.ensemble, 1, 1024)
        if self.timestep is not None:
            check_range("timestep", self.timestep, 0, 999)
        if self.block is not None:
            check_range("block", self.block, 0, 3)
        if self.neighbourhood is not None:
            check_range("neighbourhood", self.neighbourhood, 0, 1)
            if self.track:
                raise InputError(
                    "neighbourhood: looks around a token's own place, track around a place that is followed; choose "
                    "one of them."
                )
        if not self.layers or any(layer not in LAYERS for layer in self.layers):
            raise InputError(f"layers: expected some of 3 to 11, got {self.layers}.")

    def resolve(self, advice: Mapping[str, Any]) -> ZeroStageSettings:
        """The same settings with what is left open filled in from a model's advice (`UNetBackbone.recommended`)."""
        known = PAPER | {name: value for name, value in advice.items() if name in PAPER}
        if self.neighbourhood is not None or self.k == -1:
            known["track"] = False
        return replace(self, **{name: value for name, value in known.items() if getattr(self, name) is None})

    @property
    def tokens(self) -> int:
        """k as a number: the largest one where it is adaptive."""
        return ADAPTIVE_MAX if self.k == "adaptive" else int(self.k)


class Stopwatch:
    """Seconds per part of the work, summed up in `seconds`; waits for the device so that the times are true."""

    def __init__(self, device: torch.device):
        self.seconds: dict[str, float] = {}
        self._device = device

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens within the block as `name`."""
        start = time.perf_counter()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


class LatentEditor:
    """Gives target latents the look of `reference_latents` (1, C, h, w); the reference is inverted once, when first
    needed."""

    def __init__(self, backbone: UNetBackbone, reference_latents: torch.Tensor, settings: ZeroStageSettings):
        self.backbone, self.settings = backbone, settings.resolve(backbone.recommended)
        self.reference_latents = reference_latents
        self.schedule = DDIMSchedule(backbone.alphas_cumprod, settings.num_inference_steps)
        self.context = backbone.encode_prompt(settings.prompt)
        self.watch = Stopwatch(backbone.device)
        self._reference: tuple[list[Captured], torch.Tensor] | None = None
        self._reference_kept: dict[int, frozenset[str]] = {}

    @property
    def grids(self) -> list[tuple[int, int]]:
        """The three attention grids (h, w), coarse to fine."""
        size = (int(self.reference_latents.shape[-2]), int(self.reference_latents.shape[-1]))
        return [self.backbone.size_of_layer(layer, size) for layer in (3, 6, 9)]

    def selections(self, matches: Sequence[Correspondence], masks: torch.Tensor | None = None) -> dict[int, Selection]:
        """What each layer reads, for a batch of frames; `masks` (B, 1, H, W) limits cross-image attention to the
        object."""
        chosen: dict[int, Selection] = {}
        device = self.backbone.device
        for layer in self.settings.layers:
            size = self.grids[layer // 3 - 1]
            inside = None
            if masks is not None:
                inside = F.interpolate(masks.float(), size=size, mode="area").flatten(1).to(device)
            if self.settings.k == -1:
                chosen[layer] = Selection(None, None, inside)
                continue
            levels = [match.level(size) for match in matches]
            counts = None
            if levels[0].counts is not None:
                counts = torch.stack([level.counts for level in levels if level.counts is not None]).to(device)
            chosen[layer] = Selection(torch.stack([level.indices for level in levels]).to(device), counts, inside)
        return chosen

    def invert(self, latents: torch.Tensor, keep: dict[int, frozenset[str]]) -> tuple[list[Captured], torch.Tensor]:
        """DDIM inversion of latents (B, C, h, w).

        Returns: what was captured at each step, in sampling order; the noise-side latents.
        """
        captured: list[Captured] = []
        for timestep in reversed(self.schedule.timesteps):
            step, latents = self.invert_step(latents, timestep, keep)
            captured.append(step)
        return captured[::-1], latents

    def invert_step(
        self, latents: torch.Tensor, timestep: int, keep: dict[int, frozenset[str]]
    ) -> tuple[Captured, torch.Tensor]:
        """One step of `invert`, to `timestep`."""
        hook = CaptureHook(keep)
        eps = self.backbone.predict_noise(latents, timestep, self.context, hook)
        return hook.captured, self.schedule.invert_step(latents, eps, timestep)

    def _reference_inversion(self, selections: dict[int, Selection]) -> tuple[list[Captured], torch.Tensor]:
        keep = {layer: selection.reference_needs() for layer, selection in selections.items()}
        if self._reference is None or keep != self._reference_kept:
            with self.watch.part("reference"):
                self._reference = self.invert(self.reference_latents, keep)
            self._reference_kept = keep
        return self._reference

    def edit_latents(
        self, latents: torch.Tensor, selections: dict[int, Selection], masks: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Edited clean latents (B, C, h, w) of target latents: the prediction of the last step, as the authors decode
        it."""
        banks, reference_noise = self._reference_inversion(selections)
        with self.watch.part("inversion"):
            keep = {layer: selection.target_needs() for layer, selection in selections.items()}
            targets, current = self.invert(latents, keep)
        if self.settings.adain_start:
            started = adain(current, reference_noise)
            if masks is not None:  # outside the object the start stays the target's own
                inside = F.interpolate(masks.float(), size=current.shape[-2:], mode="area").to(current)
                started = started * inside + current * (1 - inside)
            current = started
        clean = current
        with self.watch.part("sampling"):
            for timestep, reference in zip(self.schedule.timesteps, banks, strict=True):
                settings = self.settings
                hook = InjectHook(
                    selections,
                    reference,
                    targets.pop(0),
                    gamma=settings.gamma,
                    tau=settings.tau,
                    contrast=settings.contrast,
                )
                eps = self._guided(current, timestep, hook)
                clean = self.schedule.clean(current, eps, timestep)
                current = self.schedule.sample_step(current, eps, timestep)
        return clean

    def _guided(self, latents: torch.Tensor, timestep: int, hook: InjectHook) -> torch.Tensor:
        eps = self.backbone.predict_noise(latents, timestep, self.context, hook)
        scale = self.settings.guidance_scale
        if scale == 1.0 or not self.settings.prompt:
            return eps
        empty = self.backbone.predict_noise(latents, timestep, self.backbone.encode_prompt(""), hook)
        return empty + scale * (eps - empty)
