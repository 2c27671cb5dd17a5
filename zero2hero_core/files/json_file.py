"""JSON files, written whole or not at all."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

from ..checks import InputError, Zero2HeroError


def finite(value: Any) -> Any:
    """The same with null for infinities and nan, for which JSON has no words."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Write a report through a temporary file; infinities and nan become null.

    Raises: InputError when the place cannot be written, Zero2HeroError when the disk is full.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    text = json.dumps(finite(report), indent=2, ensure_ascii=False, allow_nan=False)
    try:
        part.write_text(text + "\n", encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        if error.errno == errno.ENOSPC:
            raise Zero2HeroError(f"{path}: the disk is full; free some space and run it again.") from error
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place.") from error
