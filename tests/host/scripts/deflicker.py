"""The node Deflicker called directly: equal to the core, Cancel, previews, refusals. Prints what it found."""

from __future__ import annotations

import json
from typing import Any

import comfy.utils
import torch
from parts import Pressed, outcome, pictures
from zero2hero_ext.nodes.deflicker import Deflicker
from zero2hero_ext.zero2hero_core.checks import InputError
from zero2hero_ext.zero2hero_core.propagation import deflicker as core

COUNT, SIZE = 6, 48
WIDGETS = {"window": 2, "strength": 1.0}


def refusal(**given: Any) -> str:
    """The message of the error that the node ends in."""
    try:
        Deflicker.execute(**given)
    except InputError as error:
        return f"{type(error).__name__}: {error}"
    return "went through"


still = pictures(1, SIZE, 1).expand(COUNT, -1, -1, -1)
noise = 0.1 * torch.randn(still.shape, generator=torch.Generator().manual_seed(2))
given = {"originals": still, "stylised": (0.2 + 0.6 * still + noise).clamp(0, 1)}
found: dict[str, Any] = {}

with torch.inference_mode():
    seen: list[Any] = []
    comfy.utils.set_progress_bar_global_hook(lambda value, total, preview, node_id=None: seen.append((value, preview)))
    result = Deflicker.execute(**given, **WIDGETS)
    comfy.utils.set_progress_bar_global_hook(None)
    found["steps"] = [value for value, _ in seen]
    found["previews"] = sum(preview is not None for _, preview in seen)
    frames = result.result[0]
    original, stylised = (images.movedim(-1, 1) for images in given.values())
    work = core.Deflicker(original.__getitem__, stylised.__getitem__, COUNT, core.DeflickerSettings(2))
    truth = torch.stack([work.frame(number) for number in range(COUNT)]).movedim(1, -1)
    found["as the core"] = torch.equal(frames, truth)
    found["change"] = [float((images[1:] - images[:-1]).abs().mean()) for images in (given["stylised"], frames)]
    unchanged = Deflicker.execute(**given, window=2, strength=0.0)
    found["strength 0"] = torch.equal(unchanged.result[0], given["stylised"])
    found["said"] = unchanged.ui["text"]
    found["alpha"] = list(
        Deflicker.execute(**{name: torch.cat([x, x[..., :1] * 0 + 1], -1) for name, x in given.items()}, **WIDGETS)
        .result[0]
        .shape
    )
    with Pressed(core.Deflicker, "frame", 3) as pressed:
        found["cancel"] = outcome(Deflicker, **given, **WIDGETS)
    found["frames after Cancel"] = pressed.calls - pressed.at
    found["one frame"] = list(Deflicker.execute(still[:1], still[:1], **WIDGETS).result[0].shape)
    found["refused"] = {
        "count": refusal(originals=still[:4], stylised=given["stylised"], **WIDGETS),
        "size": refusal(originals=still, stylised=given["stylised"][:, :32], **WIDGETS),
        "window": refusal(**given, window=61, strength=1.0),
        "strength": refusal(**given, window=2, strength=1.5),
        "small": refusal(originals=still[:, :8], stylised=still[:, :8], **WIDGETS),
        "kind": refusal(originals=still, stylised=given["stylised"][0], **WIDGETS),
    }

print(json.dumps(found))
