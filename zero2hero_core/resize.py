"""Pictures: resize, read image files, open and decode a video file, turn its frames into RGB.

Coordinates: pixel (0, 0) is the top left square; its centre lies at (0.5, 0.5) (half-pixel centres). A resize from W to
W' samples the input at x = (x' + 0.5) * W / W'. Resizing is antialiased bicubic (torch), clamped to [0, 1].

Alpha is composited over black. Pixels are taken as stored: no deinterlacing, no pixel aspect ratio, no tone mapping.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

import av
import numpy as np
import torch
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition
from av.video.reformatter import ColorRange
from PIL import Image, ImageOps

from zero2hero_core.checks import InputError, check_shape

Policy = Literal["resize", "crop", "pad"]
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})

ACCURATE = 0x4 | 0x2000 | 0x40000  # libswscale: bicubic, full chroma, accurate rounding (PyAV names them only lately)
# Weights of red and blue in luma, by stream tag (ITU-T H.273): BT.709, FCC, BT.601 (two tags), SMPTE 240M, BT.2020.
_BT601, _BT709, _BT2020 = (0.299, 0.114), (0.2126, 0.0722), (0.2627, 0.0593)
_LUMA = {1: _BT709, 4: (0.30, 0.11), 5: _BT601, 6: _BT601, 7: (0.212, 0.087), 9: _BT2020, 10: _BT2020}
_NOT_VIDEO = {"tty", "concat", "hls", "dash"}  # text art and playlists, which FFmpeg would open, too


def target_size(size_hw: tuple[int, int], size: int | tuple[int, int] | None, multiple: int = 8) -> tuple[int, int]:
    """Return the (H, W) that frames of `size_hw` get.

    Args:
        size_hw: the size that the frames have.
        size: None keeps it, an int is the short side (the long side follows the aspect ratio), or (H, W).
        multiple: both sides are rounded to the nearest multiple of this (at least one).
    Returns: (H, W) in pixels.
    Raises: InputError when `size` is not positive or `multiple` is below 1.
    """
    if isinstance(multiple, bool) or not isinstance(multiple, int) or multiple < 1:
        raise InputError(f"multiple: expected a whole number from 1 up, got {multiple!r}.")
    is_pair = isinstance(size, (tuple, list))
    parts: tuple[Any, ...] = () if size is None else tuple(size) if is_pair else (size,)  # type: ignore[arg-type]
    good = all(isinstance(part, int) and not isinstance(part, bool) and part >= 1 for part in parts)
    if not good or (is_pair and len(parts) != 2):
        raise InputError(f"size: expected nothing, a short side or (height, width) in pixels from 1 up, got {size!r}.")
    wanted = parts or size_hw
    if len(parts) == 1:
        short = max(1, round(parts[0] / multiple)) * multiple
        wanted = tuple(side * short / min(size_hw) for side in size_hw)
    height, width = (max(1, int(side / multiple + 0.5)) * multiple for side in wanted)
    return height, width


def resize_frames(frames: torch.Tensor, size_hw: tuple[int, int], policy: Policy = "resize") -> torch.Tensor:
    """Return `frames` at `size_hw`, antialiased bicubic, half-pixel centres.

    Args:
        frames: (N, C, H, W), floating point, [0, 1].
        size_hw: wanted (H, W) in pixels, each at least 1.
        policy: "resize" stretches; "crop" scales until the target is covered and cuts the centre; "pad" scales until
            the frame fits and repeats its edge pixels on both sides (an odd remainder goes right and down).
    Returns: (N, C, H', W') in [0, 1]; `frames` itself when nothing changes.
    Raises: ShapeError, InputError.
    """
    check_shape("frames", frames, ("N", "C", "H", "W"))
    check_policy(policy)
    if not frames.is_floating_point() or min(frames.shape) < 1 or min(size_hw) < 1:
        raise InputError(
            f"frames: expected floating point (N, C, H, W) and a size of at least 1 x 1 pixels, got {frames.dtype}, "
            f"{tuple(frames.shape)} and {tuple(size_hw)}."
        )
    height, width = frames.shape[-2:]
    goal_h, goal_w = size_hw
    if (height, width) == (goal_h, goal_w):
        return frames
    if policy == "resize":
        return _scale(frames, goal_h, goal_w)
    if policy == "crop":
        scale = max(goal_h / height, goal_w / width)
        frames = _scale(frames, max(goal_h, round(height * scale)), max(goal_w, round(width * scale)))
        top, left = (frames.shape[-2] - goal_h) // 2, (frames.shape[-1] - goal_w) // 2
        return frames[..., top : top + goal_h, left : left + goal_w]
    scale = min(goal_h / height, goal_w / width)
    inner_h, inner_w = (max(1, min(goal_h, round(height * scale))), max(1, min(goal_w, round(width * scale))))
    top, left = (goal_h - inner_h) // 2, (goal_w - inner_w) // 2
    around = (left, goal_w - inner_w - left, top, goal_h - inner_h - top)
    return torch.nn.functional.pad(_scale(frames, inner_h, inner_w), around, mode="replicate")


def check_policy(policy: str) -> None:
    """Raise `InputError` unless `policy` is one of "resize", "crop", "pad"."""
    if policy not in get_args(Policy):
        raise InputError(f"policy: expected one of {', '.join(get_args(Policy))}, got {policy!r}.")


def _scale(frames: torch.Tensor, height: int, width: int) -> torch.Tensor:
    if frames.shape[-2:] == (height, width):
        return frames
    size = (height, width)
    scaled = torch.nn.functional.interpolate(frames, size, mode="bicubic", antialias=True, align_corners=False)
    return scaled.clamp_(0, 1)  # bicubic overshoots at edges


def read_image(path: str | os.PathLike[str]) -> torch.Tensor:
    """Return the image in `path` as (3, H, W) float32 RGB in [0, 1].

    Grey, palette, CMYK and 16-bit images are converted (16 bits are kept in grey images and in PNG); EXIF orientation
    is applied; alpha is composited over black; of an animation the first picture is taken.

    Raises: InputError when the file is missing, is not an image, is damaged, or has values that are no [0, 1] picture.
    """
    file = existing_file(path, "image")
    with _readable(file), Image.open(file) as picture:
        if picture.format == "PNG" and _png_is_16_bit(file):
            with av.open(f"file:{file}", format="png_pipe") as container:
                return frame_to_rgb(next(iter(container.decode(video=0))))
        return _picture_to_rgb(ImageOps.exif_transpose(picture), file)


def read_mask(path: str | os.PathLike[str]) -> torch.Tensor:
    """Return the image in `path` as a mask (1, H, W) float32 in [0, 1]: black is 0, white is 1.

    Colour becomes BT.601 luma; transparent pixels count as black. Raises: InputError as `read_image`.
    """
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(3, 1, 1)
    return (read_image(path).double() * weights).sum(0, keepdim=True).clamp_(0, 1).float()


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return (H, W) of an image from its header, as `read_image` would give it. Raises: InputError."""
    file = existing_file(path, "image")
    with _readable(file), Image.open(file) as picture:
        width, height = picture.size
        turned = picture.getexif().get(0x0112, 1) >= 5 and not (picture.format == "PNG" and _png_is_16_bit(file))
    return (width, height) if turned else (height, width)


def common_image_size(files: Sequence[Path]) -> tuple[int, int]:
    """Return the (H, W) that all `files` share. Raises: InputError naming the first that differs."""
    height, width = image_size(files[0])
    for file in files[1:]:
        other = image_size(file)
        if other != (height, width):
            raise InputError(
                f"{file}: expected {width} x {height} pixels like {files[0].name}, got {other[1]} x {other[0]}; "
                "all images of a clip need one size."
            )
    return height, width


def names_images(path: Path) -> bool:
    """Tell whether `path` is a folder, an image by its suffix, or a glob; anything else is taken for a video."""
    is_glob = glob.has_magic(str(path)) and not path.exists()
    return is_glob or path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES


def image_files(path: Path) -> list[Path]:
    """Return the images of a folder or a glob in natural order (2 before 10), or the one image that `path` is.

    Files with other suffixes and hidden files are passed over. Raises: InputError when there are no images.
    """
    if path.is_dir():
        found = path.iterdir()
    elif glob.has_magic(str(path)) and not path.exists():
        found = (Path(name) for name in glob.glob(str(path), recursive=True))
    else:
        return [existing_file(path, "image")]
    files = [f for f in found if f.suffix.lower() in IMAGE_SUFFIXES and not f.name.startswith(".") and f.is_file()]
    if not files:
        raise InputError(f"{path}: expected at least one image ({', '.join(sorted(IMAGE_SUFFIXES))}), found none.")
    # Every second part of the split is a number, so like is compared with like.
    split = {file: re.split(r"([0-9]+)", str(file).lower()) for file in sorted(files)}
    return sorted(split, key=lambda file: [int(part) if i % 2 else part for i, part in enumerate(split[file])])


def existing_file(path: str | os.PathLike[str], what: str) -> Path:
    """Return `path` as a Path if it is a file that is not empty, else raise `InputError`; `what` names its kind."""
    file = Path(path)
    if not file.exists():
        raise InputError(f"{file}: no such file; give the path of an existing {what}.")
    if not file.is_file() or file.stat().st_size == 0:
        raise InputError(f"{file}: expected a file ({what}), got {'an empty one' if file.is_file() else 'a folder'}.")
    return file


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SyntaxError, ValueError, av.error.FFmpegError, Image.DecompressionBombError) as error:
        raise InputError(f"{file}: expected an intact image (PNG, JPEG ...), but reading failed: {error}.") from error


def _png_is_16_bit(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(25)[24:] == b"\x10"  # bit depth in the IHDR chunk


def _picture_to_rgb(picture: Image.Image, file: Path) -> torch.Tensor:
    if picture.mode[0] in "IF":  # one deep channel: 16-bit integers, or floats that must already be a picture
        values = np.asarray(picture).astype(np.float32) / (1.0 if picture.mode == "F" else 65535.0)
        if not (values.min() >= 0.0 and values.max() <= 1.0):
            raise InputError(f"{file}: expected values in [0, 1] (float) or 0 to 65535 (integer); rescale the image.")
        return torch.from_numpy(values).expand(3, -1, -1).contiguous()
    has_alpha = picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info
    return _composite(np.asarray(picture.convert("RGBA" if has_alpha else "RGB")), 255.0)


def frame_to_rgb(frame: av.VideoFrame) -> torch.Tensor:
    """Return a decoded video frame as (3, H, W) float32 RGB in [0, 1], upright.

    The matrix and the range are the frame's tags; untagged YUV is limited range, BT.709 from 720 lines up, else BT.601;
    untagged grey is full range. Formats deeper than 8 bits keep their depth. The display matrix is applied.

    Raises: InputError when the display matrix is not made of quarter turns and mirroring.
    """
    layout, parts = frame.format, frame.format.components
    depth = max(part.bits for part in parts)
    has_alpha = layout.has_palette or any(part.is_alpha for part in parts)
    if not (layout.is_rgb or layout.has_palette) and len(parts) >= 3:
        return _upright(_yuv_to_rgb(frame, depth, has_alpha), frame)
    wanted = ("rgba" if has_alpha else "rgb24") if depth <= 8 else ("rgba64le" if has_alpha else "rgb48le")
    white = 255.0
    if depth > 8:  # libswscale stretches RGB to 65535, but shifts grey up
        white = 65535.0 if layout.is_rgb else float(((1 << depth) - 1) << (16 - depth))
    image = _composite(_convert(frame, wanted).to_ndarray(), white)
    if not layout.is_rgb and not layout.has_palette and frame.color_range == ColorRange.MPEG:  # limited-range grey
        image = ((image - 16 / 255) * (255 / 219)).clamp_(0, 1)
    return _upright(image, frame)


def _convert(frame: av.VideoFrame, wanted: str) -> av.VideoFrame:
    """Change the pixel layout only: equal ranges and matrices on both sides."""
    full = int(ColorRange.JPEG)
    colour = {"src_colorspace": 5, "dst_colorspace": 5, "src_color_range": full, "dst_color_range": full}
    return frame.reformat(format=wanted, interpolation=ACCURATE, **colour)  # type: ignore[arg-type]


def _yuv_to_rgb(frame: av.VideoFrame, depth: int, has_alpha: bool) -> torch.Tensor:
    """The matrix is applied here, as the scaler behind PyAV ignores full range or BT.2020 in some versions."""
    full_name = frame.format.name.startswith("yuvj")
    layout = f"yuv{'a' * has_alpha}444p{depth if depth > 8 else ''}{'le' * (depth > 8)}"
    planes = _convert(frame, layout.replace("yuv", "yuvj") if full_name else layout).planes
    values = []
    for plane in planes:
        rows = np.frombuffer(memoryview(plane), "u1" if depth == 8 else "<u2").reshape(plane.height, -1)
        values.append(torch.from_numpy(rows[:, : plane.width].astype(np.float32)))
    step = float(1 << (depth - 8))
    if full_name or frame.color_range == ColorRange.JPEG:
        black, luma_span, chroma_span = 0.0, 256 * step - 1, 256 * step - 1
    else:
        black, luma_span, chroma_span = 16 * step, 219 * step, 224 * step
    luma = (values[0] - black) / luma_span
    blue, red = ((value - 128 * step) / chroma_span for value in values[1:3])
    weight_r, weight_b = _LUMA.get(frame.colorspace, _BT709 if frame.height >= 720 else _BT601)
    r = luma + 2 * (1 - weight_r) * red
    b = luma + 2 * (1 - weight_b) * blue
    g = (luma - weight_r * r - weight_b * b) / (1 - weight_r - weight_b)
    image = torch.stack([r, g, b]).clamp_(0, 1)
    return image * (values[3] / (256 * step - 1)) if has_alpha else image


def _composite(pixels: np.ndarray, white: float) -> torch.Tensor:
    """(H, W, 3 or 4) integers, of which `white` becomes 1 -> (3, H, W) in [0, 1], over black."""
    image = torch.from_numpy(np.ascontiguousarray(pixels[..., :3].transpose(2, 0, 1), dtype=np.float32)).div_(white)
    if pixels.shape[-1] == 4:
        image *= torch.from_numpy(pixels[..., 3].astype(np.float32) / white)
    return image.clamp_(0, 1)


def _upright(image: torch.Tensor, frame: av.VideoFrame) -> torch.Tensor:
    side: Any = frame.side_data.get(SideDataType.DISPLAYMATRIX)  # type: ignore[call-overload]
    if side is None:
        return image
    entries = np.frombuffer(bytes(side), np.int32)[[0, 1, 3, 4]].astype(np.float64)  # x' = a x + c y, y' = b x + d y
    a, b, c, d = entries / max(1.0, np.abs(entries).max())
    if max(min(abs(a), abs(b)), min(abs(c), abs(d))) > 0.02:
        raise InputError(f"expected a rotation by quarter turns, got {frame.rotation} degrees; rotate the video first.")
    swap = abs(b) > abs(a)
    if swap:
        image = image.transpose(-1, -2)
    flips = [dim for dim, value in ((-1, c if swap else a), (-2, b if swap else d)) if value < 0]
    return image.flip(flips).contiguous() if swap or flips else image


def open_video(path: Path, strict: bool = True) -> tuple[InputContainer, av.VideoStream]:
    """Open the first video track of a file for decoding; the caller closes the container.

    `strict` decoding reports damage instead of painting over it. After a seek it must be off: frames that lead a key
    frame in an open group of pictures cannot be decoded then. Raises: InputError.
    """
    try:  # "file:" keeps a colon in a name from being read as a protocol
        container = av.open(f"file:{path}", metadata_errors="replace", options={"protocol_whitelist": "file"})
    except av.error.FFmpegError as error:
        raise InputError(
            f"{path}: expected a video, but it cannot be opened as one ({error.strerror}); "
            "it is of another kind, damaged, or was not written to its end."
        ) from error
    tracks = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if container.format.name in _NOT_VIDEO or not tracks or tracks[0].codec_context is None:
        container.close()
        raise InputError(f"{path}: expected a video, but found no video track that can be decoded.")
    tracks[0].thread_type = "NONE"  # with several threads, reports of damage come out of order or get lost
    if strict:
        tracks[0].codec_context.options = {"err_detect": "crccheck+explode"}
    return container, tracks[0]


def start_time(container: InputContainer) -> Fraction:
    """Return when a player starts the file, in seconds of its timestamps; sound before 0 is codec padding."""
    return max(Fraction(container.start_time or 0, 1_000_000), Fraction(0))


def decode(container: InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """Yield the frames from here on in presentation order. Raises: FFmpegError when a packet cannot be decoded."""
    key_seen = False
    for packet in container.demux(stream):
        key_seen = key_seen or packet.is_keyframe
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            if key_seen:
                raise
            continue  # a recording that starts between key frames
        yield from frames


def missing_part(container: InputContainer, stream: av.VideoStream, path: Path, count: int, end: Fraction) -> str:
    """Return what a file still lacks of which `count` frames, the last at `end` seconds, were read; "" if nothing."""
    if "mp4" in container.format.name and _boxes_overrun(path):
        return "the file is shorter than its header says"
    if container.format.name == "avi" and stream.frames > count:
        return f"the header promises {stream.frames} frames"
    duration = stream.metadata.get("DURATION", "")  # Matroska: "00:00:02.500000000"
    if re.fullmatch(r"\d+:\d+:\d+\.\d+", duration):
        hours, minutes, seconds = (Fraction(part) for part in duration.split(":"))
        promised = hours * 3600 + minutes * 60 + seconds
        if promised > end + Fraction(1, 2) + 2 * end / max(1, count - 1):
            return f"the header promises {float(promised):.2f} seconds, the last frame is at {float(end):.2f}"
    return ""


def _boxes_overrun(path: Path) -> bool:
    """Tell whether a top-level box of an MP4 file goes on behind the end of the file."""
    position, size = 0, path.stat().st_size
    with path.open("rb") as stream:
        while position + 8 <= size:
            stream.seek(position)
            header = stream.read(16)
            length = int.from_bytes(header[:4], "big")
            if length == 1:
                length = int.from_bytes(header[8:], "big")
            if length < 8:  # 0: this box goes to the end of the file
                return False
            position += length
    return position > size
