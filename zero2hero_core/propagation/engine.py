"""The engines of propagation behind one surface: a walk outward from a key frame, one frame after the other.

A walk keeps the key, the neighbour, and what it has gathered on its way; its state is a few tensors, so that a walk can
be taken up again where it was, to the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from ..checks import InputError, check_images, check_shape
from ..flow.dis import dis_flow
from ..flow.scaled import scaled_flow
from ..flow.warp import FlowFunction
from ..video.resize import resize_frames
from .chain import Chain
from .change import KeyChange
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


@dataclass(frozen=True)
class Carried:
    """What an engine brought to a frame: picture (3, H, W) in [0, 1]; error (H, W), from 0 up, how little to trust it,
    comparable between two keys of one engine."""

    picture: torch.Tensor
    error: torch.Tensor


class Walk(Protocol):
    """From a key frame outward; frames come in their order away from it."""

    def step(self, frame: torch.Tensor) -> Carried:
        """The edit carried to the next frame, (3, H, W) of the key frame's size."""

    def carry_key(self) -> torch.Tensor:
        """The edit carried to the key frame itself, (3, H, W): for an edit that is smaller than the frame."""

    def state(self) -> dict[str, torch.Tensor]:
        """What the walk has gathered."""

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from a state."""


def begin_walk(key: KeyFrame, settings: PropagationSettings, flow: FlowFunction | None = None) -> Walk:
    """The walk of the engine that the settings name. flow: between neighbours; DIS where None."""
    return ChangeWalk(key, settings, flow or dis_flow)


class ChangeWalk:
    """What the edit did, at the edit's own size, put onto each frame's own pixels (`propagation.change`)."""

    def __init__(self, key: KeyFrame, settings: PropagationSettings, flow: FlowFunction):
        self._key = key
        self._size = (int(key.edit.shape[-2]), int(key.edit.shape[-1]))
        frame = self._reduce(key.frame)
        self._chain = Chain(frame, flow=scaled_flow(flow, longest_side=settings.flow_side))
        self._change = KeyChange(frame, key.edit, settings.change)

    def step(self, frame: torch.Tensor) -> Carried:
        """See `Walk.step`."""
        flow, trust = self._chain.step(self._reduce(frame))
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
