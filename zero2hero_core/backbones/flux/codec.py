"""Pictures <-> packed latents of FLUX.2, and an autoencoder that is on the device only while it works.

FLUX.1 uses `PlainCodec` of dit.py: shift and scale, then 2 x 2 packing. FLUX.2 packs first, then normalises each of the
packed channels by the running statistics of a batch norm that the autoencoder carries.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from ...attention.conditions import pack_latents, unpack_latents
from ...checks import InputError, ShapeError, check_images
from ..meta_device import build_on_meta
from ..sd import single_file
from ..weights import Source, Weights, fill_module, open_component, open_weights, read_json
from .dit import PlainCodec

VAES = {False: "AutoencoderKL", True: "AutoencoderKLFlux2"}
# The original file of FLUX.1's autoencoder says neither.
SCALING_FACTOR, SHIFT_FACTOR = 0.3611, 0.1159


class Flux2Codec:
    """Codec over an `AutoencoderKLFlux2`.

    Args:
        vae: the autoencoder, with the batch norm `bn` over packed channels.

    Raises: InputError when it has no such statistics, or ones that are not usable.
    """

    def __init__(self, vae: Any):
        self.vae = vae
        norm = getattr(vae, "bn", None)
        mean, variance = getattr(norm, "running_mean", None), getattr(norm, "running_var", None)
        if mean is None or variance is None:
            raise InputError(
                f"FLUX.2 codec: expected an AutoencoderKLFlux2 with batch-norm statistics, got {type(vae).__name__}; "
                "take the vae folder of a FLUX.2 model."
            )
        spread = variance.float() + vae.config.batch_norm_eps
        if not (torch.isfinite(mean).all() and torch.isfinite(spread).all() and (spread > 0).all()):
            raise InputError("FLUX.2 codec: expected finite statistics with positive variance; the VAE is damaged.")
        self._mean = mean.float().view(1, -1, 1, 1).cpu()
        self._std = spread.sqrt().view(1, -1, 1, 1).cpu()
        self._multiple = 2 * 2 ** (len(vae.config.block_out_channels) - 1)

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Most likely latents of images (N, 3, H, W) in [0, 1], packed and normalised: (N, 4C, H/16, W/16), float32.

        Raises: ShapeError unless height and width are multiples of the grid, 16 pixels.
        """
        check_images("images", images)
        if any(size % self._multiple for size in images.shape[-2:]):
            raise ShapeError(
                f"images: expected height and width that are multiples of {self._multiple}, got "
                f"{images.shape[-2]} x {images.shape[-1]}; resize them."
            )
        weight = next(self.vae.parameters())
        latents: torch.Tensor = self.vae.encode(images.to(weight) * 2 - 1).latent_dist.mode().float()
        packed: torch.Tensor = (pack_latents(latents) - self._mean.to(latents.device)) / self._std.to(latents.device)
        return packed

    @torch.no_grad()
    def decode(self, packed: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) in [0, 1], float32, of packed latents (N, 4C, h, w)."""
        weight = next(self.vae.parameters())
        packed = packed.to(weight.device, torch.float32)
        latents = unpack_latents(packed * self._std.to(packed.device) + self._mean.to(packed.device))
        images: torch.Tensor = self.vae.decode(latents.to(weight)).sample.float()
        return (images / 2 + 0.5).clamp(0, 1)


class _HoldsVae(Protocol):
    vae: Any

    def encode(self, images: torch.Tensor) -> torch.Tensor: ...

    def decode(self, packed: torch.Tensor) -> torch.Tensor: ...


class ParkedCodec:
    """A codec whose autoencoder waits on the CPU and is on the device only during a call.

    Results are on the device. Training calls it a few times before the first step, restoring once per batch of frames;
    the autoencoder of FLUX is 0.2 GB in bf16.

    Args:
        codec: `PlainCodec` or `Flux2Codec`.
        device: where it works.
    """

    def __init__(self, codec: _HoldsVae, device: str | torch.device):
        self.codec, self.device = codec, torch.device(device)
        self.release()

    @property
    def vae(self) -> Any:
        """The autoencoder."""
        return self.codec.vae

    def release(self) -> None:
        """Take the autoencoder off the device."""
        self.codec.vae.to("cpu")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        self.codec.vae.to(self.device)
        try:
            yield
        finally:
            self.release()

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """As the codec's."""
        with self._at_work():
            return self.codec.encode(images)

    def decode(self, packed: torch.Tensor) -> torch.Tensor:
        """As the codec's."""
        with self._at_work():
            return self.codec.decode(packed)


def load_codec(place: Path, flux2: bool, channels: int, dtype: torch.dtype) -> PlainCodec | Flux2Codec:
    """Return the codec over the autoencoder at `place`, a folder or a .safetensors file, on the CPU.

    Args:
        channels: of the transformer's packed latents.

    Raises: InputError when it is missing, damaged, of another family, or does not fit the transformer.
    """
    if not place.exists():
        raise InputError(f"{place}: no such autoencoder; complete the model folder, or give vae.")
    module, weights, sources = _vae_folder(place, flux2) if place.is_dir() else _vae_file(place, flux2)
    latents = 4 * int(module.config["latent_channels"])
    if latents != channels:
        raise InputError(
            f"{place}: transformer and VAE do not belong together: {channels} and {latents} packed latent channels."
        )
    counter = "bn.num_batches_tracked"  # whole numbers, of use in the VAE's own training only; torch sets it to 0
    sources.pop(counter, None)
    names = set(weights.shapes) - {counter}
    fill_module(module, sources, weights, what="VAE", names=names, device=torch.device("cpu"), dtype=dtype)
    if flux2:
        for name in ("running_mean", "running_var"):  # in full precision, whatever the rest is
            setattr(module.bn, name, weights.read(f"bn.{name}").float())
        return Flux2Codec(module)
    return PlainCodec(
        module, scaling_factor=module.config["scaling_factor"], shift_factor=module.config["shift_factor"]
    )


_VaeParts = tuple[Any, Weights, dict[str, Source]]


def _vae_folder(folder: Path, flux2: bool) -> _VaeParts:
    settings = read_json(folder / "config.json")
    if settings.get("_class_name") != VAES[flux2]:
        raise InputError(
            f"{folder}: expected an {VAES[flux2]}, got {settings.get('_class_name')}; "
            f"take the VAE of FLUX.{2 if flux2 else 1}."
        )
    weights = open_component(folder, "diffusion_pytorch_model")
    module = build_on_meta(VAES[flux2], settings, folder)
    factors = [] if flux2 else [module.config["scaling_factor"], module.config["shift_factor"]]
    if not all(isinstance(factor, (int, float)) for factor in factors):
        raise InputError(f"{folder}: expected scaling_factor and shift_factor of FLUX.1 in config.json, got {factors}.")
    return module, weights, {name: Source(name) for name in module.state_dict()}


def _vae_file(path: Path, flux2: bool) -> _VaeParts:
    """The autoencoder of FLUX.1 in the original layout ("ae.safetensors"), which is Stable Diffusion's but a prefix."""
    weights = open_weights(path)
    if flux2 or "encoder.down.0.block.0.conv1.weight" not in weights.shapes:
        remedy = "the vae folder of the FLUX.2 model" if flux2 else "FLUX.1's ae.safetensors or its vae folder"
        raise InputError(f"{path}: expected {remedy}, got another file.")
    prefix = single_file.VAE_PREFIX
    settings = single_file.vae_config(replace(weights, shapes={prefix + k: v for k, v in weights.shapes.items()}))
    module = build_on_meta(
        VAES[False], {**settings, "scaling_factor": SCALING_FACTOR, "shift_factor": SHIFT_FACTOR}, path
    )
    levels = len(settings["block_out_channels"])
    names = {name: single_file.vae_source(name, levels).key.removeprefix(prefix) for name in module.state_dict()}
    return module, weights, {name: Source(key) for name, key in names.items()}
