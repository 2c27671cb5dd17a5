"""Tensors that wait on disk while a job works."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import load_file

from ..files.tensor_file import write_tensors


class Spool:
    """Tensors by name in files of a folder, for what must wait or be taken up again. The folder comes with the first.

    Args: folder: of the spool alone.
    """

    def __init__(self, folder: Path):
        self._folder = folder

    def put(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Keep tensors under a name; the file is whole or not there."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_tensors(self._path(name), {key: value.contiguous() for key, value in tensors.items()}, {})

    def get(self, name: str) -> dict[str, torch.Tensor] | None:
        """What was kept under a name, None where nothing was."""
        path = self._path(name)
        return load_file(path) if path.exists() else None

    def has(self, name: str) -> bool:
        """Whether something is kept under a name."""
        return self._path(name).exists()

    def drop(self, name: str) -> None:
        """Forget what was kept under a name."""
        self._path(name).unlink(missing_ok=True)

    def close(self) -> None:
        """Remove all that was kept, and the folder unless something else lies in it."""
        if self._folder.is_dir():
            for path in self._folder.glob("*.safetensors"):
                path.unlink()
            with suppress(OSError):
                self._folder.rmdir()

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"
