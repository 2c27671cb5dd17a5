"""The shapes that the objects are built of: closed meshes from a few numbers.

z is up; the corners of a face turn counter-clockwise as seen from outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

Face = tuple[int, ...]
Point = tuple[float, float, float]


@dataclass(frozen=True)
class Mesh:
    """`vertices` (V, 3), `faces` of three or more vertex indices, and whether faces are shaded as a smooth surface."""

    vertices: np.ndarray
    faces: tuple[Face, ...]
    smooth: bool = True

    def placed(self, position: Point = (0, 0, 0), turn: Point = (0, 0, 0), scale: Point = (1, 1, 1)) -> Mesh:
        """Return the mesh scaled, turned about x, then y, then z (degrees), and moved."""
        vertices = (self.vertices * np.array(scale)) @ turn_matrix(turn).T + np.array(position)
        return Mesh(vertices, self.faces, self.smooth)


def turn_matrix(degrees: Point) -> np.ndarray:
    """Return the rotation (3, 3) about x, then y, then z."""
    (sx, sy, sz), (cx, cy, cz) = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    turn: np.ndarray = about_z @ about_y @ about_x
    return turn


def lathe(profile: Sequence[tuple[float, float]], segments: int = 64) -> Mesh:
    """Turn a profile of (radius, z), from the bottom up, about the z axis; a radius of 0 closes an end to a point."""
    angles = np.arange(segments) * (2 * np.pi / segments)
    circle = np.stack([np.cos(angles), np.sin(angles)], -1)
    rows: list[list[int]] = []
    vertices: list[np.ndarray] = []
    for radius, z in profile:
        start = len(vertices)
        ring = circle * radius if radius > 0 else circle[:1] * 0
        vertices += [np.array([x, y, z]) for x, y in ring]
        rows.append([start + (i if radius > 0 else 0) for i in range(segments)])
    return Mesh(np.array(vertices), tuple(_between(rows)))


def ellipsoid(half: Point, segments: int = 64) -> Mesh:
    """An ellipsoid with these half axes around the origin."""
    angles = np.linspace(-np.pi / 2, np.pi / 2, segments // 2 + 1)
    profile = [(float(np.cos(a)), float(np.sin(a))) for a in angles[1:-1]]
    return lathe([(0.0, -1.0), *profile, (0.0, 1.0)], segments).placed(scale=half)


def cylinder(radius: float, half_height: float, bevel: float = 0.0, segments: int = 64) -> Mesh:
    """A cylinder along z around the origin; `bevel` rounds its edges."""
    angles = np.linspace(0, np.pi / 2, 6)
    upper = (
        [(radius - bevel * (1 - float(np.cos(a))), half_height - bevel * (1 - float(np.sin(a)))) for a in angles]
        if bevel
        else [(radius, half_height)]
    )
    side = [(r, -z) for r, z in reversed(upper)] + upper
    return lathe([(0.0, -half_height), *side, (0.0, half_height)], segments)


def tube(points: Sequence[Point], radii: Sequence[float], segments: int = 32, closed: bool = False) -> Mesh:
    """A round tube along a smooth curve through `points`, of the radius given at each; `closed` makes it a ring.

    The curve is a Catmull-Rom spline; circles are carried along it without twist. Open ends are closed flat.
    """
    centres, sizes = _spline(np.array(points, float), np.array(radii, float), closed)
    count = len(centres)
    around = np.roll(centres, -1, 0) - np.roll(centres, 1, 0)
    tangents = around if closed else np.gradient(centres, axis=0)
    tangents = tangents / np.linalg.norm(tangents, axis=1, keepdims=True)
    normal = np.cross(tangents[0], np.eye(3)[int(np.argmin(np.abs(tangents[0])))])
    angles = np.arange(segments) * (2 * np.pi / segments)
    vertices: list[np.ndarray] = []
    rows: list[list[int]] = []
    for place in range(count):
        normal = normal - tangents[place] * np.dot(normal, tangents[place])
        normal = normal / np.linalg.norm(normal)
        other = np.cross(tangents[place], normal)
        rows.append([len(vertices) + i for i in range(segments)])
        ring = np.cos(angles)[:, None] * normal + np.sin(angles)[:, None] * other
        vertices += list(centres[place] + sizes[place] * ring)
    ends = [] if closed else [tuple(reversed(rows[0])), tuple(rows[-1])]
    return Mesh(np.array(vertices), (*_between([*rows, rows[0]] if closed else rows), *ends))


def ring(radius: float, thickness: float, segments: int = 64) -> Mesh:
    """A torus around the z axis."""
    angles = np.arange(segments) * (2 * np.pi / segments)
    points = [(radius * float(np.cos(a)), radius * float(np.sin(a)), 0.0) for a in angles]
    return tube(points, [thickness] * segments, closed=True)


def rounded_box(half: Point, radius: float, steps: int = 4) -> Mesh:
    """A box with these half extents around the origin whose edges are rounded with `radius`."""
    extent, inner = np.array(half, float), np.array(half, float) - radius
    edge = radius * (1 - np.cos(np.linspace(0, np.pi / 2, steps + 1)))
    vertices: list[np.ndarray] = []
    faces: list[Face] = []
    for axis in range(3):
        for side in (1, -1):
            u, v = (axis + 1) % 3, (axis + 2) % 3
            lines = [np.concatenate([-extent[w] + edge, extent[w] - edge[::-1]]) for w in (u, v)]
            rows = []
            for a in lines[0]:
                row = []
                for b in lines[1] if side > 0 else lines[1][::-1]:
                    point = np.zeros(3)
                    point[axis], point[u], point[v] = side * extent[axis], a, b
                    core = np.clip(point, -inner, inner)
                    away = point - core
                    row.append(len(vertices))
                    vertices.append(core + radius * away / np.linalg.norm(away))
                rows.append(row)
            for low, high in pairwise(rows):
                faces += [(low[i], high[i], high[i + 1], low[i + 1]) for i in range(len(low) - 1)]
    return _merged(np.array(vertices), faces)


def prism(outline: Sequence[tuple[float, float]], half_depth: float) -> Mesh:
    """A flat-sided body: `outline` (x, z), counter-clockwise seen from the front (-y), drawn out along y."""
    count = len(outline)
    front = [(x, -half_depth, z) for x, z in outline]
    back = [(x, half_depth, z) for x, z in outline]
    sides = [(i, i + count, (i + 1) % count + count, (i + 1) % count) for i in range(count)]
    caps = [tuple(range(count)), tuple(range(2 * count - 1, count - 1, -1))]
    return Mesh(np.array(front + back, float), (*[(a, b, c, d) for a, b, c, d in sides], *caps), smooth=False)


def _between(rows: Sequence[Sequence[int]]) -> list[Face]:
    """Faces between closed rows of vertices that lie one above the other; where two vertices coincide, a triangle."""
    faces = []
    for low, high in pairwise(rows):
        for i in range(len(low)):
            j = (i + 1) % len(low)
            corners = list(dict.fromkeys((low[i], low[j], high[j], high[i])))
            if len(corners) > 2:
                faces.append(tuple(corners))
    return faces


def _spline(points: np.ndarray, radii: np.ndarray, closed: bool, steps: int = 8) -> tuple[np.ndarray, np.ndarray]:
    values = np.concatenate([points, radii[:, None]], 1)
    if closed:
        return points, radii  # given finely already
    padded = np.concatenate([2 * values[:1] - values[1:2], values, 2 * values[-1:] - values[-2:-1]])
    pieces = []
    for a, b, c, d in zip(padded[:-3], padded[1:-2], padded[2:-1], padded[3:], strict=True):
        t = np.arange(steps)[:, None] / steps
        pieces.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    curve = np.concatenate([*pieces, values[-1:]])
    return curve[:, :3], curve[:, 3]


def _merged(vertices: np.ndarray, faces: Sequence[Face]) -> Mesh:
    """The mesh with coinciding vertices made one, so that its shading has no seams."""
    rounded = np.round(vertices, 7) + 0.0  # no negative zeros
    unique, inverse = np.unique(rounded, axis=0, return_inverse=True)
    merged = [tuple(dict.fromkeys(int(inverse.reshape(-1)[i]) for i in face)) for face in faces]
    return Mesh(unique, tuple(face for face in merged if len(face) > 2))
