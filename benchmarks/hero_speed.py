"""Hero-Stage's training step and restored frame, against a straightforward rendering of the authors' way and against
the bare base model: one process, equal weights, in turns.

Training: one update in explicit mode (two conditions), with the draws of one step on both sides. The straightforward
side (`hero_straightforward.py`) encodes the pair again at every step, as the authors do; the same without that is timed
too. With more than one draw, ours runs the conditions once for all of them, theirs once for each.
Frame: ours against sampling the base model without conditions, and against the straightforward way, of which a few
steps are timed, for all cost the same.

On a CPU times are processor seconds of one thread: what a clock shows on an idle machine. A ratio is the median of the
ratios within each turn; "by arithmetic" is that of the multiply-adds (`hero_flops.py`). A missed bar: exit status 1.

    python benchmarks/hero_speed.py --tiny --json benchmarks/results/hero_speed_tiny.json
    python benchmarks/hero_speed.py --klein --device cuda --dtype bfloat16       # random weights of the real size
    python benchmarks/hero_speed.py --flux1 --blocks 1 1 --training 64:1 --frames 64          # does it run: on a CPU
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hero_flops import MODELS, count_frame, count_training, empty_backbone, write_json
from hero_memory import random_backbone
from hero_straightforward import PlainTrainer, plain_restore
from zero_speed import smooth_frames

from zero2hero_core.backbones.dit import DiTBackbone, LatentCodec, PlainCodec
from zero2hero_core.backbones.dit_restore import KINDS, RestoreSettings, restore_latents
from zero2hero_core.hero_training import HeroSettings, HeroTrainer
from zero2hero_core.hero_training_pairs import TrainingPair

TRAINING_BAR = {"cpu": 1.5, "cuda": 2.0}  # at least; straightforward / ours
FRAME_BAR = 1.25  # at most; ours / bare base
RATIOS = {
    ("training step", "ratio"): "straightforward / ours",
    ("training step", "ratio_without_encoding"): "without encoding / ours",
    ("frame", "ratio"): "ours / bare base",
    ("frame", "ratio_straightforward"): "straightforward / ours",
}
AGREEMENT = {"float32": 1e-4, "bfloat16": 5e-2}  # of the two sides, relative


# ---- models and inputs ----


def load(settings: argparse.Namespace) -> tuple[DiTBackbone, LatentCodec]:
    """The bundled tiny models, or random weights of a real size with an autoencoder of that size."""
    if settings.model == "tiny":
        from zero2hero_core.tiny.dit import load_tiny_dit

        backbone = load_tiny_dit(device=settings.device)
        return backbone, backbone
    from diffusers import AutoencoderKL

    torch.manual_seed(settings.seed)
    size, dtype = MODELS[settings.model], getattr(torch, settings.dtype)
    assert size is not None
    if settings.blocks:
        size = replace(size, double_blocks=settings.blocks[0], single_blocks=settings.blocks[1])
    backbone = random_backbone(size, "bf16", settings.device)
    backbone.transformer.to(dtype)
    vae: Any = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=size.in_channels // 4,
    )
    return backbone, PlainCodec(vae.eval().requires_grad_(False).to(settings.device, dtype), scaling_factor=1.0)


def make_trainers(
    backbone: DiTBackbone, codec: LatentCodec, settings: argparse.Namespace, pixels: int, draws: int
) -> tuple[HeroTrainer, PlainTrainer]:
    """Both sides on one set of adapters that are not zero, and one pair of smooth pictures."""
    chosen = HeroSettings(rank=settings.rank, draws=draws, seed=settings.seed)
    pictures = list(smooth_frames(3, pixels, settings.seed).to(settings.device).split(1))
    latents = [codec.encode(picture) for picture in pictures]
    ours = HeroTrainer(backbone, [TrainingPair(tuple(latents[:2]), latents[2])], chosen)
    generator = torch.Generator().manual_seed(settings.seed)
    state = ours.lora.state_dict()
    ours.lora.load_state_dict({key: torch.randn(w.shape, generator=generator) * 0.03 for key, w in state.items()})
    return ours, PlainTrainer(backbone, ours.lora, chosen, codec, pictures)


# ---- measuring ----


def clocks(device: str) -> tuple[float, float]:
    """Seconds that count (of the processor on a CPU, with the queue empty on a GPU) and seconds on the wall."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        return (time.perf_counter(),) * 2
    return time.process_time(), time.perf_counter()


def take_turns(
    sides: Mapping[str, Callable[[], Any]], settings: argparse.Namespace, calls: Mapping[str, float]
) -> dict[str, Any]:
    """Run all sides once, then in turns, the order reversed in every second one; seconds per call of each.

    Args: calls: how often a side is run in a turn; a share where its run is only that part of a call.
    """
    for run in sides.values():
        run()
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for turn in range(settings.turns):
        for name in list(sides)[:: -1 if turn % 2 else 1]:
            before = clocks(settings.device)
            for _ in range(max(1, round(calls[name]))):
                sides[name]()
            after = clocks(settings.device)
            seconds[name].append(((after[0] - before[0]) / calls[name], (after[1] - before[1]) / calls[name]))
    return {
        name: {
            "seconds": statistics.median(counted for counted, _ in taken),
            "all_seconds": [counted for counted, _ in taken],
            "wall_seconds": statistics.median(wall for _, wall in taken),
        }
        for name, taken in seconds.items()
    }


def ratio(sides: Mapping[str, Any], over: str, under: str) -> dict[str, Any]:
    """Median, least and greatest of the ratios within the turns."""
    values = [a / b for a, b in zip(sides[over]["all_seconds"], sides[under]["all_seconds"], strict=True)]
    wall = sides[over]["wall_seconds"] / sides[under]["wall_seconds"]
    return {"median": statistics.median(values), "least": min(values), "greatest": max(values), "of_wall_medians": wall}


def compare_training(
    backbone: DiTBackbone, codec: LatentCodec, settings: argparse.Namespace, pixels: int, draws: int
) -> dict[str, Any]:
    """One row: a training step both ways, and how far their losses are apart on equal draws and weights."""
    ours, plain = make_trainers(backbone, codec, settings, pixels, draws)
    try:
        # both start from equal weights and equal draws
        state = {key: tensor.clone() for key, tensor in ours.lora.state_dict().items()}
        plain.generator.set_state(ours.generator.get_state())
        one = ours.step()
        ours.lora.load_state_dict(state)
        difference = abs(plain.step(encode=True) - one) / one
        sides: dict[str, Callable[[], Any]] = {
            "straightforward": lambda: plain.step(encode=True),
            "without_encoding": lambda: plain.step(encode=False),
            "ours": ours.step,
        }
        calls = 3 if settings.model == "tiny" and pixels * draws <= 256 else 1
        taken = take_turns(sides, settings, dict.fromkeys(sides, calls))
    finally:
        ours.close()
    report: dict[str, Any] = {"pixels": pixels, "draws": draws, **taken, "difference": difference}
    report["ratio"] = ratio(taken, "straightforward", "ours")
    report["ratio_without_encoding"] = ratio(taken, "without_encoding", "ours")
    return report


@torch.no_grad()
def compare_frame(
    backbone: DiTBackbone, codec: LatentCodec, settings: argparse.Namespace, pixels: int
) -> dict[str, Any]:
    """One row: a frame with two conditions, bare base sampling, and the straightforward way."""
    trainer, _ = make_trainers(backbone, codec, settings, pixels, 1)
    shown, lora = [x.to(settings.device) for x in trainer.pairs[0].conditions], trainer.lora
    noise = torch.randn(shown[0].shape, generator=torch.Generator().manual_seed(settings.seed)).to(settings.device)
    chosen = RestoreSettings(num_inference_steps=settings.steps, seed=settings.seed)
    short, timed = RestoreSettings(num_inference_steps=2), min(2, settings.steps)
    try:
        mine = restore_latents(backbone, lora, KINDS, shown, noise, short)
        theirs = plain_restore(backbone, shown, noise, short, steps=2)
        difference = float((mine - theirs).abs().max() / theirs.abs().max())
        sides: dict[str, Callable[[], Any]] = {
            "bare": lambda: restore_latents(backbone, lora, (), (), noise, chosen),
            "ours": lambda: restore_latents(backbone, lora, KINDS, shown, noise, chosen),
            "straightforward": lambda: plain_restore(backbone, shown, noise, chosen, steps=timed),
        }
        taken = take_turns(sides, settings, {"bare": 1, "ours": 1, "straightforward": timed / settings.steps})
    finally:
        trainer.close()
    report: dict[str, Any] = {"pixels": pixels, "steps": settings.steps, **taken, "difference": difference}
    report["straightforward_steps_timed"] = timed
    report["ratio"] = ratio(taken, "ours", "bare")
    report["ratio_straightforward"] = ratio(taken, "straightforward", "ours")
    return report


# ---- report ----


def compare(settings: argparse.Namespace) -> dict[str, Any]:
    """All rows, with the ratio by arithmetic beside them where the model is whole."""
    backbone, codec = load(settings)
    empty = None if settings.blocks else empty_backbone(settings.model)
    report: dict[str, Any] = {"training_step": [], "frame": []}
    for pixels, draws in settings.training:
        row, grid = compare_training(backbone, codec, settings, pixels, draws), (pixels // backbone.multiple,) * 2
        if empty is not None:
            row["by_arithmetic"] = count_training(empty, grid, rank=settings.rank, draws=draws)["ratio"]
        print_row("training step", row)
        report["training_step"].append(row)
    for pixels in settings.frames:
        row, grid = compare_frame(backbone, codec, settings, pixels), (pixels // backbone.multiple,) * 2
        if empty is not None:
            row["by_arithmetic"] = count_frame(empty, grid, rank=settings.rank, steps=settings.steps)["ratio"]
        print_row("frame", row)
        report["frame"].append(row)
    return report


def find_problems(report: Mapping[str, Any], settings: argparse.Namespace) -> list[str]:
    """Sides that do not agree, and bars that were missed (these not for a model with fewer blocks)."""
    problems = []
    bar = TRAINING_BAR["cpu" if torch.device(settings.device).type == "cpu" else "cuda"]
    for row in report["training_step"] + report["frame"]:
        trained = "draws" in row
        name = f"training step, {row['pixels']} px, {row['draws']} draws" if trained else f"frame, {row['pixels']} px"
        if not row["difference"] <= AGREEMENT[settings.dtype]:
            problems.append(f"{name}: the two sides differ by {row['difference']:.1e}; the times are worth nothing")
        got = row["ratio"]["median"]
        if not settings.blocks and (got < bar if trained else got > FRAME_BAR):
            expected = f"at least {bar}" if trained else f"at most {FRAME_BAR} times the bare base"
            problems.append(f"{name}: expected {expected}, got {got:.2f}")
    return problems


def print_row(title: str, row: Mapping[str, Any]) -> None:
    """Seconds of the sides and ratios of one row."""
    sides = {name: part["seconds"] for name, part in row.items() if isinstance(part, dict) and "seconds" in part}
    what = f"{row['draws']} draws" if "draws" in row else f"{row['steps']} steps"
    print(f"{title}, {row['pixels']} px, {what}:", end=" ")
    print(", ".join(f"{name.replace('_', ' ')} {seconds:.3f} s" for name, seconds in sides.items()))
    for name in (name for name in row if name.startswith("ratio")):
        value = row[name]
        print(f"  {RATIOS[title, name]:36}{value['median']:6.2f} ({value['least']:.2f}-{value['greatest']:.2f})")
    if "by_arithmetic" in row:
        print(f"  {RATIOS[title, 'ratio'] + ', by arithmetic':36}{row['by_arithmetic']:6.2f}", flush=True)


def machine(device: str) -> dict[str, Any]:
    """What the times depend on."""
    import diffusers
    import peft

    facts: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__}
    facts |= {"diffusers": diffusers.__version__, "peft": peft.__version__, "cpu": platform.machine()}
    facts |= {"threads": torch.get_num_threads(), "load_average": os.getloadavg()[0]}
    if torch.device(device).type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def training_case(text: str) -> tuple[int, int]:
    """ "256:4" -> 256 pixels, 4 draws."""
    pixels, _, draws = text.partition(":")
    return int(pixels), int(draws or 1)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Settings; cases and rank depend on the model where they are not given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    model = parser.add_mutually_exclusive_group(required=True)
    for name, said in (("tiny", "the bundled tiny models"), ("flux1", "FLUX.1-dev"), ("klein", "FLUX.2-klein-4B")):
        said += "" if name == "tiny" else ", random weights"
        model.add_argument(f"--{name}", dest="model", action="store_const", const=name, help=said)
    parser.add_argument(
        "--training", type=training_case, nargs="*", help="PIXELS:DRAWS (tiny 256:1 256:4 512:1, others 512:1)"
    )
    parser.add_argument("--frames", type=int, nargs="*", help="sides of frames in pixels (tiny 256, others 512)")
    parser.add_argument("--steps", type=int, default=25, help="sampling steps (25)")
    parser.add_argument("--rank", type=int, help="LoRA rank (tiny 16, others 32)")
    parser.add_argument("--turns", type=int, default=5, help="runs of each side (5)")
    parser.add_argument(
        "--blocks", type=int, nargs=2, metavar=("DOUBLE", "SINGLE"), help="fewer blocks: no bar is judged"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=tuple(AGREEMENT), default="float32", help="of the base model (float32)")
    parser.add_argument("--threads", type=int, default=1, help="on the CPU (1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the report to this file")
    settings = parser.parse_args(arguments)
    tiny = settings.model == "tiny"
    if tiny and (settings.blocks or settings.dtype != "float32"):
        parser.error("--tiny: expected no --blocks and float32")
    settings.training = [(256, 1), (256, 4), (512, 1)] if settings.training is None and tiny else settings.training
    settings.training = [(512, 1)] if settings.training is None else settings.training
    settings.frames = [256 if tiny else 512] if settings.frames is None else settings.frames
    settings.rank = settings.rank or (16 if tiny else 32)
    if min(settings.turns, settings.steps, settings.threads) < 1:
        parser.error("expected turns, steps and threads of at least 1")
    return settings


def main() -> None:
    """Measure, print, write the report where asked for; exit status 1 when a bar is missed."""
    settings = parse_arguments()
    torch.set_num_threads(settings.threads)
    report = compare(settings)
    report["problems"] = find_problems(report, settings)
    report["settings"] = {name: value for name, value in vars(settings).items() if name != "json"}
    report["machine"] = machine(settings.device)
    for problem in report["problems"]:
        print(f"problem: {problem}", file=sys.stderr)
    if settings.json is not None:
        write_json(settings.json, report)
    sys.exit(1 if report["problems"] else 0)


if __name__ == "__main__":
    main()
