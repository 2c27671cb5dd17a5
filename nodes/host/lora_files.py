"""What travels over a HERO_LORA connection: the tensors of a LoRA file of Hero-Stage, and what the file says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ...zero2hero_core.checks import InputError
from ..convert.checks import check_choice
from .services import model_folders

if TYPE_CHECKING:
    from ...zero2hero_core.hero_stage.lora.file import HeroMetadata

PRECISIONS = ["float32", "bfloat16", "float16"]  # names in torch


@dataclass(frozen=True)
class HeroLora:
    """A LoRA of Hero-Stage that is not on a model yet.

    name: of its file. state: tensors under the file's names. header: the file's metadata as text. metadata: the same,
    read; None for files in the authors' format.
    """

    name: str
    state: Mapping[str, torch.Tensor]
    header: Mapping[str, str]
    metadata: HeroMetadata | None

    def kinds(self, count: int) -> tuple[str, ...]:
        """What its `count` conditions show. Raises: InputError for a mode that this version does not know."""
        from ...zero2hero_core.hero_stage.sampling import KINDS
        from ...zero2hero_core.paper import MODES

        if self.metadata is None:
            return KINDS[:count]  # the order of the conditions in the authors' files
        if self.metadata.mode not in MODES:
            raise InputError(
                f"hero_lora: {self.name} was trained in mode {self.metadata.mode}, which is unknown here; "
                "update this extension."
            )
        return MODES[self.metadata.mode]


def read_hero_lora(path: Path) -> HeroLora:
    """A LoRA file, of this package's or of the authors' format.

    Raises: InputError when it is missing, damaged, or no LoRA of Hero-Stage.
    """
    from safetensors.torch import load_file

    from ...zero2hero_core.backbones.weights import open_weights
    from ...zero2hero_core.hero_stage.lora.file import read_metadata
    from ...zero2hero_core.hero_stage.lora.formats import OURS, which_format

    weights = open_weights(path)
    ours, metadata = which_format(path, weights.shapes) == OURS, read_metadata(path)
    if ours and metadata is None:
        raise InputError(
            f"{path}: expected the metadata of Hero-Stage beside its tensors, got none; choose the file as it was "
            "saved: another program has written this one."
        )
    if metadata is not None and not ours:
        raise InputError(
            f"{path}: expected the tensors of Hero-Stage beside its metadata, got some in the authors' format; choose "
            "the file as it was saved: another program has written this one."
        )
    return HeroLora(path.name, load_file(path), dict(weights.metadata), metadata)


def write_hero_lora(path: Path, lora: HeroLora, dtype: torch.dtype) -> None:
    """Write a LoRA to a .safetensors file, all or nothing, in a floating point type.

    Raises: InputError when it cannot be written or holds values that the type cannot.
    """
    from ...zero2hero_core.files.tensor_file import write_tensors

    tensors = {key: tensor.detach().to("cpu", dtype).contiguous() for key, tensor in lora.state.items()}
    for key, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"hero_lora: {key} is not finite as {dtype}; save it in float32.")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, tensors, lora.header)


def lora_path(name: str) -> Path:
    """Where a LoRA of this name lies in models/loras; folders in the name are allowed, ways out of it are not.

    Raises: InputError for an empty name or one that leads elsewhere.
    """
    folder = model_folders("loras")[0].resolve()
    stem = name.strip().removesuffix(".safetensors")
    path = (folder / f"{stem}.safetensors").resolve()
    if not stem or stem.endswith(("/", "\\")) or not path.is_relative_to(folder):
        raise InputError(f"name: expected a name in models/loras like hero/my_clip, got {name!r}; change it.")
    return path


def save_hero_lora(lora: HeroLora, name: str, precision: str, *, overwrite: bool) -> Path:
    """Write a LoRA to models/loras; returns the file. Raises: InputError when it exists and may not be replaced."""
    check_choice("precision", precision, PRECISIONS)
    path = lora_path(name)
    if path.exists() and not overwrite:
        raise InputError(f"name: {path.name} exists in {path.parent}; choose another name or switch overwrite on.")
    write_hero_lora(path, lora, getattr(torch, precision))
    return path
