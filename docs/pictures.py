"""Makes the pictures of the README: `python docs/pictures.py`.

compare.png and steps.png: renders four clips of the test range, takes the second look of each one's first frame as the
edit, and runs `zero2hero correspond` and `zero2hero edit --tiny`, the latter as the paper ends.
propagate.png: renders a clip at 1280 x 720, paints on its first frame as an artist might, and runs `zero2hero
propagate`. What is made is kept in --work and not made again.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import torch
from PIL import Image, ImageDraw, ImageFont

from zero2hero_core.cli.main import main as zero2hero
from zero2hero_core.correspondence.file import load_correspondences
from zero2hero_core.tiny.scenes.scene import Scene, split_seed
from zero2hero_core.tiny.scenes.texture import random_appearance

HERE = Path(__file__).resolve().parent
CLIPS = {12: "recoloured", 15: "new pattern", 2: "new style", 7: "tinted"}  # number in the test range: edit
STEPS_CLIP, STEPS_FRAME = 2, 10
SIZE, STRIDE, SHOWN = 192, 5, (0, 5, 10, 15)
TILE, GAP, TITLE = 124, 4, 28
WIDE, WIDE_CLIP, WIDE_FRAMES, WIDE_SHOWN = (1280, 720), 19, 24, (0, 8, 16, 23)
INK, GOLD, PAPER = (40, 42, 54), (226, 150, 20), (255, 255, 255)
DOTS = ("#ffd400", "#00e5ff", "#ff5ad9", "#7dff5a", "#ff8a3c", "#ffffff")
Place = tuple[float, ...]


def run(*words: str | Path) -> None:
    """Run one command of the program, or stop."""
    status = zero2hero([*map(str, words), "--quiet"])
    if status:
        raise SystemExit(status)


class Clip:
    """One rendered clip, its edit and what became of it, as folders below `work`."""

    def __init__(self, work: Path, number: int):
        self.data, self.edit, self.matches = (work / f"{name}{number}" for name in ("data", "edit", "match"))
        self.number = number

    def make(self) -> None:
        """Render, match and edit, as far as it is not done."""
        if not any(self.data.glob("*/task.json")):
            run(
                "dataset",
                "rendered",
                "--clips",
                "1",
                "--first",
                str(self.number),
                "--size",
                str(SIZE),
                "--out",
                self.data,
            )
        task = self.task()
        clip = ("--video", task / "content", "--anchor", "0", "--stride", str(STRIDE), "--size", str(SIZE))
        if not (self.edit / "report.json").exists():
            reference = next((task / "style").iterdir())
            options = ("--preset", "best", "--finish", "hero", "--reference", reference)  # Hero-Stage by itself
            run("edit", "--tiny", *clip, *options, "--out", self.edit, "--overwrite")
        if not (self.matches / "matches.png").exists():
            run("correspond", "--tiny", *clip, "--out", self.matches, "--overwrite")

    def task(self) -> Path:
        """The folder of the task."""
        return next(self.data.glob("*/task.json")).parent

    def original(self, frame: int) -> Image.Image:
        """A frame of the clip."""
        return Image.open(self.task() / "content" / f"frame_{frame:04d}.png").convert("RGB")

    def reference(self) -> Image.Image:
        """The edited anchor."""
        return Image.open(next((self.task() / "style").iterdir())).convert("RGB")

    def zero(self, frame: int) -> Image.Image:
        """What Zero-Stage made of a frame."""
        return Image.open(self.edit / "zero" / "frames" / f"frame_{frame:06d}.png").convert("RGB")

    def result(self, frame: int) -> Image.Image:
        """What Hero-Stage made of it."""
        return Image.open(self.edit / "frames" / f"frame_{frame:06d}.png").convert("RGB")

    def pairs(self, frame: int, count: int = 6) -> list[tuple[Place, Place]]:
        """Some places of the object in a frame, far from each other, and where they are in the anchor, as shares of the
        sides."""
        matches = load_correspondences(self.matches / "correspondence.safetensors").frames[frame]
        side = matches.finest.size_hw[0]
        mask = Image.open(self.task() / "mask" / f"frame_{frame:04d}.png").convert("L").resize((side, side))
        coords, confidence = matches.finest.coords_xy(), matches.confidence
        inside = [
            (x, y) for y in range(side) for x in range(side) if mask.getpixel((x, y)) == 255 and confidence[y, x] > 0.5
        ]
        chosen = [inside[0]]
        while len(chosen) < count:
            chosen.append(max(inside, key=lambda place: min(math.dist(place, other) for other in chosen)))
        return [(((x + 0.5) / side, (y + 0.5) / side), tuple(coords[y, x].tolist())) for x, y in chosen]


def font(size: int, weight: str = "") -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / f"fonts/ttf/DejaVuSans{weight}.ttf", size)


def put(canvas: Image.Image, picture: Image.Image, left: int, top: int, side: int = TILE, edge: bool = False) -> None:
    """Paste a picture, with a golden edge where it is the edited frame."""
    canvas.paste(picture.resize((side, side), Image.Resampling.LANCZOS), (left, top))
    if edge:
        ImageDraw.Draw(canvas).rectangle((left, top, left + side - 1, top + side - 1), outline=GOLD, width=4)


def compare(clips: Sequence[Clip]) -> Image.Image:
    """Two clips a line: above the clip, below the one edited frame and what the others became."""
    block, space = (len(SHOWN) * (TILE + GAP) - GAP, 2 * (TILE + GAP) + TITLE), 24
    canvas = Image.new("RGB", (2 * block[0] + space, -(-len(clips) // 2) * block[1] - GAP), PAPER)
    draw = ImageDraw.Draw(canvas)
    for place, clip in enumerate(clips):
        left, top = place % 2 * (block[0] + space), place // 2 * block[1]
        draw.text((left, top + 5), CLIPS[clip.number], INK, font(14, "-Bold"))
        if place < 2:
            draw.text((left + TILE + GAP, top + 7), "above the clip, below", INK, font(12))
            draw.text((left + TILE + GAP + 139, top + 7), "one edited frame", GOLD, font(12, "-Bold"))
            draw.text((left + TILE + GAP + 264, top + 7), "and the result", INK, font(12))
        for column, frame in enumerate(SHOWN):
            x, y = left + column * (TILE + GAP), top + TITLE
            put(canvas, clip.original(frame), x, y)
            lower = clip.result(frame) if column else clip.reference()
            put(canvas, lower, x, y + TILE + GAP, edge=not column)
    return canvas


def steps(clip: Clip, frame: int) -> Image.Image:
    """Match, carry, restore, finish: two pictures each."""
    columns: list[tuple[str, str, Image.Image, Image.Image]] = [
        ("1  match", "a frame's parts, found in the anchor", clip.original(0), clip.original(frame)),
        ("2  carry", "the edit, in the frame's layout", clip.reference(), clip.zero(frame)),
        ("3  restore", "the same, without its wear", clip.zero(frame), clip.result(frame)),
        ("4  finish", "all frames: rate, sound, file", clip.result(SHOWN[1]), clip.result(SHOWN[-1])),
    ]
    space, top = 22, 46
    width = 2 * TILE + GAP
    canvas = Image.new("RGB", (len(columns) * (width + space) - space, TILE + top), PAPER)
    draw = ImageDraw.Draw(canvas)
    for place, (title, text, first, second) in enumerate(columns):
        left = place * (width + space)
        draw.text((left, 2), title, INK, font(15, "-Bold"))
        draw.text((left, 24), text, INK, font(12))
        put(canvas, first, left, top, edge=title.endswith("carry"))
        put(canvas, second, left + TILE + GAP, top)
    for number, (here, there) in enumerate(clip.pairs(frame)):
        colour = DOTS[number % len(DOTS)]
        start = (there[0] * TILE, top + there[1] * TILE)
        end = (TILE + GAP + here[0] * TILE, top + here[1] * TILE)
        draw.line((*start, *end), colour, 2)
        for x, y in (start, end):
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), colour, PAPER)
    return canvas


class PaintedClip:
    """A clip of 1280 x 720, its first frame painted on, and what `zero2hero propagate` made of the others."""

    def __init__(self, work: Path):
        self.frames, self.result = work / "wide_frames", work / "wide_carried"
        self.edit = work / "wide_edit.png"

    def make(self) -> None:
        """Render, paint and carry, as far as it is not done."""
        if not self.edit.exists():
            scene = fine_scene()
            self.frames.mkdir(exist_ok=True)
            for number in range(WIDE_FRAMES):
                picture, mask = (_wide(_image(part)) for part in scene.render(number))
                picture.save(self.frames / f"frame_{number:04d}.png")
                if number == 0:
                    paint(picture, mask).save(self.edit)
        if not (self.result / "report.json").exists():
            run("propagate", "--video", self.frames, "--key", f"0={self.edit}", "--out", self.result, "--overwrite")

    def original(self, frame: int) -> Image.Image:
        """A frame of the clip."""
        return Image.open(self.frames / f"frame_{frame:04d}.png").convert("RGB")

    def carried(self, frame: int) -> Image.Image:
        """The same with the edit; the first one is the edit."""
        return Image.open(self.result / "frames" / f"frame_{frame:06d}.png").convert("RGB")


def fine_scene() -> Scene:
    """A scene of the test range whose surfaces have the fine detail of footage."""
    scene, generator = Scene(split_seed("test", WIDE_CLIP), WIDE_FRAMES, WIDE[0]), torch.Generator().manual_seed(1)
    scene.wall = random_appearance(generator, 2, (9, 12), saturation=(0.05, 0.4), value=(0.3, 0.85))
    surface = random_appearance(generator, 3, (18, 24))
    scene.surfaces = (surface, surface)
    return scene


def _image(picture: torch.Tensor) -> Image.Image:
    pixels = (picture * 255).round().byte().movedim(0, -1).numpy()
    return Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])


def _wide(picture: Image.Image) -> Image.Image:
    top = (picture.height - WIDE[1]) // 2
    return picture.crop((0, top, WIDE[0], top + WIDE[1]))


def paint(frame: Image.Image, mask: Image.Image) -> Image.Image:
    """The object in other colours, with a star and two rings painted on it."""
    hue, saturation, value = frame.convert("HSV").split()
    turned = Image.merge("HSV", (hue.point(lambda shade: (shade + 110) % 256), saturation, value)).convert("RGB")
    picture = Image.composite(turned, frame, mask.convert("L"))
    inside = mask.convert("L").getbbox() or (0, 0, *frame.size)
    x, y = (inside[0] + inside[2]) / 2, (inside[1] + inside[3]) / 2
    radius = min(inside[2] - inside[0], inside[3] - inside[1]) / 6
    overlay = Image.new("RGBA", frame.size)
    draw = ImageDraw.Draw(overlay)
    points = [
        (x + share * radius * math.sin(turn * math.pi / 5), y - share * radius * math.cos(turn * math.pi / 5))
        for turn in range(10)
        for share in (1.0 if turn % 2 == 0 else 0.45,)
    ]
    draw.polygon(points, (255, 214, 60, 235))
    for share in (1.35, 1.7):
        box = (x - share * radius, y - share * radius, x + share * radius, y + share * radius)
        draw.ellipse(box, outline=(250, 250, 245, 220), width=max(2, round(radius / 12)))
    painted = Image.alpha_composite(picture.convert("RGBA"), overlay).convert("RGB")
    return Image.composite(painted, frame, mask.convert("L"))


def carried(clip: PaintedClip) -> Image.Image:
    """Above frames of the clip, below the painted one and what the others became."""
    width, height = 2 * TILE, round(2 * TILE * WIDE[1] / WIDE[0])
    canvas = Image.new("RGB", (len(WIDE_SHOWN) * (width + GAP) - GAP, 2 * (height + GAP) + TITLE), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((0, 5), "above the clip, below", INK, font(14))
    draw.text((168, 5), "one painted frame", GOLD, font(14, "-Bold"))
    draw.text((320, 5), "and what zero2hero propagate made of the others, without a model", INK, font(14))
    for column, frame in enumerate(WIDE_SHOWN):
        for row, picture in enumerate((clip.original(frame), clip.carried(frame))):
            left, top = column * (width + GAP), TITLE + row * (height + GAP)
            canvas.paste(picture.resize((width, height), Image.Resampling.LANCZOS), (left, top))
            if row and not column:
                draw.rectangle((left, top, left + width - 1, top + height - 1), outline=GOLD, width=4)
    return canvas


def save(picture: Image.Image, path: Path) -> None:
    """Write a PNG of 64 shades a colour, which takes half the space of 256."""
    picture.point(lambda shade: min(255, round(shade / 4) * 4)).save(path, optimize=True)


def main() -> None:
    """Make the pictures."""
    parser = argparse.ArgumentParser(description="Make the pictures of the README.")
    parser.add_argument("--work", type=Path, default=Path("runs/pictures"), help="folder of what is kept")
    parser.add_argument("--only", choices=("compare", "propagate"), help="only compare.png and steps.png, or the other")
    args = parser.parse_args()
    work = args.work
    work.mkdir(parents=True, exist_ok=True)
    if args.only != "compare":
        painted = PaintedClip(work)
        painted.make()
        save(carried(painted), HERE / "propagate.png")
    if args.only == "propagate":
        return
    clips = [Clip(work, number) for number in CLIPS]
    for clip in clips:
        clip.make()
    save(compare(clips), HERE / "compare.png")
    shown = next(clip for clip in clips if clip.number == STEPS_CLIP)
    save(steps(shown, STEPS_FRAME), HERE / "steps.png")


if __name__ == "__main__":
    main()
