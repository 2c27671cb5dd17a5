"""Key frames from a prompt, one after another, each held to an anchor and to the key before it (Rerender-A-Video).

Source: arXiv 2306.07954, section 4. Differs: the anchor may be any frame, and may be an edit that is given; then the
noisy edit fills the banks and nothing is sampled for it. Steps before the input's noisy latents take their place are
not run, and the second sampling of a key goes on where it begins to differ from the first: neither changes a result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..attention.guidance import Guidance, Pass
from ..backbones.surface import GuidedDenoiser
from ..checks import Zero2HeroError, check_shape
from ..diffusion.ddim import DDIMSchedule
from ..flow.clip import checked_flow
from ..flow.occlusion import occlusion_map, pool_occlusion, soften
from ..flow.steady import steady_flow
from ..flow.warp import FlowFunction, warp_backward
from .banks import BankAttention, Record, TokenBank
from .fusion import fuse_pictures, fuse_shape, match_colour
from .pixel_target import PixelTarget, pixel_target
from .recolour import recolour
from .settings import RerenderSettings
from .steps import Sampling, Window, closed_window, first_step, open_window


@dataclass(frozen=True)
class PaintedKey:
    """A key frame that is done.

    index: its place in the clip. frame, picture: the original and what was painted, (3, H, W) in [0, 1]. latents:
    (1, C, h, w), clean. bank: its tokens, for the keys that follow.
    """

    index: int
    frame: torch.Tensor
    picture: torch.Tensor
    latents: torch.Tensor
    bank: TokenBank


@dataclass(frozen=True)
class _Place:
    """Where a sampling stands: noisy latents, the noise that the last step found in them, the clean latents."""

    latents: torch.Tensor
    eps: torch.Tensor
    clean: torch.Tensor


@dataclass(frozen=True)
class _Shape:
    """The anchor's latents as they lie in this frame: flow (h, w, 2) in cells and trust (1, 1, h, w)."""

    flow: torch.Tensor
    trust: torch.Tensor


class KeyFramePainter:
    """Paints the key frames of a clip in order, away from the anchor; `begin` first, then `paint`.

    Args:
        denoiser: the model with its prompts. flow: (source, target) -> (H, W, 2), between original frames.
        on_step: called after each step of a sampling; may raise to end the work.
    Raises: InputError when the schedule has fewer timesteps than the settings ask for.
    """

    def __init__(
        self,
        denoiser: GuidedDenoiser,
        settings: RerenderSettings | None = None,
        *,
        flow: FlowFunction = steady_flow,
        on_step: Callable[[], None] = lambda: None,
    ):
        self.denoiser, self.settings = denoiser, settings or RerenderSettings()
        self.flow, self.on_step = flow, on_step
        self.sampling = Sampling(DDIMSchedule(denoiser.alphas_cumprod, self.settings.steps), self.settings.seed)
        self.anchor: PaintedKey | None = None
        self.previous: PaintedKey | None = None
        self._anchor_clean: dict[int, torch.Tensor] = {}  # by step
        self._look: torch.Tensor | None = None
        self._keys = 0

    @property
    def steps(self) -> range:
        """The steps that are run."""
        return range(first_step(self.settings.strength, self.settings.steps) or 0, self.settings.steps)

    @property
    def steps_of_anchor(self) -> int:
        """Steps that the anchor costs at most."""
        return len(self.steps) + (0 if self.settings.preserve_colour else self.settings.steps)

    @property
    def steps_of_key(self) -> int:
        """Steps that a key after the anchor costs at most."""
        second = self._pixel_steps
        return len(self.steps) + (len(range(second.start, self.settings.steps)) if second else 0)

    @property
    def _pixel_steps(self) -> range:
        window = self.settings.pixel_window
        steps = range(0) if window is None else open_window(window, self.settings.steps)
        return range(max(steps.start, self.steps.start), steps.stop)

    @property
    def layers(self) -> range:
        """Decoder layers that look at other frames."""
        return range(6 if self.settings.loose else 3, 12)

    def begin(self, index: int, frame: torch.Tensor, edit: torch.Tensor | None = None) -> PaintedKey:
        """The anchor: the edit where there is one, else painted from the frame.

        Args: index: its place in the clip; frame, edit: (3, H, W).
        Raises: ShapeError when they differ in size; InputError when the size does not suit the model.
        """
        check_shape("frame", frame, (3, "H", "W"))
        if edit is not None:
            check_shape("edit", edit, frame.shape)
        bank, record = self._bank()
        self._look = edit
        if edit is not None:
            picture, clean = edit, self.settings.pixel.encode(self.denoiser, edit[None])
            self._anchor_clean = dict.fromkeys(self.steps, clean)
            for step in self.steps:
                self._eps(self.sampling.noisy(clean, step), step, index, record)
        else:
            if not self.settings.preserve_colour:
                every = range(self.settings.steps)
                raw = self._sample(self._noise_alone(self.denoiser.encode(frame[None])), every, index, [])
                self._look = self._decode(raw)
            self._anchor_clean = {}
            place = self._start(frame)
            for step in self.steps:
                place = self._sample(place, range(step, step + 1), index, record)
                self._anchor_clean[step] = place.clean
            picture, clean = self._decode(place), place.clean
        self.anchor = self.previous = PaintedKey(index, frame, picture, clean, bank)
        self._keys = 0
        return self.anchor

    @property
    def painted(self) -> int:
        """Keys that were painted since the anchor, on this side of it."""
        return self._keys

    def take_up(
        self,
        index: int,
        frame: torch.Tensor,
        picture: torch.Tensor,
        latents: torch.Tensor,
        bank: Mapping[str, torch.Tensor],
        painted: int,
    ) -> None:
        """Go on after a key that an earlier painter painted; the anchor was begun.

        Args: as `PaintedKey`; bank: what `TokenBank.tensors` gave; painted: see `painted`.
        """
        tokens = TokenBank(device="cpu").take(bank)
        self.previous, self._keys = PaintedKey(index, frame, picture, latents, tokens), painted

    def turn_back(self) -> None:
        """Go on from the anchor again: to paint the keys on its other side."""
        self.previous, self._keys = self.anchor, 0

    def paint(self, index: int, frame: torch.Tensor) -> PaintedKey:
        """A key frame (3, H, W) at a place of the clip, painted.

        Raises: ShapeError unless it has the anchor's size.
        """
        anchor, previous = self._held()
        check_shape("frame", frame, anchor.frame.shape)
        bank, record = self._bank()
        sources = [anchor] if previous is anchor else [anchor, previous]
        ways = [self._way(frame, source.frame) for source in sources]
        guidances = [*record, *self._across(sources)]
        start, second = self._start(frame), self._pixel_steps
        shape = _shape(*ways[0], start.latents)

        place = self._sample(start, range(self.steps.start, second.start), index, guidances, shape)
        done = self._sample(place, range(second.start, self.settings.steps), index, guidances, shape)
        if second:
            target = self._target(self._decode(done), sources, ways)
            bank.drop(range(second.start, self.settings.steps))  # the second sampling's tokens take their place
            done = self._sample(place, range(second.start, self.settings.steps), index, guidances, shape, target)
        self._keys += 1
        if self._keys % self.settings.update_every:
            bank = previous.bank
        self.previous = PaintedKey(index, frame, self._decode(done), done.clean, bank)
        return self.previous

    def _held(self) -> tuple[PaintedKey, PaintedKey]:
        if self.anchor is None or self.previous is None:
            raise Zero2HeroError("a key frame was asked for before the anchor; begin first.")
        return self.anchor, self.previous

    def _bank(self) -> tuple[TokenBank, list[Guidance]]:
        """A new bank, and what fills it during a sampling; nothing does where no layer looks at other frames."""
        bank = TokenBank(device="cpu")  # one and a half of them would take the memory of a small card
        return bank, [] if self.settings.cross_window is None else [Record(bank, self.layers)]

    def _across(self, sources: list[PaintedKey]) -> list[Guidance]:
        if self.settings.cross_window is None:
            return []
        banks = [source.bank for source in sources]
        return [BankAttention(banks, self.layers, self._closed(self.settings.cross_window))]

    def _closed(self, window: Window | None) -> range:
        return range(0) if window is None else closed_window(window, self.settings.steps)

    def _start(self, frame: torch.Tensor) -> _Place:
        """The noisy latents that a sampling of a frame begins with."""
        if not self.settings.preserve_colour and self._look is not None:
            frame = recolour(frame, self._look)
        latents = self.denoiser.encode(frame[None])
        if first_step(self.settings.strength, self.settings.steps) is None:
            return self._noise_alone(latents)
        if not self.steps:  # the input is left alone
            return _Place(latents, torch.zeros_like(latents), latents)
        noise = self.sampling.start_noise(latents)
        return _Place(self.sampling.noisy(latents, self.steps.start), noise, latents)

    def _noise_alone(self, latents: torch.Tensor) -> _Place:
        noise = self.sampling.start_noise(latents)
        return _Place(noise, noise, torch.zeros_like(latents))

    def _eps(self, latents: torch.Tensor, step: int, index: int, guidances: list[Guidance]) -> torch.Tensor:
        size_hw = (int(latents.shape[-2]), int(latents.shape[-1]))
        now = Pass(step, self.sampling.timesteps[step], (index,), size_hw)
        eps = self.denoiser.guided_noise(latents, now, guidances)
        self.on_step()
        return eps

    def _sample(
        self,
        place: _Place,
        steps: range,
        index: int,
        guidances: list[Guidance],
        shape: _Shape | None = None,
        target: PixelTarget | None = None,
    ) -> _Place:
        """Go through steps from a place; without `shape` nothing holds the frame to an anchor. The noise that was found
        stays as it is where clean latents are changed."""
        settings, sampling = self.settings, self.sampling
        pixel_steps = self._pixel_steps
        colour_steps, shape_steps = self._closed(settings.colour_window), self._closed(settings.shape_window)
        latents, eps, clean = place.latents, place.eps, place.clean
        for step in steps:
            alpha, after = sampling.alphas(step)
            if target is not None and step in pixel_steps:
                latents = target.pull(latents, eps, sampling.step_noise(step, latents), alpha)
            eps = self._eps(latents, step, index, guidances)
            clean = sampling.clean(latents, eps, step)
            if shape is not None and step in colour_steps:
                clean = match_colour(clean, self._anchor_clean[step])
            if shape is not None and step in shape_steps:
                clean = fuse_shape(clean, self._anchor_clean[step], shape.flow, shape.trust)
            latents = after.sqrt() * clean + (1 - after).sqrt() * eps
        return _Place(latents, eps, clean)

    def _decode(self, place: _Place) -> torch.Tensor:
        return self.denoiser.decode(place.clean)[0].cpu()

    def _way(self, frame: torch.Tensor, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The flow from a frame to a source (H, W, 2), and which pixels of the frame the source does not show."""
        flow, back = checked_flow(self.flow, frame, source), checked_flow(self.flow, source, frame)
        pictures = (frame, source) if self.settings.photometric else None
        return flow, occlusion_map(flow, back, pictures=pictures)

    def _target(
        self, rough: torch.Tensor, sources: list[PaintedKey], ways: list[tuple[torch.Tensor, torch.Tensor]]
    ) -> PixelTarget:
        """What pixel-aware fusion pulls to: the rough picture with the previous key, then the anchor, laid over it."""
        layers = [
            (warp_backward(source.picture, flow), hidden) for source, (flow, hidden) in zip(sources, ways, strict=True)
        ]
        picture = fuse_pictures(rough, *reversed(layers))
        nowhere = torch.stack([hidden for _, hidden in ways]).all(0)
        return pixel_target(self.denoiser, picture[None], nowhere[None], self.settings.pixel)


def _shape(flow: torch.Tensor, hidden: torch.Tensor, latents: torch.Tensor) -> _Shape:
    """Flow (H, W, 2) and occlusion (H, W) between pictures as latents (1, C, h, w) need them."""
    (h, w), (height, width) = latents.shape[-2:], hidden.shape
    small = F.interpolate(flow.movedim(-1, 0)[None], size=(h, w), mode="bilinear", align_corners=False)[0]
    cells = small.movedim(0, -1) * torch.tensor([w / width, h / height])
    trust = 1 - pool_occlusion(soften(hidden), (h, w))
    return _Shape(cells, trust[None, None].to(latents))
