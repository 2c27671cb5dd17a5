"""Guidances on the features that enter a level of the decoder, beside those on attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from .guidance import Pass

LEVELS = (0, 1, 2, 3)  # of the decoder, coarse to fine


class FeatureGuidance(Protocol):
    """One way of changing the features that enter a level of the decoder, before anything else there reads them.

    Rows of a batch are frames (`Pass.frames`). `name` is what messages call it.
    """

    name: str

    def acts(self, level: int, step: int) -> bool:
        """Whether it does anything at a level (0 to 3) at a step."""
        ...

    def guide(self, now: Pass, level: int, features: torch.Tensor) -> torch.Tensor:
        """The features (B, C, h, w) that take the place of those that came, in their type."""
        ...


def guide_features(guidances: Sequence[FeatureGuidance], now: Pass, level: int, features: torch.Tensor) -> torch.Tensor:
    """Features after all guidances that act, in the order of the list."""
    for guidance in guidances:
        if guidance.acts(level, now.step):
            features = guidance.guide(now, level, features)
    return features
