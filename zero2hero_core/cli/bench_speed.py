"""`zero2hero bench speed` and `zero2hero bench memory`: what Zero-Stage and Hero-Stage cost."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..checks import InputError
from ..evaluation.speed.memory_cases import MemoryCases
from ..evaluation.speed.speed_settings import COUNTED, DTYPES, MODELS, HeroSpeed, ZeroSpeed, defaults
from .console import ConsoleListener, add_common
from .options import whole

SPEED = """\
Both sides run in one process on equal weights, in turns. Real sizes (sd15, klein, flux1) get random weights. What is
stored in DIR/results/speed_*.json is joined with what lies there, and DIR/RESULTS.md is written again. Without options
both stages of the tiny models are timed.

examples:
  zero2hero bench speed --out benchmarks
  zero2hero bench speed --out benchmarks --part zero --model sd15 --size 256 --steps 20 --frames 3
  zero2hero bench speed --out benchmarks --part hero --model klein flux1 --device cuda
  zero2hero bench speed --out benchmarks --model sd15 klein flux1 --count
"""
MEMORY = """\
Computed figures need no GPU and no time. They are stored in DIR/results/memory_*.json, and DIR/RESULTS.md is written
again.

examples:
  zero2hero bench memory --out benchmarks
  zero2hero bench memory --out benchmarks --count
  zero2hero bench memory --out benchmarks --model klein --size 512 --rank 32 --measure --device cuda
"""


def add_parsers(commands: Any) -> None:
    """Register both commands."""
    speed = commands.add_parser("speed", help="seconds against a straightforward rendering", epilog=SPEED)
    speed.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the page and of results")
    _add_speed_options(speed)
    add_common(speed)
    speed.set_defaults(func=run_speed)
    memory = commands.add_parser("memory", help="memory of training at real sizes", epilog=MEMORY)
    memory.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the page and of results")
    memory.add_argument("--model", nargs="+", choices=MODELS["hero"][1:], help="(default: all)")
    memory.add_argument("--size", type=whole(16), nargs="+", metavar="N", help="(default: 256 512 768 1024)")
    memory.add_argument("--rank", type=whole(1), nargs="+", metavar="R", help="of the LoRA (default: 32 128)")
    memory.add_argument("--weights", nargs="+", choices=("bf16", "fp8", "nf4"), help="forms (default: all)")
    memory.add_argument("--count", action="store_true", help="count with tensors without content too (minutes)")
    memory.add_argument("--measure", action="store_true", help="run the step on random weights too (needs a GPU)")
    memory.add_argument("--device", choices=("cpu", "cuda"), default="cuda", help="for --measure (default: cuda)")
    add_common(memory)
    memory.set_defaults(func=run_memory)


def _add_speed_options(speed: argparse.ArgumentParser) -> None:
    models = tuple(dict.fromkeys(model for names in MODELS.values() for model in names))
    speed.add_argument("--part", nargs="+", choices=tuple(MODELS), help="stages (default: all that the model has)")
    speed.add_argument("--model", nargs="+", choices=models, default=["tiny"], help="(default: tiny)")
    speed.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute (default: cpu)")
    speed.add_argument("--count", action="store_true", help="count multiply-adds, take no times")
    speed.add_argument(
        "--size", type=whole(16), nargs="+", metavar="N", help="sides in pixels (default: what suits the model)"
    )
    speed.add_argument("--steps", type=whole(1), metavar="N", help="DDIM or sampling steps (default: as for --size)")
    speed.add_argument("--turns", type=whole(1), metavar="N", help="runs of each side (default: as for --size)")
    speed.add_argument("--threads", type=whole(1), default=1, metavar="N", help="CPU threads")
    speed.add_argument("--seed", type=whole(0), default=0, metavar="N", help="of pictures, weights and draws")
    zero = speed.add_argument_group("zero")
    zero.add_argument("--frames", type=whole(1), metavar="N", help="length of the clip (default: as for --size)")
    zero.add_argument("--k", type=int, default=1, metavar="K", help="reference tokens per token, -1 for all")
    zero.add_argument("--ensemble", type=whole(1), default=8, metavar="N", help="noise draws of the features")
    zero.add_argument("--batch", type=whole(1), default=4, metavar="N", help="frames that ours edits at once")
    hero = speed.add_argument_group("hero")
    hero.add_argument("--draws", type=whole(1), nargs="+", metavar="N", help="noise levels of a training step")
    hero.add_argument("--rank", type=whole(1), metavar="R", help="of the LoRA (default: tiny 16, others 32)")
    hero.add_argument("--dtype", choices=DTYPES, help="of real sizes (default: bfloat16 on a GPU, else float32)")
    hero.add_argument(
        "--blocks", type=whole(1), nargs=2, metavar="N", help="fewer double and single blocks: no goal is judged"
    )


def run_speed(args: argparse.Namespace) -> dict[str, Any]:
    """Time, store, write the page; returns the rows. A row whose sides do not compute the same is a problem and is not
    stored."""
    cases = tuple(_cases(args))
    from ..evaluation.bench_speed import SpeedRequest, make_speed

    with ConsoleListener(args) as console:
        return make_speed(SpeedRequest(args.out, cases, args.count), console)


def _cases(args: argparse.Namespace) -> list[ZeroSpeed | HeroSpeed]:
    """What to time: each stage that is asked for on each model that it has. Raises: InputError when that is nothing."""
    if args.count and args.blocks:
        raise InputError("--count: counts whole models, got --blocks.")
    parts = args.part or list(MODELS)
    for model in args.model:
        if not any(model in MODELS[part] for part in parts):
            options = ", ".join(name for part in parts for name in MODELS[part])
            raise InputError(f"--model: expected some of {options} for --part {' '.join(parts)}, got {model}.")
    cases = [(part, model) for part in parts for model in args.model if model in MODELS[part]]
    return [_zero_settings(args, model) if part == "zero" else _hero_settings(args, model) for part, model in cases]


def _values(args: argparse.Namespace, model: str, names: tuple[str, ...], presets: dict[str, Any]) -> dict[str, Any]:
    values = {name: presets[name] if getattr(args, name) is None else getattr(args, name) for name in names}
    return {"model": model, "device": args.device, "sizes": tuple(args.size or presets["sizes"]), **values}


def _zero_settings(args: argparse.Namespace, model: str) -> ZeroSpeed:
    names = ("frames", "steps", "turns", "threads", "seed", "k", "ensemble", "batch")
    return ZeroSpeed(**_values(args, model, names, defaults("zero", model, COUNTED if args.count else args.device)))


def _hero_settings(args: argparse.Namespace, model: str) -> HeroSpeed:
    presets = defaults("hero", model, args.device)
    values = _values(args, model, ("steps", "turns", "threads", "seed", "rank", "dtype", "blocks"), presets)
    training = presets["training"]
    if args.size or args.draws:
        training = tuple((size, draws) for size in values["sizes"] for draws in args.draws or (1,))
    blocks = tuple(values["blocks"]) if values["blocks"] else None
    return HeroSpeed(**{**values, "blocks": blocks, "training": training})


def run_memory(args: argparse.Namespace) -> dict[str, Any]:
    """Compute, count or measure, store, write the page; returns the report."""
    from ..evaluation.bench_speed import MemoryRequest, make_memory

    if args.measure and args.device == "cpu":
        raise InputError("--measure: expected --device cuda, got cpu; without --measure figures are computed.")
    with ConsoleListener(args) as console:
        return make_memory(MemoryRequest(args.out, _memory_cases(args)), console)


def _memory_cases(args: argparse.Namespace) -> MemoryCases:
    several = {"models": args.model, "sizes": args.size, "ranks": args.rank, "weights": args.weights}
    sweeps = {name: tuple(values) for name, values in several.items() if values}
    return MemoryCases(**sweeps, count=args.count, measure=args.measure, device=args.device)
