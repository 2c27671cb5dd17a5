"""Files of torch weights that somebody else publishes: looked for on this machine, read, never fetched.

A file is taken from where the caller says, else from the folder in which torch.hub keeps what was fetched before
(`checkpoints` below $TORCH_HOME/hub or ~/.cache/torch/hub), under the name that its address ends in.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from ..checks import InputError

Weights = Mapping[str, torch.Tensor]


def hub_file(url: str) -> Path:
    """Where torch.hub keeps the file of an address, whether it is there or not."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name


def find_weights(name: str, path: str | Path | None, url: str, need: str, *, offer: str = "download it") -> Weights:
    """The weights of a published file: from `path`, else from torch.hub's folder.

    Args:
        name: what the caller's argument is called in messages.
        path: the file; None looks for `hub_file(url)`.
        url: where the file can be had.
        need: the start of the message: what needs which weights, and their size.
        offer: what else the message advises, followed by "from URL to FOLDER".
    Raises: InputError when the file is missing, or not readable as named torch weights.
    """
    file = hub_file(url) if path is None else Path(path)
    if path is None and not file.is_file():
        raise InputError(
            f"{need}, and they are not here: pass the file {file.name} as {name}, or {offer} from {url} to "
            f"{_short_path(file.parent)}. Nothing is downloaded unasked."
        )
    return read_weights(name, file)


def _short_path(folder: Path) -> str:
    """A folder in a message, without the name of the user where it is one of theirs: messages end up on pages."""
    home = Path.home()
    return f"~/{folder.relative_to(home)}" if folder.is_relative_to(home) else str(folder)


def read_weights(name: str, file: Path) -> Weights:
    """Named weights, on the CPU; code in the file is not run.

    Raises: InputError when there is no file, or it is damaged or holds something else.
    """
    if not file.is_file():
        raise InputError(f"{name}: expected a file of weights, found none at {file}.")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds for damaged files
        raise InputError(f"{name}: {file} cannot be read as torch weights: {error}") from error
    if not isinstance(state, Mapping):
        raise InputError(f"{name}: expected named weights, got {type(state).__name__} in {file}.")
    return state
