"""The nodes that paint key frames, and the guidance on a MODEL, on the bundled models; prints JSON."""

from __future__ import annotations

import json
from collections.abc import Callable

import comfy.context_windows
import comfy.sample
import torch
from parts import Pressed, difference, outcome, pictures
from zero2hero_ext.nodes.guidance import FidelityEncode, GuidedKeyFrameSampler, KeyFrameBatchSampler
from zero2hero_ext.nodes.guidance_patches import CorrespondenceFeatures, CrossFrameAttention, FlowGuidedAttention
from zero2hero_ext.nodes.host import tiny as host_tiny
from zero2hero_ext.nodes.host.tiny_dit import load_tiny_dit_model
from zero2hero_ext.nodes.key_frames import OpticalFlow
from zero2hero_ext.zero2hero_core.backbones.sd.guided import GuidedUNet
from zero2hero_ext.zero2hero_core.guidance.features import FeatureSettings
from zero2hero_ext.zero2hero_core.guidance.fresco import KeyFrameBatchPainter
from zero2hero_ext.zero2hero_core.guidance.parts import Batch, CrossFramePart, FeaturePart, FlowPart
from zero2hero_ext.zero2hero_core.guidance.rerender import KeyFramePainter
from zero2hero_ext.zero2hero_core.guidance.settings import FrescoSettings, RerenderSettings
from zero2hero_ext.zero2hero_core.jobs.guidance import paint_key_batches, paint_key_frames
from zero2hero_ext.zero2hero_core.tiny.unet import load_tiny

SAMPLE = {"seed": 0, "steps": 6, "cfg": 1.0, "strength": 0.75}
CROSS = {"mode": "anchor and new regions", "loose": True, "start": 0.0, "end": 1.0}
FLOW = {"temporal": 5.0, "until": 350, "spatial": 5.0}
FEATURES = {"iterations": 3, "temporal": 2.0, "spatial": 100.0, "end": 0.75}


def ksampler(model: object, cfg: float = 2.0, start: torch.Tensor | None = None, more: object = None) -> torch.Tensor:
    noise = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(1)).expand(4, -1, -1, -1).clone()
    start = latents["samples"] if start is None else start
    positive = empty if more is None else more
    schedule = ("euler", "ddim_uniform", positive, empty, start)
    return comfy.sample.sample(model, noise, 5, cfg, *schedule, denoise=0.75, disable_pbar=True, seed=1)


def refusal(work: Callable[[], object]) -> str:
    try:
        work()
        return "accepted"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def painted(node: type, native_model: object, **changed: object) -> torch.Tensor:
    values = SAMPLE | ({"batch_size": 3} if node is KeyFrameBatchSampler else {}) | {"anchor_index": 1}
    values |= {"frames": frames, "edit": edit} | changed
    return node.execute(native_model, vae, empty, empty, **values).args[0]


def core_one_by_one() -> torch.Tensor:
    painter = KeyFramePainter(GuidedUNet(load_tiny()), RerenderSettings(steps=6))
    keys = paint_key_frames(painter, dict(enumerate(images)), range(4), 1, 1 - images[1])
    done = {key.index: key.picture for key in keys}
    return torch.stack([done[index] for index in range(4)]).movedim(1, -1)


def core_batches(*parts: object) -> torch.Tensor:
    painter = KeyFrameBatchPainter(GuidedUNet(load_tiny()), FrescoSettings(steps=6, batch=3), parts)
    batches = paint_key_batches(
        painter, range(4), 1, lambda rows: Batch(tuple(rows), images[list(rows)]), 1 - images[1]
    )
    done = {index: picture for index, picture, _ in batches}
    return torch.stack([done[index] for index in range(4)]).movedim(1, -1)


def with_context_windows(model: object) -> object:
    clone = model.clone()
    clone.model_options["context_handler"] = object.__new__(comfy.context_windows.IndexListContextHandler)
    return clone


def with_other_attention(model: object) -> object:
    def borrowed(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, extra: dict) -> torch.Tensor:
        return value

    clone = model.clone()
    clone.set_model_attn1_replace(borrowed, "output", 7, 0)
    return clone


with torch.inference_mode():
    out: dict[str, object] = {}
    model, vae, empty = host_tiny.tiny_model(), host_tiny.tiny_vae(), host_tiny.tiny_conditioning()
    wall = pictures(1, 160)[0]
    frames = torch.stack([wall[16:144, 4 * frame : 128 + 4 * frame] for frame in range(4)])
    images, edit = frames.movedim(-1, 1), 1 - frames[1:2]
    latents = {"samples": vae.encode(frames)}

    one_by_one = painted(GuidedKeyFrameSampler, model)
    out["rerender"] = difference(one_by_one, core_one_by_one())
    out["rerender edit"] = difference(one_by_one[1], edit[0])
    out["rerender cfg"] = difference(painted(GuidedKeyFrameSampler, model, cfg=3.0), one_by_one)
    for widget in ("cross_frame", "pixel_fusion", "match_colour"):
        out[f"without {widget}"] = difference(painted(GuidedKeyFrameSampler, model, **{widget: False}), one_by_one)
    out["rerender again"] = difference(painted(GuidedKeyFrameSampler, model), one_by_one)

    cross = CrossFrameAttention.execute(model, **CROSS, frames=frames).args[0]
    flow = FlowGuidedAttention.execute(cross, **FLOW).args[0]
    full = CorrespondenceFeatures.execute(flow, **FEATURES).args[0]
    batches = painted(KeyFrameBatchSampler, full)
    attention = CrossFramePart(), FlowPart()
    out["fresco attention"] = difference(painted(KeyFrameBatchSampler, flow), core_batches(*attention))
    moving = FeaturePart(FeatureSettings(iterations=3))
    out["fresco"] = difference(batches, core_batches(*attention, moving))
    out["fresco edit"] = difference(batches[1], edit[0])
    out["fresco aligned"] = difference(painted(KeyFrameBatchSampler, full, align_pixels=True), batches)

    plain = ksampler(model)
    results = {name: ksampler(one) for name, one in {"cross": cross, "flow": flow, "features": full}.items()}
    before = plain
    for name, result in results.items():
        out[f"ksampler {name}"], out[f"ksampler {name} finite"] = (
            difference(result, before),
            bool(result.isfinite().all()),
        )
        before = result
    out["two jobs"] = difference(ksampler(full), results["features"])
    out["plain after"] = difference(ksampler(model), plain)
    off = CrossFrameAttention.execute(model, **CROSS | {"start": 1.0}, frames=frames).args[0]
    off = FlowGuidedAttention.execute(off, **FLOW | {"temporal": 0.0, "spatial": 0.0}).args[0]
    off = CorrespondenceFeatures.execute(off, **FEATURES | {"temporal": 0.0, "spatial": 0.0}).args[0]
    out["off"] = difference(ksampler(off), plain)
    found = OpticalFlow.execute(frames, engine="dis", longest_side=0, law="unflow", photometric=False, soft=False)
    fewer = {"frames": frames[:3]}
    given = CrossFrameAttention.execute(model, **CROSS, frames=frames, flow=found.args[0]).args[0]
    out["given flow"] = difference(ksampler(given), results["cross"])
    mask = torch.zeros(4, 128, 128)
    mask[:, 32:64, 32:64] = 1
    still = CorrespondenceFeatures.execute(flow, **FEATURES, frames=frames, foreground=mask).args[0]
    out["foreground"] = difference(ksampler(still), results["features"])

    faithful, simple = (FidelityEncode.execute(frames, vae, share, 0.25).args[0]["samples"] for share in (1.0, 0.0))
    out["fidelity plain"] = difference(simple, latents["samples"])
    lost = [float((vae.decode(one) - frames).abs().mean()) for one in (faithful, simple)]
    out["fidelity"] = lost[0] / lost[1]

    out["cancelled"] = []
    for at in (1, 4):
        with Pressed(model.model, "apply_model", at) as pressed:
            sockets = {"model": model, "vae": vae, "positive": empty, "negative": empty, "frames": frames}
            how = outcome(GuidedKeyFrameSampler, **sockets, **SAMPLE)
        out["cancelled"].append([how, pressed.calls])
    out["after cancel"] = difference(painted(GuidedKeyFrameSampler, model), one_by_one)

    flux = load_tiny_dit_model()[0]
    zeros = torch.zeros_like(latents["samples"])
    three = {"samples": latents["samples"][:3]}
    wide = pictures(4, 96)
    out["refused"] = {
        "flux": refusal(lambda: painted(GuidedKeyFrameSampler, flux)),
        "flux patch": refusal(lambda: CrossFrameAttention.execute(flux, **CROSS)),
        "own guidance": refusal(lambda: painted(GuidedKeyFrameSampler, cross)),
        "twice": refusal(lambda: CrossFrameAttention.execute(cross, **CROSS)),
        "mode": refusal(lambda: CrossFrameAttention.execute(model, **CROSS | {"mode": "first"})),
        "other before": refusal(lambda: CrossFrameAttention.execute(with_other_attention(model), **CROSS)),
        "other after": refusal(lambda: ksampler(with_other_attention(cross))),
        "other in sampler": refusal(lambda: painted(GuidedKeyFrameSampler, with_other_attention(model))),
        "windows": refusal(lambda: ksampler(with_context_windows(cross))),
        "windows in sampler": refusal(lambda: painted(KeyFrameBatchSampler, with_context_windows(cross))),
        "no frames": refusal(lambda: ksampler(FlowGuidedAttention.execute(model, **FLOW).args[0])),
        "no latents": refusal(lambda: ksampler(flow, start=zeros)),
        "three latents": refusal(lambda: FlowGuidedAttention.execute(model, **FLOW, frames=frames, latents=three)),
        "other frames": refusal(lambda: FlowGuidedAttention.execute(cross, **FLOW, frames=wide)),
        "frames of the batch": refusal(lambda: ksampler(CrossFrameAttention.execute(model, **CROSS, **fewer).args[0])),
        "other flow": refusal(lambda: CrossFrameAttention.execute(model, **CROSS, **fewer, flow=found.args[0])),
        "sides": refusal(lambda: painted(GuidedKeyFrameSampler, model, frames=pictures(4, 100), edit=None)),
        "edit size": refusal(lambda: painted(GuidedKeyFrameSampler, model, edit=wide[:1])),
        "edit count": refusal(lambda: painted(KeyFrameBatchSampler, full, edit=frames[:2])),
        "keys": refusal(lambda: painted(GuidedKeyFrameSampler, model, keys="0, 4, 8")),
        "keys twice": refusal(lambda: painted(GuidedKeyFrameSampler, model, keys="0, 1, 1, 3")),
        "anchor": refusal(lambda: painted(GuidedKeyFrameSampler, model, keys="0, 4, 8, 12", anchor_index=3)),
        "area": refusal(lambda: ksampler(cross, more=[[empty[0][0], {"area": (8, 8, 0, 0), "strength": 1.0}]])),
    }
print(json.dumps(out))
