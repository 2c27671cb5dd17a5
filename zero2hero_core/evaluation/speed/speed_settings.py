"""What is timed, on which model and at which size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...checks import InputError, check_range, setting
from ..making import machine, now, revision

if TYPE_CHECKING:
    from .clocks import Clock

MODELS = {"zero": ("tiny", "sd15"), "hero": ("tiny", "klein", "flux1")}  # part -> models that it runs on
DTYPES = ("float32", "bfloat16")
COUNTED = "counted"  # stands where a device stands: on tensors without content
# (part, what) -> the options that make it another case. Not among them: turns and seed, which say how often and with
# which random numbers a case was timed, and the steps of a frame where a training step is timed.
DECIDE: dict[tuple[str, str], tuple[str, ...]] = {
    ("zero", "frame"): ("frames", "steps", "k", "ensemble", "batch", "threads"),
    ("hero", "training step"): ("rank", "dtype", "blocks", "threads"),
    ("hero", "frame"): ("steps", "rank", "dtype", "blocks", "threads"),
}
COMMON = {"threads": 1, "seed": 0, "k": 1, "ensemble": 8, "batch": 4, "dtype": "float32", "blocks": None}


def defaults(part: str, model: str, device: str = "cpu") -> dict[str, Any]:
    """The values of the options of `zero2hero bench speed` where they are not given."""
    cuda, tiny = device.startswith("cuda"), model == "tiny"
    if part == "zero":
        if tiny or cuda or device == COUNTED:
            return COMMON | {"sizes": (256 if tiny else 512,), "frames": 4, "steps": 20, "turns": 2 if tiny else 3}
        return COMMON | {"sizes": (512,), "frames": 2, "steps": 2, "turns": 1}
    small = {"rank": 16, "training": ((256, 1), (256, 4), (512, 1)), "sizes": (256,), "turns": 3}
    real = {"rank": 32, "training": ((512, 1),), "sizes": (512,), "dtype": "bfloat16" if cuda else "float32"}
    return COMMON | {"steps": 25, "turns": 5} | (small if tiny else real)


@dataclass(frozen=True)
class ZeroSpeed:
    """Zero-Stage on a clip.

    Args:
        model: of `MODELS`. device: cpu or cuda.
        sizes: sides of the square frames in pixels; frames: length of the clip.
        steps: of inversion and of sampling; turns: runs of each side.
        k: reference tokens per token, -1 for all; ensemble: noise draws of the features.
        batch: frames that ours edits at once.
    Raises: InputError for what cannot be run.
    """

    model: str
    sizes: tuple[int, ...]
    frames: int
    steps: int
    turns: int
    device: str = "cpu"
    threads: int = 1
    seed: int = 0
    k: int = 1
    ensemble: int = 8
    batch: int = 4

    def __post_init__(self) -> None:
        for size in self.sizes:
            if size < 64 or size % 64:
                raise InputError(
                    f"{setting('size')}: Zero-Stage expects multiples of 64 pixels from 64 up, got {size}."
                )
            most = (size // 16) ** 2  # tokens of the middle attention grid
            if not (self.k == -1 or 1 <= self.k <= most):
                raise InputError(f"{setting('k')}: expected 1 to {most} (or -1 for all) at {size} px, got {self.k}.")
        check_range(setting("steps"), self.steps, 1, 999)
        for name in ("frames", "turns", "ensemble", "batch"):
            check_range(setting(name), getattr(self, name), 1, 1024)

    @property
    def told(self) -> dict[str, Any]:
        """What stands beside a figure."""
        names = ("frames", "steps", "turns", "threads", "seed", "k", "ensemble", "batch")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class HeroSpeed:
    """Hero-Stage: a training step in explicit mode, and a restored frame.

    Args:
        training: cases (side in pixels, noise levels of a step); sizes: sides of the restored frames in pixels.
        steps: of sampling; rank: of the LoRA; turns: runs of each side.
        blocks: fewer double and single blocks than the real model's: shows that it runs, no goal is judged.
        dtype: of the base model.
    Raises: InputError for what cannot be run.
    """

    model: str
    training: tuple[tuple[int, int], ...]
    sizes: tuple[int, ...]
    steps: int
    turns: int
    rank: int
    device: str = "cpu"
    threads: int = 1
    seed: int = 0
    dtype: str = "float32"
    blocks: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for size in (*self.sizes, *(size for size, _ in self.training)):
            if size < 16 or size % 16:
                raise InputError(
                    f"{setting('size')}: Hero-Stage expects multiples of 16 pixels from 16 up, got {size}."
                )
        if self.model == "tiny" and (self.blocks or self.dtype != "float32"):
            raise InputError(
                f"{setting('model')} tiny: expected no {setting('blocks')}, and {setting('dtype')} float32."
            )
        check_range(setting("steps"), self.steps, 1, 1000)
        for name in ("turns", "rank"):
            check_range(setting(name), getattr(self, name), 1, 4096)

    @property
    def told(self) -> dict[str, Any]:
        """What stands beside a figure."""
        names = ("steps", "turns", "threads", "seed", "rank", "dtype", "blocks")
        return {name: getattr(self, name) for name in names}


def facts(part: str, settings: ZeroSpeed | HeroSpeed, clock: Clock) -> dict[str, Any]:
    """What every row of a report says of its making."""
    return {
        "part": part,
        "model": settings.model,
        "device": settings.device,
        "settings": settings.told,
        "clock": clock.kind,
        "machine": machine(settings.device),
        "commit": revision(),
        "date": now(),
    }
