"""The work of HeroRestore: the core's `HeroStage` on the host's own model, in batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...zero2hero_core.checks import InputError, Zero2HeroError
from ...zero2hero_core.hero_stage.sampling import RestoreSettings
from ...zero2hero_core.jobs.restore import restored_frames
from ..convert.pictures import to_host
from ..host.dit import HostDiT
from ..host.dit_lora import HostLoRA, fit
from ..host.lora_files import HeroLora
from ..host.notes import NodeListener, Notes
from ..host.services import Progress, io
from .hero_sockets import read_clip


def restore_clip(
    node: type[io.ComfyNode],
    native: tuple[Any, Any, Any],
    lora: HeroLora,
    zero_frames: torch.Tensor,
    frames: torch.Tensor,
    widgets: Mapping[str, Any],
) -> tuple[torch.Tensor, Notes]:
    """All frames restored, as an IMAGE, and what is to be said. Raises: InputError naming the socket."""
    notes = Notes(node)
    zero, originals = read_clip(zero_frames, frames)
    backbone = HostDiT(*native)
    content = fit(lora, backbone.model, backbone.family)
    kinds = lora.kinds(content.count)
    settings = _settings(backbone, kinds, widgets)
    backbone.conditions = sum(strength > 0 for strength in settings.strengths)  # the others are not computed
    _say(notes, lora, originals)
    progress = Progress(len(originals) * settings.num_inference_steps * settings.samples)

    def count(batch: list[int]) -> None:
        backbone.on_pass = lambda: progress.step(len(batch))

    adapters = HostLoRA(backbone.model, content)
    batch, same_noise, listener = widgets["batch_size"], widgets["same_noise"], NodeListener(notes, progress)
    images = torch.empty(len(originals), *originals.shape[-2:], 3)
    try:
        for index, picture in restored_frames(
            backbone, adapters, kinds, settings, zero, originals, batch, listener, same_noise=same_noise, begin=count
        ):
            images[index] = to_host(picture)[0]
    except InputError:
        raise
    except Zero2HeroError as error:
        raise Zero2HeroError(
            "model: out of memory with a single frame; use smaller frames, or start ComfyUI with --lowvram."
        ) from error
    return images, notes


def _settings(backbone: HostDiT, kinds: tuple[str, ...], widgets: Mapping[str, Any]) -> RestoreSettings:
    """The widgets as the core's settings; 0 stands for what suits the model."""
    values = {"num_inference_steps": widgets["steps"], "samples": widgets["samples"]}
    strengths = tuple(widgets[f"{kind}_strength"] for kind in kinds)
    if not any(strengths):
        names = " and ".join(f"{kind}_strength" for kind in kinds)
        raise InputError(f"{names}: expected one above 0, got 0: nothing would be restored from; raise it to 1.")
    return RestoreSettings.suited(
        backbone.recommended,
        **{name: value for name, value in values.items() if value},
        guidance_scale=backbone.guidance,
        seed=widgets["seed"],
        strengths=strengths,
    )


def _say(notes: Notes, lora: HeroLora, frames: torch.Tensor) -> None:
    if lora.metadata is None:
        notes.warn(f"{lora.name} is in the authors' format; its conditions are taken for zero_frames and frames.")
        return
    size = f"{frames.shape[-1]}x{frames.shape[-2]}"
    if lora.metadata.resolution not in ("", size):
        notes.warn(f"{lora.name} was trained at {lora.metadata.resolution}, the frames are {size}.")
