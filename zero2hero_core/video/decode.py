"""Open and decode a video file, and turn its frames into RGB.

Alpha is composited over black. Pixels are taken as stored: no deinterlacing, no pixel aspect ratio, no tone mapping.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition
from av.video.reformatter import ColorRange

from ..checks import InputError

ACCURATE = 0x4 | 0x2000 | 0x40000  # libswscale: bicubic, full chroma, accurate rounding (PyAV names them only lately)
# Weights of red and blue in luma, by stream tag (ITU-T H.273): BT.709, FCC, BT.601 (two tags), SMPTE 240M, BT.2020.
_BT601, _BT709, _BT2020 = (0.299, 0.114), (0.2126, 0.0722), (0.2627, 0.0593)
_LUMA = {1: _BT709, 4: (0.30, 0.11), 5: _BT601, 6: _BT601, 7: (0.212, 0.087), 9: _BT2020, 10: _BT2020}
_NOT_VIDEO = {"tty", "concat", "hls", "dash"}  # text art and playlists, which FFmpeg would open, too


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
    image = composite(_convert(frame, wanted).to_ndarray(), white)
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


def composite(pixels: np.ndarray, white: float) -> torch.Tensor:
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
