"""What the Blender process is told: a JSON file beside the pictures that it makes, and the names of those."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from .camera import Camera
from .objects import OBJECTS

JOB = "job.json"
LOG = "blender.log"
SUBSAMPLES = 3  # geometry samples along each side of a pixel; odd, so that the middle one lies at the pixel's centre


@dataclass(frozen=True)
class RenderJob:
    """One clip of one object: side of the frames in pixels, number of frames, samples a pixel, CPU threads (0: all),
    seed of the sampling."""

    object: str
    size: int
    frames: int
    samples: int
    threads: int
    seed: int

    def cameras(self) -> list[Camera]:
        """Return the camera of every frame."""
        path = OBJECTS[self.object]().path
        return [path.at(index / max(self.frames - 1, 1), self.size) for index in range(self.frames)]

    def write(self, folder: Path) -> None:
        """Write job.json."""
        (folder / JOB).write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> RenderJob:
        """Read job.json."""
        return cls(**json.loads((folder / JOB).read_text(encoding="utf-8")))


def picture_name(index: int, appearance: int) -> str:
    """Return the name of the rendered frame `index` in appearance 0 or 1: PNG, 8 bit."""
    return f"look{appearance}_{index:04d}.png"


def geometry_name(index: int) -> str:
    """Return the name of the geometry of frame `index`: an .npz with `depth` (float32, along the optical axis) and
    `part` (uint8, 0 is the surroundings), both (S * SUBSAMPLES, S * SUBSAMPLES), the top row first."""
    return f"geometry_{index:04d}.npz"
