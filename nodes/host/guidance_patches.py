"""Guidance that a MODEL carries along, for the host's own samplers: a list of parts, and wrappers that begin them for
each sampling, run the pass over the originals and let go of everything at its end.

Shares of the steps are shares of the noise schedule here, because the host tells no sampler's length: a step is counted
by its timestep, 0 for the noisiest of 1000.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP

from ...zero2hero_core.attention.guidance import Pass
from ...zero2hero_core.checks import InputError
from ...zero2hero_core.flow.clip import ClipFlows
from ...zero2hero_core.guidance.parts import Batch, Guides, Part, begin_parts
from .guidance_hooks import GuidanceHooks, Guided, HookedAttention, refuse_context_windows
from .unet_checks import LAYERS, TRAINED_STEPS, check_model

KEY = "zero2hero_guidance"
_INPUT_TIMESTEP = 1  # the least noise, at which the originals are looked at


@dataclass(frozen=True)
class Originals:
    """What the sockets of the parts told of the frames; None for what none of them did.

    frames: (N, 3, H, W); foreground: (N, 1, H, W); latents: (N, C, h, w) as the host's LATENT holds them; flows:
    between the frames in their order.
    """

    frames: torch.Tensor | None = None
    foreground: torch.Tensor | None = None
    latents: torch.Tensor | None = None
    flows: ClipFlows | None = None

    def joined(self, other: Originals) -> Originals:
        """Both; what the other tells goes before. Raises: InputError when they tell of different numbers of frames."""
        if self.frames is not None and other.frames is not None and self.frames.shape != other.frames.shape:
            raise InputError(
                f"frames: expected the {len(self.frames)} frames of {self.frames.shape[-1]} x {self.frames.shape[-2]} "
                f"of the guidance that the MODEL has already, got {len(other.frames)} of {other.frames.shape[-1]} x "
                f"{other.frames.shape[-2]}; connect the same frames."
            )
        names = ("frames", "foreground", "latents", "flows")
        values = {name: getattr(self if getattr(other, name) is None else other, name) for name in names}
        return Originals(**values)

    def known(self, source: int, target: int) -> torch.Tensor | None:
        """Flow between two frames by their places, where it is known."""
        if self.flows is None or abs(source - target) != 1:
            return None
        return self.flows.forward[source] if target > source else self.flows.backward[target]

    def batch(self, rows: Sequence[int], indices: Sequence[int] | None = None) -> Batch:
        """Some of the frames, by their places, as one batch. indices: their numbers in the clip, else places."""
        if self.frames is None:
            return Batch(tuple(rows), torch.zeros(len(rows), 3, 1, 1), flow=_no_frames)
        numbers = tuple(rows if indices is None else indices)
        places = dict(zip(numbers, rows, strict=True))
        foreground = None if self.foreground is None else self.foreground[list(rows)]
        return Batch(
            numbers,
            self.frames[list(rows)],
            foreground,
            known=lambda source, target: self.known(places[source], places[target]),
        )


def _no_frames(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    raise InputError(
        "frames: expected the original frames, between which this guidance finds motion, got none; connect them to one "
        "of the guidance nodes."
    )


class GuidanceParts:
    """The parts that a MODEL carries, and the sampling that is running, if any."""

    def __init__(self, parts: tuple[Part, ...], originals: Originals) -> None:
        self.parts, self.originals = parts, originals
        self.hooks = GuidanceHooks()
        self.run: _Run | None = None

    def __deepcopy__(self, _memo: dict[int, Any]) -> GuidanceParts:
        return self

    def outer_sample(self, executor: Any, noise: Any, latent_image: Any, *others: Any, **named: Any) -> Any:
        """Wrapper of a sampling of the host: begin, and let go at the end, however it comes."""
        guider = executor.class_obj
        check_sampling(guider.model_options, self.hooks)
        frames = self.originals.frames
        if frames is not None and len(frames) != len(noise):
            raise InputError(
                f"latent_image: expected {len(frames)} latents, one for each frame of the guidance, got {len(noise)}; "
                "encode the same frames."
            )
        self.run = _Run(self, guider.model_patcher, noise, latent_image)
        try:
            return executor(noise, latent_image, *others, **named)
        finally:
            self.run = None

    def diffusion_model(self, executor: Any, x: Any, timesteps: Any, *others: Any, **named: Any) -> Any:
        """Wrapper of a pass of the UNet."""
        if self.run is None:
            return executor(x, timesteps, *others, **named)
        return self.run.forward(executor, x, timesteps, list(others), named)


class _Run:
    """One sampling of the host, guided."""

    def __init__(self, owner: GuidanceParts, model: Any, noise: torch.Tensor, latent_image: torch.Tensor) -> None:
        self.owner, self.model, self.rows = owner, model, len(noise)
        self.size_hw = (int(noise.shape[-2]), int(noise.shape[-1]))
        self.latents = owner.originals.latents
        if self.latents is None and bool(torch.count_nonzero(latent_image)):
            self.latents = latent_image
        self.guides: Guides | None = None
        self.seen: set[bool] = set()  # halves of the guidance for which the originals were looked at

    def forward(
        self, executor: Any, x: torch.Tensor, timesteps: torch.Tensor, others: list[Any], named: dict[str, Any]
    ) -> Any:
        """A pass, guided; before the first one of a prompt, a pass over the originals."""
        options = others[3] if len(others) > 3 else named["transformer_options"]
        chunks = options["cond_or_uncond"]
        if len(x) != self.rows * len(chunks) or tuple(x.shape[-2:]) != self.size_hw:
            raise InputError(
                f"positive, negative: expected prompts for {self.rows} whole frames of {self.size_hw[1]} x "
                f"{self.size_hw[0]} latent cells, got a pass of {len(x) // len(chunks)} of {x.shape[-1]} x "
                f"{x.shape[-2]}; leave areas out."
            )
        timestep = int(timesteps[0].round())
        step = TRAINED_STEPS - 1 - timestep
        if self.guides is None:
            batch = self.owner.originals.batch(range(self.rows))
            self.guides = begin_parts(self.owner.parts, batch, range(step, TRAINED_STEPS), TRAINED_STEPS)
        now = Pass(step, timestep, tuple(range(self.rows)), self.size_hw)
        halves = {chunk == 0 for chunk in chunks}
        if self.guides.reads_inputs and not halves <= self.seen:
            self._look_at(executor, x, len(chunks), others, named, now)
            self.seen |= halves
        with self.owner.hooks.guide(Guided(now, self.guides.attention, self.guides.features)):
            return executor(x, timesteps, *others, **named)

    def _look_at(
        self, executor: Any, x: torch.Tensor, chunks: int, others: list[Any], named: dict[str, Any], now: Pass
    ) -> None:
        assert self.guides is not None
        inputs = self._inputs().to(x)
        alpha = 1 / (self.model.get_model_object("model_sampling").sigmas[_INPUT_TIMESTEP].to(x) ** 2 + 1)
        noise = torch.randn(inputs.shape[1:], generator=torch.Generator().manual_seed(0)).to(x)
        noisy = (alpha.sqrt() * inputs + (1 - alpha).sqrt() * noise).repeat(chunks, 1, 1, 1)
        plain = [None if place == 2 else value for place, value in enumerate(others)]  # without ControlNets
        without = named | ({"control": None} if "control" in named else {})
        time = torch.full((len(noisy),), float(_INPUT_TIMESTEP)).to(x)
        at = replace(now, step=TRAINED_STEPS - 1 - _INPUT_TIMESTEP, timestep=_INPUT_TIMESTEP)
        with self.owner.hooks.guide(Guided(at, self.guides.input_attention, self.guides.input_features)):
            executor(noisy, time, *plain, **without)

    def _inputs(self) -> torch.Tensor:
        """Latents of the originals, scaled for the UNet."""
        if self.latents is None:
            raise InputError(
                "latents: expected those of the original frames, got none, and the sampler begins with empty ones; "
                "connect VAE Encode of the frames to the guidance."
            )
        if len(self.latents) != self.rows or tuple(self.latents.shape[-2:]) != self.size_hw:
            (h, w), count = self.latents.shape[-2:], len(self.latents)
            raise InputError(
                f"latents: expected {self.rows} of {self.size_hw[1]} x {self.size_hw[0]} cells, as the sampler has, "
                f"got {count} of {w} x {h}; encode the same frames."
            )
        scaled: torch.Tensor = self.model.model.latent_format.process_in(self.latents.float())
        return scaled


def check_sampling(model_options: dict[str, Any], hooks: GuidanceHooks) -> None:
    """Raise `InputError` where the host would lose the guidance without a word: a later node took a layer's attention
    over, or cuts the batch into windows."""
    refuse_context_windows(model_options)
    replaced = model_options["transformer_options"].get("patches_replace", {}).get("attn1", {})
    for layer in LAYERS:
        patch = replaced.get(("output", layer, 0))
        if not isinstance(patch, HookedAttention) or patch.hooks is not hooks:
            name = type(patch).__name__ if patch is not None else "another node"
            name = getattr(patch, "__qualname__", name).split(".")[0]
            raise InputError(
                f"model: a node after the guidance ({name}) makes the output of self-attention in layer {layer}, so "
                "that the guidance would be lost; leave that node out."
            )


def parts_of(model: Any) -> GuidanceParts | None:
    """What a MODEL carries."""
    parts: GuidanceParts | None = model.get_attachment(KEY)
    return parts


def with_part(model: Any, part: Part, originals: Originals) -> Any:
    """A clone of the MODEL that carries one more part. Raises: InputError naming the socket."""
    check_model(model)
    before = parts_of(model)
    if before is not None:
        if part.name in [one.name for one in before.parts]:
            raise InputError(f"model: has {part.name} already; leave one of the two nodes out.")
        parts = GuidanceParts((*before.parts, part), before.originals.joined(originals))
    else:
        parts = GuidanceParts((part,), originals)
    clone = without_parts(model)
    parts.hooks.install(clone)
    clone.set_attachments(KEY, parts)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, parts.outer_sample)
    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, parts.diffusion_model)
    return clone


def without_parts(model: Any) -> Any:
    """A clone of the MODEL that carries none."""
    clone = model.clone()
    if parts_of(model) is not None:
        for kind in (WrappersMP.OUTER_SAMPLE, WrappersMP.DIFFUSION_MODEL):
            clone.remove_wrappers_with_key(kind, KEY)
        clone.remove_attachments(KEY)
    return clone
