"""LoRA, Cancel, v-prediction and refusals of the Zero-Stage nodes, on the bundled models; prints JSON."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import comfy.model_base
import comfy.model_management as model_management
import comfy.model_patcher
import comfy.sd
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete, ModelSamplingSD3
from parts import MATCH, SAMPLE, difference
from zero2hero_ext.nodes.host import tiny as host_tiny
from zero2hero_ext.nodes.host.tiny_dit import load_tiny_dit_model
from zero2hero_ext.nodes.models import ZeroToHeroDemoClip
from zero2hero_ext.nodes.zero_stage import DIFTCorrespondence, MaskedCiAKSampler
from zero2hero_ext.zero2hero_core.correspondence.narrow import narrow_matches
from zero2hero_ext.zero2hero_core.tiny.unet import load_tiny
from zero2hero_ext.zero2hero_core.zero_stage.stage import ZeroStage, ZeroStageSettings

PLACE = "up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_v"
CONFIG = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "channel_mult": (1, 2, 4)}
CONFIG |= {"num_res_blocks": [2, 2, 2], "use_spatial_transformer": True, "transformer_depth": [0, 0, 1, 1, 1, 1]}
CONFIG |= {"transformer_depth_middle": 1, "transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1], "context_dim": 64}


def lora_of(core: object) -> dict[str, torch.Tensor]:
    """A LoRA in the format of the common trainers, rank 2; merged into the core's UNet, it must act the same."""
    linear = core.unet.get_submodule(PLACE)
    generator = torch.Generator().manual_seed(0)
    down, up = (torch.randn(shape, generator=generator) for shape in ((2, 96), (96, 2)))
    linear.weight.data += up @ down
    name = f"lora_unet_{PLACE.replace('.', '_')}"
    return {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(2.0)}


def edit(native: tuple, **changed: object) -> torch.Tensor:
    return MaskedCiAKSampler.execute(*native, matched, frames, reference, **SAMPLE | changed).args[1]["samples"]


def core_edit(backbone: object) -> torch.Tensor:
    images = frames.movedim(-1, 1)
    settings = ZeroStageSettings(num_inference_steps=2, k=1, adain_start=True)
    stage = ZeroStage(backbone, images[0], reference.movedim(-1, 1)[0], 0, settings)
    known = [matched.frames[index] for index in range(2)]
    return stage.edit_latents(images, range(2), [narrow_matches(one, 1) for one in known])


def cancelled_after(native: tuple, wanted: int) -> tuple[str, int]:
    """Cancel during pass number `wanted`; the error's name, and the passes that began."""
    passes = []

    def count(*_: object) -> None:
        passes.append(1)
        if len(passes) == wanted:
            model_management.interrupt_current_processing(True)

    handle = native[0].model.diffusion_model.register_forward_pre_hook(count)
    try:
        edit(native)
        return "none", len(passes)
    except model_management.InterruptProcessingException as error:  # a BaseException in newer hosts
        return type(error).__name__, len(passes)
    finally:
        handle.remove()


def refusal(*sockets: object, **changed: object) -> str:
    try:
        MaskedCiAKSampler.execute(*sockets[:3], *(sockets[3:] or (matched, frames, reference)), **SAMPLE | changed)
        return "accepted"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def other_unet(kind: type, **changed: object) -> object:
    config = host_tiny.comfy.supported_models_base.BASE(CONFIG | changed)
    config.unet_config |= {"num_heads": 4, "num_head_channels": -1, "dtype": torch.float32}
    config.latent_format = comfy.latent_formats.SD15()
    model = kind(config, device=torch.device("cpu"))
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


with torch.inference_mode():
    out: dict[str, object] = {}
    model, vae, empty = native = host_tiny.tiny_model(), host_tiny.tiny_vae(), host_tiny.tiny_conditioning()
    frames, reference, *_ = ZeroToHeroDemoClip.execute(0, 2, 64).args
    matched = DIFTCorrespondence.execute(*native, frames, **MATCH).args[0]
    plain = edit(native)
    core = load_tiny()
    out["plain"] = difference(plain, core_edit(core))
    lora = lora_of(core)
    with_lora, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)
    changed = edit((with_lora, vae, empty))
    out["lora changes"], out["lora as merged"] = difference(plain, changed), difference(changed, core_edit(core))
    out["plain again"] = difference(plain, edit(native))
    out["cancel"] = [cancelled_after(native, wanted) for wanted in (1, 2, 4)]
    out["after cancel"] = difference(plain, edit(native))
    velocity = ModelSamplingDiscrete().patch(model, "v_prediction", False)[0]
    core = load_tiny()
    core.prediction_type = "v_prediction"
    out["velocity"] = difference(edit((velocity, vae, empty)), core_edit(core))
    out["velocity changes"] = difference(edit((velocity, vae, empty)), plain)
    small, wide = frames[:, :32, :48], torch.zeros(1, 77, 768)
    out["refused"] = {
        "flux": refusal(load_tiny_dit_model()[0], vae, empty),
        "sdxl": refusal(other_unet(comfy.model_base.SDXL, num_classes="sequential", adm_in_channels=16), vae, empty),
        "vae": refusal(model, comfy.sd.VAE(sd={"pixel_space_vae": torch.ones(())}), empty),
        "conditioning": refusal(model, vae, [[wide, {}]]),
        "reference size": refusal(*native, matched, frames, reference[:, :32]),
        "reference count": refusal(*native, matched, frames, frames),
        "frames count": refusal(*native, matched, frames[:1], reference),
        "frames size": refusal(*native, matched, small, small[:1]),
        "mask size": refusal(*native, mask=torch.ones(1, 32, 32)),
        "mask count": refusal(*native, mask=torch.ones(3, 64, 64)),
        "k": refusal(*native, k=9),
        "tokens": refusal(*native, tokens="some"),
        "layers": refusal(*native, layers="all"),
        "video vae": refusal(model, SimpleNamespace(latent_channels=8, latent_dim=3), empty),
        "few steps": refusal(ModelSamplingDiscrete().patch(model, "lcm", False)[0], vae, empty),
        "flow": refusal(ModelSamplingSD3().patch(model, 3.0)[0], vae, empty),
    }
    fewer = {index: narrow_matches(one, 2) for index, one in matched.frames.items()}
    for name, known in {"two matches": dataclasses.replace(matched, frames=fewer), "eight matches": matched}.items():
        done = MaskedCiAKSampler.execute(*native, known, frames, reference, **SAMPLE | {"tokens": "adaptive"})
        out[name] = str(done.ui)
    for name, wrong in {"anchor": {"anchor_index": 2}, "max_k": {"max_k": 64}, "track": {"track": "maybe"}}.items():
        try:
            DIFTCorrespondence.execute(*native, frames, **MATCH | wrong)
        except Exception as error:
            out["refused"][name] = f"{type(error).__name__}: {error}"
    try:
        DIFTCorrespondence.execute(*native, frames[:, :48], **MATCH)
    except Exception as error:
        out["refused"]["sides"] = f"{type(error).__name__}: {error}"
print(json.dumps(out))
