"""Seconds per frame of Zero-Stage here and of a straightforward rendering of the authors' procedure, in one process.

Both run on the same weights, frames and settings, in turns (the one that begins changes with every repeat). The time of
the reference and of the anchor is shared out over the frames. "outside" is the share of the time that is spent outside
calls of the UNet and of the autoencoder; attention hooks run inside a call and count as the model's.

    python benchmarks/zero_speed.py --tiny
    python benchmarks/zero_speed.py --sd15 --size 512 --frames 2 --steps 2     # random weights, about 10 GB of memory
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from straightforward import run_straightforward
from torch import Tensor

# ---- adapter: the only part that knows the package's API ----


def our_zero_stage(backbone: Any, frames: Tensor, reference: Tensor, settings: argparse.Namespace) -> Tensor:
    """Run this package's Zero-Stage with frame 0 as the anchor; images (N, 3, H, W) in [0, 1]."""
    from zero2hero_core.zero_stage import ZeroStage, ZeroStageSettings

    chosen = ZeroStageSettings(
        num_inference_steps=settings.steps,
        k=settings.k,
        timestep=261,
        block=1,
        ensemble=settings.ensemble,
        seed=settings.seed,
    )
    stage = ZeroStage(backbone, frames[0], reference[0], 0, chosen)
    parts = [
        stage.edit(frames[start : start + settings.batch], range(start, min(start + settings.batch, len(frames))))
        for start in range(0, len(frames), settings.batch)
    ]
    return torch.cat(parts)


def tiny_backbone(device: str) -> Any:
    """Return the bundled tiny models as a `UNetBackbone`."""
    from zero2hero_core.tiny.model import load_tiny

    return load_tiny(device=device)


def make_backbone(unet: Any, vae: Any, empty_embedding: Tensor, alphas_cumprod: Tensor) -> Any:
    """Return diffusers models as a `UNetBackbone`."""
    from zero2hero_core.backbones.unet import UNetBackbone

    return UNetBackbone(
        unet,
        vae,
        prediction_type="epsilon",
        alphas_cumprod=alphas_cumprod,
        empty_embedding=empty_embedding,
        scaling_factor=vae.config.scaling_factor,
        name="sd15, random weights",
    )


class BackboneCodec:
    """The autoencoder of a `UNetBackbone` as the straightforward side wants it."""

    def __init__(self, backbone: Any) -> None:
        self.backbone = backbone

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Latents of images in [0, 1]: the posterior's mode, or a sample where a generator is given."""
        posterior = self.backbone.posterior(images)
        return posterior.mode() if generator is None else posterior.sample(generator)

    def decode(self, latents: Tensor) -> Tensor:
        """Images in [0, 1]."""
        return self.backbone.decode(latents)


# ---- models and frames ----


def build_sd15() -> tuple[Any, Any]:
    """Return a UNet2DConditionModel and an AutoencoderKL with the sizes of Stable Diffusion 1.5 and random weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    )
    return unet.eval().requires_grad_(False), vae.eval().requires_grad_(False)


def sd15_backbone(device: str) -> Any:
    """Return Stable Diffusion 1.5 with random weights and a random stand-in for the empty prompt's embedding."""
    torch.manual_seed(0)
    unet, vae = build_sd15()
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, device=device) ** 2
    embedding = torch.randn(1, 77, 768).to(device)
    return make_backbone(unet.to(device), vae.to(device), embedding, torch.cumprod(1 - betas, 0))


def smooth_frames(count: int, size: int, seed: int) -> Tensor:
    """Return frames (N, 3, size, size) of one smooth picture that moves a little, in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 12, 12, generator=generator)
    picture = torch.nn.functional.interpolate(coarse, size=2 * size, mode="bicubic")
    steps = [8 * i % size for i in range(count)]
    return torch.cat([picture[..., s : s + size, s : s + size] for s in steps]).clamp(0, 1)


# ---- measuring ----


class ModelClock:
    """Adds up the seconds inside the outermost model calls, also of calls that an exception ends early.

    Args:
        unet: its children, and the blocks in their lists, count too, for they may be called one by one.
        vae: what counts are its `encode` and `decode`.
    """

    def __init__(self, unet: torch.nn.Module, vae: Any) -> None:
        self.seconds, self._depth, self._begin, self._vae = 0.0, 0, 0.0, vae
        watched = {id(unet): unet}
        for child in unet.children():
            blocks = list(child) if isinstance(child, torch.nn.ModuleList) else [child]
            watched.update({id(block): block for block in blocks})
        self._handles: list[Any] = []
        for block in watched.values():
            self._handles.append(block.register_forward_pre_hook(self._enter))
            self._handles.append(block.register_forward_hook(self._leave, always_call=True))
        vae.encode, vae.decode = self._timed(vae.encode), self._timed(vae.decode)

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._enter()
            try:
                return method(*args, **kwargs)
            finally:
                self._leave()

        return call

    def _enter(self, *_: object) -> None:
        if self._depth == 0:
            self._begin = now()
        self._depth += 1

    def _leave(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.seconds += now() - self._begin

    def close(self) -> None:
        """Take the hooks off again."""
        for handle in self._handles:
            handle.remove()
        del self._vae.encode, self._vae.decode  # the class's own methods come back


def now() -> float:
    """Return a time in seconds, with the GPU's queue empty where there is a GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(run: Callable[[], Tensor], backbone: Any, frames: int) -> dict[str, Any]:
    """Return seconds per frame, the share outside model calls, and the images of one run."""
    clock = ModelClock(backbone.unet, backbone.vae)
    try:
        begin = now()
        images = run()
        total = now() - begin
    finally:
        clock.close()
    if clock.seconds == 0 or not bool(images.isfinite().all()):
        raise SystemExit("zero_speed: expected model calls and finite images; this measurement is worth nothing.")
    return {"per_frame": total / frames, "outside": 1 - clock.seconds / total, "images": images}


def compare(backbone: Any, settings: argparse.Namespace) -> dict[str, Any]:
    """Run both sides in turns; return the report."""
    frames = smooth_frames(settings.frames, settings.size, settings.seed).to(settings.device)
    reference = frames[:1].flip(1)  # red and blue swapped
    parts: dict[str, float] = {}

    def plain() -> Tensor:
        images, seconds = run_straightforward(
            backbone.unet,
            BackboneCodec(backbone),
            backbone.empty_embedding,
            backbone.alphas_cumprod,
            frames,
            0,
            reference,
            num_inference_steps=settings.steps,
            k=settings.k,
            seed=settings.seed,
            ensemble=settings.ensemble,
        )
        parts.update(seconds)
        return images

    sides = {"straightforward": plain, "ours": lambda: our_zero_stage(backbone, frames, reference, settings)}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for repeat in range(settings.repeats):
        for name in sorted(sides, reverse=repeat % 2 == 0):
            runs[name].append(measure(sides[name], backbone, settings.frames))
    report: dict[str, Any] = {
        name: {
            "seconds_per_frame": statistics.median(run["per_frame"] for run in done),
            "all_seconds_per_frame": [run["per_frame"] for run in done],
            "share_outside_model": statistics.median(run["outside"] for run in done),
        }
        for name, done in runs.items()
    }
    report["straightforward"]["seconds_of_parts_last_run"] = parts
    report["ratio"] = report["straightforward"]["seconds_per_frame"] / report["ours"]["seconds_per_frame"]
    # Not zero: the two draw their noise in another order. Far from zero on trained weights means that one is wrong.
    difference = runs["ours"][-1]["images"].cpu() - runs["straightforward"][-1]["images"].cpu()
    report["mean_absolute_difference"] = float(difference.abs().mean())
    return report


def print_table(report: dict[str, Any]) -> None:
    """Print the two sides and their ratio."""
    print(f"{'':16}{'s / frame':>12}{'runs':>18}{'outside model':>16}")
    for name in ("straightforward", "ours"):
        side = report[name]
        spread = f"{min(side['all_seconds_per_frame']):.3f}-{max(side['all_seconds_per_frame']):.3f}"
        print(f"{name:16}{side['seconds_per_frame']:12.3f}{spread:>18}{side['share_outside_model']:16.1%}")
    print(f"{'ratio':16}{report['ratio']:12.1f}")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the settings; sizes, steps and repeats depend on the model where they are not given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--tiny", action="store_true", help="the bundled tiny models")
    model.add_argument("--sd15", action="store_true", help="Stable Diffusion 1.5 at full size with random weights")
    parser.add_argument("--size", type=int, help="side of the square frames in pixels (tiny 256, sd15 512)")
    parser.add_argument("--frames", type=int, default=2, help="length of the clip (2)")
    parser.add_argument("--steps", type=int, help="steps of inversion and of sampling (tiny 20, sd15 2)")
    parser.add_argument("--repeats", type=int, help="runs of each side (tiny 3, sd15 1)")
    parser.add_argument("--k", type=int, default=1, help="reference tokens per target token, -1 for all (1)")
    parser.add_argument("--ensemble", type=int, default=8, help="noise draws of the features (8)")
    parser.add_argument("--batch", type=int, default=2, help="frames that ours edits at once (2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write the report to this file")
    settings = parser.parse_args(arguments)
    for name, tiny, sd15 in (("size", 256, 512), ("steps", 20, 2), ("repeats", 3, 1)):
        if getattr(settings, name) is None:
            setattr(settings, name, tiny if settings.tiny else sd15)
    if min(settings.frames, settings.steps, settings.repeats, settings.ensemble) < 1 or settings.size % 64:
        parser.error("expected counts of at least 1 and a size that 64 divides")
    return settings


@torch.no_grad()
def main() -> None:
    """Measure, print the table and the report, write the report where asked for."""
    settings = parse_arguments()
    backbone = tiny_backbone(settings.device) if settings.tiny else sd15_backbone(settings.device)
    report = compare(backbone, settings)
    report["settings"] = {name: value for name, value in vars(settings).items() if name != "json"}
    report["machine"] = {"torch": torch.__version__, "threads": torch.get_num_threads(), "cpu": platform.machine()}
    print_table(report)
    text = json.dumps(report, indent=2)
    print(text)
    if settings.json is not None:
        partial = settings.json.with_suffix(".partial")
        partial.write_text(text + "\n", encoding="utf-8")
        os.replace(partial, settings.json)


if __name__ == "__main__":
    main()
