"""Matching the frames of a clip with its anchor, and what is told of the matches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict

import torch

from ..backbones.surface import UNetSurface
from ..checks import InputError, setting
from ..correspondence.file import ClipCorrespondence
from ..correspondence.match import ADAPTIVE_MAX, Correspondence, level_k, most_tokens, top_k_matches
from ..correspondence.narrow import WEAK, narrow_matches, weak_share
from ..propagation.pixel_swap import pixel_swap
from ..zero_stage.settings import ZeroStageSettings
from ..zero_stage.stage import ZeroStage
from .listener import Listener, Notes

MANY_WEAK = 0.5  # share of weak matches from which they are warned of
SOURCE_SETTINGS = ("k", "timestep", "block", "ensemble", "neighbourhood", "track", "prompt", "seed")


class Matcher:
    """Matches frames of one clip with its anchor.

    Args: anchor: (3, H, W). frames: by index, for following tokens from frame to frame.
    Raises: InputError when the settings do not fit the frames.
    """

    def __init__(
        self,
        backbone: UNetSurface,
        anchor: torch.Tensor,
        anchor_index: int,
        frames: Mapping[int, torch.Tensor],
        settings: ZeroStageSettings,
    ):
        self._frames = frames
        self._stage = ZeroStage(backbone, anchor, anchor, anchor_index, settings, frames)
        check_tokens(self._stage)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by part of the work so far."""
        return self._stage.seconds

    def match(
        self, indices: Iterable[int], listener: Listener, facts: Mapping[str, str | None] | None = None
    ) -> ClipCorrespondence:
        """The matches of the frames with these indices, on the CPU. facts: what else to say of where they come from."""
        stage, order, matches = self._stage, list(indices), {}
        for number, index in enumerate(order):
            matches[index] = stage.correspond(self._frames[index], index).cpu()
            listener.progress("matching", number + 1, len(order))
        settings = asdict(stage.settings)
        source = {"model": stage.backbone.name, **(facts or {}), **{name: settings[name] for name in SOURCE_SETTINGS}}
        h, w = self._frames[order[0]].shape[-2:]
        return ClipCorrespondence(matches, (h, w), stage.anchor_index, source)


def check_tokens(stage: ZeroStage[UNetSurface]) -> None:
    """Raise `InputError` when k is more than the three grids of a stage, or the neighbourhood, allow."""
    settings, most = stage.settings, most_tokens(stage.editor.grids)
    if settings.tokens > most:
        raise InputError(
            f"{setting('k')}: expected 1 to {most} (or -1 for all) at this frame size, got {settings.k}"
            f"{f' (up to {ADAPTIVE_MAX})' if settings.k == 'adaptive' else ''}; lower it or choose a larger "
            f"{setting('size')}."
        )
    for level, size_hw in enumerate(stage.editor.grids):  # raises where the neighbourhood holds fewer than k
        anchor = torch.empty(size_hw[0] * size_hw[1], 1)
        top_k_matches(anchor[:0], anchor, level_k(settings.tokens, level), size_hw, settings.neighbourhood)


def narrowed(correspondence: ClipCorrespondence, k: int | str, notes: Notes) -> dict[int, Correspondence] | None:
    """The matches of all frames for a choice of k; None for -1, which reads all tokens.

    Raises: InputError when fewer were kept.
    """
    if k == -1:
        return None
    frames = correspondence.frames
    if k == "adaptive" and (count := min(one.levels[1].indices.shape[1] for one in frames.values())) < ADAPTIVE_MAX:
        notes.add(
            f"{setting('tokens')} adaptive reads up to {ADAPTIVE_MAX} matches, the correspondence holds {count} of "
            f"each part; set {setting('max_k')} of DIFTCorrespondence to {ADAPTIVE_MAX}."
        )
    return {index: narrow_matches(matches, k) for index, matches in frames.items()}


def match_row(matches: Correspondence) -> dict[str, float]:
    """What is reported of a frame's matches: mean confidence, share of weak ones, mean cycle error (share of side)."""
    return {
        "confidence": float(matches.confidence.mean()),
        "weak": weak_share(matches),
        "cycle_error": float(matches.cycle.mean()),
    }


def match_means(correspondence: ClipCorrespondence) -> tuple[float, float] | None:
    """Mean confidence and share of weak matches over all frames but the anchor; None where there is no other."""
    rows = [match_row(one) for index, one in correspondence.frames.items() if index != correspondence.anchor_index]
    if not rows:
        return None
    return sum(row["confidence"] for row in rows) / len(rows), sum(row["weak"] for row in rows) / len(rows)


def swapped_frames(correspondence: ClipCorrespondence, reference: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield a frame (3, H, W) for each index in order: patches of the reference at the places of their matches; the
    anchor is the reference itself."""
    for index in sorted({*correspondence.frames, correspondence.anchor_index}):
        if index == correspondence.anchor_index:
            yield reference
        else:
            yield pixel_swap(reference, correspondence.frames[index].finest)


def weak_text(share: float) -> str:
    """What is said of a share of weak matches."""
    return f"{share:.0%} of the matches are weak (confidence below {WEAK})"


EXPECT = "expect smears; choose an anchor that shows more of the object, or a model that fits the footage"
