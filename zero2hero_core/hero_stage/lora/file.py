"""LoRA files of Hero-Stage: safetensors with what was trained, on what and how, in the metadata; files in the authors'
format are read as well (see `lora.formats`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ...backbones.surface import TrainableDiT
from ...backbones.weights import FLOAT_DTYPES, open_weights
from ...checks import InputError, Zero2HeroError
from ...files.tensor_file import write_tensors
from ...version import __version__
from .adapters import HeroLoRA
from .formats import AUTHORS_FAMILY, OURS, LoRASpec, read_authors, read_ours, which_format

FORMAT = "hero-lora-1"
_PREFIX = "zero2hero."
_PARSE = {"str": str, "int": int, "float": float}


@dataclass(frozen=True)
class HeroMetadata:
    """What a LoRA file says about itself.

    family: name of the base family ("flux1", "flux2", "tiny"). mode: training mode. rank, alpha, count: of the
    adapters. layers: their groups, with commas. resolution: of the training pictures, "512x512" (width x height).
    clip_hash, anchor_hash: of the clip and of the edited frame it was trained on. step: training steps done. version:
    of this package.
    """

    family: str
    mode: str
    rank: int
    alpha: float
    count: int
    layers: str
    resolution: str = ""
    clip_hash: str = ""
    anchor_hash: str = ""
    step: int = 0
    version: str = __version__

    @classmethod
    def of(
        cls,
        lora: HeroLoRA,
        *,
        mode: str,
        resolution: str = "",
        clip_hash: str = "",
        anchor_hash: str = "",
        step: int = 0,
    ) -> HeroMetadata:
        """Metadata of a LoRA on its model; what the adapters know themselves is filled in."""
        own = _own(lora)
        return cls(mode=mode, resolution=resolution, clip_hash=clip_hash, anchor_hash=anchor_hash, step=step, **own)

    @property
    def spec(self) -> LoRASpec:
        """The adapters' size and place."""
        return LoRASpec(self.rank, self.alpha, tuple(name for name in self.layers.split(",") if name))


def _own(lora: HeroLoRA) -> dict[str, Any]:
    return {
        "family": lora.backbone.family.name,
        "rank": lora.spec.rank,
        "alpha": float(lora.spec.alpha or lora.spec.rank),
        "count": lora.count,
        "layers": ",".join(lora.groups),
    }


def save_lora(path: Path, lora: HeroLoRA, metadata: HeroMetadata, *, dtype: torch.dtype = torch.float32) -> None:
    """Write adapters and metadata to a .safetensors file, all or nothing; an existing file is replaced.

    Raises:
        InputError: another suffix, a place that cannot be written, metadata that contradict the adapters.
        Zero2HeroError: weights that are NaN or infinite (in `dtype`), a full disk; an existing file stays.
    """
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: expected a name that ends in .safetensors.")
    for name, value in _own(lora).items():
        if getattr(metadata, name) != value:
            raise InputError(
                f"{path}: metadata: expected {name} {value}, as the LoRA has, got {getattr(metadata, name)}."
            )
    tensors = {key: tensor.to("cpu", dtype).contiguous() for key, tensor in lora.state_dict().items()}
    for key, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise Zero2HeroError(f"{path}: not written, since {key} holds NaN or infinity; take an earlier state.")
    values = {name: str(value) for name, value in dataclasses.asdict(metadata).items()} | {"format": FORMAT}
    write_tensors(path, tensors, {_PREFIX + name: value for name, value in values.items()})


def read_metadata(path: Path) -> HeroMetadata | None:
    """What a LoRA file says about itself; None for files that are not of our format.

    Raises: InputError when it is missing, truncated or no .safetensors file, or its metadata cannot be read.
    """
    return _parse(path, open_weights(path).metadata)


def _parse(path: Path, header: Mapping[str, str]) -> HeroMetadata | None:
    values = {key.removeprefix(_PREFIX): value for key, value in header.items() if key.startswith(_PREFIX)}
    if not values:
        return None
    if values.get("format") != FORMAT:
        raise InputError(f"{path}: expected format {FORMAT}, got {values.get('format')}; update this package.")
    try:
        metadata = HeroMetadata(
            **{f.name: _PARSE[str(f.type)](values[f.name]) for f in dataclasses.fields(HeroMetadata)}
        )
        if metadata.count < 1:
            raise ValueError(f"count {metadata.count}")
        assert metadata.spec  # checks rank, alpha and layers
    except (KeyError, ValueError, InputError) as error:
        raise InputError(f"{path}: its metadata are damaged ({error}); take another copy or train again.") from error
    return metadata


def load_lora(
    paths: Path | Sequence[Path],
    backbone: TrainableDiT,
    *,
    family: str | None = None,
    rank: int | None = None,
    mode: str | None = None,
) -> tuple[HeroLoRA, HeroMetadata | None]:
    """Put the adapters of files on a backbone's transformer; all are off at first.

    Args:
        paths: one file, or in the authors' format several, whose conditions follow each other.
        family: the family that they must be of; None is the backbone's. The authors' format is FLUX.1's.
        rank, mode: refuse another one, if given (the authors' format tells no mode).
    Returns: the adapters, in float32, and the file's metadata, None in the authors' format.
    Raises: InputError naming file and difference: missing or damaged file, unknown keys, another family, mode, rank,
        width or number of blocks, missing layers, NaN, a model that carries adapters already. The model is unchanged
        then.
    """
    files = [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]
    if not files:
        raise InputError("LoRA: expected at least one file, got none.")
    own_family, how = (backbone.family.name, "this model is") if family is None else (family, "wanted is")
    headers = [_read_header(path, own_family, how, mode) for path in files]
    metadata = headers[0]
    if any(headers) and len(files) > 1:
        path = files[[header is not None for header in headers].index(True)]
        raise InputError(f"{path}: holds all conditions of one training; expected it alone, got {len(files)} files.")
    if metadata is None:
        content = read_authors([(path, load_file(path)) for path in files], backbone.transformer)
    else:
        content = read_ours(files[0], load_file(files[0]), metadata.spec, metadata.count, backbone.transformer)
    if rank is not None and content.spec.rank != rank:
        raise InputError(f"{files[0]}: expected rank {rank}, got {content.spec.rank}; change the rank or the file.")
    lora = HeroLoRA(backbone, content.count, content.spec, biased=content.biased)
    lora.load_state_dict(content.state)
    return lora, metadata


def read_start(path: Path, backbone: TrainableDiT, mode: str) -> tuple[dict[str, torch.Tensor], HeroMetadata]:
    """Adapter weights to begin a training with, in float32, and what their file says.

    Raises: InputError as `load_lora`, and for a file in the authors' format.
    """
    metadata = _read_header(path, backbone.family.name, "this model is", mode)
    if metadata is None:
        raise InputError(f"{path}: is in the authors' format; a training begins with files of this package only.")
    content = read_ours(path, load_file(path), metadata.spec, metadata.count, backbone.transformer)
    return {key: tensor.float() for key, tensor in content.state.items()}, metadata


def _read_header(path: Path, family: str, how: str, mode: str | None) -> HeroMetadata | None:
    """Metadata of a file whose names and types of tensors, family and mode are the wanted ones."""
    header = open_weights(path)
    metadata = _parse(path, header.metadata)
    ours = which_format(path, header.shapes) == OURS
    if ours != (metadata is not None):
        raise InputError(
            f"{path}: expected this package's tensors and metadata together; give the file as it was saved."
        )
    made_for = metadata.family if metadata else AUTHORS_FAMILY
    if made_for != family:
        raise InputError(f"{path}: this LoRA was trained for {made_for}, {how} {family}; choose one for {family}.")
    if metadata and mode is not None and metadata.mode != mode:
        raise InputError(
            f"{path}: this LoRA was trained in mode {metadata.mode}, not {mode}; choose that mode or file."
        )
    for key, dtype in header.dtypes.items():
        if dtype not in FLOAT_DTYPES:
            raise InputError(f"{path}: {key}: expected one of {', '.join(FLOAT_DTYPES)}, got {dtype}.")
    return metadata
