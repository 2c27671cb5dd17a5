"""Ray casting of the solids that the rendered scenes are made of.

Coordinates are right-handed with z pointing away from the camera. A ray is `origin + depth * direction` with
direction z = 1, so that the ray parameter is the depth along the optical axis. Distances are in scene units (the
object is about 2.5 units wide).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

FAR = 1e6  # depth of a ray that hits nothing


@dataclass(frozen=True)
class Solid:
    """One convex part of an object: `kind` ("ellipsoid", "box", "cylinder"), half extents (3,), centre in object space
    (3,)."""

    kind: str
    half: torch.Tensor
    centre: torch.Tensor


def rotation(axis: torch.Tensor, angle: float) -> torch.Tensor:
    """Rotation matrix (3, 3) about a unit `axis` (3,) by `angle` radians (Rodrigues' formula)."""
    x, y, z = axis.tolist()
    cross = torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    angle_t = torch.tensor(angle)
    return torch.eye(3) + torch.sin(angle_t) * cross + (1 - torch.cos(angle_t)) * (cross @ cross)


def _hit_ellipsoid(origin: torch.Tensor, direction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """First hit of the unit sphere: depth (N,), FAR where there is none, and outward normal (N, 3)."""
    a = (direction * direction).sum(-1)
    b = (origin * direction).sum(-1)
    c = (origin * origin).sum(-1) - 1.0
    disc = b * b - a * c
    depth = torch.where(disc > 0, (-b - disc.clamp_min(0).sqrt()) / a, torch.full_like(a, FAR))
    depth = torch.where(depth > 1e-4, depth, torch.full_like(a, FAR))
    return depth, origin + depth.clamp_max(1e3)[:, None] * direction


def _hit_box(origin: torch.Tensor, direction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """First hit of the cube [-1, 1]^3 by the slab method."""
    safe = torch.where(direction.abs() < 1e-9, torch.full_like(direction, 1e-9), direction)
    near = torch.minimum((-1 - origin) / safe, (1 - origin) / safe)
    far = torch.maximum((-1 - origin) / safe, (1 - origin) / safe)
    depth, face = near.max(-1)
    miss = (depth > far.min(-1).values) | (depth < 1e-4)
    normal = torch.zeros_like(origin).scatter_(-1, face[:, None], -safe.gather(-1, face[:, None]).sign())
    return depth.masked_fill(miss, FAR), normal


def _hit_cylinder(origin: torch.Tensor, direction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """First hit of the cylinder x^2 + z^2 <= 1, |y| <= 1."""
    ox, oz, dx, dz = origin[:, 0], origin[:, 2], direction[:, 0], direction[:, 2]
    a = (dx * dx + dz * dz).clamp_min(1e-9)
    b = ox * dx + oz * dz
    disc = b * b - a * (ox * ox + oz * oz - 1)
    root = disc.clamp_min(0).sqrt()
    near, far = (-b - root) / a, (-b + root) / a
    dy = torch.where(direction[:, 1].abs() < 1e-9, torch.full_like(dx, 1e-9), direction[:, 1])
    cap_near = torch.minimum((-1 - origin[:, 1]) / dy, (1 - origin[:, 1]) / dy)
    cap_far = torch.maximum((-1 - origin[:, 1]) / dy, (1 - origin[:, 1]) / dy)
    depth = torch.maximum(near, cap_near)
    miss = (disc <= 0) | (depth > torch.minimum(far, cap_far)) | (depth < 1e-4)
    point = origin + depth.clamp(-1e3, 1e3)[:, None] * direction
    side = torch.stack([point[:, 0], torch.zeros_like(depth), point[:, 2]], -1)
    cap = torch.stack([torch.zeros_like(depth), -dy.sign(), torch.zeros_like(depth)], -1)
    return depth.masked_fill(miss, FAR), torch.where((near >= cap_near)[:, None], side, cap)


_HIT = {"ellipsoid": _hit_ellipsoid, "box": _hit_box, "cylinder": _hit_cylinder}


def hit_solids(
    solids: tuple[Solid, ...], origin: torch.Tensor, direction: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """First hit of rays with the union of `solids`.

    Args:
        solids: the parts, in object space.
        origin, direction: rays in object space, (N, 3).
    Returns: depth (N,), `FAR` where nothing is hit; outward unit normal in object space (N, 3).
    """
    depth = torch.full(origin.shape[:1], FAR)
    normal = torch.zeros_like(origin)
    for solid in solids:
        new_depth, new_normal = _HIT[solid.kind]((origin - solid.centre) / solid.half, direction / solid.half)
        closer = new_depth < depth
        depth = torch.where(closer, new_depth, depth)
        normal = torch.where(closer[:, None], new_normal / solid.half, normal)
    return depth, torch.nn.functional.normalize(normal, dim=-1)
