"""The engines of propagation behind one surface: a walk outward from a key frame, one frame after the other.

A walk keeps the key, the neighbour, and what it has gathered on its way; its state is a few tensors, so that a walk can
be taken up again where it was, to the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch

from ..checks import InputError, check_images, check_shape
from ..flow.scaled import scale_flow, scaled_flow
from ..flow.steady import steady_flow
from ..flow.warp import SMALLEST_SIDE, FlowFunction, warp_backward
from ..video.resize import resize_frames
from .chain import FlowChain, FlowPair
from .change import KeyChange
from .patch_carry import carry_patches
from .settings import PropagationSettings


@dataclass(frozen=True)
class KeyFrame:
    """A frame that was edited.

    index: its place in the clip. frame: (3, H, W), the original. edit: (3, h, w), the same after the edit, no larger
    than the frame and of its aspect ratio. Both in [0, 1].
    """

    index: int
    frame: torch.Tensor
    edit: torch.Tensor

    def __post_init__(self) -> None:
        for name, picture in (("frame", self.frame), ("edit", self.edit)):
            check_shape(f"{name} of key {self.index}", picture, (3, "H", "W"))
            check_images(name, picture[None])
        if self.edit.shape[-2] > self.frame.shape[-2] or self.edit.shape[-1] > self.frame.shape[-1]:
            raise InputError(
                f"edit of key {self.index}: expected at most the frame's size, {tuple(self.frame.shape[-2:])} (height, "
                f"width), got {tuple(self.edit.shape[-2:])}; reduce it first."
            )
        if min(self.edit.shape[-2:]) < SMALLEST_SIDE:  # motion is found at its size
            (h, w), (height, width) = self.edit.shape[-2:], self.frame.shape[-2:]
            raise InputError(
                f"edit of key {self.index}: expected at least {SMALLEST_SIDE} x {SMALLEST_SIDE} pixels, got {w} x {h} "
                f"for frames of {width} x {height}; give larger ones."
            )


@dataclass(frozen=True)
class Carried:
    """What an engine brought to a frame: picture (3, H, W) in [0, 1]; error (H, W), from 0 up, how little to trust it,
    comparable between two keys of one engine."""

    picture: torch.Tensor
    error: torch.Tensor


class Walk(Protocol):
    """From a key frame outward; frames come in their order away from it."""

    def step(self, frame: torch.Tensor, pair: FlowPair | None = None) -> Carried:
        """The edit carried to the next frame, (3, H, W) of the key frame's size. pair: the flows from it to the frame
        before and back, (h, w, 2) each at any size, where they are known."""

    def carry_key(self) -> torch.Tensor:
        """The edit carried to the key frame itself, (3, H, W): for an edit that is smaller than the frame."""

    def state(self) -> dict[str, torch.Tensor]:
        """What the walk has gathered."""

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from a state."""


def begin_walk(key: KeyFrame, settings: PropagationSettings, flow: FlowFunction | None = None) -> Walk:
    """The walk of the engine that the settings name. flow: between neighbours; `steady_flow` where None."""
    if settings.engine == "patch":
        return PatchWalk(key, settings, flow or steady_flow)
    return ChangeWalk(key, settings, flow or steady_flow)


def pair_at(pair: FlowPair | None, size_hw: tuple[int, int]) -> FlowPair | None:
    """A pair of flows at another size."""
    return None if pair is None else (scale_flow(pair[0], size_hw), scale_flow(pair[1], size_hw))


class ChangeWalk:
    """What the edit did, at the edit's own size, put onto each frame's own pixels (`propagation.change`)."""

    def __init__(self, key: KeyFrame, settings: PropagationSettings, flow: FlowFunction):
        self._key = key
        self._size = (int(key.edit.shape[-2]), int(key.edit.shape[-1]))
        frame = self._reduce(key.frame)
        self._chain = FlowChain(frame, scaled_flow(flow, longest_side=settings.flow_side))
        self._change = KeyChange(frame, key.edit, replace(settings.change, operator=settings.operator))

    def step(self, frame: torch.Tensor, pair: FlowPair | None = None) -> Carried:
        """See `Walk.step`."""
        flow, trust = self._chain.step(self._reduce(frame), pair_at(pair, self._size))
        return Carried(*self._change.carry(frame, flow, trust))

    def carry_key(self) -> torch.Tensor:
        """See `Walk.carry_key`."""
        height, width = self._size
        picture, _ = self._change.carry(self._key.frame, torch.zeros(height, width, 2), torch.ones(height, width))
        return picture

    def state(self) -> dict[str, torch.Tensor]:
        """See `Walk.state`."""
        return self._chain.state()

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """See `Walk.restore`."""
        self._chain.restore(state)

    def _reduce(self, frame: torch.Tensor) -> torch.Tensor:
        return resize_frames(frame[None], self._size)[0]


class PatchWalk:
    """Patches of the edit, at its own size, placed where they fit the frame (`propagation.patch_carry`)."""

    def __init__(self, key: KeyFrame, settings: PropagationSettings, flow: FlowFunction):
        self._key, self._settings, self._seed = key, settings.patch, settings.seed
        self._size = (int(key.edit.shape[-2]), int(key.edit.shape[-1]))
        self._frame = self._at(key.frame, self._size)
        self._chain = FlowChain(self._frame, scaled_flow(flow, longest_side=settings.flow_side))
        self._previous = key.edit

    def step(self, frame: torch.Tensor, pair: FlowPair | None = None) -> Carried:
        """See `Walk.step`."""
        small = self._at(frame, self._size)
        flow, _ = self._chain.step(small, pair_at(pair, self._size))
        previous = warp_backward(self._previous, self._chain.to_previous)
        result = carry_patches(self._key.edit, self._frame, small, flow, previous, self._settings, seed=self._seed)
        self._previous = result.picture.clamp(0, 1)
        hw = (int(frame.shape[-2]), int(frame.shape[-1]))
        error = resize_frames(self._level_error(result.error)[None, None], hw)[0, 0]
        return Carried(self._at(self._previous, hw), error)

    def _level_error(self, error: torch.Tensor) -> torch.Tensor:
        """The mean difference of a patch, as a share of the range: in the unit of the other engines' errors."""
        weights, patches = self._settings.guides, self._settings.patches
        total = weights.colour + weights.edges + weights.position + weights.temporal + patches.style_weight
        return (error / (patches.patch**2 * total)).sqrt().div(255).clamp(0, 1)

    def carry_key(self) -> torch.Tensor:
        """See `Walk.carry_key`."""
        return self._at(self._key.edit, (int(self._key.frame.shape[-2]), int(self._key.frame.shape[-1])))

    def state(self) -> dict[str, torch.Tensor]:
        """See `Walk.state`."""
        return {**self._chain.state(), "previous": self._previous}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """See `Walk.restore`."""
        self._previous = state["previous"]
        self._chain.restore({name: value for name, value in state.items() if name != "previous"})

    def _at(self, picture: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
        return resize_frames(picture[None], size_hw)[0]
