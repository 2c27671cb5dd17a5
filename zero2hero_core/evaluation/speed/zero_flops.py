"""Multiply-adds of Zero-Stage here and in the straightforward rendering: what of a ratio of times is arithmetic.

Calls of the model are counted by the procedure, and one call of each kind operation by operation on tensors without
content. What is not in it: attention that is replaced, the search for matches, speed of kernels, frames that share a
batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .clocks import Clock
from .hero_flops import count
from .real_sizes import build_sd15
from .speed_settings import COUNTED, ZeroSpeed, facts

Calls = dict[str, int]  # "unet", "features", "encode", "decode" -> samples of a whole clip that go through


def model_calls(settings: ZeroSpeed) -> dict[str, Calls]:
    """Samples through the model for a clip whose frame 0 is the anchor: ours, and straightforward (two samples a step,
    a decode after each, the anchor's features again for every frame, the picture encoded once per noise draw)."""
    frames, steps, draws = settings.frames, settings.steps, settings.ensemble
    images = 2 * frames + 1  # inverted and sampled frames, and the inverted reference: `steps` each
    features = frames * draws if settings.k != -1 else 0
    return {
        "straightforward": {
            "unet": 2 * steps * images,
            "features": 2 * frames * draws,
            "encode": frames + 1 + 2 * frames * draws,
            "decode": steps * images,
        },
        "ours": {"unet": steps * images, "features": features, "encode": frames + 1, "decode": frames},
    }


class _Enough(Exception):
    """The features have been read."""


def _leave(*_: Any) -> None:
    raise _Enough


@torch.no_grad()
def pass_costs(model: str, size: int, block: int) -> Calls:
    """Multiply-adds of one sample through each part of a model, at a size in pixels."""
    with torch.device("meta"):
        unet, vae = _parts(model)
        side, config = size // 8, unet.config
        latents = torch.randn(1, config.in_channels, side, side)
        context = torch.randn(1, 77 if model != "tiny" else 4, config.cross_attention_dim)
        picture, timestep = torch.randn(1, 3, size, size), torch.tensor(1)
    early = unet.up_blocks[block]

    def features() -> None:
        handle = early.register_forward_hook(_leave)
        try:
            unet(latents, timestep, encoder_hidden_states=context)
        except _Enough:
            pass
        finally:
            handle.remove()

    return {
        "unet": count(lambda: unet(latents, timestep, encoder_hidden_states=context)),
        "features": count(features),
        "encode": count(lambda: vae.encode(picture)),
        "decode": count(lambda: vae.decode(latents)),
    }


def _parts(model: str) -> tuple[Any, Any]:
    if model == "sd15":
        return build_sd15()
    from ...tiny.autoencoder import PatchAutoencoder
    from ...tiny.unet import build_unet

    return build_unet(), PatchAutoencoder()


def counted_frame(settings: ZeroSpeed, size: int, block: int) -> dict[str, Any]:
    """What a row says of the arithmetic of a frame."""
    costs = pass_costs(settings.model, size, block)
    sides = {
        side: sum(costs[part] * samples for part, samples in calls.items()) / settings.frames
        for side, calls in model_calls(settings).items()
    }
    return {"by_arithmetic": sides["straightforward"] / sides["ours"], "multiply_adds": sides}


def counted_rows(settings: ZeroSpeed, block: int, tell: Callable[[dict[str, Any]], object]) -> list[dict[str, Any]]:
    """The rows of `zero_speed.zero_rows` with multiply-adds in the place of times."""
    base = facts("zero", settings, Clock("cpu")) | {"device": COUNTED, "clock": "none", "sides": {}, "ratios": {}}
    rows = []
    for size in settings.sizes:
        rows.append(base | {"what": "frame", "size": size} | counted_frame(settings, size, block))
        tell(rows[-1])
    return rows
