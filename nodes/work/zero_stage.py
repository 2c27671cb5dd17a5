"""The work of the Zero-Stage nodes: checks and sentences for the sockets, batches, progress. The core computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ...zero2hero_core.checks import InputError, Zero2HeroError, check_index
from ...zero2hero_core.correspondence.file import ClipCorrespondence
from ...zero2hero_core.correspondence.match import ADAPTIVE_MAX, Correspondence
from ...zero2hero_core.correspondence.narrow import WEAK, narrow_matches, weak_share
from ...zero2hero_core.memory_batches import halving
from ...zero2hero_core.zero_stage.stage import ZeroStage, ZeroStageSettings
from ..convert.checks import check_anchor, check_choice, read_reference
from ..convert.pictures import mask_to_core, mask_to_host, size_hw_of, to_core, to_host
from ..host.notes import Notes
from ..host.services import Progress, io
from ..host.unet import HostUNet
from ..host.unet_checks import check_sides, ignored_parts

LAYERS = {"all (3-11)": (3, 11), "middle and fine (6-11)": (6, 11), "fine (9-11)": (9, 11), "coarse (3-5)": (3, 5)}
TOKENS = ["fixed", "adaptive", "all"]
TRACK = {"auto": None, "on": True, "off": False}
PICTURES = 8  # frames whose matches are shown
MANY = 0.5  # share of weak matches from which they are warned of
ALIKE = 4.01 / 255  # reference and anchor that differ by no more are the same picture


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
        timestep=_given(widgets["timestep"]),
        block=_given(widgets["block"]),
        ensemble=_given(widgets["ensemble"]),
        neighbourhood=None if wide >= 1 else wide,
        seed=widgets["seed"],
        track=TRACK[track],
    )
    anchor = images[anchor_index]
    stage = ZeroStage(backbone, anchor, anchor, anchor_index, settings, dict(enumerate(images)))
    _check_max_k(max_k, stage.editor.grids)
    outward = sorted(range(len(images)), key=lambda index: abs(index - anchor_index))
    matches = {index: stage.correspond(images[index], index).cpu() for index in outward}
    used = stage.settings
    described = {name: getattr(used, name) for name in ("timestep", "block", "seed", "track")}
    described |= {"model": backbone.name, "k": max_k}
    clip = ClipCorrespondence(matches, size_hw_of(images), anchor_index, described)
    notes = Notes(node)
    _say_confidence(notes, clip)
    _say_ignored(notes, native[2])
    return Matched(clip, _pictures(clip, images), _confidence(clip), notes)


def _given(value: int) -> int | None:
    return None if value < 0 else value


def _check_max_k(max_k: int, grids: list[tuple[int, int]]) -> None:
    coarse, middle, fine = (h * w for h, w in grids)
    most = min(4 * coarse + 3, middle, fine // 4)
    if max_k > most:
        raise InputError(f"max_k: expected at most {most} for frames of this size, got {max_k}; lower it.")


def _pictures(clip: ClipCorrespondence, images: torch.Tensor) -> torch.Tensor:
    from ...zero2hero_core.correspondence.pictures import matches_picture

    last = len(images) - 1
    shown = sorted({round(place * last / (PICTURES - 1)) for place in range(PICTURES)})
    anchor = images[clip.anchor_index]
    return torch.stack([matches_picture(clip.frames[index], anchor, images[index]) for index in shown])


def _confidence(clip: ClipCorrespondence) -> torch.Tensor:
    small = torch.stack([clip.frames[index].confidence for index in sorted(clip.frames)])[:, None]
    return mask_to_host(torch.nn.functional.interpolate(small, size=clip.size_hw, mode="nearest"))


def _say_confidence(notes: Notes, clip: ClipCorrespondence) -> None:
    others = [matches for index, matches in clip.frames.items() if index != clip.anchor_index]
    if not others:
        notes.warn("the clip has one frame, the anchor: there is nothing to match.")
        return
    mean = sum(float(matches.confidence.mean()) for matches in others) / len(others)
    weak = sum(weak_share(matches) for matches in others) / len(others)
    text = f"{weak:.0%} of the matches are weak (confidence below {WEAK}), mean confidence {mean:.2f}"
    if weak > MANY:
        notes.warn(
            f"{text}: expect smears; choose an anchor that shows more of the object, or a model that fits the footage."
        )
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
    stage = ZeroStage(backbone, anchor, reference, correspondence.anchor_index, settings)
    matches = _narrow(correspondence, settings, stage, notes)
    backbone.extra_memory = _bank_bytes(backbone, stage, matches, masks, batch)
    edited = torch.empty(len(images), *images.shape[-2:], 3)
    latents: list[torch.Tensor] = []

    def work(numbers: list[int]) -> list[torch.Tensor]:
        chosen = [matches[number] for number in numbers] if matches else None
        inside = None if masks is None else masks[numbers]
        return list(stage.edit_latents(images[numbers], numbers, chosen, inside))

    for number, clean in _batches(work, len(images), batch):
        picture = backbone.decode(clean[None])
        edited[number] = to_host(picture)[0]
        latents.append(backbone.vae_latents(clean[None]).cpu())
        progress.step(0, picture[0])
    if not all(bool(torch.isfinite(one).all()) for one in latents):
        notes.warn("the result holds numbers that are not finite; start ComfyUI with --force-fp32 or --bf16-unet.")
    return Edited(edited, torch.cat(latents), notes)


def _batches(work: Any, count: int, batch: int) -> Any:
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
    images, made = to_core(frames, "frames"), correspondence.size_hw
    height, width = images.shape[-2:]
    picture = read_reference(reference, (height, width))
    if sorted(correspondence.frames) != list(range(len(images))) or tuple(made) != (height, width):
        raise InputError(
            f"correspondence: expected matches of these {len(images)} frames of {width} x {height}, got "
            f"{len(correspondence.frames)} of {made[1]} x {made[0]}; connect the same frames to DIFTCorrespondence."
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


def _narrow(
    correspondence: ClipCorrespondence, settings: ZeroStageSettings, stage: ZeroStage[HostUNet], notes: Notes
) -> dict[int, Correspondence] | None:
    if settings.k == -1:
        return None
    known = correspondence.frames
    for grid in stage.editor.grids:
        known[0].level(grid)  # raises where the grid is another
    if settings.k == "adaptive":
        _say_few_matches(notes, correspondence)
    return {number: narrow_matches(known[number], settings.k) for number in known}


def _say_no_ops(notes: Notes, anchor: torch.Tensor, reference: torch.Tensor, masks: torch.Tensor | None) -> None:
    if float((anchor - reference).abs().max()) <= ALIKE:
        notes.warn("the reference is the anchor itself, so the clip keeps its look; connect its edit to `reference`.")
    if masks is None:
        return
    empty = sum(not bool(mask.any()) for mask in masks)
    if empty:
        where = "every frame, so nothing is edited" if empty == len(masks) else f"{empty} of {len(masks)} frames"
        notes.warn(f"the mask is empty in {where}.")


def _say_few_matches(notes: Notes, correspondence: ClipCorrespondence) -> None:
    """What "adaptive" cannot read, as the correspondence does not hold it."""
    kept = min(matches.levels[1].indices.shape[1] for matches in correspondence.frames.values())
    if kept < ADAPTIVE_MAX:
        notes.warn(
            f"tokens adaptive reads up to {ADAPTIVE_MAX} matches, the correspondence holds {kept} of each part; set "
            f"max_k of DIFTCorrespondence to {ADAPTIVE_MAX}."
        )


def _say_ignored(notes: Notes, conditioning: Any) -> None:
    if parts := ignored_parts(conditioning):
        notes.warn(f"{', '.join(parts)} in `conditioning`: no effect here; connect a plain CLIP Text Encode.")


def _bank_bytes(backbone: HostUNet, stage: ZeroStage[HostUNet], matches: Any, masks: Any, batch: int) -> int:
    """What the inversions keep on the device: keys, values and queries of each layer at each step."""
    editor, widths = stage.editor, backbone.widths()
    selections = editor.selections([matches[0]] if matches else [], None if masks is None else masks[:1])
    numbers = 0
    for layer, selection in selections.items():
        h, w = editor.grids[layer // 3 - 1]
        numbers += h * w * widths[layer] * (len(selection.reference_needs()) + batch * len(selection.target_needs()))
    return numbers * editor.settings.num_inference_steps * backbone.dtype.itemsize
