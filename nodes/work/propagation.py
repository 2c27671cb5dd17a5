"""The work of the propagation node: checks and sentences for the sockets, progress. The core carries."""

from __future__ import annotations

from dataclasses import dataclass
from secrets import token_hex
from typing import Any

import torch

from ...zero2hero_core.checks import InputError
from ...zero2hero_core.jobs.clip import same_picture
from ...zero2hero_core.jobs.frame_numbers import read_frame_numbers
from ...zero2hero_core.jobs.propagation import Propagation, Spool, key_frames
from ...zero2hero_core.propagation.names import ENGINES
from ...zero2hero_core.propagation.settings import PropagationSettings
from ..convert.checks import check_choice, socket_words
from ..convert.pictures import mask_to_core, mask_to_host, size_hw_of, to_core, to_host
from ..host.notes import Notes
from ..host.services import Progress, io, temporary_folder

__all__ = ["ENGINES", "Propagated", "propagate_clip"]


@dataclass(frozen=True)
class Propagated:
    """edited: IMAGE (N, H, W, 3); doubt: MASK (N, H, W)."""

    edited: torch.Tensor
    doubt: torch.Tensor
    notes: Notes


def propagate_clip(node: type[io.ComfyNode], frames: Any, edits: Any, keys: str, engine: str, mask: Any) -> Propagated:
    """Carry edits to all frames. Raises: InputError naming the socket."""
    check_choice("engine", engine, ENGINES)
    images, pictures, indices = (
        to_core(frames, "frames"),
        to_core(edits, "edits"),
        list(read_frame_numbers("keys", keys)),
    )
    if len(indices) != len(pictures):
        raise InputError(
            f"edits: expected {len(indices)} pictures, one for each number in keys ({keys}), got {len(pictures)}; "
            "connect as many, or write as many numbers."
        )
    masks = None if mask is None else mask_to_core(mask, len(images), size_hw_of(images))
    notes, progress = Notes(node), Progress(len(images))
    spool = Spool(temporary_folder() / f"zero2hero_{token_hex(8)}")
    clip = dict(enumerate(images))
    _say_no_ops(notes, images, dict(zip(indices, pictures, strict=True)), masks)
    with socket_words({"key": "keys"}):
        settings = PropagationSettings(engine=engine)  # type: ignore[arg-type]  # checked above
        work = Propagation(
            clip,
            key_frames(clip, list(zip(indices, pictures, strict=True))),
            settings,
            spool,
            on_step=lambda what: progress.step(0),
        )
        edited, doubt = torch.empty(len(images), *images.shape[-2:], 3), torch.empty(len(images), 1, *images.shape[-2:])
        try:
            for index, carried in work.results():
                picture = carried.picture
                if masks is not None:
                    picture = torch.where(
                        masks[index] > 0, torch.lerp(images[index], picture, masks[index]), images[index]
                    )
                edited[index], doubt[index, 0] = to_host(picture)[0], carried.error
                progress.step(1, picture)
        finally:
            spool.close()
    if lonely := work.uncarried:
        notes.warn(f"{len(lonely)} frames lie in shots without a key and stay as they are, the first is {lonely[0]}.")
    return Propagated(edited, mask_to_host(doubt), notes)


def _say_no_ops(notes: Notes, images: torch.Tensor, edits: dict[int, torch.Tensor], masks: torch.Tensor | None) -> None:
    for index, edit in edits.items():
        if index < len(images) and edit.shape == images[index].shape and same_picture(edit, images[index]):
            notes.warn(f"the edit of frame {index} is the frame itself; connect its edit to `edits`.")
    if masks is not None and (empty := sum(not bool(mask.any()) for mask in masks)):
        where = "every frame, so nothing is edited" if empty == len(masks) else f"{empty} of {len(masks)} frames"
        notes.warn(f"the mask is empty in {where}.")
