"""What a training begins with: the bundled universal adapter, another LoRA, or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..backbones.flux.dit import DiTBackbone
from ..checks import InputError, setting
from ..hero_stage.lora.file import HeroMetadata, read_metadata, read_start
from ..tiny.dit import ADAPTER_FILE
from ..tiny.unet import weights_folder
from .clip import check_paths
from .hero_settings import NONE, TrainingChoice
from .listener import Notes

TINY_FAMILY = "tiny"


@dataclass(frozen=True)
class Start:
    """Adapter weights by name, the file that they are from, and what it says of itself."""

    state: Mapping[str, torch.Tensor]
    path: Path
    metadata: HeroMetadata


def bundled_adapter(family: str) -> Path | None:
    """The adapter that comes with the package for a family of models."""
    path = weights_folder() / ADAPTER_FILE
    return path if family == TINY_FAMILY and path.exists() else None


def find_start(choice: TrainingChoice, backbone: DiTBackbone, notes: Notes) -> Start | None:
    """What a training begins with; None for the paper's way, from nothing.

    An adapter that is bundled serves the mode and the layers that it was made for; for others a note says that the
    training begins from nothing. Raises: InputError for a file that does not fit.
    """
    if choice.adapter == NONE:
        return None
    if choice.adapter is not None:
        check_paths(choice.adapter)
        path = Path(choice.adapter)
    else:
        bundled = bundled_adapter(backbone.family.name)
        if bundled is None:
            return None
        metadata = read_metadata(bundled)
        assert metadata is not None
        if different := _different(choice, metadata):
            notes.add(f"the training begins without the bundled adapter, which has {different}")
            return None
        try:
            state, metadata = read_start(bundled, backbone, choice.mode)
        except InputError:
            notes.add("the training begins without the bundled adapter, which does not fit this model")
            return None
        return Start(state, bundled, metadata)
    state, metadata = read_start(path, backbone, choice.mode)
    if different := _different(choice, metadata):
        raise InputError(f"{setting('adapter')} {path}: has {different}; leave that out, or give another file.")
    return Start(state, path, metadata)


def _different(choice: TrainingChoice, metadata: HeroMetadata) -> str:
    """What of a LoRA is not as it was asked for, in words."""
    parts = []
    if choice.mode != metadata.mode:
        parts.append(f"{setting('mode')} {metadata.mode}")
    if choice.rank not in (None, metadata.rank):
        parts.append(f"{setting('rank')} {metadata.rank}")
    if choice.alpha not in (None, metadata.alpha):
        parts.append(f"{setting('alpha')} {metadata.alpha:g}")
    if choice.lora_layers and set(choice.lora_layers) != set(metadata.spec.layers):
        parts.append(f"{setting('lora_layers')} {metadata.layers}")
    return " and ".join(parts)
