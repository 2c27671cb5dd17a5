"""Settings of Zero-Stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .. import paper
from ..checks import InputError, check_range
from ..correspondence.match import ADAPTIVE_MAX

LAYERS = tuple(range(3, 12))


@dataclass(frozen=True)
class ZeroStageSettings:
    """Settings of a run; the defaults are the authors'.

    k: reference tokens per target token on the middle grid, -1 for all, or "adaptive". gamma, tau, layers: see
    `CrossImage`. timestep, block, ensemble: where features are read and over how many noise draws they are averaged;
    adain_start: give the starting latents the reference's mean and deviation; track: follow tokens from frame to frame
    (`correspondence.track`), where `ZeroStage` knows the clip; None takes the model's recommendation for any of these
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
        """The same settings with what is left open filled in from a model's advice (`UNetSurface.recommended`)."""
        values = paper.ZERO | {name: value for name, value in advice.items() if name in paper.ZERO}
        if self.neighbourhood is not None or self.k == -1:
            values["track"] = False
        return replace(self, **{name: value for name, value in values.items() if getattr(self, name) is None})

    @property
    def tokens(self) -> int:
        """k as a number: the largest one where it is adaptive."""
        return ADAPTIVE_MAX if self.k == "adaptive" else int(self.k)
