"""Key frames from a prompt, a batch at a time (FRESCO).

Source: arXiv 2403.12962, section 4, with the batches, noise and background smoothing of the authors' practice. Differs:
the anchor may be any frame, and may be an edit that is given, whose noisy latents stand in its row at every step;
pixels may be aligned within a batch, which the paper leaves for the future.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..attention.guidance import Pass
from ..backbones.surface import GuidedDenoiser
from ..checks import ShapeError, check_images, check_shape
from ..diffusion.ddim import DDIMSchedule
from ..diffusion.ddpm import ddpm_move
from ..flow.warp import warp_backward
from .batches import CarriedLatents
from .fusion import fuse_pictures
from .parts import FRESCO, Batch, Guides, Part, begin_parts
from .pixel_target import PixelTarget, pixel_target
from .settings import FrescoSettings
from .smoothing import background_of, smooth_pictures
from .steps import Sampling, closed_window, first_step, open_window


@dataclass(frozen=True)
class PaintedBatch:
    """A batch that is done, row by row: pictures (N, 3, H, W) in [0, 1] and clean latents (N, C, h, w)."""

    pictures: torch.Tensor
    latents: torch.Tensor


class KeyFrameBatchPainter:
    """Paints batches of key frames; later batches follow what earlier ones carried on.

    Args:
        denoiser: the model with its prompts. parts: of the guidance, see `parts`. on_step: called after each step of a
        sampling and each pass over the originals; may raise to end the work.
    Raises: InputError when the schedule has fewer timesteps than the settings ask for.
    """

    def __init__(
        self,
        denoiser: GuidedDenoiser,
        settings: FrescoSettings | None = None,
        parts: Sequence[Part] = FRESCO,
        *,
        on_step: Callable[[], None] = lambda: None,
    ):
        self.denoiser, self.settings, self.parts, self.on_step = denoiser, settings or FrescoSettings(), parts, on_step
        self.sampling = Sampling(DDIMSchedule(denoiser.alphas_cumprod, self.settings.steps), self.settings.seed)
        self.carried = CarriedLatents()

    @property
    def steps(self) -> range:
        """The steps that are run."""
        return range(first_step(self.settings.strength, self.settings.steps) or 0, self.settings.steps)

    @property
    def steps_of_batch(self) -> int:
        """Steps and passes that a batch costs at most."""
        return len(self.steps) + 1

    def paint(self, batch: Batch, carried: int = 0, edit: torch.Tensor | None = None) -> PaintedBatch:
        """A batch, whose first row is the anchor.

        Args: carried: how many of the first rows earlier batches produced; edit: (3, H, W), the anchor's.
        Raises: ShapeError when pictures differ in size; InputError when the size does not suit the model, or the parts
            do not go together.
        """
        check_images("frames", batch.frames)
        if len(batch.indices) != len(batch.frames):
            raise ShapeError(f"frames: expected {len(batch.indices)}, one for each index, got {len(batch.frames)}.")
        if edit is not None:
            check_shape("edit", edit, batch.frames.shape[1:])
        guides = begin_parts(self.parts, batch, self.steps, self.settings.steps)
        inputs = self.denoiser.encode(batch.frames)
        if guides.reads_inputs:
            self._look_at(inputs, batch, guides)
        anchor = None if edit is None else self.settings.pixel.encode(self.denoiser, edit[None])
        clean = self._sample(inputs, batch, guides, carried, anchor)
        pictures = self.denoiser.decode(clean).cpu()
        if edit is not None:
            pictures[0] = edit
        return PaintedBatch(pictures, clean)

    def _pass(self, latents: torch.Tensor, step: int, batch: Batch) -> Pass:
        size_hw = (int(latents.shape[-2]), int(latents.shape[-1]))
        return Pass(step, self.sampling.timesteps[step], batch.indices, size_hw)

    def _look_at(self, inputs: torch.Tensor, batch: Batch, guides: Guides) -> None:
        """One pass over the originals, at the least noise and without ControlNets, which the guides look on."""
        last = self.settings.steps - 1
        noisy, now = self.sampling.noisy(inputs, last), self._pass(inputs, last, batch)
        self.denoiser.guided_noise(noisy, now, guides.input_attention, guides.input_features, controlled=False)
        self.on_step()

    def _sample(
        self, inputs: torch.Tensor, batch: Batch, guides: Guides, carried: int, anchor: torch.Tensor | None
    ) -> torch.Tensor:
        settings, sampling = self.settings, self.sampling
        smooth = closed_window(settings.smooth_window, settings.steps) if settings.smooth_window else range(0)
        align = open_window(settings.pixel_window, settings.steps) if settings.pixel_window else range(0)
        start = sampling.start_noise(inputs)
        latents, clean = inputs, inputs
        if self.steps:
            pure = first_step(settings.strength, settings.steps) is None
            latents = start.expand_as(inputs) if pure else sampling.noisy(inputs, self.steps.start)
        target: PixelTarget | None = None
        for step in self.steps:
            alpha, after = sampling.alphas(step)
            if step in align and len(batch.frames) > 1:
                if target is None:
                    target = self._target(clean, batch)
                eps = (latents - alpha.sqrt() * clean) / (1 - alpha).sqrt()  # what the last step left, old and new
                latents = target.pull(latents, eps, sampling.step_noise(settings.steps + step, latents), alpha)
            if anchor is not None:
                latents = torch.cat([sampling.noisy(anchor, step), latents[1:]])
            latents = self.carried.exchange(step, latents, carried)
            now = self._pass(latents, step, batch)
            eps = self.denoiser.guided_noise(latents, now, guides.attention, guides.features)
            clean = sampling.clean(latents, eps, step)
            if step in smooth and batch.foreground is not None:
                clean = self._smooth(clean, batch)
            latents = ddpm_move(latents, clean, sampling.step_noise(step, latents), alpha, after)
            self.on_step()
        return clean if anchor is None else torch.cat([anchor, clean[1:]])

    def _smooth(self, clean: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Clean latents whose pictures have the background of earlier frames."""
        assert batch.foreground is not None
        pictures = self.denoiser.decode(clean).cpu()
        return self.denoiser.encode(smooth_pictures(pictures, batch.motion, background_of(batch.foreground)))

    def _target(self, clean: torch.Tensor, batch: Batch) -> PixelTarget:
        """What the rows are pulled to: each picture with the one before it laid over it along the flow; the first row
        is left alone."""
        pictures, motion = self.denoiser.decode(clean).cpu(), batch.motion
        fused = [pictures[0]]
        hidden = [torch.ones(motion.size_hw, dtype=torch.bool)]
        for row in range(1, len(pictures)):
            flow, unseen = motion.backward[row - 1], motion.backward_occlusion[row - 1]
            fused.append(fuse_pictures(pictures[row], (warp_backward(fused[-1], flow), unseen)))
            hidden.append(unseen)
        return pixel_target(self.denoiser, torch.stack(fused), torch.stack(hidden), self.settings.pixel)
