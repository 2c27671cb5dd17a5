"""The five objects: parts, and two looks of each part. Front is -y, z is up, an object stands on z = 0 and is about 2.5
units wide. All parts of an object get another look in its second appearance; the geometry stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from .camera import CameraPath
from .meshes import Mesh, cylinder, ellipsoid, lathe, prism, ring, rounded_box, tube

Colour = tuple[float, float, float]
PATTERNS = ("plain", "stripes", "bands", "checker", "spots", "marble")


@dataclass(frozen=True)
class Surface:
    """What a part looks like: two colours (sRGB, 0 to 1) in a pattern of `PATTERNS` with `scale` repeats a unit."""

    pattern: str
    first: Colour
    second: Colour
    scale: float = 4.0
    roughness: float = 0.6


@dataclass(frozen=True)
class Part:
    """A mesh and the name of its look."""

    look: str
    mesh: Mesh


@dataclass(frozen=True)
class BlenderObject:
    """An object: `parts`; `appearances`, two tables from the name of a look to its surface; `edit`, what the second one
    is called; `path` of the camera."""

    name: str
    parts: tuple[Part, ...]
    appearances: tuple[dict[str, Surface], dict[str, Surface]]
    edit: str
    path: CameraPath


def plain(red: float, green: float, blue: float, roughness: float = 0.6) -> Surface:
    """A surface of one colour."""
    return Surface("plain", (red, green, blue), (red, green, blue), 1.0, roughness)


RED, NAVY, TEAL, CREAM = (0.75, 0.08, 0.07), (0.06, 0.10, 0.35), (0.05, 0.50, 0.48), (0.93, 0.86, 0.70)
GOLD, WHITE, BLACK, PINK = (0.90, 0.62, 0.10), (0.92, 0.92, 0.90), (0.05, 0.05, 0.06), (0.93, 0.52, 0.62)
BROWN, SAND, MOSS, GREY = (0.36, 0.20, 0.09), (0.78, 0.60, 0.38), (0.30, 0.44, 0.16), (0.52, 0.53, 0.55)
SKY, PLUM, ORANGE, LIME = (0.38, 0.63, 0.88), (0.42, 0.12, 0.40), (0.93, 0.40, 0.06), (0.62, 0.80, 0.16)


def car() -> BlenderObject:
    """A car: body, cabin, glass, wheels with hubs, lamps, bumpers, a box on the roof."""
    parts = [
        Part("body", rounded_box((1.30, 0.58, 0.26), 0.20).placed((0, 0, 0.52))),
        Part("bonnet", ellipsoid((0.52, 0.50, 0.16)).placed((0.82, 0, 0.74))),
        Part("cabin", rounded_box((0.66, 0.50, 0.25), 0.18).placed((-0.22, 0, 0.94))),
        Part("glass", rounded_box((0.68, 0.40, 0.13), 0.08).placed((-0.22, 0, 0.98))),
        Part("glass", rounded_box((0.44, 0.515, 0.12), 0.08).placed((-0.22, 0, 0.98))),
        Part("box", rounded_box((0.36, 0.30, 0.10), 0.05).placed((-0.24, 0, 1.29))),
        Part("bumper", rounded_box((0.06, 0.54, 0.08), 0.05).placed((1.30, 0, 0.38))),
        Part("bumper", rounded_box((0.06, 0.54, 0.08), 0.05).placed((-1.30, 0, 0.38))),
    ]
    for y in (-0.56, 0.56):
        parts += [Part("lamp", ellipsoid((0.07, 0.11, 0.09)).placed((1.27, y * 0.68, 0.58)))]
        parts += [Part("tail", ellipsoid((0.05, 0.12, 0.07)).placed((-1.28, y * 0.68, 0.60)))]
        for x in (-0.78, 0.80):
            parts += [Part("tyre", ring(0.21, 0.105).placed((x, y, 0.315), (90, 0, 0)))]
            parts += [Part("hub", cylinder(0.19, 0.08, 0.03).placed((x, y, 0.315), (90, 0, 0)))]
    looks = {
        "body": plain(*RED, 0.35), "bonnet": plain(*RED, 0.35), "cabin": plain(*WHITE, 0.4),
        "glass": plain(0.10, 0.16, 0.22, 0.25), "box": Surface("bands", BROWN, SAND, 10), "bumper": plain(*GREY),
        "lamp": plain(0.95, 0.93, 0.80), "tail": plain(*ORANGE), "tyre": plain(*BLACK), "hub": plain(*GREY),
    }  # fmt: skip
    others = {
        "body": Surface("stripes", NAVY, GOLD, 3, 0.35), "bonnet": plain(*GOLD, 0.35), "cabin": plain(*TEAL, 0.4),
        "glass": plain(0.55, 0.72, 0.78, 0.25), "box": Surface("checker", PINK, WHITE, 8), "bumper": plain(*GOLD),
        "lamp": plain(*SKY), "tail": plain(*RED), "tyre": plain(*BROWN), "hub": plain(*LIME),
    }  # fmt: skip
    path = CameraPath((38, 8), (20, 25), 5.4, ((0.15, 0, 0.55), (-0.15, 0, 0.70)), (1.25, 1.55))
    return BlenderObject("car", tuple(parts), (looks, others), "racing", path)


def teapot() -> BlenderObject:
    """A teapot: body, foot, lid with knob, spout, handle, a band around the body."""
    body = [
        (0.0, 0.10),
        (0.55, 0.10),
        (0.85, 0.35),
        (0.98, 0.70),
        (0.90, 1.05),
        (0.66, 1.32),
        (0.46, 1.42),
        (0.0, 1.42),
    ]
    lid = [(0.0, 1.40), (0.52, 1.40), (0.50, 1.46), (0.34, 1.58), (0.14, 1.64), (0.0, 1.65)]
    spout = [(0.72, 0, 0.55), (1.05, 0, 0.70), (1.25, 0, 1.00), (1.38, 0, 1.30), (1.52, 0, 1.40)]
    handle = [(-0.80, 0, 1.12), (-1.18, 0, 1.26), (-1.42, 0, 1.00), (-1.30, 0, 0.62), (-0.88, 0, 0.46)]
    parts = (
        Part("body", lathe(_smooth(body))),
        Part("foot", cylinder(0.62, 0.07, 0.03).placed((0, 0, 0.07))),
        Part("band", ring(0.975, 0.045).placed((0, 0, 0.72))),
        Part("lid", lathe(_smooth(lid))),
        Part("knob", ellipsoid((0.14, 0.14, 0.13)).placed((0, 0, 1.74))),
        Part("spout", tube(spout, (0.24, 0.20, 0.13, 0.10, 0.09))),
        Part("handle", tube(handle, (0.08, 0.09, 0.09, 0.09, 0.08))),
    )
    looks = {
        "body": Surface("marble", CREAM, SAND, 2), "foot": plain(*BROWN), "band": plain(*NAVY), "lid": plain(*CREAM),
        "knob": plain(*NAVY), "spout": plain(*CREAM), "handle": plain(*NAVY),
    }  # fmt: skip
    others = {
        "body": Surface("spots", TEAL, WHITE, 4), "foot": plain(*GOLD), "band": plain(*ORANGE), "lid": plain(*RED),
        "knob": plain(*GOLD), "spout": Surface("bands", TEAL, LIME, 5), "handle": plain(*PLUM),
    }  # fmt: skip
    path = CameraPath((-28, 6), (22, 16), 5.6, ((-0.1, 0, 0.75), (0.2, 0, 0.90)), (1.55, 1.30))
    return BlenderObject("teapot", parts, (looks, others), "dotted", path)


def dog() -> BlenderObject:
    """A dog: trunk, chest, head, muzzle, nose, ears, legs with paws, tail, collar, eyes."""
    tail = [(-0.95, 0, 1.00), (-1.15, 0, 1.15), (-1.28, 0, 1.40), (-1.24, 0, 1.62)]
    parts = [
        Part("coat", ellipsoid((0.95, 0.44, 0.42)).placed((-0.10, 0, 0.92), (0, -4, 0))),
        Part("chest", ellipsoid((0.44, 0.42, 0.46)).placed((0.55, 0, 0.96))),
        Part("coat", tube([(0.68, 0, 1.10), (0.86, 0, 1.32), (0.98, 0, 1.52)], (0.30, 0.25, 0.24))),
        Part("head", ellipsoid((0.38, 0.34, 0.33)).placed((1.05, 0, 1.66))),
        Part("muzzle", rounded_box((0.25, 0.16, 0.13), 0.11).placed((1.40, 0, 1.56), (0, 6, 0))),
        Part("nose", ellipsoid((0.07, 0.08, 0.06)).placed((1.66, 0, 1.60))),
        Part("collar", ring(0.275, 0.055).placed((0.875, 0, 1.34), (0, 30, 0))),
        Part("tail", tube(tail, (0.12, 0.10, 0.08, 0.05))),
    ]
    for y in (-1, 1):
        parts += [Part("ear", ellipsoid((0.17, 0.06, 0.28)).placed((0.90, y * 0.33, 1.62), (y * 14, 10, 0)))]
        parts += [Part("eye", ellipsoid((0.06, 0.06, 0.06)).placed((1.33, y * 0.18, 1.76)))]
        for x in (-0.66, 0.52):
            leg = [(x, y * 0.24, 0.85), (x + 0.02, y * 0.25, 0.45), (x, y * 0.25, 0.06)]
            parts += [Part("leg", tube(leg, (0.20, 0.13, 0.11)))]
            parts += [Part("paw", ellipsoid((0.19, 0.14, 0.10)).placed((x + 0.06, y * 0.25, 0.10)))]
    looks = {
        "coat": Surface("spots", SAND, BROWN, 2.5, 0.8), "chest": plain(*WHITE, 0.8), "head": plain(*SAND, 0.8),
        "muzzle": plain(*CREAM, 0.8), "nose": plain(*BLACK), "collar": plain(*RED), "tail": plain(*BROWN, 0.8),
        "ear": plain(*BROWN, 0.8), "eye": plain(*BLACK, 0.3), "leg": plain(*SAND, 0.8), "paw": plain(*WHITE, 0.8),
    }  # fmt: skip
    others = {
        "coat": Surface("stripes", ORANGE, BLACK, 4, 0.8), "chest": plain(*GOLD, 0.8), "head": plain(*ORANGE, 0.8),
        "muzzle": plain(*WHITE, 0.8), "nose": plain(*PINK), "collar": plain(*LIME),
        "tail": Surface("bands", BLACK, ORANGE, 6, 0.8), "ear": plain(*BLACK, 0.8), "eye": plain(*TEAL, 0.3),
        "leg": Surface("bands", ORANGE, BLACK, 5, 0.8), "paw": plain(*PLUM, 0.8),
    }  # fmt: skip
    path = CameraPath((-12, 24), (12, 17), 5.6, ((0.10, 0, 0.85), (0.30, 0, 1.00)), (1.30, 1.50))
    return BlenderObject("dog", tuple(parts), (looks, others), "tiger", path)


def house() -> BlenderObject:
    """A house: walls, roof, chimney, door with knob, windows in frames, steps."""
    parts = [
        Part("wall", rounded_box((1.00, 0.75, 0.62), 0.03).placed((0, 0, 0.70))),
        Part("base", rounded_box((1.06, 0.81, 0.08), 0.02).placed((0, 0, 0.08))),
        Part("roof", prism([(-1.22, 1.28), (1.22, 1.28), (0.0, 2.10)], 0.90)),
        Part("gable", prism([(-0.86, 1.31), (0.86, 1.31), (0.0, 1.90)], 0.915)),
        Part("chimney", rounded_box((0.14, 0.14, 0.42), 0.02).placed((0.55, 0.25, 1.92))),
        Part("frame", rounded_box((0.27, 0.05, 0.44), 0.03).placed((-0.40, -0.75, 0.56))),
        Part("door", rounded_box((0.21, 0.05, 0.39), 0.03).placed((-0.40, -0.77, 0.54))),
        Part("knob", ellipsoid((0.04, 0.04, 0.04)).placed((-0.26, -0.84, 0.52))),
        Part("step", rounded_box((0.36, 0.16, 0.07), 0.02).placed((-0.40, -0.95, 0.07))),
    ]
    for x, y, turn in ((0.42, -0.75, 0), (1.0, -0.05, 90), (-1.0, -0.05, 90)):
        parts += [Part("frame", rounded_box((0.30, 0.05, 0.27), 0.03).placed((x, y, 0.80), (0, 0, turn)))]
        parts += [Part("glass", rounded_box((0.24, 0.06, 0.21), 0.03).placed((x, y, 0.80), (0, 0, turn)))]
    looks = {
        "wall": plain(*CREAM, 0.9), "base": plain(*GREY, 0.9), "roof": Surface("checker", RED, BROWN, 5, 0.9),
        "gable": plain(*CREAM, 0.9), "chimney": plain(*RED, 0.9), "frame": plain(*WHITE), "door": plain(*MOSS),
        "glass": plain(0.12, 0.20, 0.30, 0.3), "knob": plain(*GOLD), "step": plain(*GREY, 0.9),
    }  # fmt: skip
    others = {
        "wall": Surface("bands", SKY, WHITE, 5, 0.9), "base": plain(*PLUM, 0.9),
        "roof": Surface("stripes", PLUM, PINK, 3, 0.9), "gable": plain(*GOLD, 0.9), "chimney": plain(*LIME, 0.9),
        "frame": plain(*ORANGE), "door": plain(*RED), "glass": plain(0.95, 0.85, 0.45, 0.3), "knob": plain(*NAVY),
        "step": plain(*TEAL, 0.9),
    }  # fmt: skip
    path = CameraPath((-34, -4), (18, 24), 5.8, ((0, 0, 0.85), (0.15, 0, 1.05)), (1.45, 1.22))
    return BlenderObject("house", tuple(parts), (looks, others), "candy", path)


def chair() -> BlenderObject:
    """A chair: seat, cushion, four legs, two posts, top rail, slats, crossbars."""
    parts = [
        Part("seat", rounded_box((0.62, 0.58, 0.07), 0.05).placed((0, 0, 0.90))),
        Part("cushion", rounded_box((0.54, 0.50, 0.09), 0.085).placed((0, -0.02, 1.03))),
        Part("rail", rounded_box((0.66, 0.07, 0.16), 0.06).placed((0, 0.66, 2.08), (-6, 0, 0))),
    ]
    for x in (-0.52, 0.52):
        parts += [Part("leg", tube([(x, -0.46, 0.86), (x * 1.04, -0.48, 0.0)], (0.075, 0.055)))]
        parts += [Part("leg", tube([(x, 0.48, 0.86), (x * 1.04, 0.54, 0.0)], (0.075, 0.055)))]
        parts += [Part("post", tube([(x, 0.50, 0.88), (x, 0.55, 1.50), (x, 0.66, 2.10)], (0.07, 0.065, 0.06)))]
        parts += [Part("bar", tube([(x * 1.02, -0.47, 0.42), (x * 1.02, 0.51, 0.42)], (0.04, 0.04)))]
    for x in (-0.26, 0.0, 0.26):
        parts += [Part("slat", rounded_box((0.075, 0.03, 0.56), 0.025).placed((x, 0.57, 1.50), (-5, 0, 0)))]
    looks = {
        "seat": Surface("marble", BROWN, SAND, 3), "cushion": plain(*TEAL, 0.9),
        "rail": Surface("marble", BROWN, SAND, 3), "leg": plain(*BROWN), "post": plain(*BROWN),
        "bar": plain(*SAND), "slat": plain(*SAND),
    }  # fmt: skip
    others = {
        "seat": plain(*WHITE), "cushion": Surface("checker", RED, CREAM, 6, 0.9), "rail": plain(*SKY),
        "leg": Surface("bands", WHITE, NAVY, 6), "post": plain(*PINK), "bar": plain(*GOLD), "slat": plain(*LIME),
    }  # fmt: skip
    path = CameraPath((32, 4), (18, 14), 5.6, ((0, 0, 1.00), (-0.1, 0, 1.10)), (1.35, 1.55))
    return BlenderObject("chair", tuple(parts), (looks, others), "painted", path)


OBJECTS: dict[str, Callable[[], BlenderObject]] = {
    "car": car, "teapot": teapot, "dog": dog, "house": house, "chair": chair,
}  # fmt: skip


def _smooth(profile: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """A profile with rounded corners: two rounds of corner cutting, the ends stay."""
    for _ in range(2):
        cut = [profile[0]]
        for (r0, z0), (r1, z1) in pairwise(profile):
            cut += [(0.75 * r0 + 0.25 * r1, 0.75 * z0 + 0.25 * z1), (0.25 * r0 + 0.75 * r1, 0.25 * z0 + 0.75 * z1)]
        profile = [*cut, profile[-1]]
    return profile
