"""The work of the propagation node: checks and sentences for the sockets, progress. The core carries."""

from __future__ import annotations

from dataclasses import dataclass
from secrets import token_hex
from typing import Any

import torch

from ...zero2hero_core.checks import InputError
from ...zero2hero_core.jobs.clip import is_same_aspect, same_picture
from ...zero2hero_core.jobs.frame_numbers import read_frame_numbers
from ...zero2hero_core.jobs.propagation import FAINT, Finish, Propagation, any_faint, key_frames, put_within
from ...zero2hero_core.jobs.spool import Spool
from ...zero2hero_core.propagation.settings import PropagationSettings
from ...zero2hero_core.spread import spread
from ..convert.checks import socket_words
from ..convert.pictures import mask_to_core, size_hw_of, to_core, to_host
from ..host.notes import Notes, say_empty_masks
from ..host.services import Progress, check_cancel, io, temporary_folder

SHOWN = 8  # frames in the preview


@dataclass(frozen=True)
class Propagated:
    """edited: IMAGE (N, H, W, 3); doubt: MASK (N, H, W)."""

    edited: torch.Tensor
    doubt: torch.Tensor
    notes: Notes


@dataclass(frozen=True)
class Clip:
    """The sockets as the host gives them. edits: IMAGEs, or None in their place; keys: numbers as text; mask: MASK or
    None; flow: `ClipFlows` or None; witness: IMAGE or None."""

    frames: Any
    edits: tuple[Any, ...]
    keys: str
    mask: Any = None
    flow: Any = None
    witness: Any = None
    keep_unedited: bool = False
    repair: bool = False


def propagate_clip(node: type[io.ComfyNode], clip: Clip, settings: PropagationSettings) -> Propagated:
    """Carry edits to all frames. Raises: InputError naming the socket."""
    images = to_core(clip.frames, "frames")
    pictures = [one for edits in clip.edits if edits is not None for one in to_core(edits, "edits")]
    with socket_words({}):
        indices = read_frame_numbers("keys", clip.keys)
    if not indices or len(indices) != len(pictures):
        raise InputError(
            f"edits: expected {len(indices)} pictures, one for each number in keys ({clip.keys!r}), got "
            f"{len(pictures)}; connect as many, or write as many numbers."
        )
    if clip.flow is not None and len(clip.flow.forward) != len(images) - 1:
        raise InputError(
            f"flow: expected that of these {len(images)} frames, got that of {len(clip.flow.forward) + 1}; connect the "
            "same frames to OpticalFlow."
        )
    masks = None if clip.mask is None else mask_to_core(clip.mask, len(images), size_hw_of(images))
    notes = Notes(node)
    witness = _witness(clip.witness, images)
    bar: list[Progress] = []  # it comes when cuts are known, and with them the way

    def step(what: str) -> None:
        bar[0].step() if bar else check_cancel()

    edits = list(zip(indices, pictures, strict=True))
    _say_no_ops(notes, images, dict(edits), masks)
    edited, doubt = torch.empty(len(images), *images.shape[-2:], 3), torch.empty(len(images), *images.shape[-2:])
    spool = Spool(temporary_folder() / f"zero2hero_{token_hex(8)}")
    try:
        with socket_words({"key": "keys"}):
            frames = dict(enumerate(images))
            key_list = key_frames(frames, edits)
            keep = clip.keep_unedited
            if keep and any_faint(key_list):
                keep = False
                notes.warn(f"{FAINT}.")
            finish = Finish(witness, clip.repair, keep_unedited=keep)
            work = Propagation(
                frames,
                key_list,
                settings,
                spool,
                flows=clip.flow,
                resumable=False,
                on_step=step,
            )
            bar.append(Progress(max(1, work.steps)))
            for result in work.results():
                index, (picture, _) = result.index, finish.put(result)
                if masks is not None:
                    picture = put_within(masks[index], picture, result.frame)
                edited[index], doubt[index] = to_host(picture)[0], result.carried.error.clamp(0, 1)
                bar[0].step(0, picture)
    finally:
        spool.close()
    if lonely := work.uncarried:
        notes.warn(f"{len(lonely)} frames lie in shots without a key and stay as they are, the first is {lonely[0]}.")
    return Propagated(edited, doubt, notes)


def _witness(given: Any, images: torch.Tensor) -> dict[int, torch.Tensor] | None:
    """Pictures by index. Raises: InputError unless there are as many as frames, of their shape."""
    if given is None:
        return None
    pictures = to_core(given, "witness")
    (h, w), (height, width) = size_hw_of(pictures), size_hw_of(images)
    if len(pictures) != len(images) or not is_same_aspect((h, w), (height, width)):
        raise InputError(
            f"witness: expected {len(images)} pictures of the shape of frames, {width} x {height}, got {len(pictures)} "
            f"of {w} x {h}; connect what was made of these frames."
        )
    return dict(enumerate(pictures))


def some_of(images: torch.Tensor) -> torch.Tensor:
    """At most eight frames of an IMAGE, spread over the clip, to look at."""
    return images[spread(len(images), SHOWN)]


def _say_no_ops(notes: Notes, images: torch.Tensor, edits: dict[int, torch.Tensor], masks: torch.Tensor | None) -> None:
    for index, edit in edits.items():
        if index < len(images) and edit.shape == images[index].shape and same_picture(edit, images[index]):
            notes.warn(f"the edit of frame {index} is the frame itself; connect its edit to `edits`.")
    say_empty_masks(notes, masks)
