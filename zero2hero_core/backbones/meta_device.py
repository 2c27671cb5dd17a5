"""Diffusers models of a configuration, without memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..checks import InputError


def build_on_meta(class_name: str, config: Mapping[str, Any], where: Path) -> Any:
    """Return a diffusers model with shapes and without memory; raise `InputError` if it cannot be built."""
    import diffusers

    try:
        with torch.device("meta"):
            return getattr(diffusers, class_name).from_config(dict(config))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ZeroDivisionError) as error:
        raise InputError(
            f"{where}: its {class_name} configuration cannot be built ({error}); fetch the model again."
        ) from error
