"""Rendered clips with exact ground truth: frames, object masks, dense correspondence, and a second appearance of the
same clip.

A scene is one textured solid (one or two convex parts) in front of a textured wall. The camera pans and zooms, the
solid turns and drifts, the light moves and changes its colour, so that comparing raw pixels is not enough to match
frames. Everything follows from the seed, on any machine that has the same torch random generator. The second
appearance changes the solid's surface only; the wall and the light stay.

Pixel (x, y) has its centre at (x + 0.5, y + 0.5); all coordinates here are in pixels of the rendered frame, x to the
right, y down.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...checks import check_index, check_range
from .geometry import FAR, Solid, hit_solids, rotation
from .texture import Appearance, edit_appearance, random_appearance, shade_texture, uniform

SEED_RANGES = {"train": (0, 1_000_000), "validation": (1_000_000, 2_000_000), "test": (2_000_000, 3_000_000)}
EDITS = ("tint", "recolour", "retexture", "style")
_OBJECT_WAVES = (3.2, 6.0)
_WALL_WAVES = (1.5, 3.0)
_FOCAL = 2.2
_DEPTH = 4.4
_WALL = 7.0


def split_seed(split: str, index: int) -> int:
    """Seed of scene `index` of "train", "validation" or "test"; the ranges are disjoint."""
    low, high = SEED_RANGES[split]
    return low + check_index("scene index", index, high - low)


@dataclass(frozen=True)
class Pose:
    """State of a frame: rotation (3, 3), object position (3,), camera position (3,), focal length, light direction
    (3,), light colour (3,)."""

    turn: torch.Tensor
    position: torch.Tensor
    camera: torch.Tensor
    focal: float
    light: torch.Tensor
    colour: torch.Tensor


@dataclass(frozen=True)
class Hits:
    """What rays (N) see: `depth`, `is_object`, surface coordinates `points` (N, 3) (object space, or world space on the
    wall), world `normal`."""

    depth: torch.Tensor
    is_object: torch.Tensor
    points: torch.Tensor
    normal: torch.Tensor


class Scene:
    """A clip of `num_frames` square frames of `size` pixels, all from `seed`.

    Raises: InputError when a size or a frame count cannot be rendered.
    """

    def __init__(self, seed: int, num_frames: int = 16, size: int = 256):
        check_range("num_frames", num_frames, 1, 100_000)
        check_range("size", size, 16, 4096)
        self.seed, self.num_frames, self.size = seed, num_frames, size
        generator = torch.Generator().manual_seed(seed)
        self._sample_shape(generator)
        self._sample_motion(generator)
        wall = random_appearance(generator, 2, _WALL_WAVES, saturation=(0.05, 0.5), value=(0.3, 0.85))
        first = random_appearance(generator, 3, _OBJECT_WAVES)
        self.edit = EDITS[int(torch.randint(len(EDITS), (), generator=generator))]
        second = edit_appearance(generator, first, self.edit, _OBJECT_WAVES)
        self.wall: Appearance = wall
        self.surfaces: tuple[Appearance, Appearance] = (first, second)

    def _sample_shape(self, generator: torch.Generator) -> None:
        kinds = ("ellipsoid", "box", "cylinder")
        kind = kinds[int(torch.randint(3, (), generator=generator))]
        scale = {"ellipsoid": 1.35, "box": 0.95, "cylinder": 1.05}[kind]
        half = torch.tensor([uniform(generator, 0.75, 1.1) for _ in range(3)]) * scale
        parts = [Solid(kind, half, torch.zeros(3))]
        if uniform(generator, 0, 1) < 0.5:
            side = torch.tensor([uniform(generator, -0.7, 0.7), uniform(generator, -0.9, -0.4), -0.3]) * half
            small = torch.tensor([uniform(generator, 0.5, 0.7) for _ in range(3)])
            parts.append(Solid(kinds[int(torch.randint(3, (), generator=generator))], small, side))
        self.solids = tuple(parts)

    def _sample_motion(self, generator: torch.Generator) -> None:
        def vector(*scale: float) -> torch.Tensor:
            return (torch.rand(len(scale), generator=generator) * 2 - 1) * torch.tensor(scale)

        self._base = rotation(torch.nn.functional.normalize(vector(1, 1, 1) + 1e-3, dim=0), uniform(generator, 0, 6.28))
        axis = torch.nn.functional.normalize(torch.tensor([0.0, 1.0, 0.0]) + vector(0.5, 0.0, 0.35), dim=0)
        self._axis = axis
        self._angle = uniform(generator, 0.35, 0.95) * (1 if uniform(generator, 0, 1) < 0.5 else -1)
        self._start, self._drift = vector(0.35, 0.25, 0.1), vector(0.3, 0.2, 0.2)
        self._pan = vector(0.5, 0.3, 0.0)
        self._zoom = uniform(generator, -0.2, 0.25)
        self._light, self._light_drift = vector(0.8, 0.6, 0.0) + torch.tensor([0.0, -0.5, -1.0]), vector(0.6, 0.5, 0.0)
        self._gain, self._tint = uniform(generator, -0.18, 0.18), vector(0.06, 0.03, 0.06)

    def pose(self, frame: int) -> Pose:
        """Geometry and light of a frame (0-based)."""
        check_index("frame", frame, self.num_frames)
        u = frame / max(self.num_frames - 1, 1)
        light = torch.nn.functional.normalize(self._light + u * self._light_drift, dim=0)
        return Pose(
            turn=rotation(self._axis, self._angle * u) @ self._base,
            position=torch.tensor([0.0, 0.0, _DEPTH]) + self._start + u * self._drift,
            camera=u * self._pan,
            focal=_FOCAL * (1 + self._zoom * u),
            light=light,
            colour=(1 + self._gain * u) * (1 + u * self._tint),
        )

    def _directions(self, pose: Pose, coords_xy: torch.Tensor) -> torch.Tensor:
        plane = (coords_xy * 2 / self.size - 1) / pose.focal
        return torch.cat([plane, torch.ones_like(plane[:, :1])], -1)

    def cast(self, pose: Pose, coords_xy: torch.Tensor) -> Hits:
        """Surfaces seen through pixel coordinates (N, 2)."""
        direction = self._directions(pose, coords_xy)
        origin = ((pose.camera - pose.position) @ pose.turn).expand_as(direction)
        depth, normal = hit_solids(self.solids, origin, direction @ pose.turn)
        is_object = depth < FAR
        on_object = origin + depth.clamp_max(1e3)[:, None] * (direction @ pose.turn)
        on_wall = pose.camera + _WALL * direction
        points = torch.where(is_object[:, None], on_object, on_wall)
        facing = torch.tensor([0.0, 0.0, -1.0]).expand_as(normal)
        normal = torch.where(is_object[:, None], normal @ pose.turn.T, facing)
        return Hits(depth.clamp_max(_WALL), is_object, points, normal)

    def _pixel_grid(self, size: int) -> torch.Tensor:
        axis = (torch.arange(size) + 0.5) * (self.size / size)
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        return torch.stack([x, y], -1).reshape(-1, 2)

    def render(self, frame: int, appearance: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Picture (3, S, S) in [0, 1] and object coverage (1, S, S) of a frame in its first (0) or second (1)
        appearance.

        Coverage comes from 2 x 2 rays a pixel; texture and light are evaluated once a pixel, at the mean of the rays
        that hit the solid.
        """
        pose, size = self.pose(frame), self.size
        hits = self.cast(pose, self._pixel_grid(size * 2))

        def fold(values: torch.Tensor) -> torch.Tensor:
            blocks = values.view(size, 2, size, 2, -1).permute(0, 2, 1, 3, 4)
            return blocks.reshape(size * size, 4, -1)

        inside = fold(hits.is_object.float())
        cover = inside.mean(1)
        wall = self._wall_colour(pose, self._pixel_grid(size))
        covered = cover[:, 0] > 0
        weight = inside[covered] / inside[covered].sum(1, keepdim=True)
        points = (fold(hits.points)[covered] * weight).sum(1)
        normal = torch.nn.functional.normalize((fold(hits.normal)[covered] * weight).sum(1), dim=-1)
        surface = self.surfaces[appearance]
        lit = (normal * pose.light).sum(-1, keepdim=True)
        colour = shade_texture(surface, points) * (0.45 + 0.6 * lit.clamp_min(0))
        half_way = torch.nn.functional.normalize(pose.light + torch.tensor([0.0, 0.0, -1.0]), dim=0)
        colour = colour + surface.gloss * (normal * half_way).sum(-1, keepdim=True).clamp_min(0) ** 12
        picture = wall
        picture[covered] = wall[covered] * (1 - cover[covered]) + colour * cover[covered]
        picture = (picture * pose.colour).clamp(0, 1)
        return picture.T.reshape(3, size, size).contiguous(), cover.T.reshape(1, size, size).contiguous()

    def _wall_colour(self, pose: Pose, coords_xy: torch.Tensor) -> torch.Tensor:
        points = pose.camera + _WALL * self._directions(pose, coords_xy)
        return shade_texture(self.wall, points[:, :2]) * (0.6 + 0.4 * float(-pose.light[2]))

    def frames(self, appearance: int = 0) -> torch.Tensor:
        """All frames (N, 3, S, S) of one appearance."""
        return torch.stack([self.render(i, appearance)[0] for i in range(self.num_frames)])

    def masks(self) -> torch.Tensor:
        """Object coverage of all frames, (N, 1, S, S)."""
        return torch.stack([self.render(i)[1] for i in range(self.num_frames)])

    def correspondence(self, source: int, target: int, grid: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Where each point of frame `source` lies in frame `target`.

        Args:
            grid: points are the cell centres of a grid x grid raster over the frame (the pixels when None).
        Returns: coordinates (grid, grid, 2) in pixels of the target frame; visible (grid, grid), True where the point
        is seen there.
        """
        grid = grid or self.size
        pose = self.pose(target)
        hits = self.cast(self.pose(source), self._pixel_grid(grid))
        world = torch.where(hits.is_object[:, None], hits.points @ pose.turn.T + pose.position, hits.points)
        relative = world - pose.camera
        plane = relative[:, :2] / relative[:, 2:] * pose.focal
        coords = (plane + 1) * (self.size / 2)
        again = self.cast(pose, coords)
        inside = ((coords >= 0) & (coords < self.size)).all(-1)
        visible = inside & (again.is_object == hits.is_object) & ((again.depth - relative[:, 2]).abs() < 2e-3)
        return coords.view(grid, grid, 2), visible.view(grid, grid)
