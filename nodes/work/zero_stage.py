"""The work of the Zero-Stage nodes: checks and sentences for the sockets, batches, progress. The core computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ...zero2hero_core.checks import InputError, Zero2HeroError, check_index
from ...zero2hero_core.correspondence.file import ClipCorrespondence
from ...zero2hero_core.jobs.clip import same_picture
from ...zero2hero_core.jobs.listener import Notes as JobNotes
from ...zero2hero_core.jobs.matching import EXPECT, MANY_WEAK, Matcher, match_means, narrowed, weak_text
from ...zero2hero_core.jobs.zero import ZeroWork
from ...zero2hero_core.memory_batches import halving
from ...zero2hero_core.spread import spread
from ...zero2hero_core.zero_stage.settings import ZeroStageSettings
from ..convert.checks import check_anchor, check_choice, read_reference, socket_words
from ..convert.pictures import mask_to_core, mask_to_host, to_core, to_host
from ..host.notes import NodeListener, Notes, say_empty_masks
from ..host.services import Progress, io
from ..host.unet import HostUNet
from ..host.unet_checks import check_sides, ignored_parts

LAYERS = {"all (3-11)": (3, 11), "middle and fine (6-11)": (6, 11), "fine (9-11)": (9, 11), "coarse (3-5)": (3, 5)}
TOKENS = ["fixed", "adaptive", "all"]
TRACK = {"auto": None, "on": True, "off": False}
PICTURES = 8  # frames whose matches are shown


@dataclass(frozen=True)
class Matched:
    """What DIFTCorrespondence gives. pictures: (P, 3, H, 5 W); confidence: MASK (N, H, W)."""

    clip: ClipCorrespondence
    pictures: torch.Tensor
    confidence: torch.Tensor
    notes: Notes


@dataclass(frozen=True)
class Edited:
    """What MaskedCiAKSampler gives. edited: IMAGE (N, H, W, 3); latents: (N, C, h, w), not scaled for the UNet."""

    edited: torch.Tensor
    latents: torch.Tensor
    notes: Notes


def correspond_clip(node: type[io.ComfyNode], native: tuple[Any, Any, Any], frames: Any, widgets: Any) -> Matched:
    """Match every frame with the anchor. native: MODEL, VAE, CONDITIONING. Raises: InputError naming the socket."""
    images, anchor_index, max_k = to_core(frames, "frames"), widgets["anchor_index"], widgets["max_k"]
    check_anchor(anchor_index, len(images))
    track = widgets.get("track", "auto")
    check_choice("track", track, TRACK)
    progress = Progress(len(images))  # one pass a frame; the anchor is one of them
    backbone = HostUNet(*native, on_call=progress.step)
    check_sides("frames", images, backbone.multiple)
    wide = widgets["neighbourhood"]
    settings = ZeroStageSettings(
        k=max_k,
        timestep=_optional(widgets["timestep"]),
        block=_optional(widgets["block"]),
        ensemble=_optional(widgets["ensemble"]),
        neighbourhood=None if wide >= 1 else wide,
        seed=widgets["seed"],
        track=TRACK[track],
    )
    notes, clip_frames = Notes(node), dict(enumerate(images))
    with socket_words({"k": "max_k"}):
        matcher = Matcher(backbone, images[anchor_index], anchor_index, clip_frames, settings)
    outward = sorted(clip_frames, key=lambda index: abs(index - anchor_index))
    clip = matcher.match(outward, NodeListener(notes))
    _say_confidence(notes, clip)
    _say_ignored(notes, native[2])
    return Matched(clip, _pictures(clip, images), _confidence(clip), notes)


def _optional(value: int) -> int | None:
    return None if value < 0 else value


def _pictures(clip: ClipCorrespondence, images: torch.Tensor) -> torch.Tensor:
    from ...zero2hero_core.correspondence.pictures import matches_picture

    indices = spread(len(images), PICTURES)
    anchor = images[clip.anchor_index]
    return torch.stack([matches_picture(clip.frames[index], anchor, images[index]) for index in indices])


def _confidence(clip: ClipCorrespondence) -> torch.Tensor:
    small = torch.stack([clip.frames[index].confidence for index in sorted(clip.frames)])[:, None]
    return mask_to_host(torch.nn.functional.interpolate(small, size=clip.size_hw, mode="nearest"))


def _say_confidence(notes: Notes, clip: ClipCorrespondence) -> None:
    means = match_means(clip)
    if means is None:
        notes.warn("the clip has one frame, the anchor: there is nothing to match.")
        return
    mean, weak = means
    text = f"{weak_text(weak)}, mean confidence {mean:.2f}"
    if weak > MANY_WEAK:
        notes.warn(f"{text}: {EXPECT}.")
    else:
        notes.say(f"{text}.")


def edit_clip(
    node: type[io.ComfyNode],
    native: tuple[Any, Any, Any],
    correspondence: ClipCorrespondence,
    clip: tuple[Any, Any, Any],
    widgets: Any,
) -> Edited:
    """Zero-Stage on all frames. native: MODEL, VAE, CONDITIONING; clip: frames, reference, mask or None.

    Raises: InputError naming the socket; Zero2HeroError when one frame alone does not fit into memory.
    """
    images, reference, masks = _read_clip(clip, correspondence)
    notes, steps, batch = Notes(node), widgets["steps"], widgets["batch"]
    settings = _settings(widgets)
    progress = Progress(steps + 2 * steps * -(-len(images) // batch))
    backbone = HostUNet(*native, on_call=progress.step)
    check_sides("frames", images, backbone.multiple)
    anchor = images[correspondence.anchor_index]
    _say_no_ops(notes, anchor, reference, masks)
    _say_ignored(notes, native[2])
    matches = narrowed(correspondence, settings.k, JobNotes(NodeListener(notes)))
    masks_of = None if masks is None else lambda numbers: masks[list(numbers)]
    zero = ZeroWork(backbone, anchor, reference, correspondence.anchor_index, settings, matches=matches, masks=masks_of)
    zero.check_matches()
    backbone.extra_memory = zero.bank_values(backbone.widths(), batch) * backbone.dtype.itemsize
    pictures = torch.empty(len(images), *images.shape[-2:], 3)
    latents: list[torch.Tensor] = []

    def work(numbers: list[int]) -> list[torch.Tensor]:
        return list(zero.edit_latents(images[numbers], numbers, numbers))

    for number, clean in _batches(work, len(images), batch):
        picture = backbone.decode(clean[None])
        pictures[number] = to_host(picture)[0]
        latents.append(backbone.vae_latents(clean[None]).cpu())
        progress.step(0, picture[0])
    if not all(bool(torch.isfinite(one).all()) for one in latents):
        notes.warn("the result holds numbers that are not finite; start ComfyUI with --force-fp32 or --bf16-unet.")
    return Edited(pictures, torch.cat(latents), notes)


def _batches(work: Any, count: int, batch: int) -> Iterator[tuple[int, torch.Tensor]]:
    try:
        yield from halving(work, range(count), batch)
    except Zero2HeroError as error:
        if isinstance(error, InputError):
            raise
        raise Zero2HeroError(
            "frames: out of memory with a single frame; resize the frames or start ComfyUI with --lowvram."
        ) from error


def _read_clip(clip: tuple[Any, Any, Any], correspondence: ClipCorrespondence) -> tuple[torch.Tensor, Any, Any]:
    """Frames (N, 3, H, W), reference (3, H, W), masks (N, 1, H, W) or None, checked against each other."""
    frames, reference, mask = clip
    images, size_hw = to_core(frames, "frames"), correspondence.size_hw
    height, width = images.shape[-2:]
    picture = read_reference(reference, (height, width))
    if sorted(correspondence.frames) != list(range(len(images))) or tuple(size_hw) != (height, width):
        raise InputError(
            f"correspondence: expected matches of these {len(images)} frames of {width} x {height}, got "
            f"{len(correspondence.frames)} of {size_hw[1]} x {size_hw[0]}; connect the same frames to "
            "DIFTCorrespondence."
        )
    check_index("correspondence", correspondence.anchor_index, len(images))
    masks = None if mask is None else mask_to_core(mask, len(images), (height, width))
    return images, picture, masks


def _settings(widgets: Any) -> ZeroStageSettings:
    check_choice("tokens", widgets["tokens"], TOKENS)
    check_choice("layers", widgets["layers"], LAYERS)
    first, last = LAYERS[widgets["layers"]]
    return ZeroStageSettings(
        num_inference_steps=widgets["steps"],
        k={"fixed": widgets["k"], "adaptive": "adaptive", "all": -1}[widgets["tokens"]],
        gamma=widgets["gamma"],
        tau=widgets["tau"],
        layers=tuple(range(first, last + 1)),
        adain_start=widgets["adain_start"],
    )


def _say_no_ops(notes: Notes, anchor: torch.Tensor, reference: torch.Tensor, masks: torch.Tensor | None) -> None:
    if same_picture(anchor, reference):
        notes.warn("the reference is the anchor itself, so the clip keeps its look; connect its edit to `reference`.")
    say_empty_masks(notes, masks)


def _say_ignored(notes: Notes, conditioning: Any) -> None:
    if parts := ignored_parts(conditioning):
        notes.warn(f"{', '.join(parts)} in `conditioning`: no effect here; connect a plain CLIP Text Encode.")
