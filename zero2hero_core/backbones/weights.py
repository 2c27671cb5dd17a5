"""Safetensors files as a table of named tensors, and the filling of a module from that table.

A model is first built on the meta device (shapes, no memory), then every parameter is read once, straight into its
final dtype and device, and assigned: a load needs the memory of the model plus that of one tensor. On the CPU, tensors
that keep their dtype stay views of the memory-mapped file. Names, shapes and dtypes are all checked against the header
before the first weight is read.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..checks import InputError, Zero2HeroError

PICKLE_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
FLOAT_DTYPES = ("F16", "BF16", "F32", "F64")


@dataclass(frozen=True)
class Weights:
    """The header of one safetensors file, or of the shards of one model.

    Attributes:
        path: the file or folder as the user knows it, for messages.
        shapes: tensor name -> shape.
        dtypes: tensor name -> dtype as safetensors writes it, such as "F32".
        files: tensor name -> the file that holds it.
        metadata: the text entries of the header.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    files: Mapping[str, Path]
    metadata: Mapping[str, str]

    def under(self, *prefixes: str) -> list[str]:
        """Return the tensor names that start with one of `prefixes`."""
        return [key for key in self.shapes if key.startswith(prefixes)]

    def read(self, key: str) -> torch.Tensor:
        """Return one tensor on the CPU in its stored dtype."""
        with safe_open(self.files[key], framework="pt", device="cpu") as file:
            tensor: torch.Tensor = file.get_tensor(key)
            return tensor


@dataclass(frozen=True)
class Source:
    """Where a parameter comes from: block number `part` of `parts` equal blocks of rows of the stored tensor `key`."""

    key: str
    part: int = 0
    parts: int = 1


def refuse_pickle(path: Path) -> None:
    """Raise `InputError` if the name of `path` is that of a pickle checkpoint."""
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise InputError(
            f"{path}: pickle checkpoints ({path.suffix}) are refused, since opening one can run code from it; "
            "convert it to .safetensors."
        )


def open_weights(*paths: Path, name: Path | None = None) -> Weights:
    """Read the header of a safetensors file, or of the shards of one model.

    Args:
        paths: one file, or all shards.
        name: what the messages call the whole; the first path if not given.

    Raises:
        InputError: missing, not .safetensors, a pickle, a Git LFS pointer, truncated or corrupt.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, str] = {}
    files: dict[str, Path] = {}
    metadata: dict[str, str] = {}
    for path in paths:
        _refuse_other_file_types(path)
        try:
            with safe_open(path, framework="pt", device="cpu"):
                pass  # opening checks that header and data agree
            header = _read_header(path)
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{path}: expected a whole .safetensors file, got a truncated or corrupt one ({error}); fetch it again."
            ) from error
        metadata.update(header.pop("__metadata__", {}))
        for key, entry in header.items():
            shapes[key], dtypes[key], files[key] = tuple(entry["shape"]), entry["dtype"], path
    return Weights(name or paths[0], shapes, dtypes, files, metadata)


def open_component(folder: Path, stem: str) -> Weights:
    """Open the weights of one component of a diffusers folder: one file, an fp16 file, or shards.

    Args:
        folder: such as MODEL/unet.
        stem: file name without its suffix, "diffusion_pytorch_model" or "model".

    Raises:
        InputError: no safetensors weights there, or what `open_weights` refuses.
    """
    for name in (f"{stem}.safetensors", f"{stem}.fp16.safetensors"):
        if (folder / name).is_file():
            return open_weights(folder / name)
    index = folder / f"{stem}.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(read_json(index).get("weight_map", {}).values()))
        if not shards:
            raise InputError(f"{index}: expected a weight_map that names the shards, got none; fetch the file again.")
        return open_weights(*(folder / shard for shard in shards), name=folder)
    for path in sorted(folder.glob(f"{stem}*")):
        refuse_pickle(path)
    raise InputError(f"{folder}: expected {stem}.safetensors, found no weights; complete the model folder.")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; raise `InputError` if it is missing or holds anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; complete the model folder.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected a JSON file, could not read it ({error}); fetch it again.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(content).__name__}; fetch it again.")
    return content


_QUANTISED = (  # what the name of a tensor tells of how the others are stored
    ("nf4 or fp4 (bitsandbytes)", (".quant_state.", ".absmax", ".quant_map", ".nested_absmax")),
    ("scaled fp8", ("scaled_fp8", ".scale_weight", ".scale_input", ".weight_scale", ".input_scale")),
    ("a quantised form of ComfyUI", (".comfy_quant", ".weight_scale_2")),
    ("int4 or int8", (".qweight", ".qzeros", ".wscales", ".SCB", ".smooth_factor")),
)


def quantisation(names: Iterable[str]) -> str | None:
    """Return how weights with these tensor names are quantised, None when nothing tells that they are."""
    keys = list(names)
    return next((kind for kind, marks in _QUANTISED if any(mark in key for key in keys for mark in marks)), None)


def fill_module(
    module: torch.nn.Module,
    sources: Mapping[str, Source],
    weights: Weights,
    *,
    what: str,
    names: Iterable[str],
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Give every parameter of a module built on the meta device its stored weights, frozen, in evaluation mode.

    Args:
        module: its state dict says which names and shapes are needed.
        sources: one source for each name of that state dict.
        weights: where to read.
        what: "UNet", "VAE" ... in messages.
        names: of the stored tensors that belong to this module; each must have its parameter.
        device, dtype: of the parameters afterwards.

    Raises:
        InputError: missing, unexpected or misshapen tensors, quantised weights, values that are not finite in `dtype`.
        Zero2HeroError: the device has too little memory.
    """
    keys, others = {source.key for source in sources.values()}, set(names)
    others -= keys
    if kind := quantisation(others):
        raise InputError(
            f"{weights.path}: expected the {what} in {', '.join(FLOAT_DTYPES)}, got weights quantised as {kind}; "
            "take the float16 or bf16 file of the model."
        )
    _refuse_other_names(weights, what, missing=keys - set(weights.shapes), unexpected=others)
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    for name, source in sources.items():
        _check_shape(weights, what, source, shapes[name])
    by_file: defaultdict[Path, list[str]] = defaultdict(list)
    for name, source in sources.items():
        by_file[weights.files[source.key]].append(name)
    state: dict[str, torch.Tensor] = {}
    try:
        for path, parameters in by_file.items():
            with safe_open(path, framework="pt", device="cpu") as file:
                for name in parameters:
                    source = sources[name]
                    block = file.get_tensor(source.key).chunk(source.parts)[source.part].reshape(shapes[name])
                    state[name] = block.to(device=device, dtype=dtype)
                    _check_finite(weights, what, source, block, state[name])
    except torch.cuda.OutOfMemoryError as error:
        raise Zero2HeroError(f"{what}: too little memory on {device}; use dtype float16 or another device.") from error
    module.load_state_dict(state, strict=True, assign=True)
    module.requires_grad_(False).eval()


def _read_header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(length))
        return header


def _refuse_other_file_types(path: Path) -> None:
    refuse_pickle(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a .safetensors file or a diffusers folder.")
    if path.suffix.lower() != ".safetensors":
        raise InputError(f"{path}: expected a .safetensors file or a diffusers folder, got '{path.suffix}'.")
    try:
        with path.open("rb") as file:
            start = file.read(24)
    except OSError as error:
        raise InputError(f"{path}: could not be read ({error.strerror}); check its permissions.") from error
    # A safetensors header is JSON after an 8-byte length; that length alone may look like the start of a pickle.
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")) and start[8:9] != b"{":
        raise InputError(f"{path}: expected safetensors, got a pickle under that name; convert it to .safetensors.")
    if start.startswith(b"version https://git-lfs"):
        raise InputError(f"{path}: expected weights, got a Git LFS pointer; fetch the file itself (git lfs pull).")


def _refuse_other_names(weights: Weights, what: str, *, missing: set[str], unexpected: set[str]) -> None:
    for kind, keys in (("missing", missing), ("unexpected", unexpected)):
        if keys:
            first = ", ".join(sorted(keys)[:3]) + (", ..." if len(keys) > 3 else "")
            raise InputError(
                f"{weights.path}: {len(keys)} {kind} tensors for the {what} ({first}); "
                "the file is incomplete or of another model family."
            )


def _check_shape(weights: Weights, what: str, source: Source, shape: tuple[int, ...]) -> None:
    whole = weights.shapes[source.key]
    block = (whole[0] // source.parts, *whole[1:]) if whole else whole
    # 1 x 1 convolutions of the original layout are linear layers here: (out, in, 1, 1) -> (out, in).
    same = block == shape or (block[: len(shape)] == shape and all(size == 1 for size in block[len(shape) :]))
    if not same or (whole and whole[0] % source.parts):
        raise InputError(
            f"{weights.path}: {what} tensor {source.key}: expected shape {shape}, got {whole}; "
            "the file is of another model family."
        )
    if weights.dtypes[source.key] not in FLOAT_DTYPES:
        raise InputError(
            f"{weights.path}: {what} tensor {source.key}: expected one of {', '.join(FLOAT_DTYPES)}, got "
            f"{weights.dtypes[source.key]}; quantised weights are not supported, take the float16 file."
        )


def _check_finite(weights: Weights, what: str, source: Source, stored: torch.Tensor, loaded: torch.Tensor) -> None:
    # One sum instead of a mask: a NaN or an infinity anywhere makes the sum not finite.
    if torch.isfinite(loaded.sum(dtype=torch.float32)):
        return
    if torch.isfinite(stored.sum(dtype=torch.float64)):
        raise InputError(f"{weights.path}: {what} tensor {source.key} does not fit {loaded.dtype}; load as float32.")
    raise InputError(f"{weights.path}: {what} tensor {source.key} holds NaN or infinity; the file is damaged.")
