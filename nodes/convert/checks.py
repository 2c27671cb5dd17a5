"""What several nodes check of their sockets; each refusal names the socket, and what to connect or choose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from ...zero2hero_core.checks import InputError, Zero2HeroError
from .pictures import to_core

# Entries of a CONDITIONING that change what the host's samplers do, and that neither stage has a place for.
_UNUSED_PARTS = {
    "control": "a ControlNet",
    "hooks": "hooks",
    "gligen": "GLIGEN",
    "area": "an area",
    "mask": "a mask",
    "attention_mask": "an attention mask",
    "reference_latents": "reference latents",
    "concat_latent_image": "an inpainting picture",
}
_VAE = "connect the VAE that belongs to the MODEL (of the same checkpoint; ae.safetensors for FLUX.1)"


@contextmanager
def socket_words(names: Mapping[str, str]) -> Iterator[None]:
    """Within the block, errors of the core call its settings what the node calls them. names: setting -> widget."""
    try:
        yield
    except Zero2HeroError as error:
        raise type(error)(error.worded(lambda name: names.get(name, name))) from error


def check_choice(socket: str, value: object, options: Iterable[str]) -> None:
    """Raise `InputError` unless a Combo has one of its options: 0.3.64 does not look when a graph comes by its API."""
    names = list(options)
    if value not in names:
        raise InputError(f"{socket}: expected one of {', '.join(names)}, got {value!r}; choose one of them.")


def check_anchor(index: int, count: int) -> None:
    """Raise `InputError` unless the anchor is one of `count` frames."""
    if not 0 <= index < count:
        raise InputError(
            f"anchor_index: expected 0 to {count - 1} (frames has {count} pictures), got {index}; connect "
            "anchor_index of VideoLoad."
        )


def read_reference(reference: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    """The edited anchor (3, H, W) of an IMAGE. Raises: InputError unless it is one picture of the frames' size."""
    picture, (height, width) = to_core(reference, "reference"), size_hw
    if len(picture) != 1 or tuple(picture.shape[-2:]) != (height, width):
        raise InputError(
            f"reference: expected one picture of {width} x {height} pixels like the frames, got {len(picture)} of "
            f"{picture.shape[-1]} x {picture.shape[-2]}; connect the edited anchor frame, resized without cropping."
        )
    return picture[0]


def check_vae(vae: Any, model: Any) -> None:
    """Raise `InputError` unless the VAE's latents are what the MODEL works on."""
    expected, actual = model.model.latent_format.latent_channels, getattr(vae, "latent_channels", None)
    if actual != expected:
        raise InputError(f"vae: expected a VAE with {expected} latent channels for this MODEL, got {actual}; {_VAE}.")
    dimensions = getattr(vae, "latent_dim", 2)
    if dimensions != 2:
        made_for = {1: "sound", 3: "video"}.get(dimensions, f"{dimensions} dimensions")
        raise InputError(f"vae: expected a VAE for pictures, got one for {made_for}; {_VAE}.")


def unused_parts(extras: Mapping[str, Any]) -> list[str]:
    """What stands beside the text of a CONDITIONING's entry and has no effect on either stage, in words."""
    return [text for name, text in _UNUSED_PARTS.items() if extras.get(name) is not None]
