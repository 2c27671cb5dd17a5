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
from av.codec import CodecContext
from av.codec.codec import UnknownCodecError
from av.container import InputContainer
from av.filter import Graph
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorRange

from ..checks import InputError

ACCURATE = 0x4 | 0x2000 | 0x40000  # libswscale: bicubic, full chroma, accurate rounding (PyAV names them only lately)
# Weights of red and blue in luma, by stream tag (ITU-T H.273): BT.709, FCC, BT.601 (two tags), SMPTE 240M, BT.2020.
_BT601, _BT709, _BT2020 = (0.299, 0.114), (0.2126, 0.0722), (0.2627, 0.0593)
_LUMA = {1: _BT709, 4: (0.30, 0.11), 5: _BT601, 6: _BT601, 7: (0.212, 0.087), 9: _BT2020, 10: _BT2020}
_NOT_VIDEO = {"tty", "concat", "hls", "dash"}  # text art and playlists, which FFmpeg would open, too
_WRAPPING_CLOCKS = {"mpegts", "mpeg"}  # 33 bits of 90 kHz: FFmpeg counts times before a wrap below zero
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders of these pass alpha over


def frame_to_rgb(frame: av.VideoFrame, *, upright: bool = True) -> torch.Tensor:
    """Return a decoded video frame as (3, H, W) float32 RGB in [0, 1]; `upright`: its display matrix is applied.

    The matrix and the range are the frame's tags; untagged YUV is limited range, BT.709 from 720 lines up, else BT.601;
    untagged grey is full range. Formats deeper than 8 bits keep their depth.

    Raises: InputError when the display matrix is not made of quarter turns and mirroring.
    """
    image = _stored_to_rgb(frame)
    return _upright(image, frame) if upright else image


def _stored_to_rgb(frame: av.VideoFrame) -> torch.Tensor:
    layout, parts = frame.format, frame.format.components
    depth = max(part.bits for part in parts)
    has_alpha = layout.has_palette or any(part.is_alpha for part in parts)
    if not (layout.is_rgb or layout.has_palette) and len(parts) >= 3:
        return _yuv_to_rgb(frame, depth, has_alpha)
    wanted = ("rgba" if has_alpha else "rgb24") if depth <= 8 else ("rgba64le" if has_alpha else "rgb48le")
    white = 255.0
    if depth > 8:  # libswscale stretches RGB to 65535, but shifts grey up
        white = 65535.0 if layout.is_rgb else float(((1 << depth) - 1) << (16 - depth))
    image = composite(_convert(frame, wanted).to_ndarray(), white)
    if not layout.is_rgb and not layout.has_palette and frame.color_range == ColorRange.MPEG:  # limited-range grey
        image = ((image - 16 / 255) * (255 / 219)).clamp_(0, 1)
    return image


def _convert(frame: av.VideoFrame, wanted: str) -> av.VideoFrame:
    """Change the pixel layout only: equal ranges and matrices on both sides."""
    full = int(ColorRange.JPEG)
    colour = {"src_colorspace": 5, "dst_colorspace": 5, "src_color_range": full, "dst_color_range": full}
    return frame.reformat(format=wanted, interpolation=ACCURATE, **colour)


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


def display_matrix(frame: av.VideoFrame) -> tuple[int, ...]:
    """Return (a, b, c, d) of x' = a x + c y, y' = b x + d y, 1 being 65536, which shows a frame upright; () if none."""
    try:
        side: Any = frame.side_data.get(SideDataType.DISPLAYMATRIX)  # type: ignore[call-overload]
    except ValueError:  # the frame carries something that PyAV has no name for (EXIF, views): it lists nothing then
        side = _named_data_only(frame).side_data.get(SideDataType.DISPLAYMATRIX)  # type: ignore[call-overload]
    return () if side is None else tuple(np.frombuffer(bytes(side), np.int32)[[0, 1, 3, 4]].tolist())


def _named_data_only(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame without the side data of types that PyAV has no name for."""
    graph, named = Graph(), {kind.value for kind in SideDataType}
    source = last = graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format.name,  # type: ignore[arg-type]
        time_base=frame.time_base or Fraction(1, 1000),
    )
    for number in sorted(set(range(64)) - named):
        last.link_to(following := graph.add("sidedata", f"mode=delete:type={number}"))
        last = following
    last.link_to(sink := graph.add("buffersink"))
    graph.configure()
    source.push(frame)
    bare = sink.pull()
    assert isinstance(bare, av.VideoFrame)
    return bare


def _upright(image: torch.Tensor, frame: av.VideoFrame) -> torch.Tensor:
    matrix = display_matrix(frame)
    if not matrix:
        return image
    entries = np.array(matrix, np.float64)
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


def sound_track(container: InputContainer) -> Any:
    """Return the first audio track of a known codec, None where there is none."""
    return next((stream for stream in container.streams.audio if stream.codec_context is not None), None)


def start_time(container: InputContainer) -> Fraction:
    """Return when a player starts the file, in seconds of its timestamps.

    A time below 0 is codec padding of the sound, and a player starts at 0; but where the clock of the container wraps,
    it is a time like any other.
    """
    start = Fraction(container.start_time or 0, 1_000_000)
    return start if container.format.name in _WRAPPING_CLOCKS else max(start, Fraction(0))


class FrameDecoder:
    """The frames of an open container from here on, in presentation order.

    Strict decoding (see `open_video`) reports damage, but not in the first group of pictures of a file that was cut
    without re-encoding: some of those need pictures that were cut away. As FFmpeg does, it leaves them out or shows
    what it has.

    Attributes:
        incomplete: whether pictures were missing at the start.
    """

    def __init__(self, container: InputContainer, stream: av.VideoStream) -> None:
        self.incomplete = False
        self._container, self._stream = container, stream
        self._alpha = _alpha_decoder(stream)
        self._key_pts: list[int | None] = []
        self._cut = False

    def __iter__(self) -> Iterator[av.VideoFrame]:
        """Yield the frames. Raises: FFmpegError when a packet cannot be decoded."""
        early: list[int] = []
        first: int | None = None
        for packet in self._container.demux(self._stream):
            if packet.is_keyframe:
                if not self._key_pts:
                    self._cut = _needs_earlier_pictures(packet, self._stream)
                self._key_pts.append(packet.pts)
            if first is None and packet.pts is not None and not packet.is_discard:
                early.append(packet.pts)
            try:
                frames = self._decode(packet)
            except av.error.InvalidDataError:
                if len(self._key_pts) > self._cut:
                    raise
                self.incomplete = True
                continue
            for frame in frames:
                if first is None and frame.pts is not None:
                    first = frame.pts
                    self.incomplete |= any(pts < first for pts in early)
                yield frame

    def is_key(self, frame: av.VideoFrame) -> bool:
        """Tell whether decoding can begin at `frame`."""
        return frame.key_frame or (self._alpha is not None and frame.pts in self._key_pts)  # libvpx does not say

    def is_damaged(self, frame: av.VideoFrame) -> bool:
        """Tell whether the decoder found damage in `frame` for which a cut is no excuse."""
        if not frame.is_corrupt:
            return False
        second = self._key_pts[1] if len(self._key_pts) > 1 else None
        excused = self._cut and (second is None or frame.pts is None or frame.pts < second)
        self.incomplete |= excused
        return not excused

    def _decode(self, packet: av.Packet[av.VideoStream]) -> list[av.VideoFrame]:
        if self._alpha is None:
            return packet.decode()
        return self._alpha.decode(packet if packet.size else None)


def _needs_earlier_pictures(packet: av.Packet[av.VideoStream], stream: av.VideoStream) -> bool:
    """Tell whether pictures after a key packet may need some from before it: H.264 and HEVC without a full refresh."""
    context = stream.codec_context
    if context.name not in ("h264", "hevc"):
        return False
    data, header = bytes(packet), bytes(context.extradata or b"")
    kinds: list[int] = []  # first byte of every NAL unit
    if header[:1] == b"\x01":  # as MP4 and Matroska keep them: each after its length
        width = 1 + (header[4 if context.name == "h264" else 21] & 3)
        place = 0
        while place + width < len(data):
            kinds.append(data[place + width])
            place += width + int.from_bytes(data[place : place + width], "big")
    else:
        kinds = [match[1][0] for match in re.finditer(rb"\x00\x00\x01(.)", data, re.DOTALL)]
    if context.name == "h264":
        return not any(kind & 31 == 5 for kind in kinds)  # IDR
    return not any(16 <= kind >> 1 & 63 <= 20 for kind in kinds)  # BLA and IDR


def has_alpha_track(stream: av.VideoStream) -> bool:
    """Tell whether a VP8 or VP9 stream carries alpha beside its pictures (WebM's alpha mode)."""
    metadata = {name.lower(): value for name, value in stream.metadata.items()}
    return stream.codec_context.name in _ALPHA_DECODERS and metadata.get("alpha_mode") == "1"


def alpha_is_lost(stream: av.VideoStream) -> bool:
    """Tell whether a stream has alpha that no decoder of this FFmpeg reads."""
    return has_alpha_track(stream) and _alpha_decoder(stream) is None


def _alpha_decoder(stream: av.VideoStream) -> VideoCodecContext | None:
    if not has_alpha_track(stream):
        return None
    try:
        context = CodecContext.create(_ALPHA_DECODERS[stream.codec_context.name], "r")
    except (UnknownCodecError, ValueError):
        return None
    context.extradata = stream.codec_context.extradata
    assert isinstance(context, VideoCodecContext)
    return context


def missing_part(container: InputContainer, path: Path) -> str:
    """Return what a file lacks whose frames were all read, told by the sizes in its headers; "" if nothing.

    Counts and durations in headers are no promise: empty chunks, long last frames and careless writers break them.
    """
    name = container.format.name
    ends = {"mp4": _mp4_end, "avi": _avi_end, "matroska": _matroska_end}
    declared = next((end(path) for part, end in ends.items() if part in name), 0)
    return "the file is shorter than its header says" if declared > path.stat().st_size else ""


def _mp4_end(path: Path) -> int:
    """Where the last box begun at the top level of an MP4 file ends."""
    position, size = 0, path.stat().st_size
    with path.open("rb") as stream:
        while position + 8 <= size:
            stream.seek(position)
            header = stream.read(16)
            length = int.from_bytes(header[:4], "big")
            if length == 1:
                length = int.from_bytes(header[8:], "big")
            if length < 8:  # 0: this box goes to the end of the file
                return 0
            position += length
    return position


def _avi_end(path: Path) -> int:
    """Where the last RIFF chunk begun in an AVI file ends; 0 when it does not say."""
    position, size = 0, path.stat().st_size
    with path.open("rb") as stream:
        while position + 8 <= size:
            stream.seek(position)
            header = stream.read(8)
            length = int.from_bytes(header[4:], "little")
            if header[:4] != b"RIFF" or length in (0, 0xFFFFFFFF):
                break
            position += 8 + length + length % 2 * (position + 8 + length < size)
    return position


def _matroska_end(path: Path) -> int:
    """Where the segment of a Matroska or WebM file ends; 0 when it does not say (a live recording)."""
    position = 0
    with path.open("rb") as stream:
        for _ in range(8):  # the EBML header, perhaps fillers, the segment
            stream.seek(position)
            header = stream.read(12)
            if len(header) < 12 or not header[0]:
                return 0
            name_width = 9 - header[0].bit_length()
            first = header[name_width] if name_width <= 4 else 0
            width = 9 - first.bit_length() if first else 0
            if not width:
                return 0
            bits = int.from_bytes(header[name_width : name_width + width], "big") & ((1 << 7 * width) - 1)
            if header[:4] == b"\x18\x53\x80\x67":
                unknown = bits == (1 << 7 * width) - 1
                return 0 if unknown else position + name_width + width + bits
            position += name_width + width + bits
    return 0
