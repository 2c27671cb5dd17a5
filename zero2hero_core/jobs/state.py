"""What decides a result: digests of files and tensors, the state file of a run, and whether two states are equal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from ..checks import InputError, setting
from ..video.image_reader import image_files, names_images


def file_digest(name: str | None) -> str | None:
    """SHA-256 of a file's content, or of the names and contents of the images of a folder or glob; None for None."""
    if name is None:
        return None
    path, digest = Path(name), hashlib.sha256()
    for file in image_files(path) if names_images(path) else [path]:
        if file != path:
            digest.update(file.name.encode() + b"\0")
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def tensor_digest(tensors: Iterable[torch.Tensor], values: int | None = None) -> str:
    """SHA-256 of tensors, or of the first `values` numbers of each."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().flatten()[:values].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def short_digest(text: str, *groups: Iterable[torch.Tensor]) -> str:
    """Ten hexadecimal digits of a text and of tensors, shapes and values."""
    digest = hashlib.sha256(text.encode())
    for tensor in (tensor for group in groups for tensor in group):
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:10]


def thinned(tensor: torch.Tensor) -> torch.Tensor:
    """About 64 of a tensor's values: enough to tell models apart, without reading gigabytes."""
    flat = tensor.detach().flatten()
    return flat[:: max(1, len(flat) // 64)].float()


def read_state(path: Path) -> dict[str, Any]:
    """Read the state file. Raises: InputError when it is damaged."""
    again = f"start again with {setting('overwrite')}"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {again}.") from error
    if not isinstance(state, dict):
        raise InputError(f"{path}: expected the state of an earlier run; {again}.")
    return state


def check_same(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise `InputError` that names what differs between two states."""
    now = json.loads(json.dumps(now))
    different = []
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            brief = name.endswith("sha256") or name == "frames"
            values = "" if brief else f" ({before.get(name)} before, {now.get(name)} now)"
            different.append(name.removesuffix(" sha256") + values)
    if different:
        raise InputError(
            f"{setting('resume')}: the run differs from the one begun in: {', '.join(different)}; give the options of "
            f"that run, or start again with {setting('overwrite')}."
        )
