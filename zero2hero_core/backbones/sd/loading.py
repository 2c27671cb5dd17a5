"""Load Stable Diffusion 1.5 / 2.1 weights from a diffusers folder or from one .safetensors file.

Nothing here reaches the network, with one exception that has to be asked for: a path written "hub:owner/name" is
fetched from the Hugging Face hub, or found in its cache. Everything is checked before it is used: see `load_parts` for
what is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...checks import InputError
from ...diffusion.ddim import stable_diffusion_alphas
from ..meta_device import build_on_meta
from ..sources import check_device_and_dtype, find_model
from ..weights import fill_module, open_weights
from . import single_file, text
from .folder import PREDICTION_TYPES, check_pipeline, load_component, read_scheduler

if TYPE_CHECKING:
    from .unet import UNetBackbone

EMBEDDING_FILE = "empty_embedding.safetensors"
_WIDTHS = (320, 640, 1280, 1280)
_HUB_FILES = (
    "model_index.json",
    "*/*.json",
    "*/merges.txt",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model-*.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
    EMBEDDING_FILE,
)


@dataclass(frozen=True)
class SDParts:
    """The loaded pieces of a Stable Diffusion model, frozen, in evaluation mode, on one device and in one dtype.

    Attributes:
        name: file or folder name, for reports.
        family: "sd15", "sd21", or "custom" for any other width.
        unet: a `UNet2DConditionModel`.
        vae: an `AutoencoderKL`.
        prediction_type: "epsilon" or "v_prediction".
        alphas_cumprod: (1000,) float32 on the CPU, decreasing in (0, 1).
        scaling_factor: latents for the UNet = VAE latents x this.
        prompt_encoder: None without a text encoder.
        empty_embedding: (1, L, D) context of the empty prompt, None without text encoder and without a stored one.
    """

    name: str
    family: str
    unet: Any
    vae: Any
    prediction_type: str
    alphas_cumprod: torch.Tensor
    scaling_factor: float
    prompt_encoder: text.PromptEncoder | None
    empty_embedding: torch.Tensor | None


@dataclass(frozen=True)
class _Options:
    device: torch.device
    dtype: torch.dtype
    prediction_type: str
    tokenizer: Path | None


def load_backbone(
    path: str | Path, device: str | torch.device = "auto", dtype: str | torch.dtype = "auto", **options: Any
) -> UNetBackbone:
    """Return the backbone made of the weights at `path`; arguments and errors are those of `load_parts`.

    Raises:
        InputError: also when there is no context for the empty prompt.
    """
    from .unet import UNetBackbone

    parts = load_parts(path, device=device, dtype=dtype, **options)
    if parts.empty_embedding is None:
        raise InputError(
            f"{path}: expected a text encoder or a stored empty-prompt embedding, found neither; "
            "give empty_embedding, a .safetensors file with one tensor (1, tokens, width)."
        )
    return UNetBackbone(
        parts.unet,
        parts.vae,
        prediction_type=parts.prediction_type,
        alphas_cumprod=parts.alphas_cumprod,
        empty_embedding=parts.empty_embedding,
        scaling_factor=parts.scaling_factor,
        prompt_encoder=parts.prompt_encoder,
        name=parts.name,
    )


def load_parts(
    path: str | Path,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    prediction_type: str = "auto",
    empty_embedding: str | Path | None = None,
    tokenizer: str | Path | None = None,
    keep_text_encoder: bool = True,
) -> SDParts:
    """Return the pieces of the SD 1.x / 2.x model at `path`.

    Args:
        path: a diffusers folder, a .safetensors file in the original layout, or "hub:owner/name[@revision]".
        device: "auto" takes CUDA, then MPS, then the CPU.
        dtype: float32, float16 or bfloat16; "auto" takes float32 on the CPU and float16 elsewhere. float16
            on the CPU is refused.
        prediction_type: "epsilon" or "v_prediction"; "auto" asks the folder's scheduler, or for a single file
            `single_file.guess_prediction_type`.
        empty_embedding: file with the context of the empty prompt; else it is computed with the text encoder, or taken
            from "empty_embedding.safetensors" in the folder.
        tokenizer: folder of a CLIP tokenizer, for prompts with a single file; else the folder's own.
        keep_text_encoder: False drops the text encoder once the empty prompt is encoded.

    Raises:
        InputError: no such file; a pickle; truncated or corrupt files; SDXL, SD3, FLUX, a LoRA, a ControlNet, a VAE
            alone, UNets with extra inputs, other pipelines; missing, unexpected or misshapen tensors; NaN or infinity;
            unknown option values.
        Zero2HeroError: the download failed or the device is out of memory.
    """
    options = _Options(
        *check_device_and_dtype(device, dtype),
        _check_prediction_type(prediction_type),
        None if tokenizer is None else Path(tokenizer),
    )
    source = find_model(path, _HUB_FILES)
    parts = _load_folder(source, options) if source.is_dir() else _load_single_file(source, options)
    unet, vae, prediction, alphas_cumprod, encoder = parts
    file = source / EMBEDDING_FILE if empty_embedding is None else Path(empty_embedding)
    context = None
    if empty_embedding is not None or (encoder is None and file.is_file()):
        context = text.read_empty_embedding(file, device=options.device, dtype=options.dtype)
    elif encoder is not None:
        context = encoder.encode("")
    _check_fit(source, unet, vae, context)
    return SDParts(
        name=source.stem if source.is_file() else source.name,
        family=_family(unet.config),
        unet=unet,
        vae=vae,
        prediction_type=prediction,
        alphas_cumprod=alphas_cumprod,
        scaling_factor=float(vae.config["scaling_factor"]),
        prompt_encoder=encoder if keep_text_encoder else None,
        empty_embedding=context,
    )


_Parts = tuple[Any, Any, str, torch.Tensor, "text.PromptEncoder | None"]


def _load_single_file(path: Path, options: _Options) -> _Parts:
    place: dict[str, Any] = {"device": options.device, "dtype": options.dtype}
    weights = open_weights(path)
    single_file.refuse_other_families(weights)
    config, vae_config = single_file.unet_config(weights), single_file.vae_config(weights)
    prediction = options.prediction_type
    if prediction == "auto":
        prediction = single_file.guess_prediction_type(weights, config)
    unet = build_on_meta("UNet2DConditionModel", config, path)
    vae = build_on_meta("AutoencoderKL", vae_config, path)
    cross_attention = tuple(kind.startswith("CrossAttn") for kind in config["up_block_types"])
    layers, levels = config["layers_per_block"], len(vae_config["block_out_channels"])
    unet_sources = {name: single_file.unet_source(name, layers, cross_attention) for name in unet.state_dict()}
    vae_sources = {name: single_file.vae_source(name, levels) for name in vae.state_dict()}
    unet_keys = weights.under(single_file.UNET_PREFIX)
    vae_keys = [key for key in weights.under(single_file.VAE_PREFIX) if not key.startswith(single_file.VAE_TRAINING)]
    fill_module(unet, unet_sources, weights, what="UNet", names=unet_keys, **place)
    fill_module(vae, vae_sources, weights, what="VAE", names=vae_keys, **place)
    encoder = text.text_encoder_in_file(weights, **place)
    if encoder is not None and options.tokenizer is not None:
        encoder.tokenizer = text.load_tokenizer(options.tokenizer)
    return unet, vae, prediction, stable_diffusion_alphas(), encoder


def _load_folder(folder: Path, options: _Options) -> _Parts:
    place: dict[str, Any] = {"device": options.device, "dtype": options.dtype}
    check_pipeline(folder)
    prediction, alphas_cumprod = read_scheduler(folder, options.prediction_type)
    unet = load_component(folder / "unet", "UNet2DConditionModel", **place)
    vae = load_component(folder / "vae", "AutoencoderKL", **place)
    encoder = None
    if (folder / "text_encoder").is_dir():
        own = folder / "tokenizer"
        tokenizer = options.tokenizer or (own if own.is_dir() else None)
        encoder = text.text_encoder_in_folder(folder / "text_encoder", tokenizer, **place)
    return unet, vae, prediction, alphas_cumprod, encoder


def _check_fit(source: Path, unet: Any, vae: Any, context: torch.Tensor | None) -> None:
    latents, channels = vae.config["latent_channels"], unet.config["in_channels"]
    if latents != channels:
        raise InputError(f"{source}: UNet and VAE do not belong together: {channels} and {latents} latent channels.")
    width = unet.config["cross_attention_dim"]
    if context is not None and context.shape[-1] != width:
        raise InputError(
            f"{source}: expected a text context of width {width} for this UNet, got {context.shape[-1]}; "
            "take the text encoder or the stored embedding of the same family."
        )


def _family(config: Any) -> str:
    if tuple(config["block_out_channels"]) != _WIDTHS:
        return "custom"
    return {768: "sd15", 1024: "sd21"}.get(config["cross_attention_dim"], "custom")


def _check_prediction_type(prediction_type: str) -> str:
    if prediction_type not in ("auto", *PREDICTION_TYPES):
        raise InputError(f"prediction_type: expected auto, {' or '.join(PREDICTION_TYPES)}, got '{prediction_type}'.")
    return prediction_type
