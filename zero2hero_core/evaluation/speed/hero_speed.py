"""Hero-Stage's training step and restored frame, against a straightforward rendering of the authors' way and against
the bare base model: one process, equal weights, in turns.

Training: one update in explicit mode (two conditions), with the draws of one step on both sides. The straightforward
side (`hero_straightforward.py`) encodes the pair again at every step, as the authors do; the same without that is timed
too. With more than one draw, ours runs the conditions once for all of them, theirs once for each.
Frame: ours against sampling the base model without conditions, and against the straightforward way, of which a few
steps are timed, for all cost the same.

A ratio is the median of the ratios within each turn; "by_arithmetic" is that of the multiply-adds (`hero_flops.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...backbones.flux.dit import DiTBackbone, LatentCodec
from ...hero_stage.sampling import KINDS, RestoreSettings, restore_latents
from ...hero_stage.training.pairs import TrainingPair
from ...hero_stage.training.trainer import HeroSettings, HeroTrainer
from .clocks import Clock, PartTimer, Side, cpu_threads, ratio, take_turns
from .hero_flops import counted_frame, counted_training
from .hero_straightforward import PlainTrainer, plain_restore
from .real_sizes import empty_backbone, load_hero_model, smooth_frames
from .speed_settings import HeroSpeed, facts

PASSES = {"condition": "condition passes", "velocity": "noise passes"}  # methods of the backbone


def hero_rows(settings: HeroSpeed, tell: Callable[[dict[str, Any]], object]) -> list[dict[str, Any]]:
    """A row per case of training, then one per size of a frame, each told as it comes."""
    rows = []
    with cpu_threads(settings.threads):
        given = (settings.model, settings.device, settings.dtype, settings.seed, settings.blocks)
        backbone, codec = load_hero_model(*given)
        empty = empty_backbone(settings.model, settings.blocks)
        for size, draws in settings.training:
            row = compare_training(backbone, codec, settings, size, draws)
            rows.append(row | counted_training(empty, settings, size, draws))
            tell(rows[-1])
        for size in settings.sizes:
            row = compare_frame(backbone, codec, settings, size)
            rows.append(row | counted_frame(empty, settings, size))
            tell(rows[-1])
    return rows


def make_trainer(
    backbone: DiTBackbone, codec: LatentCodec, settings: HeroSpeed, size: int, draws: int
) -> tuple[HeroTrainer[DiTBackbone], list[Tensor]]:
    """Our side on adapters that are not zero and on one pair of smooth pictures, and these, (1, 3, H, W) each."""
    chosen = HeroSettings(rank=settings.rank, draws=draws, seed=settings.seed)
    pictures = list(smooth_frames(3, size, settings.seed).to(settings.device).split(1))
    latents = [codec.encode(picture) for picture in pictures]
    ours = HeroTrainer(backbone, [TrainingPair(tuple(latents[:2]), latents[2])], chosen)
    generator = torch.Generator().manual_seed(settings.seed)
    state = ours.lora.state_dict()
    ours.lora.load_state_dict({key: torch.randn(w.shape, generator=generator) * 0.03 for key, w in state.items()})
    return ours, pictures


def compare_training(
    backbone: DiTBackbone, codec: LatentCodec, settings: HeroSpeed, size: int, draws: int
) -> dict[str, Any]:
    """One row: a training step both ways, and how far their losses are apart on equal draws and weights."""
    ours, pictures = make_trainer(backbone, codec, settings, size, draws)
    plain = PlainTrainer(backbone, ours.lora, ours.settings, codec, pictures)  # trains the same adapters
    clock = Clock(settings.device)

    def our_step(watch: PartTimer) -> None:
        with watch.calls(backbone, **PASSES):
            ours.step()

    try:
        difference = _difference_of_losses(ours, plain)
        runs = 3 if settings.model == "tiny" and size * draws <= 256 else 1
        sides = take_turns(
            {
                "straightforward": Side(lambda watch: plain.step(encode=True, watch=watch), runs, runs),
                "without encoding": Side(lambda watch: plain.step(encode=False, watch=watch), runs, runs),
                "ours": Side(our_step, runs, runs),
            },
            clock,
            settings.turns,
        )
    finally:
        ours.close()
    row = {**facts("hero", settings, clock), "what": "training step", "size": size, "draws": draws, "sides": sides}
    row["ratios"] = {
        "straightforward / ours": ratio(sides, "straightforward", "ours"),
        "without encoding / ours": ratio(sides, "without encoding", "ours"),
    }
    return row | {"difference": difference}


def _difference_of_losses(ours: HeroTrainer[DiTBackbone], plain: PlainTrainer) -> float:
    """Of one step from equal weights and equal draws, relative."""
    state = {key: tensor.clone() for key, tensor in ours.lora.state_dict().items()}
    plain.generator.set_state(ours.generator.get_state())
    one = ours.step()
    ours.lora.load_state_dict(state)
    return abs(plain.step(encode=True) - one) / one


@torch.no_grad()
def compare_frame(backbone: DiTBackbone, codec: LatentCodec, settings: HeroSpeed, size: int) -> dict[str, Any]:
    """One row: a frame with two conditions, bare base sampling, and the straightforward way."""
    trainer, _ = make_trainer(backbone, codec, settings, size, 1)
    clock = Clock(settings.device)
    conditions, lora = [x.to(settings.device) for x in trainer.pairs[0].conditions], trainer.lora
    noise = torch.randn(conditions[0].shape, generator=torch.Generator().manual_seed(settings.seed)).to(settings.device)
    chosen = RestoreSettings(num_inference_steps=settings.steps, seed=settings.seed)
    short, timed = RestoreSettings(num_inference_steps=2), min(2, settings.steps)

    def bare(watch: PartTimer) -> None:
        with watch.calls(backbone, **PASSES):
            restore_latents(backbone, lora, (), (), noise, chosen)

    def ours(watch: PartTimer) -> None:
        with watch.calls(backbone, **PASSES):
            restore_latents(backbone, lora, KINDS, conditions, noise, chosen)

    def straightforward(watch: PartTimer) -> None:
        with watch.part("masked passes"):
            plain_restore(backbone, conditions, noise, chosen, steps=timed)

    try:
        mine = restore_latents(backbone, lora, KINDS, conditions, noise, short)
        theirs = plain_restore(backbone, conditions, noise, short, steps=2)
        difference = float((mine - theirs).abs().max() / theirs.abs().max())
        few = Side(straightforward, units=timed / settings.steps)
        sides = take_turns({"bare base": Side(bare), "ours": Side(ours), "straightforward": few}, clock, settings.turns)
    finally:
        trainer.close()
    row = {**facts("hero", settings, clock), "what": "frame", "size": size, "sides": sides}
    row["ratios"] = {
        "ours / bare base": ratio(sides, "ours", "bare base"),
        "straightforward / ours": ratio(sides, "straightforward", "ours"),
    }
    return row | {"difference": difference, "straightforward_steps_timed": timed}
