"""Stable Diffusion 1.x and 2.x checkpoints in one .safetensors file, in the original latent-diffusion (LDM) layout.

The configuration is read off the tensor names and shapes, so nothing has to be fetched. Names are mapped from the
diffusers module to the file, one formula per block, which holds for every width and depth of this architecture. What
shapes cannot tell is fixed here: 32 norm groups; 8 attention heads in SD 1.x, heads of 64 channels in SD 2.x (known by
its linear projections).
"""

from __future__ import annotations

import re
from typing import Any

from ...checks import InputError
from ..weights import Source, Weights

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
VAE_TRAINING = (f"{VAE_PREFIX}loss.", f"{VAE_PREFIX}model_ema.")  # not needed to encode and decode
NORM_GROUPS = 32
V_PREDICTION_NAMES = ("v", "v_prediction", "v-prediction", "velocity")
EPSILON_NAMES = ("epsilon", "eps")
# Spread of the last decoder block's first norm bias: above it the SD 2.x model predicts v. ComfyUI decides by the same
# number, so that one file means the same there and here.
V_PREDICTION_SPREAD = 0.09

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def refuse_other_families(weights: Weights) -> None:
    """Raise `InputError`, naming the family, unless the tensors are those of an SD 1.x / 2.x text-to-image model."""
    family = _other_family(weights)
    if family is not None:
        raise InputError(
            f"{weights.path}: expected a Stable Diffusion 1.5 or 2.1 checkpoint with UNet and VAE, got {family}; "
            "choose another file."
        )


def _other_family(weights: Weights) -> str | None:
    keys = weights.shapes

    def has(*parts: str) -> bool:
        return any(part in key for key in keys for part in parts)

    if has("lora_down", "lora_up", ".lora_A", ".lora_B", "lora_unet_", "_loras."):
        return "a LoRA file"
    if has("input_hint_block", "controlnet_cond_embedding", "controlnet_down_blocks", "control_model."):
        return "a ControlNet"
    if has("joint_blocks.") or has("transformer_blocks.0.ff_context"):
        return "SD3"
    if has("double_blocks.", "single_transformer_blocks."):
        return "FLUX"
    if has("time_stack", "motion_modules"):
        return "a video model"
    if any(key.startswith(("down_blocks.", "conv_in.", "text_model.")) for key in keys):
        return "one component in the diffusers layout (give the folder that holds unet/ and vae/)"
    has_unet = f"{UNET_PREFIX}input_blocks.0.0.weight" in keys
    if not has_unet and has("decoder.conv_in.weight", "decoder.mid.block_1"):
        return "a VAE alone"
    if not has_unet:
        return "none of the tensors of its UNet"
    return _other_unet(weights, has_vae=bool(weights.under(f"{VAE_PREFIX}decoder.")))


def _other_unet(weights: Weights, *, has_vae: bool) -> str | None:
    keys = weights.shapes
    widths = {shape[1] for key, shape in keys.items() if key.endswith(".attn2.to_k.weight") and len(shape) == 2}
    second_encoder = any(key.startswith("conditioner.embedders.1.") for key in keys)
    if second_encoder or 2048 in widths:
        return "SDXL"
    if 1280 in widths:
        return "the SDXL refiner"
    if not widths:
        return "a UNet without text cross-attention"
    if f"{UNET_PREFIX}label_emb.0.0.weight" in keys:
        return "an unCLIP or other class-conditioned UNet"
    in_channels = _size(weights, f"{UNET_PREFIX}input_blocks.0.0.weight", 1)
    out_channels = _size(weights, f"{UNET_PREFIX}out.2.weight", 0)
    if in_channels != out_channels:
        return describe_channels(in_channels, out_channels)
    return None if has_vae else "a UNet without its VAE"


def describe_channels(in_channels: int, out_channels: int) -> str:
    """Name the kind of a UNet whose input has other channels than its output."""
    kinds = {9: "an inpainting UNet", 5: "a depth UNet", 8: "an image-editing UNet (InstructPix2Pix)", 7: "an upscaler"}
    kind = kinds.get(in_channels, "an unknown UNet")
    return f"{kind} with {in_channels} input and {out_channels} output channels"


def unet_config(weights: Weights) -> dict[str, Any]:
    """Return the `UNet2DConditionModel` configuration that the tensors under model.diffusion_model. have.

    Raises:
        InputError: the block structure is not that of SD 1.x / 2.x.
    """
    keys = weights.shapes
    numbers = [re.match(rf"{re.escape(UNET_PREFIX)}input_blocks\.(\d+)\.", key) for key in keys]
    inputs = 1 + max((int(m[1]) for m in numbers if m), default=-1)
    halvings = [i for i in range(inputs) if f"{UNET_PREFIX}input_blocks.{i}.0.op.weight" in keys]
    period = halvings[0] if halvings else inputs  # convolution-in or halving, then the layers of a level
    levels = len(halvings) + 1
    if period < 2 or inputs != levels * period or halvings != [period * i for i in range(1, levels)]:
        raise InputError(
            f"{weights.path}: expected the UNet levels of SD 1.5 or 2.1, got {inputs} input blocks with "
            f"halvings at {halvings}; choose another file."
        )
    channels = tuple(
        _size(weights, f"{UNET_PREFIX}input_blocks.{1 + i * period}.0.out_layers.3.weight", 0) for i in range(levels)
    )
    attention = [f"{UNET_PREFIX}input_blocks.{1 + i * period}.1.transformer_blocks.0" for i in range(levels)]
    down_attention = [f"{name}.attn2.to_k.weight" in keys for name in attention]
    up_attention = [f"{UNET_PREFIX}output_blocks.{i * period}.1.proj_in.weight" in keys for i in range(levels)]
    middle = f"{UNET_PREFIX}middle_block.1."
    linear = len(keys.get(f"{middle}proj_in.weight", ())) == 2
    divisor = 64 if linear else 8
    if any(width % NORM_GROUPS or width % divisor for width in channels):
        raise InputError(
            f"{weights.path}: expected UNet widths that are multiples of {max(divisor, NORM_GROUPS)}, "
            f"got {channels}; give a diffusers folder, whose config says its heads and norm groups."
        )
    return {
        "sample_size": 64,
        "in_channels": _size(weights, f"{UNET_PREFIX}input_blocks.0.0.weight", 1),
        "out_channels": _size(weights, f"{UNET_PREFIX}out.2.weight", 0),
        "layers_per_block": period - 1,
        "block_out_channels": channels,
        "down_block_types": tuple("CrossAttnDownBlock2D" if c else "DownBlock2D" for c in down_attention),
        "up_block_types": tuple("CrossAttnUpBlock2D" if c else "UpBlock2D" for c in up_attention),
        "cross_attention_dim": _size(weights, f"{middle}transformer_blocks.0.attn2.to_k.weight", 1),
        # diffusers calls the number of heads `attention_head_dim` in this class.
        "attention_head_dim": tuple(width // 64 for width in channels) if linear else 8,
        "use_linear_projection": linear,
        # SD 2.1 overflows in float16 scores; attention code that asks the config computes them in float32.
        "upcast_attention": linear,
    }


def vae_config(weights: Weights) -> dict[str, Any]:
    """Return the `AutoencoderKL` configuration that the tensors under first_stage_model. have."""
    keys = weights.shapes
    blocks = {
        m.groups() for key in keys if (m := re.match(r"first_stage_model\.encoder\.down\.(\d+)\.block\.(\d+)\.", key))
    }
    levels = 1 + max((int(level) for level, _ in blocks), default=-1)
    if not levels:
        raise InputError(
            f"{weights.path}: expected a VAE with encoder and decoder, got no encoder; choose another file."
        )
    channels = tuple(_size(weights, f"{VAE_PREFIX}encoder.down.{i}.block.0.conv1.weight", 0) for i in range(levels))
    if any(width % NORM_GROUPS for width in channels):
        raise InputError(f"{weights.path}: expected VAE widths that are multiples of {NORM_GROUPS}, got {channels}.")
    return {
        "in_channels": _size(weights, f"{VAE_PREFIX}encoder.conv_in.weight", 1),
        "out_channels": _size(weights, f"{VAE_PREFIX}decoder.conv_out.weight", 0),
        "latent_channels": _size(weights, f"{VAE_PREFIX}decoder.conv_in.weight", 1),
        "block_out_channels": channels,
        "layers_per_block": len({block for level, block in blocks if level == "0"}),
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "use_quant_conv": f"{VAE_PREFIX}quant_conv.weight" in keys,
        "use_post_quant_conv": f"{VAE_PREFIX}post_quant_conv.weight" in keys,
        "scaling_factor": 0.18215,
        "sample_size": 512,
    }


def _size(weights: Weights, key: str, axis: int) -> int:
    if key not in weights.shapes:
        raise InputError(f"{weights.path}: expected the tensor {key}, found none; the file is incomplete.")
    shape = weights.shapes[key]
    if len(shape) <= axis:
        raise InputError(f"{weights.path}: tensor {key}: expected more than {axis} axes, got shape {shape}.")
    return shape[axis]


def unet_source(name: str, layers: int, up_attention: tuple[bool, ...]) -> Source:
    """Return where the original layout keeps a `UNet2DConditionModel` parameter.

    Example, after the prefix: ("down_blocks.1.resnets.0.conv1.weight", 2, ...) gives
    "input_blocks.4.0.in_layers.2.weight".

    Args:
        name: parameter name in diffusers.
        layers: layers per block.
        up_attention: for each up block, whether it has attention; its upsampler is then the third module.
    """
    module, _, kind = name.rpartition(".")
    if module in _UNET_TOP:
        return Source(f"{UNET_PREFIX}{_UNET_TOP[module]}.{kind}")
    if m := re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", name):
        place = f"middle_block.{1 if m[1] == 'attentions' else 2 * int(m[2])}"
        return Source(f"{UNET_PREFIX}{place}.{_resnet(m[3]) if m[1] == 'resnets' else m[3]}")
    if m := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", name):
        direction, block, part, layer, rest = m[1], int(m[2]), m[3], int(m[4]), m[5]
        index = block * (layers + 1) + (layers if part.endswith("samplers") else layer)
        place = f"input_blocks.{index + 1}" if direction == "down" else f"output_blocks.{index}"
        inner = {
            "resnets": f"0.{_resnet(rest)}",
            "attentions": f"1.{rest}",
            "downsamplers": f"0.op.{kind}",
            "upsamplers": f"{2 if direction == 'up' and up_attention[block] else 1}.conv.{kind}",
        }
        return Source(f"{UNET_PREFIX}{place}.{inner[part]}")
    raise InputError(f"UNet parameter {name}: the original layout has no such part; give a diffusers folder.")


def _resnet(rest: str) -> str:
    module, _, kind = rest.rpartition(".")
    return f"{_RESNET.get(module, module)}.{kind}"


def vae_source(name: str, levels: int) -> Source:
    """Return where the original layout keeps an `AutoencoderKL` parameter; `levels` is the number of resolutions.

    Example: ("decoder.up_blocks.0.resnets.1.conv1.weight", 4) -> "first_stage_model.decoder.up.3.block.1.conv1.weight".
    """
    if m := re.match(r"(encoder|decoder)\.mid_block\.attentions\.0\.(.+)\.(weight|bias)", name):
        return Source(f"{VAE_PREFIX}{m[1]}.mid.attn_1.{_VAE_ATTENTION[m[2]]}.{m[3]}")
    if m := re.match(r"(encoder|decoder)\.mid_block\.resnets\.(\d+)\.(.+)", name):
        return Source(f"{VAE_PREFIX}{m[1]}.mid.block_{int(m[2]) + 1}.{_vae_resnet(m[3])}")
    if m := re.match(r"(encoder\.down|decoder\.up)_blocks\.(\d+)\.(.+)", name):
        # The original counts decoder levels from the finest, diffusers from the coarsest.
        level = int(m[2]) if m[1] == "encoder.down" else levels - 1 - int(m[2])
        rest = re.sub(r"^(down|up)samplers\.0\.", r"\1sample.", m[3])
        return Source(f"{VAE_PREFIX}{m[1]}.{level}.{_vae_resnet(re.sub(r'^resnets', 'block', rest))}")
    return Source(f"{VAE_PREFIX}{name.replace('conv_norm_out', 'norm_out')}")


def _vae_resnet(rest: str) -> str:
    return rest.replace("conv_shortcut", "nin_shortcut")


def guess_prediction_type(weights: Weights, config: dict[str, Any]) -> str:
    """Return "epsilon" or "v_prediction" for a single file that nobody has labelled.

    The first rule that applies: the header's modelspec.prediction_type; a modelspec.architecture in the header that
    ends in "-v"; SD 1.x layout -> epsilon; SD 2.x layout -> v if the spread of the last decoder block's first norm bias
    is above 0.09. The last is a rule of thumb: a fine-tune can defeat it, and the caller can override it.

    Raises:
        InputError: the header names a prediction type that is neither.
    """
    prediction = weights.metadata.get("modelspec.prediction_type", "").lower()
    if prediction in V_PREDICTION_NAMES:
        return "v_prediction"
    if prediction in EPSILON_NAMES:
        return "epsilon"
    if prediction:
        raise InputError(
            f"{weights.path}: expected a model that predicts epsilon or v, its header says '{prediction}'; "
            "if the header is wrong, give prediction_type."
        )
    if weights.metadata.get("modelspec.architecture", "").lower().endswith("-v"):
        return "v_prediction"
    last = len(config["block_out_channels"]) * (config["layers_per_block"] + 1) - 1
    key = f"{UNET_PREFIX}output_blocks.{last}.1.transformer_blocks.0.norm1.bias"
    if not config["use_linear_projection"] or key not in weights.shapes:
        return "epsilon"
    return "v_prediction" if weights.read(key).float().std(correction=0).item() > V_PREDICTION_SPREAD else "epsilon"
