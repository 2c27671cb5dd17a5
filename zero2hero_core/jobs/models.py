"""Which model a job works with, and loading it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..backbones.flux.dit import DiTBackbone
from ..backbones.sd.unet import UNetBackbone
from ..checks import InputError, setting


@dataclass(frozen=True)
class SDModel:
    """A model for Zero-Stage: the bundled tiny one, or a path or hub name of Stable Diffusion 1.5 or 2.1.

    device, dtype: "auto" chooses. prediction_type, empty_embedding, tokenizer: what the files do not tell.
    """

    tiny: bool = False
    model: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    prediction_type: str = "auto"
    empty_embedding: str | None = None
    tokenizer: str | None = None


@dataclass(frozen=True)
class DiTModel:
    """A model for Hero-Stage: the bundled tiny one, or a path or hub name of the FLUX family.

    weights: how the transformer is stored (bf16, fp8, nf4). vae: for a transformer in a single file. text_embedding: a
    stored prompt embedding, else `hero_prompt` is encoded.
    """

    tiny: bool = False
    model: str | None = None
    device: str = "auto"
    dtype: str | None = None
    weights: str | None = None
    vae: str | None = None
    text_embedding: str | None = None
    hero_prompt: str = ""


def load_unet(request: SDModel, prompt: str = "") -> UNetBackbone:
    """The model on its device. prompt: what will be encoded; the text encoder is kept for it.

    Raises: InputError for a file that is no such model, or a setting that the tiny model has no use for.
    """
    if request.tiny:
        from ..tiny import unet

        if request.dtype not in ("auto", "float32"):
            raise InputError(
                f"{setting('dtype')}: the tiny models compute in float32, got {request.dtype}; leave it out."
            )
        for name in ("prediction_type", "empty_embedding", "tokenizer"):
            if getattr(request, name) not in (None, "auto"):
                raise InputError(
                    f"{setting(name)}: the tiny models need none; leave it out or give {setting('model')}."
                )
        return unet.load_tiny(device=pick_device(request.device))
    from ..backbones.sd.loading import load_backbone

    return load_backbone(
        _named(request.model),
        request.device,
        request.dtype,
        prediction_type=request.prediction_type,
        empty_embedding=request.empty_embedding,
        tokenizer=request.tokenizer,
        keep_text_encoder=bool(prompt),
    )


def load_dit(request: DiTModel) -> DiTBackbone:
    """The model on its device. Raises: as `load_unet`."""
    if request.tiny:
        from ..tiny import dit

        for name in ("dtype", "weights", "vae", "text_embedding", "hero_prompt"):
            if getattr(request, name):
                raise InputError(f"{setting(name)}: the tiny DiT takes none; leave it out or give {setting('model')}.")
        return dit.load_tiny_dit(device=pick_device(request.device))
    from ..backbones.flux import loading

    return loading.load_dit(
        _named(request.model),
        device=request.device,
        dtype=request.dtype,
        weights=request.weights,
        prompt=request.hero_prompt,
        text=request.text_embedding,
        vae=request.vae,
    )


def _named(model: str | None) -> str:
    if model is None:
        raise InputError(f"{setting('model')}: expected a path, or {setting('tiny')} for the bundled one, got neither.")
    return model


def pick_device(name: str) -> torch.device:
    """The device of a name; "auto" is CUDA where there is one. Raises: InputError for one that is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"{setting('device')}: expected auto, cpu, mps, cuda or cuda:N present here, got '{name}'."
        ) from error
