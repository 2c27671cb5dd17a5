"""The Zero-Stage nodes on the bundled models, one after the other as a graph would run them; prints JSON.

The same clip goes through the core on diffusers; a KSampler run before and after shows that the MODEL is untouched.
"""

from __future__ import annotations

import json
import logging

import torch
from parts import MATCH, SAMPLE, difference
from zero2hero_ext.nodes.host import tiny as host_tiny
from zero2hero_ext.nodes.models import ZeroToHeroDemoClip
from zero2hero_ext.nodes.zero_stage import DIFTCorrespondence, MaskedCiAKSampler
from zero2hero_ext.zero2hero_core.tiny.unet import load_tiny
from zero2hero_ext.zero2hero_core.zero_stage.stage import ZeroStage, ZeroStageSettings

import nodes as host_nodes

MATCHING, SAMPLING = MATCH | {"ensemble": 2}, SAMPLE | {"steps": 4}
said: list[str] = []


class Listener(logging.Handler):
    """Keeps what was said aloud."""

    def emit(self, record: logging.LogRecord) -> None:
        said.append(record.getMessage())


def ksampler(model: object, conditioning: object) -> torch.Tensor:
    latent = {"samples": torch.zeros(1, 8, 16, 16)}
    done = host_nodes.KSampler().sample(model, 1, 2, 1.0, "euler", "normal", conditioning, conditioning, latent, 1.0)
    return done[0]["samples"]


def core_latents(frames: torch.Tensor, reference: torch.Tensor, k: int | str, *, track: bool) -> torch.Tensor:
    settings = ZeroStageSettings(
        num_inference_steps=4, k=k, ensemble=2, adain_start=True, seed=3, track=track and k != -1
    )
    images = frames.movedim(-1, 1)
    stage = ZeroStage(load_tiny(), images[0], reference.movedim(-1, 1)[0], 0, settings, dict(enumerate(images)))
    return torch.cat([stage.edit_latents(images[i : i + 2], range(3)[i : i + 2]) for i in (0, 2)])


logging.getLogger().addHandler(Listener(logging.WARNING))
with torch.inference_mode():
    out: dict[str, object] = {}
    native = host_tiny.tiny_model(), host_tiny.tiny_vae(), host_tiny.tiny_conditioning()
    frames, reference, truth, mask, anchor_index, fps = ZeroToHeroDemoClip.execute(0, 3, 128).args
    before = ksampler(native[0], native[2])
    matched = DIFTCorrespondence.execute(*native, frames, **MATCHING)
    out["match ui"] = matched.ui["text"]
    out["shapes"] = [list(value.shape) for value in matched.args[1:]]
    for name, changed in {
        "fixed 1": {},
        "adaptive": {"tokens": "adaptive"},
        "all": {"tokens": "all"},
        "batch 1": {"batch": 1},
        "each on its own": {},
    }.items():
        alone = name == "each on its own"
        matches = DIFTCorrespondence.execute(*native, frames, **MATCHING | {"track": "off"}) if alone else matched
        given = (*native, matches.args[0], frames, reference)
        edited, latent = MaskedCiAKSampler.execute(*given, **SAMPLING | changed).args
        k = {"adaptive": "adaptive", "all": -1}.get(name, 1)
        out[name] = difference(latent["samples"], core_latents(frames, reference, k, track=not alone))
        out[f"{name} decoded"] = difference(edited, native[1].decode(latent["samples"]))
    said.clear()
    empty = MaskedCiAKSampler.execute(
        *native, matched.args[0], frames, frames[:1], mask=torch.zeros(3, 128, 128), **SAMPLING
    )
    out["said"], out["ui"] = [text for text in said if "MaskedCiAKSampler" in text], empty.ui["text"]
    out["ksampler"] = bool(torch.equal(before, ksampler(native[0], native[2])))
    out["patches left"] = list(native[0].model_options["transformer_options"])
    out["preview"] = len(matched.ui["images"])
print(json.dumps(out))
