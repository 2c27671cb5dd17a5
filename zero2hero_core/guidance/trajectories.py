"""The ways of tokens through the frames of a batch: every token of every frame lies on exactly one.

Source: FRESCO (arXiv 2403.12962), section 4.2, as the authors build them. All at once here, where they go token by
token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .cross_frame import hidden_tokens
from .motion import BatchMotion


@dataclass(frozen=True)
class Trajectories:
    """T ways through N frames.

    order: (N, T) int64, the token of each frame that a way goes through; each row is a permutation, the first counts
    from 0. linked: (N - 1, T) bool, whether the flow led from a frame to the next; where it did not, the way is cut,
    and tokens on either side have nothing to do with each other.
    """

    order: torch.Tensor
    linked: torch.Tensor

    @property
    def back(self) -> torch.Tensor:
        """(N, T) int64: the way that goes through each token of each frame."""
        return self.order.argsort(1)

    @property
    def together(self) -> torch.Tensor:
        """(T, N, N) bool: which frames lie on the same uncut stretch of a way."""
        stretch = torch.zeros_like(self.order)
        stretch[1:] = (~self.linked).cumsum(0)
        return stretch.T[:, :, None] == stretch.T[:, None, :]


def follow_tokens(motion: BatchMotion, size_hw: tuple[int, int]) -> Trajectories:
    """The ways of the tokens of a grid (h, w) from the first frame of a batch to the last.

    A token's partner in the frame before is where the backward flow points, rounded, if that lies inside and the token
    is not hidden. Of two tokens with one partner the one whose colour is nearer keeps it, the earlier one if both are
    as near. Tokens that are left over are paired in their order, and cut.
    """
    small = motion.at(size_hw)
    count, tokens = len(motion), size_hw[0] * size_hw[1]
    hidden = hidden_tokens(motion.backward_occlusion, size_hw)
    order, linked = torch.arange(tokens).expand(count, -1).clone(), torch.zeros(count - 1, tokens, dtype=torch.bool)
    for place in range(count - 1):
        partner, cost = _partners(small, place, hidden[place])
        following, led = _pair_up(partner, cost)
        order[place + 1], linked[place] = following[order[place]], led[order[place]]
    return Trajectories(order, linked)


def _partners(motion: BatchMotion, place: int, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each token of frame place + 1 its partner (T,) in frame place, -1 for none, and how far their colours are
    apart."""
    (height, width), flow = motion.size_hw, motion.backward[place]
    x = (torch.arange(width) + flow[..., 0]).round().long()
    y = (torch.arange(height)[:, None] + flow[..., 1]).round().long()
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    partner = torch.where(inside.flatten() & ~hidden, (y * width + x).flatten(), -1)
    before, after = (motion.frames[index].flatten(1) for index in (place, place + 1))
    cost = (after - before[:, partner.clamp_min(0)]).abs().mean(0)
    return partner, cost


def _pair_up(partner: torch.Tensor, cost: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each token of the earlier frame its follower (T,), and whether the flow led there."""
    tokens = len(partner)
    asked = partner >= 0
    best = torch.full((tokens,), torch.inf).scatter_reduce_(0, partner[asked], cost[asked], "amin")
    wins = asked & (cost <= best[partner.clamp_min(0)])
    index = torch.arange(tokens)
    first = torch.full((tokens,), tokens).scatter_reduce_(0, partner[wins], index[wins], "amin")
    led = first < tokens
    following, free = first.clone(), torch.ones(tokens, dtype=torch.bool)
    free[first[led]] = False
    following[~led] = index[free]
    return following, led
