"""Read the parts of an SD 1.x / 2.x model in the diffusers folder layout: model_index.json, scheduler, UNet, VAE.

Configurations and weights are read as plain files, so nothing can start a download.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...checks import InputError
from ...diffusion.ddim import stable_diffusion_alphas
from ..meta_device import build_on_meta
from ..weights import Source, Weights, fill_module, open_component, read_json
from .single_file import describe_channels

PREDICTION_TYPES = ("epsilon", "v_prediction")
PIPELINES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
TRAIN_TIMESTEPS = 1000
# Attention of a VAE saved by diffusers before 0.17.
_OLD_VAE_NAMES = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}


def check_pipeline(folder: Path) -> None:
    """Raise `InputError` unless `folder` holds a Stable Diffusion pipeline; its model_index.json may be absent."""
    if (folder / "model_index.json").is_file():
        pipeline = read_json(folder / "model_index.json").get("_class_name")
        if pipeline not in PIPELINES:
            raise InputError(f"{folder}: expected a {PIPELINES[0]}, got a {pipeline}; choose an SD 1.5 or 2.1 folder.")
    for part in ("unet", "vae"):
        if not (folder / part).is_dir():
            raise InputError(
                f"{folder}: expected a diffusers folder with unet/ and vae/, found no {part}/; "
                "give such a folder or a .safetensors file."
            )


def read_scheduler(folder: Path, prediction_type: str) -> tuple[str, torch.Tensor]:
    """Return prediction type and signal variances (1000,) of a model folder.

    Args:
        folder: the model folder, with scheduler/scheduler_config.json.
        prediction_type: "auto" takes the scheduler's; with another value the scheduler may be absent, and the schedule
            of SD 1.x and 2.x is used.

    Raises:
        InputError: no scheduler and "auto", a prediction type other than epsilon or v, or see `alphas_cumprod_of`.
    """
    path = folder / "scheduler" / "scheduler_config.json"
    if not path.is_file() and prediction_type != "auto":
        return prediction_type, stable_diffusion_alphas()
    config = read_json(path)
    own_type = config.get("prediction_type", "epsilon")
    prediction = own_type if prediction_type == "auto" else prediction_type
    if prediction not in PREDICTION_TYPES:
        raise InputError(
            f"{path}: expected prediction_type {' or '.join(PREDICTION_TYPES)}, got {prediction}; choose another model."
        )
    return prediction, alphas_cumprod_of(config, str(path), prediction)


def alphas_cumprod_of(config: Mapping[str, Any], where: str, prediction_type: str) -> torch.Tensor:
    """Return the signal variance (1000,) of each training timestep that a diffusers scheduler configuration describes.

    With rescale_betas_zero_snr (arXiv 2305.08891, section 3.1) the last value is 2^-24 in place of 0: no division by 0.

    Args:
        config: values of scheduler_config.json; absent ones have diffusers' defaults.
        where: what messages call the configuration.
        prediction_type: "epsilon" or "v_prediction".

    Raises:
        InputError: other than 1000 steps; a schedule other than linear, scaled_linear or trained_betas; betas outside
            (0, 1); a zero terminal signal with epsilon prediction, which cannot be sampled.
    """
    alphas_cumprod = torch.cumprod(1 - _betas(config, where), dim=0)
    if config.get("rescale_betas_zero_snr"):
        if prediction_type == "epsilon":
            raise InputError(f"{where}: rescale_betas_zero_snr needs v prediction, got epsilon; correct the scheduler.")
        signal = alphas_cumprod.sqrt()
        signal = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
        alphas_cumprod = (signal**2).clamp_min(2.0**-24)
    return alphas_cumprod


def _betas(config: Mapping[str, Any], where: str) -> torch.Tensor:
    steps = config.get("num_train_timesteps", TRAIN_TIMESTEPS)
    betas, schedule = config.get("trained_betas"), config.get("beta_schedule", "linear")
    start, end = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
    steps = steps if betas is None else len(betas)
    if steps != TRAIN_TIMESTEPS:
        raise InputError(f"{where}: expected {TRAIN_TIMESTEPS} training timesteps, got {steps}; choose another model.")
    ends = (start, end) if betas is None else (min(betas), max(betas))
    if not all(isinstance(beta, (int, float)) and 0 < beta < 1 for beta in ends):
        raise InputError(f"{where}: expected betas in (0, 1), got {ends[0]} to {ends[1]}; correct the file.")
    if betas is not None:
        return torch.tensor(betas, dtype=torch.float32)
    if schedule == "linear":
        return torch.linspace(start, end, TRAIN_TIMESTEPS, dtype=torch.float32)
    if schedule == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, TRAIN_TIMESTEPS, dtype=torch.float32) ** 2
    raise InputError(f"{where}: expected beta_schedule linear or scaled_linear, got {schedule}; choose another model.")


def load_component(folder: Path, class_name: str, *, device: torch.device, dtype: torch.dtype) -> Any:
    """Return the UNet or VAE in one folder, frozen.

    Args:
        folder: MODEL/unet or MODEL/vae.
        class_name: "UNet2DConditionModel" or "AutoencoderKL".
        device, dtype: of its parameters.

    Raises:
        InputError: another class, another family, or weights that do not fit the configuration.
    """
    config = read_json(folder / "config.json")
    kind = config.get("_class_name", class_name)
    if kind != class_name:
        raise InputError(f"{folder}: expected a {class_name}, got a {kind}; choose an SD 1.5 or 2.1 folder.")
    if class_name == "AutoencoderKL":
        _check_vae(folder, config)
    else:
        _check_unet(folder, config)
    weights = open_component(folder, "diffusion_pytorch_model")
    module = build_on_meta(class_name, config, folder)
    sources = {name: Source(_stored_name(name, weights)) for name in module.state_dict()}
    fill_module(module, sources, weights, what=class_name, names=weights.shapes, device=device, dtype=dtype)
    return module


def _check_vae(folder: Path, config: Mapping[str, Any]) -> None:
    odd = [name for name in ("shift_factor", "latents_mean", "latents_std") if config.get(name) is not None]
    if odd:
        raise InputError(f"{folder}: expected the VAE of SD 1.5 or 2.1, got {', '.join(odd)}; choose another folder.")
    scaling = config.get("scaling_factor", 0.18215)
    if not isinstance(scaling, (int, float)) or not scaling > 0:
        raise InputError(f"{folder}: expected a positive scaling_factor, got {scaling}; correct config.json.")


def _check_unet(folder: Path, config: Mapping[str, Any]) -> None:
    in_channels, out_channels = config.get("in_channels", 4), config.get("out_channels", 4)
    if in_channels != out_channels:
        kind = describe_channels(in_channels, out_channels)
        raise InputError(f"{folder}: expected a text-to-image UNet, got {kind}; choose another folder.")
    odd = [name for name in _UNET_EXTRAS if config.get(name) is not None]
    if odd or not isinstance(config.get("cross_attention_dim", 1280), int):
        kind = (
            "SDXL" if config.get("addition_embed_type") == "text_time" else ", ".join(odd) or "several context widths"
        )
        raise InputError(f"{folder}: expected the UNet of SD 1.5 or 2.1, got one with {kind}; choose another folder.")


_UNET_EXTRAS = (
    "addition_embed_type",
    "class_embed_type",
    "num_class_embeds",
    "encoder_hid_dim_type",
    "time_cond_proj_dim",
)


def _stored_name(name: str, weights: Weights) -> str:
    if name in weights.shapes:
        return name
    old = name
    for new, former in _OLD_VAE_NAMES.items():
        old = old.replace(new, former)
    return old if old in weights.shapes else name
