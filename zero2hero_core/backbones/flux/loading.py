"""Load FLUX.1 and FLUX.2-klein weights into a `DiTBackbone`.

From a diffusers folder, or from a transformer in one .safetensors file with its autoencoder beside it. Nothing reaches
the network but a path written "hub:owner/name". Parts are loaded one after the other (text encoders, autoencoder,
transformer), so that the largest is never together with the next, and weights stored small go to the device layer by
layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...checks import InputError
from ..meta_device import build_on_meta
from ..sources import check_device_and_dtype, find_model
from ..weights import Weights, open_component, open_weights, read_json
from .codec import Flux2Codec, ParkedCodec, load_codec
from .dit import FLUX1, FLUX2, DiTBackbone, PlainCodec, TextEmbedding
from .precision import check_weights, store_weights
from .single_file import fill_transformer, infer_config, locate_transformer
from .text import TEXT_FILE, encode_prompt, read_text

TRANSFORMERS = {"FluxTransformer2DModel": False, "Flux2Transformer2DModel": True}  # class -> FLUX.2
PIPELINES = ("FluxPipeline", "FluxImg2ImgPipeline", "FluxKontextPipeline", "Flux2Pipeline", "Flux2KleinPipeline")
_HUB_FILES = (
    "model_index.json",
    "*/*.json",
    "*/*.jinja",
    "*/*.txt",
    "*/*.model",
    "transformer/*.safetensors",
    "vae/*.safetensors",
    "text_encoder*/*.safetensors",
    TEXT_FILE,
)


def load_dit(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    weights: str | None = None,
    prompt: str = "",
    text: str | Path | TextEmbedding | None = None,
    vae: str | Path | None = None,
    config: str | Path | None = None,
    park_vae: bool = True,
) -> DiTBackbone:
    """Return the backbone made of the weights at `path`, frozen, ready for pictures and for LoRA.

    Args:
        path: a diffusers folder, a .safetensors file with a transformer (diffusers' or the original names), or
            "hub:owner/name[@revision]".
        device: "auto" takes CUDA, then MPS, then the CPU.
        dtype: what is computed in, float32, bfloat16 or float16; None is bfloat16, on the CPU float32.
        weights: how the transformer's weights are stored, see `dit_precision`; None keeps them in `dtype`.
        prompt: encoded once; the encoders are released.
        text: a stored embedding in place of the encoders; None looks for "text_embedding.safetensors" in the folder or
            beside the file, if it is of this prompt, before it asks the folder's encoders.
        vae: folder or .safetensors file of the autoencoder; None takes the folder's own.
        config: the transformer's config.json, for a single file whose heads are not 128 channels wide.
        park_vae: keep the autoencoder off the device except while it works.

    Raises:
        InputError: missing parts, by name; truncated, damaged or quantised files; other classes and families; parts
            that do not fit each other; no text embedding and no encoders; unknown option values.
        Zero2HeroError: the download failed, or a device has too little memory.
    """
    import diffusers

    place, kind = _check_options(device, dtype, weights)
    source = find_model(path, _HUB_FILES)
    origin, settings, class_name = _describe_folder(source) if source.is_dir() else _describe_file(source, config)
    flux2 = TRANSFORMERS[class_name]
    if not hasattr(diffusers, class_name):
        raise InputError(f"{source}: this diffusers has no {class_name}; install a newer one (0.37 or later).")
    transformer = build_on_meta(class_name, settings, source)
    channels = int(transformer.config["in_channels"])
    if transformer.config["out_channels"] not in (None, channels):
        raise InputError(
            f"{source}: expected a text-to-image transformer, got one with {channels} input and "
            f"{transformer.config['out_channels']} output channels (inpainting or control); choose another model."
        )
    codec = load_codec(_vae_place(source, vae), flux2, channels, torch.float32 if kind is torch.float16 else kind)
    embedding = _find_text(source, text, prompt, flux2, place, kind)
    _check_text(source, embedding, transformer.config, flux2)
    _load_transformer(transformer, origin, place, kind, weights)
    return DiTBackbone(
        transformer,
        FLUX2 if flux2 else FLUX1,
        codec=ParkedCodec(codec, place) if park_vae and place.type != "cpu" else _on_device(codec, place),
        text=replace(
            embedding, tokens=embedding.tokens.to(place), pooled=None if flux2 else _move(embedding.pooled, place)
        ),
        name=source.stem if source.is_file() else source.name,
    )


_Origin = tuple[Weights, str, bool]  # weights, prefix of the names, original layout


def _check_options(
    device: str | torch.device, dtype: str | torch.dtype | None, weights: str | None
) -> tuple[torch.device, torch.dtype]:
    place, _ = check_device_and_dtype(device, "float32")
    if dtype is None:
        dtype = "float32" if place.type == "cpu" and weights != "bf16" else "bfloat16"
    place, kind = check_device_and_dtype(place, dtype)
    if weights is not None:
        check_weights(weights, place)
    if weights == "bf16" and kind is not torch.bfloat16:
        raise InputError(f"weights bf16: computes in bfloat16, got dtype {dtype}; leave one of the two out.")
    return place, kind


def _describe_folder(folder: Path) -> tuple[_Origin, Mapping[str, Any], str]:
    """What a diffusers folder holds: weights, configuration and class of its transformer."""
    if (folder / "model_index.json").is_file():
        pipeline = str(read_json(folder / "model_index.json").get("_class_name"))
        if pipeline not in PIPELINES:
            raise InputError(f"{folder}: expected a FLUX.1 or FLUX.2 model, got a {pipeline}; choose another folder.")
    own = folder / "transformer"
    if not own.is_dir():
        raise InputError(
            f"{folder}: expected a diffusers folder with transformer/ and vae/, found no transformer/; "
            "complete it, or give a .safetensors file of the transformer."
        )
    settings = read_json(own / "config.json")
    return (open_component(own, "diffusion_pytorch_model"), "", False), settings, _class_of(own, settings)


def _describe_file(path: Path, config: str | Path | None) -> tuple[_Origin, Mapping[str, Any], str]:
    """The same for a single file."""
    weights = open_weights(path)
    prefix, original, flux2 = locate_transformer(weights)
    class_name = next(name for name, second in TRANSFORMERS.items() if second == flux2)
    if config is None:
        return (weights, prefix, original), infer_config(weights, prefix, original, flux2), class_name
    settings = read_json(Path(config))
    if _class_of(Path(config), settings) != class_name:
        raise InputError(f"{config}: is of a {settings['_class_name']}, but {path} holds a {class_name}.")
    return (weights, prefix, original), settings, class_name


def _class_of(where: Path, settings: Mapping[str, Any]) -> str:
    name = str(settings.get("_class_name"))
    if name not in TRANSFORMERS:
        raise InputError(f"{where}: expected {' or '.join(TRANSFORMERS)}, got {name}; choose a FLUX.1 or FLUX.2 model.")
    return name


def _load_transformer(
    transformer: Any, origin: _Origin, device: torch.device, dtype: torch.dtype, weights: str | None
) -> None:
    file, prefix, original = origin
    # Weights that shrink stay in the file's memory map until their layer's turn comes.
    first = device if weights in (None, "bf16") else torch.device("cpu")
    fill_transformer(transformer, file, prefix, original, device=first, dtype=dtype)
    if weights is not None:
        store_weights(transformer, weights, device)


def _vae_place(source: Path, vae: str | Path | None) -> Path:
    if vae is None and source.is_file():
        raise InputError(f"{source}: holds a transformer only; give vae, the folder or file of its autoencoder.")
    place = source if vae is None else Path(vae).expanduser()
    return place / "vae" if vae is None or (place / "vae").is_dir() else place


def _on_device(codec: PlainCodec | Flux2Codec, device: torch.device) -> PlainCodec | Flux2Codec:
    codec.vae.to(device)
    return codec


def _find_text(
    source: Path,
    embedding: str | Path | TextEmbedding | None,
    prompt: str,
    flux2: bool,
    device: torch.device,
    dtype: torch.dtype,
) -> TextEmbedding:
    if isinstance(embedding, TextEmbedding):
        return embedding
    if embedding is not None:
        return read_text(embedding, prompt or None)
    beside = (source if source.is_dir() else source.parent) / TEXT_FILE
    has_encoders = source.is_dir() and (source / "text_encoder").is_dir()
    if beside.is_file() and (not has_encoders or open_weights(beside).metadata.get("prompt", "") == prompt):
        return read_text(beside, prompt)
    if not has_encoders:
        raise InputError(
            f"{source}: expected text encoders or a stored text embedding, found neither. Either give a folder with "
            f"text_encoder/ and its tokenizer, or give text, a .safetensors file with the tensors tokens and (FLUX.1) "
            f"pooled; one named {TEXT_FILE} is found by itself."
        )
    return encode_prompt(source, flux2=flux2, prompt=prompt, device=device, dtype=dtype)


def _check_text(source: Path, text: TextEmbedding, config: Mapping[str, Any], flux2: bool) -> None:
    width = int(config["joint_attention_dim"])
    if text.tokens.shape[-1] != width:
        raise InputError(
            f"{source}: expected text tokens of width {width} for this transformer, got {text.tokens.shape[-1]}; "
            "take the encoders or the stored embedding of the same model."
        )
    if flux2:
        return
    pooled = None if text.pooled is None else text.pooled.shape[-1]
    if pooled != int(config["pooled_projection_dim"]):
        raise InputError(
            f"{source}: expected a pooled text vector of width {config['pooled_projection_dim']} beside the tokens, "
            f"got {pooled or 'none'}; take the encoders or the stored embedding of FLUX.1."
        )


def _move(tensor: torch.Tensor | None, device: torch.device) -> torch.Tensor | None:
    return None if tensor is None else tensor.to(device)
