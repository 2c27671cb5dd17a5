"""A chain of optical flows from a key frame outward: where each frame's places lie in the key, and how far to trust it.

Between neighbours motion is small enough to be found; from the key on the flows are joined (`flow.warp.chain_flows`),
both ways, so that a chain can be tried by going there and back.
"""

from __future__ import annotations

import torch

from ..checks import check_shape
from ..flow.dis import dis_flow
from ..flow.occlusion import agreement
from ..flow.warp import FlowFunction, chain_flows


class Chain:
    """Walks outward from a key frame, holding the key, the neighbour, and the flows between key and neighbour.

    Args: key: (3, H, W) in [0, 1]; flow: between neighbours, (source, target) -> (H, W, 2).
    """

    def __init__(self, key: torch.Tensor, *, flow: FlowFunction = dis_flow) -> None:
        check_shape("key", key, (3, "H", "W"))
        still = torch.zeros(*key.shape[-2:], 2)
        self._flow, self._neighbour, self._there, self._back = flow, key, still, still

    def step(self, frame: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The next frame (3, H, W) away from the key: its flow to the key (H, W, 2) in pixels, and how far each place
        of it agrees with the flow back (H, W), in [0, 1]."""
        check_shape("frame", frame, self._neighbour.shape)
        there, back = self._flow(frame, self._neighbour), self._flow(self._neighbour, frame)
        self._there, self._back = chain_flows(there, self._there), chain_flows(self._back, back)
        self._neighbour = frame
        return self._there, agreement(self._there, self._back)

    def state(self) -> dict[str, torch.Tensor]:
        """What the chain has gathered."""
        return {"there": self._there, "back": self._back, "neighbour": self._neighbour}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from a state."""
        self._there, self._back, self._neighbour = state["there"], state["back"], state["neighbour"]
