"""Random batches for the attention between frames, and what it follows token by token, in plain loops."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from zero2hero_core.attention.guidance import Guidance, GuidedPass, Pass
from zero2hero_core.guidance.motion import BatchMotion

LATENT, HEADS, WIDTH = (8, 8), 2, 4
GRIDS = {9: (8, 8), 6: (4, 4)}  # of layers, for latents of this size
ALL = range(3, 12)
Ways = tuple[list[list[int]], list[list[bool]]]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tokens(rows: int, layer: int = 9, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query, key and value."""
    height, width = GRIDS[layer]
    query, key, value = (normal(rows, HEADS, height * width, WIDTH, seed=3 * seed + each) for each in range(3))
    return query, key, value


def motion_of(rows: int, seed: int = 0, hidden: float = 0.3) -> BatchMotion:
    """Random frames of 32 x 32 pixels with flows of up to some pixels and random occlusions in blocks."""
    generator = torch.Generator().manual_seed(seed)
    flows = torch.randn(2, rows, 4, 4, 2, generator=generator).repeat_interleave(8, 2).repeat_interleave(8, 3) * 6
    blocks = torch.rand(2, rows, 8, 8, generator=generator) < hidden
    occlusions = blocks.repeat_interleave(4, 2).repeat_interleave(4, 3)
    return BatchMotion(torch.rand(rows, 3, 32, 32, generator=generator), *flows, *occlusions)


def run(guidances: Sequence[Guidance], now: Pass, layer: int, qkv: Sequence[torch.Tensor]) -> torch.Tensor:
    return GuidedPass(guidances, now)(layer, *qkv)


def now(rows: int, step: int = 5, conditional: bool = True) -> Pass:
    return Pass(step, 951 - 50 * step, tuple(range(rows)), LATENT, conditional)


def naive_grid(planes: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    """Planes (C, H, W) read at the centres of the cells of a grid that divides them by an even number, or by 1: the
    mean of the four pixels around a centre, which is what a linear reading gives there."""
    sides = [full // cells for full, cells in zip(planes.shape[1:], size_hw, strict=True)]
    small = torch.zeros(len(planes), *size_hw)
    for y in range(size_hw[0]):
        for x in range(size_hw[1]):
            rows, columns = (
                [place * side + side // 2 - 1, place * side + side // 2] if side > 1 else [place]
                for place, side in zip((y, x), sides, strict=True)
            )
            pixels = [planes[:, row, column] for row in rows for column in columns]
            small[:, y, x] = torch.stack(pixels).mean(0)
    return small


def naive_hidden(occlusion: torch.Tensor, size_hw: tuple[int, int]) -> list[bool]:
    """Tokens that are hidden, of a map (H, W): those with three or four of their middle pixels hidden."""
    return (naive_grid(occlusion[None].float(), size_hw)[0] > 0.5).flatten().tolist()


def naive_pair(
    flow: torch.Tensor, before: torch.Tensor, after: torch.Tensor, hidden: Sequence[bool]
) -> tuple[list[int], list[bool]]:
    """For each token of the earlier of two frames its follower and whether the flow led there, token by token.

    Args: flow: (h, w, 2), from the later frame to the earlier one; before, after: (3, h, w); hidden: of the later one.
    """
    height, width = flow.shape[:2]
    partner, costs, taken = {}, {}, {}
    for token in range(height * width):
        y, x = divmod(token, width)
        dx, dy = flow[y, x].tolist()
        px, py = round(x + dx), round(y + dy)
        if hidden[token] or not (0 <= px < width and 0 <= py < height):
            continue
        costs[token], partner[token] = float((after[:, y, x] - before[:, py, px]).abs().mean()), py * width + px
    for token, other in partner.items():
        if other not in taken or costs[token] < costs[taken[other]]:
            taken[other] = token
    kept = set(taken.values())
    free = iter([token for token in range(height * width) if token not in kept])
    following = [taken[other] if other in taken else next(free) for other in range(height * width)]
    return following, [other in taken for other in range(height * width)]


def naive_ways(motion: BatchMotion, size_hw: tuple[int, int]) -> Ways:
    """The ways from the first frame to the last: order, by frame and way, and links, by pair and way."""
    scale = torch.tensor([small / full for small, full in zip(size_hw[::-1], motion.size_hw[::-1], strict=True)])
    order, linked = [list(range(size_hw[0] * size_hw[1]))], []
    for place in range(len(motion) - 1):
        flow = naive_grid(motion.backward[place].movedim(-1, 0), size_hw).movedim(0, -1) * scale
        before, after = (naive_grid(motion.frames[index], size_hw) for index in (place, place + 1))
        following, led = naive_pair(flow, before, after, naive_hidden(motion.backward_occlusion[place], size_hw))
        linked.append([led[token] for token in order[-1]])
        order.append([following[token] for token in order[-1]])
    return order, linked


def naive_mates(linked: Sequence[Sequence[bool]], way: int, frame: int) -> list[int]:
    """Frames on the same uncut stretch of a way as a frame."""
    first, last = frame, frame
    while first > 0 and linked[first - 1][way]:
        first -= 1
    while last < len(linked) and linked[last][way]:
        last += 1
    return list(range(first, last + 1))
