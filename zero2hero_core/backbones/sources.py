"""Where model weights come from, and where they go: a path or the Hugging Face hub; a device and a dtype."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ..checks import InputError, Zero2HeroError

HUB = "hub:"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def find_model(path: str | Path, hub_files: Sequence[str]) -> Path:
    """The place of a model; "hub:owner/name[@revision]" is fetched, or found in the hub's cache.

    Args: hub_files: patterns of the files that are fetched.
    Raises: InputError for what looks like a hub name without `HUB`; Zero2HeroError when fetching fails.
    """
    if str(path).startswith(HUB):
        return _fetch(str(path)[len(HUB) :], hub_files)
    place = Path(path).expanduser()
    if not place.exists() and place.suffix == "" and str(path).count("/") == 1:
        raise InputError(f"{path}: no such file or folder; to fetch it from the Hugging Face hub, write {HUB}{path}.")
    return place


def _fetch(repository: str, files: Sequence[str]) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    name, _, revision = repository.partition("@")
    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision or None, allow_patterns=list(files)))
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Zero2HeroError(
            f"{HUB}{repository}: could not be fetched ({reason}); check the name, the network, and whether the model's "
            "licence has to be accepted on its page first."
        ) from error


def check_device_and_dtype(device: str | torch.device, dtype: str | torch.dtype) -> tuple[torch.device, torch.dtype]:
    """Both, with "auto" decided. Raises: InputError for what is not present or cannot work."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device: expected auto, cpu, mps, cuda or cuda:N present here, got '{device}'.") from error
    if dtype == "auto":
        dtype = "float32" if place.type == "cpu" else "float16"
    kind = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if kind is None or kind not in DTYPES.values():
        raise InputError(f"dtype: expected auto, {', '.join(DTYPES)}, got {dtype}.")
    if kind is torch.float16 and place.type == "cpu":
        raise InputError(
            "dtype: float16 needs a GPU, the CPU computes it slowly and inexactly; use float32 or bfloat16."
        )
    return place, kind
