"""Settings of the two ways to paint key frames from a prompt: Rerender-A-Video and FRESCO.

The defaults are those of the authors' interfaces. Windows are shares of the steps, see `guidance.steps`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..checks import InputError, check_range, setting
from .pixel_target import PixelSettings
from .steps import Window, check_window


@dataclass(frozen=True)
class RerenderSettings:
    """How Rerender-A-Video paints key frames, one after another (arXiv 2306.07954, section 4).

    steps, strength: see `steps.first_step`: 0.75 of 20 steps begins at the sixth, with the input's noisy latents; more
    than 1 begins with noise alone. cross_window: attention to anchor and previous key. loose: the coarsest layers keep
    to themselves, which follows large motion better. update_every: keys after which the previous key's tokens are
    renewed. shape_window: latents of the anchor along the flow, eq. 7; it acts only where the sampling has begun by
    then. pixel_window: pictures of anchor and previous key along the flow, eq. 10 and 11, in a second sampling of the
    key, as `pixel` says. colour_window: AdaIN to the anchor. preserve_colour: False recolours the input to the anchor's
    look before it is taken apart. photometric: a pixel whose colour differs along the flow by more than a quarter of
    the range counts as hidden. A window of None switches its part off.

    Differs from the authors: update_every counts keys, not frames.
    Raises: InputError.
    """

    steps: int = 20
    strength: float = 0.75
    seed: int = 0
    cross_window: Window | None = (0.0, 1.0)
    loose: bool = True
    update_every: int = 1
    shape_window: Window | None = (0.0, 0.1)
    pixel_window: Window | None = (0.5, 0.8)
    pixel: PixelSettings = field(default_factory=PixelSettings)
    colour_window: Window | None = (0.8, 1.0)
    preserve_colour: bool = True
    photometric: bool = False

    def __post_init__(self) -> None:
        _check_sampling(self.steps, self.strength, self.seed)
        for name in ("cross_window", "shape_window", "pixel_window", "colour_window"):
            _check_window(name, getattr(self, name))
        if self.update_every < 1:
            raise InputError(
                f"{setting('update_every')}: expected a whole number of keys from 1 up, got {self.update_every}."
            )


@dataclass(frozen=True)
class FrescoSettings:
    """How FRESCO paints key frames, a batch at a time (arXiv 2403.12962, section 4).

    steps, strength, seed: as `RerenderSettings`. batch: key frames at once, among them the anchor and, after the first
    batch, the last one of the batch before. smooth_window: steps at which the background of the pictures is smoothed,
    where a foreground is known. pixel_window: steps at which every key of a batch is pulled to the one before it along
    the flow, as Rerender-A-Video does and as `pixel` says; FRESCO names this as future work, None leaves it out.

    Differs from the authors: smooth_window grows with the number of steps.
    Raises: InputError.
    """

    steps: int = 20
    strength: float = 0.75
    seed: int = 0
    batch: int = 8
    smooth_window: Window | None = (0.8, 0.85)
    pixel_window: Window | None = None
    pixel: PixelSettings = field(default_factory=PixelSettings)

    def __post_init__(self) -> None:
        _check_sampling(self.steps, self.strength, self.seed)
        check_range(setting("batch"), self.batch, 2, 64)
        for name in ("smooth_window", "pixel_window"):
            _check_window(name, getattr(self, name))


def _check_sampling(steps: int, strength: float, seed: int) -> None:
    check_range(setting("steps"), steps, 1, 999)
    check_range(setting("strength"), strength, 0, 1.05)
    check_range(setting("seed"), seed, 0, 2**48)


def _check_window(name: str, window: Window | None) -> None:
    if window is not None:
        check_window(name, window)
