"""A clip's correspondences in one safetensors file.

Tensors of a frame: `NNNNNN.level.L.indices` (h, w, k) int32 and `.scores` (h, w, k), where k is adaptive also `.counts`
(h, w) int32, with L from 0 (coarse) up; `NNNNNN.confidence` and `NNNNNN.cycle` (h, w). NNNNNN is the frame's index in
the original clip. What all frames share is in the metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..checks import InputError
from ..files.tensor_file import write_tensors
from .match import Correspondence, LevelMatches

FORMAT, VERSION = "zero2hero-correspondence", "1"


@dataclass(frozen=True)
class ClipCorrespondence:
    """Correspondences of frames of a clip with its anchor.

    frames: frame index in the original clip -> matches; size_hw: (H, W) of the frames in pixels; anchor_index: place of
    the anchor in the clip; settings: how they were made (model, timestep, k ...), values that JSON can hold.
    """

    frames: Mapping[int, Correspondence]
    size_hw: tuple[int, int]
    anchor_index: int
    settings: Mapping[str, Any] = field(default_factory=dict)


def save_correspondences(path: Path, clip: ClipCorrespondence, *, overwrite: bool = False) -> None:
    """Write one .safetensors file, all or nothing.

    Raises: InputError when there are no frames, `path` has another suffix, cannot be written, or exists and `overwrite`
        is not set; Zero2HeroError when the disk is full.
    """
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: expected a name that ends in .safetensors.")
    if not clip.frames:
        raise InputError(f"{path}: expected correspondences of at least one frame, got none.")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists already; choose another name or allow overwriting.")
    tensors: dict[str, torch.Tensor] = {}
    for index, matches in clip.frames.items():
        tensors |= {f"{index:06d}.confidence": matches.confidence, f"{index:06d}.cycle": matches.cycle}
        for place, level in enumerate(matches.levels):
            name, (h, w) = f"{index:06d}.level.{place}", level.size_hw
            tensors[f"{name}.indices"] = level.indices.view(h, w, -1)
            tensors[f"{name}.scores"] = level.scores.view(h, w, -1)
            if level.counts is not None:
                tensors[f"{name}.counts"] = level.counts.view(h, w)
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "size_hw": json.dumps(list(clip.size_hw)),
        "anchor_index": str(clip.anchor_index),
        "settings": json.dumps(dict(clip.settings)),
    }
    write_tensors(path, {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, metadata)


def load_correspondences(path: Path) -> ClipCorrespondence:
    """Read what `save_correspondences` wrote. Every tensor is checked, so that no index can reach out of its grid.

    Raises: InputError when the file is missing, truncated, damaged, of another kind or of another version.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a correspondence.safetensors made by `zero2hero correspond`.")
    try:
        with safe_open(path, "pt") as handle:
            metadata = handle.metadata() or {}
            _check_format(path, metadata)
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
        height, width = json.loads(metadata["size_hw"])
        names = sorted({name.split(".")[0] for name in tensors})
        frames = {int(name): _read_frame(tensors, name) for name in names}
        anchor_index, settings = int(metadata["anchor_index"]), dict(json.loads(metadata["settings"]))
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: expected a whole .safetensors file, got a truncated or foreign one ({error}); make it again."
        ) from error
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: damaged file of correspondences ({error}); make it again.") from error
    return ClipCorrespondence(frames, (int(height), int(width)), anchor_index, settings)


def _check_format(path: Path, metadata: Mapping[str, str]) -> None:
    kind, version = metadata.get("format"), metadata.get("version")
    if kind != FORMAT:
        raise InputError(
            f"{path}: expected a file of correspondences, got other tensors (format {kind!r}); "
            "make one with `zero2hero correspond`."
        )
    if version != VERSION:
        raise InputError(f"{path}: expected version {VERSION} of the format, got {version}; make the file again.")


def _read_frame(tensors: Mapping[str, torch.Tensor], name: str) -> Correspondence:
    levels: list[LevelMatches] = []
    while f"{name}.level.{len(levels)}.indices" in tensors:
        levels.append(_read_level(tensors, f"{name}.level.{len(levels)}"))
    if not levels:
        raise ValueError(f"{name}: no matches")
    maps = []
    for what in ("confidence", "cycle"):
        values = tensors[f"{name}.{what}"]
        if tuple(values.shape) != levels[-1].size_hw or not bool(torch.isfinite(values).all()):
            raise ValueError(f"{name}.{what}: expected finite {levels[-1].size_hw}, got {tuple(values.shape)}")
        maps.append(values.float())
    return Correspondence(tuple(levels), *maps)


def _read_level(tensors: Mapping[str, torch.Tensor], name: str) -> LevelMatches:
    indices, scores, counts = tensors[f"{name}.indices"], tensors[f"{name}.scores"], tensors.get(f"{name}.counts")
    if indices.ndim != 3 or scores.shape != indices.shape:
        raise ValueError(f"{name}: expected (h, w, k) twice, got {tuple(indices.shape)} and {tuple(scores.shape)}")
    h, w, k = indices.shape
    _check_integers(f"{name}.indices", indices, 0, h * w - 1)
    if counts is not None:
        _check_integers(f"{name}.counts", counts, 1, k)
        counts = counts.view(h * w)
    return LevelMatches((h, w), indices.view(h * w, k), scores.float().view(h * w, k), counts)


def _check_integers(name: str, values: torch.Tensor, low: int, high: int) -> None:
    if values.dtype != torch.int32 or values.numel() == 0 or int(values.min()) < low or int(values.max()) > high:
        raise ValueError(f"{name}: expected int32 from {low} to {high}")
