"""Zero-Stage on latents: inversion, selection of reference tokens, sampling (Zero-to-Hero, arXiv 2505.23134).

With its defaults this is the authors' procedure: DDIM inversion of target and reference, AdaIN of the starting
latents, decoder self-attention replaced by attention to the matching reference tokens, sampling without guidance.
What changes no result is left out: the second guidance sample, pictures decoded on the way, the reference's inversion
more than once a clip, dense masks. Further guidances act beside it while sampling; the inversions have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F

from ..attention.capture_inject import Capture, Captured, CrossImage, Selection
from ..attention.guidance import Guidance, GuidedPass, Pass, check_guidances
from ..backbones.surface import UNetSurface
from ..correspondence.match import Correspondence
from ..diffusion.adain import adain
from ..diffusion.ddim import DDIMSchedule
from ..stopwatch import Stopwatch
from .settings import LAYERS, ZeroStageSettings


class LatentEditor:
    """Gives target latents the look of `reference_latents` (1, C, h, w), or (R, C, h, w) of several references, whose
    tokens stand one after another; they are inverted once, when first needed.

    Args: guidances: what else acts on the decoder's self-attention while sampling, besides cross-image attention.
    Raises: InputError when two guidances make the output of one layer at one step, or the work of one would be lost.
    """

    def __init__(
        self,
        backbone: UNetSurface,
        reference_latents: torch.Tensor,
        settings: ZeroStageSettings,
        guidances: Sequence[Guidance] = (),
    ):
        self.backbone, self.settings = backbone, settings.resolve(backbone.recommended)
        self.guidances = tuple(guidances)
        if guidances:
            indices = None if settings.k == -1 else torch.zeros(1, 1, settings.tokens, dtype=torch.int64)
            own = self._cross_image({layer: Selection(indices) for layer in settings.layers}, [], [])
            check_guidances([*guidances, own], LAYERS, settings.num_inference_steps)
        self.reference_latents = reference_latents
        self.schedule = DDIMSchedule(backbone.alphas_cumprod, settings.num_inference_steps)
        self.context = backbone.encode_prompt(settings.prompt)
        self.watch = Stopwatch(backbone.device)
        self._reference: tuple[list[Captured], torch.Tensor] | None = None
        self._reference_names: dict[int, frozenset[str]] = {}

    @property
    def grids(self) -> list[tuple[int, int]]:
        """The three attention grids (h, w), coarse to fine."""
        return [self.backbone.size_of_layer(layer, _size(self.reference_latents)) for layer in (3, 6, 9)]

    def selections(self, matches: Sequence[Correspondence], masks: torch.Tensor | None = None) -> dict[int, Selection]:
        """What each layer reads, for a batch of frames; `masks` (B, 1, H, W) limits cross-image attention to the
        object."""
        selections: dict[int, Selection] = {}
        device = self.backbone.device
        for layer in self.settings.layers:
            size = self.grids[layer // 3 - 1]
            inside = None
            if masks is not None:
                inside = F.interpolate(masks.float(), size=size, mode="area").flatten(1).to(device)
            if self.settings.k == -1:
                selections[layer] = Selection(None, None, inside)
                continue
            levels = [match.level(size) for match in matches]
            counts = None
            if levels[0].counts is not None:
                counts = torch.stack([level.counts for level in levels if level.counts is not None]).to(device)
            selections[layer] = Selection(torch.stack([level.indices for level in levels]).to(device), counts, inside)
        return selections

    def invert(self, latents: torch.Tensor, keep: dict[int, frozenset[str]]) -> tuple[list[Captured], torch.Tensor]:
        """DDIM inversion of latents (B, C, h, w).

        Returns: what was captured at each step, in sampling order; the noise-side latents.
        """
        captures: list[Captured] = []
        for timestep in reversed(self.schedule.timesteps):
            step, latents = self.invert_step(latents, timestep, keep)
            captures.append(step)
        return captures[::-1], latents

    def invert_step(
        self, latents: torch.Tensor, timestep: int, keep: dict[int, frozenset[str]]
    ) -> tuple[Captured, torch.Tensor]:
        """One step of `invert`, to `timestep`."""
        capture = Capture(keep)
        now = Pass(self.schedule.timesteps.index(timestep), timestep, (), _size(latents))
        eps = self.backbone.predict_noise(latents, timestep, self.context, GuidedPass([capture], now))
        return capture.tensors, self.schedule.invert_step(latents, eps, timestep)

    def _reference_inversion(self, selections: dict[int, Selection]) -> tuple[list[Captured], torch.Tensor]:
        keep = {layer: selection.reference_needs() for layer, selection in selections.items()}
        if self._reference is None or keep != self._reference_names:
            with self.watch.part("reference"):
                steps, noise = self.invert(self.reference_latents, keep)
                self._reference = [_in_a_row(step) for step in steps], torch.cat(list(noise), -2)[None]
            self._reference_names = keep
        return self._reference

    def _cross_image(
        self, selections: dict[int, Selection], references: Sequence[Captured], targets: list[Captured]
    ) -> CrossImage:
        settings = self.settings
        shares = {"gamma": settings.gamma, "tau": settings.tau, "contrast": settings.contrast}
        return CrossImage(selections, references, targets, **shares)

    def edit_latents(
        self,
        latents: torch.Tensor,
        selections: dict[int, Selection],
        masks: torch.Tensor | None = None,
        *,
        frames: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """Edited clean latents (B, C, h, w) of target latents: the prediction of the last step, as the authors decode
        it.

        Args: frames: places of the rows in the clip, for the guidances; None counts from 0.
        """
        banks, reference_noise = self._reference_inversion(selections)
        with self.watch.part("inversion"):
            keep = {layer: selection.target_needs() for layer, selection in selections.items()}
            targets, current = self.invert(latents, keep)
        if self.settings.adain_start:
            start = adain(current, reference_noise)
            if masks is not None:  # outside the object the start stays the target's own
                inside = F.interpolate(masks.float(), size=current.shape[-2:], mode="area").to(current)
                start = start * inside + current * (1 - inside)
            current = start
        clean = current
        cross_image = self._cross_image(selections, banks, targets)
        rows = tuple(range(len(latents)) if frames is None else frames)
        with self.watch.part("sampling"):
            for step, timestep in enumerate(self.schedule.timesteps):
                now = Pass(step, timestep, rows, _size(current))
                eps = self._guide(current, now, [*self.guidances, cross_image])
                cross_image.release(step)
                clean = self.schedule.clean(current, eps, timestep)
                current = self.schedule.sample_step(current, eps, timestep)
        return clean

    def _guide(self, latents: torch.Tensor, now: Pass, guidances: Sequence[Guidance]) -> torch.Tensor:
        """Noise in latents, with classifier-free guidance where it is asked for."""
        eps = self.backbone.predict_noise(latents, now.timestep, self.context, GuidedPass(guidances, now))
        scale = self.settings.guidance_scale
        if scale == 1.0 or not self.settings.prompt:
            return eps
        without = GuidedPass(guidances, replace(now, conditional=False))
        empty = self.backbone.predict_noise(latents, now.timestep, self.backbone.encode_prompt(""), without)
        return empty + scale * (eps - empty)


def _in_a_row(captured: Captured) -> Captured:
    """What was captured of several references, (R, heads, N, d), as the tokens of one, (1, heads, R N, d)."""
    return {
        layer: {name: tensor.transpose(0, 1).flatten(1, 2)[None] for name, tensor in tensors.items()}
        for layer, tensors in captured.items()
    }


def _size(latents: torch.Tensor) -> tuple[int, int]:
    return int(latents.shape[-2]), int(latents.shape[-1])
