"""Flow between a key frame and the frames of a clip, chained from neighbour to neighbour, outward from the key.

Flows both ways are chained, so that their loop, frame to key and back, tells where the chain is to be trusted. Only the
key, the last frame and two flows are kept, whatever the length of the clip.
"""

from __future__ import annotations

import torch

from ..checks import InputError, check_shape
from ..flow.occlusion import points_inside
from ..flow.steady import steady_flow
from ..flow.warp import FlowFunction, chain_flows, check_flow_picture

FlowPair = tuple[torch.Tensor, torch.Tensor]
_LOOP = 1 / 256  # length of the loop's gap, as a share of the short side, at which a place is trusted by 0.7


class FlowChain:
    """Walks from a key frame to its neighbour, to that one's neighbour, and so on: forwards or backwards.

    Args: key: (3, H, W) in [0, 1], at least 16 x 16; flow: (source, target) -> (H, W, 2).
    Raises: ShapeError; InputError.
    """

    def __init__(self, key: torch.Tensor, flow: FlowFunction = steady_flow) -> None:
        check_flow_picture("key", key)
        self._flow = flow
        self._frame = key
        self._back = self._ahead = torch.zeros(*key.shape[1:], 2)
        self.to_previous = self._back  # of the last frame, to the one before it: (H, W, 2)

    def step(self, frame: torch.Tensor, pair: FlowPair | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The next frame's flow to the key.

        Args:
            frame: (3, H, W), the neighbour of the frame of the step before, of the key in the first.
            pair: the flows frame -> that neighbour and back, (H, W, 2) each, where they are known.
        Returns: flow (H, W, 2), frame -> key, in pixels; trust (H, W) in [0, 1]: `loop_trust`.
        Raises: ShapeError; the flow's own.
        """
        check_shape("frame", frame, self._frame.shape)
        back, ahead = pair or (self._flow(frame, self._frame), self._flow(self._frame, frame))
        self.to_previous = back.cpu().float()
        self._back = chain_flows(self.to_previous, self._back)
        self._ahead = chain_flows(self._ahead, ahead.cpu().float())
        self._frame = frame
        return self._back, loop_trust(self._back, self._ahead)

    def state(self) -> dict[str, torch.Tensor]:
        """All that the next step depends on, copied; `restore` takes it."""
        return {"frame": self._frame.clone(), "back": self._back.clone(), "ahead": self._ahead.clone()}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Go on where another chain of the same key and flow stood. Raises: InputError, ShapeError."""
        if set(state) != {"frame", "back", "ahead"}:
            raise InputError(f"state: expected frame, back and ahead, got {', '.join(sorted(state)) or 'nothing'}.")
        check_shape("frame", state["frame"], self._frame.shape)
        for name in ("back", "ahead"):
            check_shape(name, state[name], (*self._frame.shape[1:], 2))
        self._frame, self._back, self._ahead = (state[name].clone() for name in ("frame", "back", "ahead"))


def loop_trust(back: torch.Tensor, ahead: torch.Tensor) -> torch.Tensor:
    """How far each place of a flow is to be trusted: 1 / sqrt(1 + (gap / g)^2), the gap being that between a place and
    where it comes out after its way there and back, g 1/256 of the short side; 0 where it leaves the picture.

    Args: back: flow there, ahead: flow back, both (H, W, 2) in pixels.
    Returns: (H, W) in [0, 1].
    Raises: ShapeError.
    """
    gap = chain_flows(back, ahead).square().sum(-1)
    return points_inside(back) / (1 + gap / (_LOOP * min(back.shape[:2])) ** 2).sqrt()
