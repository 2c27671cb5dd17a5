"""Matches that are followed from frame to frame, so that a token is looked for in the anchor only near the place where
it was a frame before.

Far from the anchor a look at the whole picture goes wrong where a surface repeats itself or turns away: the most
similar token is another one. Between neighbouring frames tokens move little, and that is hard to mistake. So each token
of a frame is found in the frame before, which knows its place in the anchor, and there the search begins. What it finds
replaces the place, which keeps errors from adding up. Our own addition; the paper searches everywhere.

Places are shares of the sides, (x, y); distances are shares of the longer side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F

from ..checks import ShapeError
from .match import ROWS, Around, resize_features, unit_tokens

MOTION = 0.25  # how far a token moves at most from one frame to the next
REACH = 1 / 16  # how far its place in the anchor is corrected at once
STILL, STAY = 5.0, 10.0  # cosine similarity that a squared distance costs: from frame to frame, and to the place
LARGE = 0.08  # what a motion costs at most, so that a quick one is not ruled out
LOSS_MARGIN = 0.3  # similarity by which the best token anywhere is better when a token has been lost
OUTSIDE = 2.0  # more than similarities can differ by
SOFT = 0.02  # similarity that counts as much less when a place between tokens is estimated
MAX_FEATURES = 3  # frames


def token_places(size_hw: tuple[int, int], device: torch.device | None = None) -> torch.Tensor:
    """Centres of the tokens of a grid, row by row, (N, 2)."""
    h, w = size_hw
    y, x = torch.meshgrid(torch.arange(h, device=device), torch.arange(w, device=device), indexing="ij")
    return torch.stack([(x + 0.5) / w, (y + 0.5) / h], -1).flatten(0, 1)


def distances(places: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    """Distance (R, N, 2) along x and y from places (R, 2) to all tokens of a grid."""
    h, w = size_hw
    scale = torch.tensor([w, h], device=places.device) / max(h, w)
    return (token_places(size_hw, places.device)[None] - places[:, None]).abs() * scale


def between_tokens(similarity: torch.Tensor, best: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    """Place (R, 2) between the best token (R) and its eight neighbours, weighted by similarity (R, N)."""
    h, w = size_hw
    offset = torch.tensor([(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)], device=best.device)
    y, x = (best // w)[:, None] + offset[:, 0], (best % w)[:, None] + offset[:, 1]
    outside = (y < 0) | (y >= h) | (x < 0) | (x >= w)
    around = y.clamp(0, h - 1) * w + x.clamp(0, w - 1)
    weights = (similarity.gather(1, around) / SOFT).masked_fill(outside, float("-inf")).softmax(1)
    return (weights[..., None] * token_places(size_hw, best.device)[around]).sum(1)


def read_places(places: torch.Tensor, at: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    """Places (N, 2) of a frame's tokens, read at points `at` (R, 2) of the frame, bilinear."""
    grid = places.T.unflatten(1, size_hw)[None]
    values = F.grid_sample(grid, (at * 2 - 1)[None, None], padding_mode="border", align_corners=False)
    return values[0, :, 0].T


def follow_tokens(
    target: torch.Tensor,
    previous: torch.Tensor,
    anchor: torch.Tensor,
    places: torch.Tensor,
    size_hw: tuple[int, int],
) -> torch.Tensor:
    """Places in the anchor (N, 2) of a frame's tokens, in chunks of rows.

    Args: target, previous, anchor: unit vectors (N, C) of the frame, of the one before it on the way from the anchor,
    and of the anchor, on one grid; places: of the tokens of `previous`.
    """
    matches, own = torch.empty_like(places), token_places(size_hw, places.device)
    for start in range(0, len(target), ROWS):
        rows = slice(start, start + ROWS)
        away = distances(own[rows], size_hw)
        cost = (STILL * away.square().sum(-1)).clamp(max=LARGE)
        alike = target[rows] @ previous.T - cost - OUTSIDE * (away > MOTION).any(-1)
        before = read_places(places, between_tokens(alike, alike.argmax(1), size_hw), size_hw)
        similarity = target[rows] @ anchor.T
        near = near_places(similarity, before, size_hw, REACH)
        indices, (most, best) = near.argmax(1), similarity.max(1)
        lost = most - similarity.gather(1, indices[:, None])[:, 0] > LOSS_MARGIN
        here = between_tokens(near, indices, size_hw)
        matches[rows] = torch.where(lost[:, None], between_tokens(similarity, best, size_hw), here)
    return matches


def near_places(similarity: torch.Tensor, places: torch.Tensor, size_hw: tuple[int, int], reach: float) -> torch.Tensor:
    """Similarity (R, N), less what the distance from the places (R, 2) costs; tokens beyond `reach` come after all
    others."""
    away = distances(places, size_hw)
    return similarity - STAY * away.square().sum(-1) - OUTSIDE * (away > reach).any(-1)


def search_near(places: torch.Tensor, track_hw: tuple[int, int]) -> Callable[[tuple[int, int]], Around]:
    """What `match_features` takes as `near`: look around places (N, 2) that were followed on the grid `track_hw`, one
    and a half cells far before all others."""

    def on_grid(size_hw: tuple[int, int]) -> Around:
        mean = F.adaptive_avg_pool2d(places.T.unflatten(1, track_hw)[None], size_hw)[0].flatten(1).T
        reach = 1.5 / max(size_hw)
        return lambda similarity, start: near_places(similarity, mean[start : start + len(similarity)], size_hw, reach)

    return on_grid


class ClipTrack:
    """Places of all frames of a clip, followed outward from the anchor when they are first asked for.

    Args:
        clip: frames (3, H, W) by their index; the anchor's own need not be among them.
        features: (frame, index) -> features (C, h, w).
        size_hw: grid on which tokens are followed.
    """

    def __init__(
        self,
        clip: Mapping[int, torch.Tensor],
        anchor_index: int,
        features: Callable[[torch.Tensor, int], torch.Tensor],
        size_hw: tuple[int, int],
    ):
        self.clip, self.anchor_index, self.size_hw = clip, anchor_index, size_hw
        self._compute = features
        self._features: dict[int, torch.Tensor] = {}
        self._places: dict[int, torch.Tensor] = {}

    def features(self, index: int, frame: torch.Tensor | None = None) -> torch.Tensor:
        """Features of a frame; those of the last few are kept."""
        if index not in self._features:
            self._features[index] = self._compute(self.clip[index] if frame is None else frame, index)
            if len(self._features) > MAX_FEATURES:
                self._features.pop(next(iter(self._features)))
        return self._features[index]

    def places(self, index: int, anchor: torch.Tensor) -> torch.Tensor:
        """Places in the anchor of a frame's tokens, (N, 2). Args: anchor: its features.

        Raises: ShapeError for a frame that is not in the clip.
        """
        if index != self.anchor_index and index not in self.clip:
            raise ShapeError(f"frame {index}: expected one of the clip that is followed, got another.")
        low, high = sorted((index, self.anchor_index))
        way = [n for n in self.clip if low <= n <= high and n != self.anchor_index]
        way.sort(key=lambda n: abs(n - self.anchor_index))
        count = max((place + 1 for place, n in enumerate(way) if n in self._places), default=0)
        last = way[count - 1] if count else self.anchor_index
        anchor_tokens = self._tokens(anchor)
        for following in way[count:]:
            at_anchor = last == self.anchor_index
            previous = anchor_tokens if at_anchor else self._tokens(self.features(last))
            places = (
                token_places(self.size_hw, anchor_tokens.device) if at_anchor else self._places[last].to(anchor_tokens)
            )
            target = self._tokens(self.features(following))
            self._places[following] = follow_tokens(target, previous, anchor_tokens, places, self.size_hw).cpu()
            last = following
        return self._places[index].to(anchor_tokens) if way else token_places(self.size_hw, anchor_tokens.device)

    def _tokens(self, features: torch.Tensor) -> torch.Tensor:
        return unit_tokens(resize_features(features, self.size_hw))
