"""Writing safetensors files, all or nothing."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save

from ..checks import InputError, Zero2HeroError
from .guard import check_regular
from .names import check_name, temporary_name


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write a .safetensors file through a temporary one; equal content makes equal files.

    Raises: InputError when `path` cannot be written or is no file; Zero2HeroError when the disk is full.
    """
    check_name(path)
    check_regular(path)
    part = temporary_name(path)
    try:
        content = memoryview(save(dict(tensors), dict(metadata)))  # `save_file` hides what the system said
        start = 8 + int.from_bytes(content[:8], "little")
        # The library writes metadata in random order.
        text = json.dumps(json.loads(bytes(content[8:start])), sort_keys=True, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        part.write_bytes(b"".join((len(text).to_bytes(8, "little"), text, content[start:])))
        os.replace(part, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise Zero2HeroError(f"{path}: no space left on the disk; free some and save again.") from error
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place.") from error
    finally:
        if part.parent.is_dir():
            part.unlink(missing_ok=True)
