"""A task in memory, as the methods get it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import torch

from ...flow.clip import ClipFlows, clip_flows
from ..dataset.task import Task, load_task


@dataclass(frozen=True)
class TaskClip:
    """frames (N, 3, H, W), reference (3, H, W), masks (N, 1, H, W) or None, all in [0, 1]; truth: frame -> (3, H, W);
    digest: of the task's files."""

    name: str
    kind: str
    digest: str
    frames: torch.Tensor
    reference: torch.Tensor
    anchor: int
    masks: torch.Tensor | None
    truth: dict[int, torch.Tensor]

    @cached_property
    def flows(self) -> ClipFlows:
        """Motion of the original."""
        return clip_flows(self.frames)

    @property
    def measured(self) -> list[int]:
        """Frames with a truth that no method was given."""
        return [index for index in self.truth if index != self.anchor]

    def truths(self, indices: Sequence[int]) -> torch.Tensor:
        """The truth of frames (N, 3, H, W)."""
        return torch.stack([self.truth[index] for index in indices])


def read_clip(task: Task) -> TaskClip:
    """Decode a task."""
    everything = range(len(task.frames))
    truths = dict(zip(task.truth_frames, task.truth, strict=True)) if task.truth is not None else {}
    return TaskClip(
        task.metadata.name,
        task.metadata.kind,
        task.metadata.sha256,
        task.frames.frames(everything),
        task.reference,
        task.anchor,
        None if task.masks is None else task.masks.frames(everything),
        truths,
    )


@cache
def clip_at(folder: Path) -> TaskClip:
    """The clip of a task's folder, decoded once in a process."""
    return read_clip(load_task(folder))
