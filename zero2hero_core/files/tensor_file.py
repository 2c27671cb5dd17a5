"""Writing safetensors files, all or nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save

from .whole import whole_file


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write a .safetensors file through a temporary one; equal content makes equal files.

    Raises: InputError when `path` cannot be written or is no file; Zero2HeroError when the disk is full.
    """
    with whole_file(path) as temporary:
        content = memoryview(save(dict(tensors), dict(metadata)))  # `save_file` hides what the system said
        start = 8 + int.from_bytes(content[:8], "little")
        # The library writes metadata in random order.
        text = json.dumps(json.loads(bytes(content[8:start])), sort_keys=True, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        temporary.write_bytes(b"".join((len(text).to_bytes(8, "little"), text, content[start:])))
