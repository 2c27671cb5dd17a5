"""Cameras that pan and zoom.

World: z is up. Camera: x to the right, y down, z forward (as in OpenCV). Pixel (x, y) has its centre at (x + 0.5,
y + 0.5). Frames are square; focal lengths are in sides of the frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Point = tuple[float, float, float]
Span = tuple[float, float]


@dataclass(frozen=True)
class CameraPath:
    """How the camera moves from the first frame to the last.

    azimuth, elevation: where it stands as seen from what it looks at, degrees (azimuth 0 is -y, 90 is +x); distance:
    scene units; target: points that it looks at; focal: length in sides of the frame.
    """

    azimuth: Span
    elevation: Span
    distance: float
    target: tuple[Point, Point]
    focal: Span

    def at(self, share: float, size: int) -> Camera:
        """Return the camera at `share` (0 to 1) of the way for frames of `size` pixels."""

        def between(pair: Any) -> np.ndarray:
            return np.array(pair[0]) * (1 - share) + np.array(pair[1]) * share

        azimuth, elevation = np.radians([between(self.azimuth), between(self.elevation)])
        level = np.cos(elevation)
        direction = np.array([level * np.sin(azimuth), -level * np.cos(azimuth), np.sin(elevation)])
        target = between(self.target)
        return look_at(target + self.distance * direction, target, float(between(self.focal)), size)


@dataclass(frozen=True)
class Camera:
    """`intrinsics` (3, 3) in pixels and `world_to_camera` (4, 4)."""

    intrinsics: np.ndarray
    world_to_camera: np.ndarray

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return pixel coordinates (..., 2) and depths (...) along the optical axis of world points (..., 3)."""
        turn, shift = self.world_to_camera[:3, :3], self.world_to_camera[:3, 3]
        seen = (points @ turn.T + shift) @ self.intrinsics.T
        return seen[..., :2] / seen[..., 2:], seen[..., 2]

    def unproject(self, coords_xy: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Return the world points (..., 3) that are seen at pixel coordinates (..., 2) at these depths (...)."""
        turn, shift = self.world_to_camera[:3, :3], self.world_to_camera[:3, 3]
        rays = np.concatenate([coords_xy, np.ones_like(coords_xy[..., :1])], -1) @ np.linalg.inv(self.intrinsics).T
        points: np.ndarray = (rays * depth[..., None] - shift) @ turn
        return points

    def to_json(self) -> dict[str, Any]:
        """Return both matrices as lists of rows."""
        return {"intrinsics": self.intrinsics.tolist(), "world_to_camera": self.world_to_camera.tolist()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Camera:
        """Read what `to_json` gave."""
        return cls(np.array(values["intrinsics"]), np.array(values["world_to_camera"]))


def look_at(position: np.ndarray, target: np.ndarray, focal: float, size: int) -> Camera:
    """Return an upright camera at `position` (3,) that has `target` (3,) in the middle of a frame of `size` pixels."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right = right / np.linalg.norm(right)
    turn = np.stack([right, np.cross(forward, right), forward])
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3], world_to_camera[:3, 3] = turn, -turn @ position
    intrinsics = np.array([[focal * size, 0, size / 2], [0, focal * size, size / 2], [0, 0, 1]])
    return Camera(intrinsics, world_to_camera)
