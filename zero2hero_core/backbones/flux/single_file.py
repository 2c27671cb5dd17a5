"""FLUX transformers in one .safetensors file: diffusers' names, or the original layout of Black Forest Labs.

Names are mapped from the diffusers module to the file, one formula per block, for every width and depth. The original
layout stacks what diffusers keeps apart (query, key and value; in FLUX.1's single blocks the MLP's input too) and has
shift before scale in the last layer. The configuration is read off names and shapes; the one thing that they cannot
tell is how the rotary embedding divides a head among its axes, which is known for heads of 128 channels only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from ...checks import InputError
from ..weights import Source, Weights, fill_module, quantisation

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "transformer.", "")
_AXES = {False: (16, 56, 56), True: (32, 32, 32, 32)}  # FLUX.1, FLUX.2; of heads of 128 channels
_MLP_PARTS = 4  # FLUX.1's MLP is four times as wide as the model, in whole blocks of rows beside q, k and v

_TOP = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "proj_out": "final_layer.linear",
    "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
    "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
    "single_stream_modulation.linear": "single_stream_modulation.lin",
}
_EMBEDDERS = {"timestep_embedder": "time_in", "guidance_embedder": "guidance_in", "text_embedder": "vector_in"}
_DOUBLE = {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
    "ff.linear_in": "img_mlp.0",
    "ff.linear_out": "img_mlp.2",
    "ff_context.linear_in": "txt_mlp.0",
    "ff_context.linear_out": "txt_mlp.2",
}
_STACKED = {
    "attn.to_q": ("img_attn.qkv", 0),
    "attn.to_k": ("img_attn.qkv", 1),
    "attn.to_v": ("img_attn.qkv", 2),
    "attn.add_q_proj": ("txt_attn.qkv", 0),
    "attn.add_k_proj": ("txt_attn.qkv", 1),
    "attn.add_v_proj": ("txt_attn.qkv", 2),
}
_SINGLE = {
    "norm.linear": "modulation.lin",
    "proj_out": "linear2",
    "attn.norm_q": "norm.query_norm",
    "attn.norm_k": "norm.key_norm",
    "attn.to_qkv_mlp_proj": "linear1",
    "attn.to_out": "linear2",
}
_SINGLE_STACKED = {"attn.to_q": 0, "attn.to_k": 1, "attn.to_v": 2}


def original_pieces(name: str) -> tuple[Source, ...]:
    """Where the original layout keeps a parameter of diffusers' transformer: blocks of rows, to be joined in order.

    Example: "single_transformer_blocks.3.attn.to_k.weight" is block 1 of 7 of "single_blocks.3.linear1.weight".
    """
    module, _, kind = name.rpartition(".")
    if module in _TOP:
        return (Source(f"{_TOP[module]}.{kind}"),)
    if module == "norm_out.linear":  # stored as shift, scale; wanted as scale, shift
        key = f"final_layer.adaLN_modulation.1.{kind}"
        return Source(key, 1, 2), Source(key, 0, 2)
    if m := re.fullmatch(r"time_\w+_embed\.(\w+)\.linear_([12])", module):
        return (Source(f"{_EMBEDDERS[m[1]]}.{'in_layer' if m[2] == '1' else 'out_layer'}.{kind}"),)
    m = re.fullmatch(r"(single_)?transformer_blocks\.(\d+)\.(.+)", module)
    if m is None:
        raise InputError(
            f"transformer parameter {name}: the original layout has no such part; give a diffusers folder."
        )
    rest = m[3]
    kind = "scale" if ".norm_" in f".{rest}" else kind  # gains of the query and key norms
    if m[1]:
        place = f"single_blocks.{m[2]}"
        if rest in _SINGLE:
            return (Source(f"{place}.{_SINGLE[rest]}.{kind}"),)
        parts = 3 + _MLP_PARTS
        mine = (_SINGLE_STACKED[rest],) if rest in _SINGLE_STACKED else range(3, parts)
        return tuple(Source(f"{place}.linear1.{kind}", part, parts) for part in mine)
    place = f"double_blocks.{m[2]}"
    if rest in _STACKED:
        stack, part = _STACKED[rest]
        return (Source(f"{place}.{stack}.{kind}", part, 3),)
    return (Source(f"{place}.{_DOUBLE[rest]}.{kind}"),)


def locate_transformer(weights: Weights) -> tuple[str, bool, bool]:
    """Prefix of the transformer's names, whether the layout is the original one, and whether it is FLUX.2.

    Raises: InputError, saying what it is, when the file holds no FLUX transformer.
    """
    keys = weights.shapes
    if any("lora" in key for key in keys):
        raise InputError(f"{weights.path}: expected a FLUX transformer, got a LoRA file; choose another file.")
    for prefix in PREFIXES:
        for original, first in ((True, "double_blocks.0.img_attn.qkv.weight"), (False, "single_transformer_blocks.0.")):
            names = [key for key in keys if key.startswith(prefix + first)]
            if names:
                _refuse_quantised(weights, prefix)
                flux2 = any(key.startswith(f"{prefix}single_stream_modulation.") for key in keys)
                return prefix, original, flux2
    kind = "a Stable Diffusion UNet" if any("input_blocks." in key for key in keys) else "none of its tensors"
    kind = "another transformer" if any(key.startswith("transformer_blocks.") for key in keys) else kind
    raise InputError(f"{weights.path}: expected a FLUX.1 or FLUX.2 transformer, got {kind}; choose another file.")


def _refuse_quantised(weights: Weights, prefix: str) -> None:
    """Raise `InputError` when the transformer's weights need code of their own to be read."""
    if kind := quantisation(weights.under(prefix) if prefix else weights.shapes):
        raise InputError(
            f"{weights.path}: expected a FLUX transformer in bf16, float16 or float32, "
            f"got weights quantised as {kind}; take the bf16 file of the model. "
            "To save memory, weights fp8 or nf4 quantise it while it is loaded."
        )


def infer_config(weights: Weights, prefix: str, original: bool, flux2: bool) -> dict[str, Any]:
    """Configuration of the diffusers class that the tensors have.

    Raises: InputError when a tensor that decides it is missing, or heads are not 128 channels wide (give the
    config.json of the model then).
    """

    def shape(name: str) -> tuple[int, ...]:
        key = prefix + (original_pieces(name)[0].key if original else name)
        if len(weights.shapes.get(key, ())) != (1 if ".norm_" in name else 2):
            raise InputError(f"{weights.path}: expected the tensor {key}, found none; the file is incomplete.")
        return weights.shapes[key]

    def count(stack: str) -> int:
        matches = [re.match(rf"{re.escape(prefix)}{stack}\.(\d+)\.", key) for key in weights.shapes]
        return 1 + max((int(m[1]) for m in matches if m), default=-1)

    width, channels = shape("x_embedder.weight")
    (head,) = shape("transformer_blocks.0.attn.norm_q.weight")
    if head != sum(_AXES[flux2]) or width % head:
        raise InputError(
            f"{weights.path}: expected heads of {sum(_AXES[flux2])} channels, got {head} in a width of {width}; "
            "give config, the transformer's config.json, which says how they are divided."
        )
    embed = "time_guidance_embed" if flux2 else "time_text_embed"
    guidance = f"{embed}.guidance_embedder.linear_1.weight"
    config: dict[str, Any] = {
        "in_channels": channels,
        "num_layers": count("double_blocks" if original else "transformer_blocks"),
        "num_single_layers": count("single_blocks" if original else "single_transformer_blocks"),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": shape("context_embedder.weight")[1],
        "guidance_embeds": prefix + (original_pieces(guidance)[0].key if original else guidance) in weights.shapes,
        "axes_dims_rope": _AXES[flux2],
    }
    if shape("proj_out.weight")[0] != channels:
        config["out_channels"] = shape("proj_out.weight")[0]
    if flux2:
        config["mlp_ratio"] = shape("transformer_blocks.0.ff.linear_out.weight")[1] / width
    else:
        config["pooled_projection_dim"] = shape(f"{embed}.text_embedder.linear_1.weight")[1]
    return config


class _Pieces(torch.nn.Module):
    """A module as `fill_module` sees it, some of its tensors in pieces that are joined when they arrive."""

    def __init__(self, module: torch.nn.Module, counts: Mapping[str, int]):
        super().__init__()
        self.module, self.counts = module, counts

    def state_dict(self, *_: Any, **__: Any) -> dict[str, torch.Tensor]:  # type: ignore[override]  # torch overloads it
        whole = self.module.state_dict()
        return {
            f"{name}#{i}": part
            for name, count in self.counts.items()
            for i, part in enumerate(whole[name].chunk(count) if count > 1 else (whole[name],))
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        pieces = dict(state_dict)
        state = {}
        for name, count in self.counts.items():
            parts = [pieces.pop(f"{name}#{i}") for i in range(count)]
            state[name] = torch.cat(parts) if count > 1 else parts[0]
        return self.module.load_state_dict(state, strict=strict, assign=assign)


def fill_transformer(
    module: torch.nn.Module,
    weights: Weights,
    prefix: str,
    original: bool,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Give a transformer on the meta device its weights; errors are those of `fill_module`.

    Tensors outside `prefix` (autoencoder, text encoders of an all-in-one file) are left alone.
    """
    sources, counts = {}, {}
    for name in module.state_dict():
        pieces = original_pieces(name) if original else (Source(name),)
        counts[name] = len(pieces)
        for i, piece in enumerate(pieces):
            sources[f"{name}#{i}"] = Source(prefix + piece.key, piece.part, piece.parts)
    names = weights.under(prefix) if prefix else list(weights.shapes)
    shell = _Pieces(module, counts)
    fill_module(shell, sources, weights, what="transformer", names=names, device=device, dtype=dtype)
