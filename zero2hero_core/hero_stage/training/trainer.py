"""Hero-Stage training (Zero-to-Hero, arXiv 2505.23134): LoRA on condition tokens learns, from the one true pair, to
restore what Zero-Stage wore down.

Flow matching: x_sigma = (1 - sigma) x + sigma noise, the target is noise - x, sigma uniform unless told otherwise. Each
condition is one extra pass with its LoRA on; the base model reads its keys and values with no LoRA. Latents are
computed once, before; the autoencoder takes no part here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F

from ...backbones.surface import TrainableDiT
from ...checks import InputError, ShapeError, Zero2HeroError, check_range, check_shape
from ...diffusion.flow_matching import draw_sigma, mix_noise
from ...files.whole import whole_file
from ...paper import MODES, training_steps
from ..lora.adapters import HeroLoRA, LoRASpec, checkpoint_blocks
from ..sampling import run_conditions
from .pairs import PairSource, TrainingPair
from .views import LARGEST_SHIFT

DiT = TypeVar("DiT", bound=TrainableDiT)
OPTIMISERS = ("adamw", "adamw8bit")
STATE_PARTS = ("settings", "lora", "optimiser", "random", "done")


@dataclass(frozen=True)
class HeroSettings:
    """Settings of a training; the defaults are the authors' but for the rank.

    mode: which pairs and conditions (paper, Table 1). rank, alpha, layers: see `LoRASpec`. steps: None is 400 for two
    conditions and 600 for one, which take the same time. batch: pairs a step. draws: noise levels per pair and step;
    the condition passes are shared by them. crop: share of the sides that a step sees, at a random place; less is
    faster and makes more of one pair. light, shift: further views of a pair (`training.views`), of this strength
    of `relight` where the pair shows the frame, and moved by so many pixels at most where the mode is not implicit; 0
    for none. high_noise: see `draw_sigma`, for restoring in few steps. decay: let the learning rate fall to zero along
    a cosine; the authors keep it constant. guidance_scale: what the guidance embedding is told in training.
    """

    mode: str = "explicit"
    rank: int = 32
    alpha: float | None = None
    layers: tuple[str, ...] = ()
    steps: int | None = None
    batch: int = 1
    draws: int = 1
    crop: float = 1.0
    light: float = 0.0
    shift: int = 0
    high_noise: float = 0.0
    learning_rate: float = 1e-4
    decay: bool = False
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    guidance_scale: float = 1.0
    optimiser: str = "adamw"
    checkpointing: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"mode: expected one of {', '.join(MODES)}, got {self.mode!r}.")
        if self.optimiser not in OPTIMISERS:
            raise InputError(f"optimiser: expected one of {', '.join(OPTIMISERS)}, got {self.optimiser!r}.")
        check_range("rank", self.rank, 1, 4096)
        assert self.spec  # checks alpha and layers
        check_range("steps", self.total, 1, 1_000_000)
        check_range("batch", self.batch, 1, 1024)
        check_range("draws", self.draws, 1, 1024)
        check_range("crop", self.crop, 0.1, 1)
        check_range("light", self.light, 0, 10)
        check_range("shift", self.shift, 0, LARGEST_SHIFT)
        check_range("high noise", self.high_noise, 0, 1)
        check_range("learning rate", self.learning_rate, 0, 1)
        check_range("weight decay", self.weight_decay, 0, 1)
        check_range("gradient clip", self.clip_norm, 0, math.inf)
        check_range("guidance", self.guidance_scale, 0, 100)
        check_range("seed", self.seed, 0, 2**63 - 1)

    @classmethod
    def suited(cls, advice: Mapping[str, Any], **overrides: Any) -> HeroSettings:
        """Settings from what is given, else from a model's advice (`DiTSurface.recommended`), else the defaults.

        The advised steps are for two conditions; one condition gets half as many more, which take the same time.
        """
        names = {field.name for field in fields(cls)}
        values: dict[str, Any] = {name: value for name, value in advice.items() if name in names} | overrides
        if "steps" in values and "steps" not in overrides and len(MODES.get(values.get("mode", cls.mode), ())) == 1:
            values["steps"] = round(1.5 * values["steps"])
        return cls(**values)

    @property
    def kinds(self) -> tuple[str, ...]:
        """What the conditions show, in their order."""
        return MODES[self.mode]

    @property
    def total(self) -> int:
        """Number of steps."""
        return self.steps if self.steps is not None else training_steps(self.mode)

    def seen(self, size_hw: tuple[int, int], multiple: int = 1) -> tuple[int, int]:
        """What a step sees of pictures of a size, in whole cells of `multiple` (crop)."""
        h, w = (max(1, round(side // multiple * self.crop)) * multiple for side in size_hw)
        return h, w

    @property
    def spec(self) -> LoRASpec:
        """The adapters that this training makes."""
        return LoRASpec(self.rank, self.alpha, self.layers)


class HeroTrainer(Generic[DiT]):
    """Adapters, optimiser and random state; `step()` does one update and returns the loss.

    Args:
        pairs: the training set, all of one size; drawn from at random. Or a source that draws them itself.
        start: adapter weights to begin with, as `HeroLoRA.state_dict` gives them; None begins where nothing is changed.
    Raises: ShapeError when sizes differ; InputError without pairs, without what the optimiser needs, or for a start of
        other adapters. The model is unchanged then.
    """

    def __init__(
        self,
        backbone: DiT,
        pairs: Sequence[TrainingPair] | PairSource,
        settings: HeroSettings,
        *,
        start: Mapping[str, torch.Tensor] | None = None,
    ):
        self.backbone, self.settings = backbone, settings
        self.source = pairs if isinstance(pairs, PairSource) else None
        self.pairs: list[TrainingPair] = [] if isinstance(pairs, PairSource) else list(pairs)
        if self.source is None:
            _check_pairs(self.pairs, backbone, len(settings.kinds))
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.lora = HeroLoRA(backbone, len(settings.kinds), settings.spec, generator=self.generator)
        try:
            if start is not None:
                self.lora.load_state_dict(start)
            self.optimiser = _optimiser(settings, self.lora.parameters())
        except InputError:
            self.lora.remove()
            raise
        self.done = 0
        checkpoint_blocks(backbone, self.lora, settings.checkpointing)

    def step(self) -> float:
        """One update. Raises: Zero2HeroError when loss or gradient is no number; nothing has been changed then."""
        settings = self.settings
        state = self.generator.get_state()
        rows = self._draw()
        device = self.backbone.device
        target = torch.cat([row.target for row in rows]).to(device).repeat_interleave(settings.draws, 0)
        sigma = draw_sigma(len(target), settings.high_noise, self.generator)
        noise = torch.randn(target.shape, generator=self.generator).to(device)
        inputs = [torch.cat([row.conditions[i] for row in rows]).to(device) for i in range(len(settings.kinds))]
        h, w = target.shape[-2:]
        guidance = settings.guidance_scale
        with torch.enable_grad():
            conditions = run_conditions(self.backbone, self.lora, settings.kinds, inputs, (h, w), guidance=guidance)
            conditions = [condition.repeated(settings.draws) for condition in conditions]
            noisy = mix_noise(target, noise, sigma)
            prediction = self.backbone.velocity(noisy, sigma, conditions, guidance=guidance)
            loss = F.mse_loss(prediction, noise - target)
            loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.lora.parameters(), settings.clip_norm or math.inf)
        value = float(loss.detach())
        if not (math.isfinite(value) and math.isfinite(float(norm))):
            self.generator.set_state(state)
            self.optimiser.zero_grad(set_to_none=True)
            what = "loss" if not math.isfinite(value) else "gradient"
            raise Zero2HeroError(
                f"step {self.done + 1}: the {what} is not a number; begin again with a lower learning rate, or with "
                "bfloat16 or float32 instead of float16"
            )
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.done += 1
        return value

    def _draw(self) -> list[TrainingPair]:
        """The pairs of a step."""
        count = self.settings.batch
        if self.source is not None:
            return [self._view(self.source.draw(self.generator)) for _ in range(count)]
        indices = torch.randint(len(self.pairs), (count,), generator=self.generator).tolist()
        return [self._view(self.pairs[i]) for i in indices]

    def rate(self) -> float:
        """Learning rate of the next step."""
        share = self.done / self.settings.total
        return self.settings.learning_rate * (0.5 * (1 + math.cos(math.pi * share)) if self.settings.decay else 1.0)

    def _view(self, pair: TrainingPair) -> TrainingPair:
        """A random crop of a pair, as the settings say."""
        share = self.settings.crop
        if share == 1:
            return pair
        h, w = pair.target.shape[-2:]
        high, wide = self.settings.seen((h, w))
        y = int(torch.randint(h - high + 1, (), generator=self.generator))
        x = int(torch.randint(w - wide + 1, (), generator=self.generator))
        window = (..., slice(y, y + high), slice(x, x + wide))
        return TrainingPair(tuple(packed[window] for packed in pair.conditions), pair.target[window])

    def save(self, path: Path) -> None:
        """Whole state, for `load`, through a temporary file. Raises: Zero2HeroError when it cannot be written."""
        lora, optimiser = self.lora.state_dict(), self.optimiser.state_dict()
        values = (_plain(self.settings), lora, optimiser, self.generator.get_state(), self.done)
        state = dict(zip(STATE_PARTS, values, strict=True))
        # torch's own writer raises RuntimeError, also for a full disk; of a name, it would put it into the file
        with whole_file(path, kinds=(RuntimeError,)) as temporary, temporary.open("wb") as file:
            torch.save(state, file)

    def load(self, path: Path) -> None:
        """Go on from a saved state, with the result of an unbroken run.

        Raises: InputError when the file is damaged or belongs to other settings (more steps are allowed).
        """
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            settings, lora, optimiser, random, step = (state[name] for name in STATE_PARTS)
        except Exception as error:  # torch.load raises many kinds for damaged files
            raise InputError(f"{path}: cannot be read ({type(error).__name__}); start again.") from error
        now = _plain(self.settings)
        free = () if self.settings.decay else ("steps",)  # a decaying rate depends on where it ends
        different = [name for name in now if name not in free and settings.get(name) != now[name]]
        if different:
            values = ", ".join(f"{name} ({settings.get(name)} before, {now[name]} now)" for name in different)
            raise InputError(f"{path}: the state of another training: {values}; give equal settings or start again.")
        self.lora.load_state_dict(lora)
        self.optimiser.load_state_dict(optimiser)
        self.generator.set_state(random)
        self.done = step

    def close(self) -> None:
        """Take the adapters off the model again."""
        checkpoint_blocks(self.backbone, self.lora, False)
        self.lora.remove()


def _plain(settings: HeroSettings) -> dict[str, Any]:
    return asdict(settings) | {"layers": list(settings.layers)}


def _check_pairs(pairs: Sequence[TrainingPair], backbone: TrainableDiT, count: int) -> None:
    if not pairs:
        raise InputError("training: expected at least one pair, got none.")
    shape = pairs[0].target.shape
    for pair in pairs:
        if len(pair.conditions) != count:
            raise ShapeError(f"training pair: expected {count} conditions in this mode, got {len(pair.conditions)}.")
        for name, packed in (("target", pair.target), *(("condition", c) for c in pair.conditions)):
            check_shape(f"training pair: {name}", packed, (1, backbone.channels, "h", "w"))
        if pair.target.shape != shape:
            raise ShapeError(f"training pairs: expected one size, got {tuple(shape)} and {tuple(pair.target.shape)}.")


def _optimiser(settings: HeroSettings, parameters: list[torch.nn.Parameter]) -> Any:
    options: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay, "eps": 1e-8}
    if settings.optimiser == "adamw":
        fused = all(parameter.device.type in ("cpu", "cuda") for parameter in parameters)  # a quarter of the time
        return torch.optim.AdamW(parameters, betas=(0.9, 0.999), fused=fused, **options)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise InputError("optimiser adamw8bit: needs the package bitsandbytes; install it or choose adamw.") from error
    return AdamW8bit(parameters, betas=(0.9, 0.999), **options)
