"""Draws docs/icon.png and docs/banner.png, the pictures of the registry's page: `python docs/artwork.py`.

The mark is a zero that turns from grey to colour around a play sign. The banner shows the idea: a clip in grey of which
one frame was edited, and below it the whole clip in that look.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

HERE = Path(__file__).resolve().parent
ICON, BANNER = 400, (1260, 540)  # the registry asks for a square of at most 400 pixels, and for 21:9
FINE = 4  # drawn larger by this factor and reduced, for smooth edges
NIGHT, DAWN = (17, 18, 28), (36, 34, 62)
GREY, PALE, WHITE = (126, 130, 148), (190, 194, 208), (244, 245, 250)
RING = [(92, 96, 116), (72, 140, 190), (92, 96, 232), (206, 70, 190), (250, 106, 92), (255, 190, 84)]
Colour = tuple[int, int, int]


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """The colour `share` of the way from a to b."""
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


def backdrop(width: int, height: int) -> Image.Image:
    """A slope from night to dawn, lighter towards the lower right."""
    y, x = np.mgrid[0:height, 0:width]
    share = ((x / width + y / height) / 2)[..., None]
    return Image.fromarray((np.array(NIGHT) * (1 - share) + np.array(DAWN) * share).astype(np.uint8))


def mark(size: int) -> Image.Image:
    """The zero with the play sign, `size` pixels wide, on nothing."""
    y, x = (np.mgrid[0:size, 0:size] + 0.5) / size * 2 - 1
    turn = (np.arctan2(x, y) / (2 * np.pi) + 0.5) % 1  # 0 at the top, and on against the clock
    places = np.linspace(0, 1, len(RING))
    colours = np.stack([np.interp(1 - turn, places, [colour[k] for colour in RING]) for k in range(3)], -1)
    distance = np.abs(np.hypot(x, y) - 0.74) - 0.17
    cover = np.clip(0.5 - distance * size / 2, 0, 1)[..., None]
    ring = Image.fromarray(np.concatenate([colours, 255 * cover], -1).astype(np.uint8), "RGBA")
    draw, unit = ImageDraw.Draw(ring), size / 2
    corners = [(-0.17, -0.3), (0.36, 0), (-0.17, 0.3)]
    draw.polygon([((1 + a) * unit, (1 + b) * unit) for a, b in corners], WHITE, WHITE, round(0.05 * size))
    return ring


def scene(size: tuple[int, int], place: float, edited: bool) -> Image.Image:
    """One frame of the clip: a ball that has gone `place` (0 to 1) of its way over a hill."""
    width, height = size
    sky = [(255, 196, 120), (224, 84, 142)] if edited else [(176, 180, 194), (132, 136, 154)]
    hill, ball = ((58, 44, 140), (64, 220, 208)) if edited else ((78, 82, 100), (222, 225, 234))
    share = np.linspace(0, 1, height)[:, None, None] * np.ones((1, width, 1))
    picture = Image.fromarray((np.array(sky[0]) * (1 - share) + np.array(sky[1]) * share).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((-0.25 * width, 0.62 * height, 1.25 * width, 2.2 * height), hill)
    x, y, radius = (0.22 + 0.56 * place) * width, (0.5 - 0.6 * place * (1 - place)) * height, 0.15 * height
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), ball)
    return picture


def put_frame(canvas: Image.Image, box: tuple[int, int, int, int], picture: Image.Image, edge: Colour) -> None:
    """Paste a picture with round corners and an edge."""
    left, top, right, bottom = box
    mask = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, right - left - 1, bottom - top - 1), 9 * FINE, 255)
    canvas.paste(picture, box[:2], mask)
    ImageDraw.Draw(canvas).rounded_rectangle(box, 9 * FINE, outline=edge, width=3 * FINE)


def clip_rows(canvas: Image.Image, left: int, tops: tuple[int, int], count: int = 5, anchor: int = 1) -> None:
    """The clip with its one edited frame, threads from there, and the clip in the new look."""
    width, height, gap = 116 * FINE, 87 * FINE, 16 * FINE
    lefts = [left + number * (width + gap) for number in range(count)]
    start = (lefts[anchor] + width // 2, tops[0] + height)
    threads = Image.new("RGBA", canvas.size)
    for number, x in enumerate(lefts):
        end, steps = (x + width // 2, tops[1]), np.linspace(0, 1, 40)
        ease = steps * steps * (3 - 2 * steps)
        points = [
            (start[0] + (end[0] - start[0]) * e, start[1] + (end[1] - start[1]) * s)
            for s, e in zip(steps, ease, strict=True)
        ]
        ImageDraw.Draw(threads).line(points, (*RING[2 + number % 4], 255), 3 * FINE, "curve")
    canvas.paste(threads, (0, 0), threads)
    for number, x in enumerate(lefts):
        place, edited = number / (count - 1), number == anchor
        for row, top in enumerate(tops):
            coloured = edited or row == 1
            edge = RING[5] if edited and row == 0 else mix(NIGHT, PALE, 0.35)
            box = (x, top, x + width, top + height)
            put_frame(canvas, box, scene((width, height), place, coloured), edge)


def font(size: int, weight: str = "-Bold") -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / f"fonts/ttf/DejaVuSans{weight}.ttf", size * FINE)


def glow(canvas: Image.Image, centre: tuple[int, int], radius: int, colour: Colour) -> None:
    """Soft light behind the mark."""
    light = Image.new("L", canvas.size)
    x, y = centre
    ImageDraw.Draw(light).ellipse((x - radius, y - radius, x + radius, y + radius), 70)
    canvas.paste(Image.new("RGB", canvas.size, colour), (0, 0), light.filter(ImageFilter.GaussianBlur(radius // 2)))


def icon() -> Image.Image:
    """The mark on its own."""
    size = ICON * FINE
    canvas, inner = backdrop(size, size), round(0.8 * size)
    glow(canvas, (size // 2, size // 2), size // 3, RING[2])
    drawn = mark(inner)
    canvas.paste(drawn, ((size - inner) // 2, (size - inner) // 2), drawn)
    return canvas.resize((ICON, ICON), Image.Resampling.LANCZOS)


def banner() -> Image.Image:
    """Mark and name on the left, the idea on the right."""
    width, height = (side * FINE for side in BANNER)
    canvas, size = backdrop(width, height), 150 * FINE
    glow(canvas, (150 * FINE, 165 * FINE), 120 * FINE, RING[2])
    drawn = mark(size)
    canvas.paste(drawn, (72 * FINE, 88 * FINE), drawn)
    draw = ImageDraw.Draw(canvas)
    draw.text((70 * FINE, 276 * FINE), "Zero-to-Hero", WHITE, font(54))
    draw.text((73 * FINE, 356 * FINE), "Edit one frame.", PALE, font(27, ""))
    draw.text((73 * FINE, 395 * FINE), "Get the whole video.", PALE, font(27, ""))
    clip_rows(canvas, 556 * FINE, (116 * FINE, 336 * FINE))
    return canvas.resize(BANNER, Image.Resampling.LANCZOS)


if __name__ == "__main__":
    icon().save(HERE / "icon.png", optimize=True)
    banner().save(HERE / "banner.png", optimize=True)
