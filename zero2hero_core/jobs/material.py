"""What `zero2hero hero train` reads: pictures of the training pairs, frames to evaluate on, the memory to expect."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..backbones.flux.dit import DiTBackbone
from ..checks import InputError
from ..cli.console import say
from ..cli.hero_inputs import ZeroFrames, extra_references
from ..hero_stage.memory.estimate import estimate_training
from ..hero_stage.memory.model_size import ModelSize
from ..hero_stage.stage import HeroStage
from ..hero_stage.training.latents import encode_clip
from ..hero_stage.training.pairs import MODES, ClipLatents
from ..hero_stage.training.run import Evaluation
from ..hero_stage.training.trainer import HeroSettings
from ..video.resize import resize_frames
from ..video.source import open_frames
from . import clip as cli_inputs
from .clip import Clip


@dataclass(frozen=True)
class Material:
    """Pictures that training and evaluation read."""

    clip: Clip
    zero: ZeroFrames
    references: dict[int, torch.Tensor]
    originals: Callable[[int], torch.Tensor]
    zero_target: ZeroFrames | None


def read_material(args: argparse.Namespace, clip: Clip, zero: ZeroFrames, notes: list[str]) -> Material:
    """References, anchors and Zero-Stage frames that a training reads, checked."""
    paths = {args.anchor: args.reference} | extra_references(args)
    references, anchors = {}, {args.anchor: clip.anchor}
    for index, path in sorted(paths.items()):
        cli_inputs.check_paths(path)
        if index != args.anchor:
            anchors[index] = _original(args.video, index, clip)
        references[index] = cli_inputs.read_reference(path, clip, notes)
    if "zero" in MODES[args.mode]:
        zero.need(sorted(references))
    known = {index: number for number, index in enumerate(clip.indices)}

    def original(index: int) -> torch.Tensor:
        return anchors[index] if index in anchors else clip.frames([known[index]])[0]

    target = ZeroFrames([args.zero_anchor], "--zero-anchor") if args.mode == "implicit" else None
    if target is not None:
        target.need(clip.indices)
    return Material(clip, zero, references, original, target)


def _original(video: str, index: int, clip: Clip) -> torch.Tensor:
    """A frame of the clip, chosen or not."""
    with cli_inputs.start_is("--also"), open_frames(video, start=index, maximum=1, multiple=1) as source:
        return resize_frames(source.frames([0]), clip.size_hw, clip.policy)[0]


def clip_latents(backbone: DiTBackbone, settings: HeroSettings, material: Material) -> ClipLatents:
    """Latents that the mode draws its pairs from."""
    size = material.clip.size_hw
    anchors, target = list(material.references), material.zero_target
    wanted = material.clip.indices if target is not None else anchors
    return encode_clip(
        backbone,
        settings,
        references=material.references,
        zero={i: material.zero.read(i, size) for i in anchors} if "zero" in settings.kinds else {},
        frames={i: material.originals(i) for i in {*wanted, *anchors}},
        zero_target={} if target is None else {i: target.read(i, size) for i in wanted},
    )


def evaluation_of(args: argparse.Namespace, stage: HeroStage, material: Material) -> Evaluation:
    """The frames that are restored now and then, and what they are measured against."""
    clip, size = material.clip, material.clip.size_hw
    usable = [i for i in clip.indices if "zero" not in stage.kinds or material.zero.path(i) is not None]
    asked = args.evaluate_frames
    if asked is None:
        asked = (usable[0], usable[len(usable) // 2], usable[-1]) if usable else ()
    if unknown := [i for i in asked if i not in usable]:
        raise InputError(f"--evaluate-frames: frame {unknown[0]} is not a chosen frame with a Zero-Stage result.")
    truths = {}
    if args.truth:
        with open_frames(args.truth, multiple=1) as source:
            if len(source) != (count := len(clip.indices)):
                raise InputError(
                    f"--truth {args.truth}: expected {count} frames, one per chosen frame, got {len(source)}."
                )
            for index in asked:
                fitted = clip.fit(source.frames([clip.indices.index(index)]))
                if fitted is None:
                    raise InputError(f"--truth {args.truth}: expected the clip's aspect ratio.")
                truths[index] = fitted[0]

    def restore(indices: list[int]) -> torch.Tensor:
        pictures = []
        for index in indices:  # one by one: the training's memory is taken already
            zero = material.zero.read(index, size)[None] if "zero" in stage.kinds else None
            pictures.append(stage.restore(zero, material.originals(index)[None], [index]))
        return torch.cat(pictures)

    zero = {i: material.zero.read(i, size) for i in truths if material.zero.path(i)}
    return Evaluation(restore, (args.anchor, material.references[args.anchor]), truths, zero, tuple(asked))


def say_memory(args: argparse.Namespace, backbone: DiTBackbone, settings: HeroSettings, clip: Clip) -> None:
    """Print the expected memory before the work begins."""
    h, w = settings.seen(clip.size_hw, backbone.multiple)
    estimate = estimate_training(
        ModelSize.from_config(
            backbone.transformer.config, name=backbone.name, text_tokens=backbone.text.tokens.shape[1]
        ),
        resolution=(h, w),
        rank=settings.rank,
        weights=args.weights or ("fp32" if backbone.dtype == torch.float32 else "bf16"),
        conditions=len(settings.kinds),
        checkpointing=settings.checkpointing,
        optimiser=settings.optimiser,
        batch=settings.batch,
        draws=settings.draws,
        device=backbone.device.type,
        float32=backbone.dtype == torch.float32,
    )
    say(args, estimate.text())
