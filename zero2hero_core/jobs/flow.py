"""The motion of a clip in memory: flows both ways and what is hidden, by any engine, and a picture of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from ..checks import InputError, check_images, setting
from ..flow.clip import ClipFlows, neighbour_flows
from ..flow.colours import flow_colours, longest_of
from ..flow.dis import dis_flow, opencv
from ..flow.occlusion import Law, soften
from ..flow.raft import load_raft, raft_function
from ..flow.scaled import LONGEST_SIDE, scaled_flow
from ..flow.warp import FlowFunction
from ..spread import spread

Engine = Literal["dis", "raft"]
BYTES_PER_PIXEL = 24  # of the flows and the maps of what is hidden, for each pixel of each frame


@dataclass(frozen=True)
class FlowSettings:
    """How flow is found.

    engine: "dis" (OpenCV, no model) or "raft" (torchvision's file). longest_side: frames are scaled down to it first
    and the flow up again; 0 works at full size. law: "unflow" or "sundaram", see `flow.occlusion`. photometric: pixels
    whose colours differ count as hidden too. soft: hidden pixels have a ramp around them.

    Raises: InputError.
    """

    engine: Engine = "dis"
    longest_side: int = LONGEST_SIDE
    law: Law = "unflow"
    photometric: bool = False
    soft: bool = False

    def __post_init__(self) -> None:
        for name, kind in (("engine", Engine), ("law", Law)):
            value = getattr(self, name)
            if value not in get_args(kind):
                raise InputError(f"{setting(name)}: expected one of {', '.join(get_args(kind))}, got {value!r}.")
        if self.longest_side and self.longest_side < 16:
            raise InputError(
                f"{setting('longest_side')}: expected 0 (full size) or 16 pixels or more, got {self.longest_side}."
            )


@dataclass(frozen=True)
class ClipMotion:
    """The motion of N frames. flows: both ways between neighbours. hidden_next (N, 1, H, W) in [0, 1]: what the next
    frame does not show, all 0 for the last one; hidden_previous (N, 1, H, W): what the one before does not show, all 0
    for the first."""

    flows: ClipFlows
    hidden_next: torch.Tensor
    hidden_previous: torch.Tensor

    def pictures(self, frames: torch.Tensor, count: int) -> torch.Tensor:
        """Up to `count` frames, evenly spread, each beside the flow to the next one in colours, (P, 3, H, 2 W)."""
        pairs = spread(len(self.flows.forward), count)
        longest = longest_of(self.flows.forward[pairs])
        rows = [torch.cat([frames[pair].float(), flow_colours(self.flows.forward[pair], longest)], 2) for pair in pairs]
        return torch.stack(rows)


def flow_function(settings: FlowSettings, network: Any = None, device: torch.device | str = "cpu") -> FlowFunction:
    """The flow function of the settings. Args: network: a RAFT that is loaded already, on `device`, used in place of
    the engine. Raises: InputError when what the engine needs is not here."""
    if network is not None:
        engine = raft_function(network, device=device)
    elif settings.engine == "raft":
        engine = load_raft(device=device)
    else:
        opencv()
        engine = dis_flow
    return scaled_flow(engine, longest_side=settings.longest_side) if settings.longest_side else engine


def clip_motion(
    frames: torch.Tensor,
    settings: FlowSettings,
    *,
    network: Any = None,
    device: torch.device | str = "cpu",
    on_pair: Callable[[torch.Tensor], object] | None = None,
) -> ClipMotion:
    """The motion of a clip.

    Args: frames: (N, 3, H, W) in [0, 1], N from 2 up, at least 16 x 16. network, device: see `flow_function`. on_pair:
        called after each pair with the flow in colours, (3, H, W).
    Raises: ShapeError, InputError.
    """
    check_images("frames", frames)
    count, _, height, width = frames.shape
    if count < 2:
        raise InputError("frames: expected at least 2 frames, for flow is between neighbours, got 1.")
    forward, backward = torch.empty(count - 1, height, width, 2), torch.empty(count - 1, height, width, 2)
    hidden_next, hidden_previous = torch.zeros(count, 1, height, width), torch.zeros(count, 1, height, width)
    engine = flow_function(settings, network, device)
    for pair in neighbour_flows(frames, flow=engine, law=settings.law, photometric=settings.photometric):
        forward[pair.index], backward[pair.index] = pair.forward, pair.backward
        maps = pair.forward_occlusion.float(), pair.backward_occlusion.float()
        maps = (soften(maps[0]), soften(maps[1])) if settings.soft else maps
        hidden_next[pair.index, 0], hidden_previous[pair.index + 1, 0] = maps
        if on_pair is not None:
            on_pair(flow_colours(pair.forward))
    return ClipMotion(ClipFlows(forward, backward), hidden_next, hidden_previous)
