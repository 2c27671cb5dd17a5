"""Makes the weights of the bundled models again, from a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...files.guard import Results, remove_leftovers
from ...files.lock import locked_folder
from ..dit import dit_metadata
from ..unet import weights_metadata
from .dit import scaled_dit_recipe, train_dit
from .unet import scaled_recipe, train

_OWN = Results(series=((".", r"(dit_)?state\.pt|.*\.safetensors"),))


@dataclass(frozen=True)
class RecipeRequest:
    """part: "unet" of Zero-Stage or "dit" of Hero-Stage. work: folder for scenes, resumable state and curve; out: for
    the weights. clips: training clips to render, None for the recipe's; scale: of the number of steps."""

    part: str
    work: Path
    out: Path
    seed: int = 0
    clips: int | None = None
    scale: float = 1.0
    device: str = "cpu"


def make_weights(request: RecipeRequest, log: Callable[[str], object]) -> dict[str, str]:
    """Train (or go on), write the weights.

    Args: log: takes the lines of the curve.
    Returns: the metadata of the weights: recipe and curve.
    """
    command = "zero2hero tiny train"
    seed, clips, scale = request.seed, request.clips, request.scale
    with locked_folder(request.work, command), locked_folder(request.out, command):
        for folder in (request.work, request.out):
            remove_leftovers(folder, _OWN)
        if request.part == "dit":
            recipe = scaled_dit_recipe(seed, clips, scale)
            train_dit(recipe, request.work, request.out, device=request.device, log=log)
            return dit_metadata(request.out)
        train(scaled_recipe(seed, clips, scale), request.work, request.out, device=request.device, log=log)
        return weights_metadata(request.out)
