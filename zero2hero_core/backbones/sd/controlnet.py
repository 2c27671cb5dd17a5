"""ControlNets of SD 1.x and 2.x from a file: the original layout (control_model.), that of diffusers, or its folder.

Their configuration is that of the UNet they are to be used with; a file of another family does not fit it and is
refused by its shapes. What no shape tells, a diffusers folder says in its config.json.

Source: Zhang et al. 2023, "Adding Conditional Control to Text-to-Image Diffusion Models" (arXiv 2302.05543).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...checks import InputError, check_range, check_shape, setting
from ..meta_device import build_on_meta
from ..weights import Source, Weights, fill_module, open_component, open_weights, read_json
from . import single_file

CLASS = "ControlNetModel"
PREFIX = "control_model."
# Of the UNet's configuration; what else a ControlNet has is as the paper says.
_SHARED = (
    "in_channels",
    "block_out_channels",
    "layers_per_block",
    "cross_attention_dim",
    "attention_head_dim",
    "use_linear_projection",
    "upcast_attention",
    "norm_num_groups",
    "down_block_types",
    "flip_sin_to_cos",
    "freq_shift",
)
# Of the folder's own configuration: ControlNet 1.1 "shuffle" pools what it adds.
_OWN = ("global_pool_conditions", "controlnet_conditioning_channel_order")
_HINT_BLOCK = "controlnet_cond_embedding."
_CELL = 8  # pixels: the hint is halved three times before it meets the latents


@dataclass(frozen=True)
class Residuals:
    """What ControlNets add to a pass: to the skips, coarsest last, and to the middle block."""

    down: tuple[torch.Tensor, ...]
    middle: torch.Tensor

    def plus(self, other: Residuals) -> Residuals:
        """Both."""
        down = tuple(one + more for one, more in zip(self.down, other.down, strict=True))
        return Residuals(down, self.middle + other.middle)


@dataclass(frozen=True)
class Control:
    """A ControlNet and what it shows.

    net: a diffusers `ControlNetModel`. hints: pictures (3, H, W) in [0, 1] by the numbers of frames, of the frames'
    size. strength: one number for all residuals; 0 leaves it out. start, end: shares of the noise levels between which
    it acts.

    Raises: InputError.
    """

    net: Any
    hints: Mapping[int, torch.Tensor]
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        check_range(setting("control_strength"), self.strength, 0, 2)
        if not 0 <= self.start <= self.end <= 1:
            raise InputError(
                f"{setting('control_window')}: expected 0 <= start <= end <= 1, got {self.start:g}, {self.end:g}."
            )

    def acts(self, timestep: int, count: int) -> bool:
        """Whether it acts at a timestep of `count`."""
        return self.strength > 0 and self.start <= 1 - (timestep + 1) / count <= self.end

    def residuals(
        self, latents: torch.Tensor, timestep: int, context: torch.Tensor, frames: Sequence[int]
    ) -> Residuals:
        """What it adds to a pass of frames. Args: latents: (B, C, h, w), noisy; context: (B, L, D).

        Raises: ShapeError for a hint that has not 8 x 8 pixels for each cell of the latents.
        """
        shown = [self.hints[frame] for frame in frames]
        for frame, hint in zip(frames, shown, strict=True):
            check_shape(f"hint of frame {frame}", hint, (3, *(_CELL * side for side in latents.shape[-2:])))
        hints = torch.stack(shown).to(latents)
        down, middle = self.net(latents, timestep, context, hints, self.strength, return_dict=False)
        return Residuals(tuple(down), middle)


def load_controlnet(path: str | Path, unet: Any, *, device: torch.device, dtype: torch.dtype) -> Any:
    """The ControlNet at a path, for a diffusers UNet, frozen.

    Args: path: a .safetensors file or a diffusers folder.
    Raises: InputError: no such file, a pickle, a damaged file, another kind of model, or one of another family.
    """
    place = Path(path).expanduser()
    own: dict[str, Any] = {}
    if place.is_dir():
        own = read_json(place / "config.json")
        kind = own.get("_class_name", CLASS)
        if kind != CLASS:
            raise InputError(f"{place}: expected a {CLASS}, got a {kind}; choose a ControlNet's folder.")
        weights = open_component(place, "diffusion_pytorch_model")
    else:
        weights = open_weights(place)
    _refuse_others(weights)
    config = {name: unet.config[name] for name in _SHARED if name in unet.config}
    config |= {name: own[name] for name in _OWN if name in own}
    net = build_on_meta(CLASS, config, place)
    sources = {name: _source(name, weights, config["layers_per_block"]) for name in net.state_dict()}
    fill_module(net, sources, weights, what="ControlNet", names=weights.shapes, device=device, dtype=dtype)
    return net


def _refuse_others(weights: Weights) -> None:
    keys = weights.shapes

    def has(*parts: str) -> bool:
        return any(part in key for key in keys for part in parts)

    hint = has("input_hint_block.", "controlnet_cond_embedding.")
    kinds = {
        "a LoRA or a ControlLoRA": has("lora_down", "lora_up", ".lora_A", "lora_controlnet"),
        "a whole checkpoint": has(single_file.UNET_PREFIX),
        "a ControlNet of SDXL": has("label_emb.", "add_embedding."),
        "a ControlNet of FLUX or SD3": has("double_blocks.", "controlnet_blocks.", "transformer_blocks.0.norm1.linear"),
        "a ControlNet of a video model": has("motion_modules", "temporal"),
        "an IP adapter": has("ip_adapter.", "image_proj."),
        "a T2I adapter": any(key.startswith(("body.", "adapter.")) for key in keys),
        "a UNet": not hint and has("conv_norm_out.", "output_blocks.") and has("time_emb"),
        "a VAE": not hint and has("decoder."),
    }
    kind = next((kind for kind, found in kinds.items() if found), "")
    if kind or not hint:
        raise InputError(
            f"{weights.path}: expected a ControlNet of Stable Diffusion 1.5 or 2.1, got {kind or 'another model'}; "
            "choose another file."
        )


def _source(name: str, weights: Weights, layers: int) -> Source:
    """Where a file keeps a parameter that diffusers calls `name`."""
    if name in weights.shapes:
        return Source(name)
    prefix = PREFIX if any(key.startswith(PREFIX) for key in weights.shapes) else ""
    return Source(prefix + _original_name(name, layers))


def _original_name(name: str, layers: int) -> str:
    """The name in the original layout, without its prefix.

    By hand: "controlnet_down_blocks.3.weight" -> "zero_convs.3.0.weight"; "controlnet_cond_embedding.blocks.1.bias" ->
    "input_hint_block.4.bias".
    """
    module, _, kind = name.rpartition(".")
    if module.startswith("controlnet_down_blocks."):
        return f"zero_convs.{module.rpartition('.')[2]}.0.{kind}"
    if module == "controlnet_mid_block":
        return f"middle_block_out.0.{kind}"
    if module.startswith(_HINT_BLOCK):
        part = module.removeprefix(_HINT_BLOCK)
        places = {"conv_in": 0, "conv_out": 14}  # with an activation after each convolution
        place = places[part] if part in places else 2 * int(part.rpartition(".")[2]) + 2
        return f"input_hint_block.{place}.{kind}"
    return single_file.unet_source(name, layers, ()).key.removeprefix(single_file.UNET_PREFIX)
