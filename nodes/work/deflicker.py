"""The work of the node Deflicker: checks of the sockets, progress and previews. The core computes."""

from __future__ import annotations

import torch

from ...zero2hero_core.checks import InputError
from ...zero2hero_core.jobs.deflicker import deflickered
from ...zero2hero_core.propagation.deflicker import DeflickerSettings
from ..convert.checks import socket_words
from ..convert.pictures import kind_of, to_core, to_host
from ..host.notes import NodeListener, Notes
from ..host.services import Progress, check_cancel, io

PREVIEW_EVERY = 8  # frames


def steady_clip(
    node: type[io.ComfyNode], originals: torch.Tensor, stylised: torch.Tensor, window: int, strength: float
) -> tuple[torch.Tensor, Notes]:
    """The stylised frames steadied, as an IMAGE, and what is to be said. Raises: InputError naming the socket."""
    notes, settings = Notes(node), DeflickerSettings(window, strength)
    frames, drawn = to_core(originals, "originals"), to_core(stylised, "stylised")
    if frames.shape != drawn.shape:
        raise InputError(
            f"stylised: expected {kind_of(frames)} like originals, got {kind_of(drawn)}; connect the frames that were "
            "stylised, at one size."
        )
    if 0 in (window, strength):
        notes.warn("window or strength is 0: the frames stay as they are.")
    progress, images = Progress(len(drawn)), torch.empty(len(drawn), *drawn.shape[-2:], 3)
    check_cancel()
    with socket_words({"original": "originals"}):
        for place, picture in enumerate(deflickered(frames, drawn, settings, NodeListener(notes))):
            images[place] = to_host(picture)[0]
            progress.step(preview=picture if place % PREVIEW_EVERY == 0 else None)
    return images, notes
