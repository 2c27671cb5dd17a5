"""The work of the nodes that paint key frames: checks and sentences for the sockets, progress. The core paints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...zero2hero_core.checks import InputError
from ...zero2hero_core.guidance.pixel_target import PixelSettings
from ...zero2hero_core.guidance.settings import FrescoSettings, RerenderSettings
from ...zero2hero_core.jobs.clip import same_picture
from ...zero2hero_core.jobs.frame_numbers import read_frame_numbers
from ...zero2hero_core.jobs.guidance import FrescoWork, RerenderWork, encode_picture, guidance_part
from ..convert.checks import socket_words
from ..convert.pictures import mask_to_core, size_hw_of, to_core, to_host
from ..host.guidance_patches import Originals, parts_of, with_part, without_parts
from ..host.guided import HostDenoiser
from ..host.notes import Notes
from ..host.services import Progress, free_memory, io
from ..host.unet_checks import check_sides
from ..host.vae import HostVAE


@dataclass(frozen=True)
class Painted:
    """pictures: IMAGE (N, H, W, 3); latents: (N, C, h, w), as the host's LATENT holds them."""

    pictures: torch.Tensor
    latents: torch.Tensor
    notes: Notes


@dataclass(frozen=True)
class Keys:
    """The key frames of the sockets: images (N, 3, H, W), their numbers in the clip, the anchor's, and its edit (3, H,
    W) or None."""

    images: torch.Tensor
    numbers: tuple[int, ...]
    anchor: int
    edit: torch.Tensor | None

    @property
    def frames(self) -> dict[int, torch.Tensor]:
        """(3, H, W) by number."""
        return dict(zip(self.numbers, self.images, strict=True))


def paint_one_by_one(
    node: type[io.ComfyNode], native: tuple[Any, Any, Any, Any], frames: Any, edit: Any, widgets: Any
) -> Painted:
    """Rerender-A-Video on the keys. native: MODEL, VAE, positive, negative. Raises: InputError with the socket."""
    keys, notes = read_keys(frames, edit, widgets), Notes(node)
    if (carried := parts_of(native[0])) is not None:
        names = ", ".join(part.name for part in carried.parts)
        raise InputError(
            f"model: carries {names}, which is for KSampler and KeyFrameBatchSampler; this sampler has guidance of its "
            "own: connect the MODEL from before those nodes."
        )
    _say_no_ops(notes, keys)
    settings = _rerender_settings(widgets)
    denoiser = HostDenoiser(*native, guidance_scale=widgets["cfg"], frames=keys.numbers)
    check_sides("frames", keys.images, denoiser.multiple)
    bar: list[Progress] = []
    painting = RerenderWork(denoiser, settings, lambda: bar[0].step())
    bar.append(Progress(max(1, painting.steps(len(keys.numbers)))))
    latent_hw = denoiser.latent_hw(size_hw_of(keys.images))
    needed, free = painting.token_bytes(latent_hw, 1 if widgets["cfg"] == 1 else 2), free_memory("cpu")
    if needed > free:
        notes.warn(
            f"the tokens of earlier keys take up to {needed / 1e9:.1f} GB of main memory, and {free / 1e9:.1f} GB are "
            "free; take smaller frames or fewer steps."
        )

    def work() -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
        pictures, latents = {}, {}
        for number, picture, clean in painting.paint(keys.frames, keys.numbers, keys.anchor, keys.edit):
            pictures[number], latents[number] = picture, denoiser.vae_latents(clean).cpu()
            bar[0].step(0, picture)
        return pictures, latents

    with socket_words({"anchor": "anchor_index"}):
        pictures, latents = denoiser.sampling(work, latent_hw)
    return _in_order(keys, pictures, latents, notes)


def paint_in_batches(
    node: type[io.ComfyNode], native: tuple[Any, Any, Any, Any], frames: Any, edit: Any, widgets: Any
) -> Painted:
    """FRESCO's batches of key frames, guided by what the MODEL carries. native: MODEL, VAE, positive, negative.

    Raises: InputError with the socket.
    """
    keys, notes = read_keys(frames, edit, widgets), Notes(node)
    _say_no_ops(notes, keys)
    model, carried = native[0], parts_of(native[0])
    if carried is None:
        notes.warn("the MODEL carries no guidance, so nothing holds the frames together; add CrossFrameAttention.")
    parts, told = (carried.parts, carried.originals) if carried else ((), Originals())
    originals = told.joined(Originals(frames=keys.images))
    settings = _fresco_settings(widgets)
    denoiser = HostDenoiser(without_parts(model), *native[1:], guidance_scale=widgets["cfg"], frames=keys.numbers)
    check_sides("frames", keys.images, denoiser.multiple)
    bar: list[Progress] = []
    painting = FrescoWork(denoiser, settings, parts, lambda: bar[0].step())
    with socket_words({"anchor": "anchor_index", "batch": "batch_size"}):
        bar.append(Progress(max(1, painting.steps(keys.numbers, keys.anchor))))
    places = {number: place for place, number in enumerate(keys.numbers)}

    def batch_of(numbers: Sequence[int]) -> Any:
        return originals.batch([places[number] for number in numbers], numbers)

    def work() -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
        pictures, latents = {}, {}
        for number, picture, clean in painting.paint(keys.numbers, keys.anchor, batch_of, keys.edit):
            pictures[number], latents[number] = picture, denoiser.vae_latents(clean).cpu()
            bar[0].step(0, picture)
        return pictures, latents

    with socket_words({"anchor": "anchor_index"}):
        pictures, latents = denoiser.sampling(work, denoiser.latent_hw(size_hw_of(keys.images)))
    return _in_order(keys, pictures, latents, notes)


def _fresco_settings(widgets: Any) -> FrescoSettings:
    return FrescoSettings(
        steps=widgets["steps"],
        strength=widgets["strength"],
        seed=widgets["seed"],
        batch=widgets["batch_size"],
        pixel_window=RerenderSettings().pixel_window if widgets.get("align_pixels", False) else None,
        pixel=PixelSettings(compensation=widgets.get("compensation", 1.0)),
    )


def guided_model(
    model: Any,
    part: tuple[str, dict[str, Any]],
    frames: Any = None,
    foreground: Any = None,
    latents: Any = None,
    flow: Any = None,
) -> Any:
    """A clone of a MODEL that carries one more part of the guidance. part: its name and values, see `guidance_part`.

    Raises: InputError with the socket.
    """
    images = None if frames is None else to_core(frames, "frames")
    count = None if images is None else len(images)
    masks = None
    if foreground is not None:
        if images is None:
            raise InputError("foreground: expected frames beside it, got none; connect the frames that it belongs to.")
        masks = mask_to_core(foreground, count, size_hw_of(images), "foreground")
    samples = None if latents is None else latents["samples"]
    if samples is not None and count is not None and len(samples) != count:
        raise InputError(f"latents: expected {count}, one for each of frames, got {len(samples)}; encode the frames.")
    if flow is not None and (images is None or flow.forward.shape[:3] != (len(images) - 1, *images.shape[-2:])):
        raise InputError(
            "flow: expected that of these frames, got that of others; connect the same frames to OpticalFlow and here."
        )
    name, values = part
    with socket_words({"until": "end", "window": "start, end"}):
        guide = guidance_part(name, **values)
    return with_part(model, guide, Originals(images, masks, samples, flow))


def _in_order(keys: Keys, pictures: dict[int, torch.Tensor], latents: dict[int, torch.Tensor], notes: Notes) -> Painted:
    if not all(bool(torch.isfinite(one).all()) for one in latents.values()):
        notes.warn("the result holds numbers that are not finite; start ComfyUI with --force-fp32 or --bf16-unet.")
    images = torch.stack([pictures[number] for number in keys.numbers])
    return Painted(to_host(images), torch.cat([latents[number] for number in keys.numbers]), notes)


def _say_no_ops(notes: Notes, keys: Keys) -> None:
    if keys.edit is not None and same_picture(keys.edit, keys.frames[keys.anchor]):
        notes.warn("the edit is the frame itself, so the clip keeps its look; connect the edited frame to `edit`.")


def read_keys(frames: Any, edit: Any, widgets: Any) -> Keys:
    """Key frames and anchor as the sockets give them. Raises: InputError naming the socket."""
    images = to_core(frames, "frames")
    with socket_words({}):
        numbers = tuple(read_frame_numbers("keys", widgets.get("keys", ""))) or tuple(range(len(images)))
    if len(numbers) != len(images):
        raise InputError(
            f"keys: expected {len(images)} numbers, one for each picture of frames, got {len(numbers)}; connect "
            "key_frames and key_indices of the same SelectKeyFrames."
        )
    anchor = widgets.get("anchor_index", 0)
    if anchor not in numbers:
        raise InputError(
            f"anchor_index: expected one of keys ({', '.join(map(str, numbers))}), got {anchor}; choose one of them, "
            "or give it to SelectKeyFrames as a key."
        )
    picture = None
    if edit is not None:
        pictures = to_core(edit, "edit")
        if len(pictures) != 1 or size_hw_of(pictures) != size_hw_of(images):
            (height, width), (h, w) = size_hw_of(images), size_hw_of(pictures)
            raise InputError(
                f"edit: expected one picture of {width} x {height} pixels like the frames, got {len(pictures)} of "
                f"{w} x {h}; connect the edited anchor, resized without cropping."
            )
        picture = pictures[0]
    return Keys(images, numbers, anchor, picture)


def _rerender_settings(widgets: Any) -> RerenderSettings:
    on = {
        "cross_window": "cross_frame",
        "shape_window": "shape_fusion",
        "pixel_window": "pixel_fusion",
        "colour_window": "match_colour",
    }
    off: dict[str, Any] = {name: None for name, widget in on.items() if not widgets.get(widget, True)}
    pixel = PixelSettings(
        pixel_strength=widgets.get("pixel_strength", 0.5), compensation=widgets.get("compensation", 1.0)
    )
    chosen = RerenderSettings(
        steps=widgets["steps"],
        strength=widgets["strength"],
        seed=widgets["seed"],
        loose=widgets.get("loose", True),
        update_every=widgets.get("update_every", 1),
        pixel=pixel,
        preserve_colour=widgets.get("preserve_colour", True),
    )
    return replace(chosen, **off)


def encode_pictures(images: Any, vae: Any, compensation: float, threshold: float) -> torch.Tensor:
    """Latents (N, C, h, w) of an IMAGE, as the host's LATENT holds them."""
    pictures, model = to_core(images, "images"), HostVAE(vae)
    check_sides("images", pictures, model.multiple)
    return torch.cat([encode_picture(model, picture, compensation, threshold) for picture in pictures]).cpu()
