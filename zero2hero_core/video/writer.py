"""Write frames as a video (H.264, VP9, FFV1) or as a PNG sequence, with sound and metadata, all or nothing.

Everything is written under a temporary name beside the target, checked, and renamed at the end. Whatever goes wrong
before (Ctrl-C too), the temporary is removed and the target is as it was.

H.264 and VP9 are 8-bit 4:2:0, limited range, converted and tagged as BT.709. 4:2:0 needs even sides: an odd frame gets
its last row or column once more, so the file is one pixel larger there. FFV1 and PNG hold 8-bit RGB exactly.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.container import OutputContainer

from ..checks import InputError, ShapeError, Zero2HeroError, check_images
from ..files.names import temporary_name
from ..files.whole import check_target, explained, publish
from .audio import AudioSpan, AudioTrack
from .decode import ACCURATE, open_video
from .image_writer import PngSequence, to_bytes, write_image
from .source import frame_rate

__all__ = ["VideoWriter", "write_image"]

_BT709 = 1  # primaries, transfer and matrix have the same number (ITU-T H.273)
_LIMITED, _FULL = 1, 2


@dataclass(frozen=True)
class _Codec:
    encoder: str
    pix_fmt: str
    crf: int | None  # default quality, None for lossless
    options: dict[str, str] = field(default_factory=dict)


_CODECS = {
    # Without mbtree: its vector code gives one of two results, by where its memory happens to lie.
    "h264": _Codec("libx264", "yuv420p", 16, {"preset": "medium", "x264-params": "mbtree=0"}),
    "vp9": _Codec("libvpx-vp9", "yuv420p", 24, {"b": "0", "row-mt": "1", "deadline": "good", "cpu-used": "4"}),
    "ffv1": _Codec("ffv1", "bgr0", None, {"level": "3", "slicecrc": "1"}),  # checksums: damage does not pass unseen
}
# Suffix to container format, video codecs (the first is the default) and the audio codecs that are copied as they are.
_CONTAINERS: dict[str, tuple[str, tuple[str, ...], set[str]]] = {
    ".mp4": ("mp4", ("h264",), {"aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"}),
    ".mov": ("mov", ("h264",), {"aac", "mp3", "ac3", "eac3", "alac", "pcm_s16le", "pcm_s24le"}),
    ".webm": ("webm", ("vp9",), {"opus", "vorbis"}),
    ".mkv": ("matroska", ("ffv1", "h264", "vp9"), {"aac", "mp3", "ac3", "eac3", "opus", "vorbis", "flac", "pcm_s16le"}),
}


class VideoWriter:
    """Write frames to `path`; use it in a `with` block, at whose end the file appears.

    Args:
        path: .mp4 or .mov (H.264), .webm (VP9), .mkv (FFV1), or for PNG files a folder (no suffix) or "folder/*.png",
            in which the asterisk becomes a six-digit number from 000000.
        fps: frames per second.
        times: when each frame is shown, in seconds, rising, the first being 0; for a clip of a variable frame rate.
            Without it frame i is shown at i / fps. `fps` then tells for how long the last frame stays.
        codec: "h264", "vp9", "ffv1" or "png" where the suffix allows several.
        crf: quality of H.264 (0 to 51, default 16) and VP9 (0 to 63, default 24); smaller is better.
        audio_from: file whose first audio track goes along; copied where the container takes its codec, else encoded
            as AAC or Opus.
        audio_start, audio_stop: seconds of that file, on the clock of `FrameSource.time_of`; the sound of `audio_start`
            plays with the first frame. It ends with the last frame, or at `audio_stop` if that is earlier, or up to a
            packet (30 ms) later. Copied into Matroska or WebM it begins up to a packet late; it is in step always.
        metadata: texts to store in the container (in every PNG); Matroska and WebM may change the case of the names.
        overwrite: replace an existing target. In a PNG folder only files of the same numbering are replaced.
    Raises: InputError when an argument cannot be used or the target exists; Zero2HeroError when writing fails.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fps: Fraction | float,
        *,
        times: Sequence[float] | None = None,
        codec: str | None = None,
        crf: int | None = None,
        audio_from: str | os.PathLike[str] | None = None,
        audio_start: float = 0.0,
        audio_stop: float | None = None,
        metadata: dict[str, str] | None = None,
        overwrite: bool = False,
    ) -> None:
        rate = frame_rate(fps)
        target = Path(path)
        texts = {str(name): str(text) for name, text in (metadata or {}).items()}
        if target.suffix.lower() in ("", ".png"):
            if audio_from is not None or crf is not None or times is not None or codec not in (None, "png"):
                raise InputError(
                    f"{target}: a PNG sequence takes no crf, times, audio or other codec; give a video file (.mp4)."
                )
            self._sink: PngSequence | _FileSink = PngSequence(target, texts, overwrite)
        else:
            audio = None if audio_from is None else AudioSpan(audio_from, audio_start, audio_stop)
            self._sink = _FileSink(target, _Clock(rate, times), codec, crf, audio, texts, overwrite)
        self.path = target
        self.frames_written = 0
        self._size_hw: tuple[int, int] | None = None
        self._open = True

    def write(self, frames: torch.Tensor) -> None:
        """Append frames, (3, H, W) or (N, 3, H, W), floating point in [0, 1] (values outside are clamped).

        Raises: ShapeError when the size differs from the first frame's; Zero2HeroError when the disk is full ...
        """
        if not self._open:
            raise InputError(f"{self.path}: expected an open writer, but it is closed; write inside the `with` block.")
        frames = frames[None] if frames.ndim == 3 else frames
        check_images("frames", frames)
        size_hw = (frames.shape[-2], frames.shape[-1])
        self._size_hw = self._size_hw or size_hw
        if size_hw != self._size_hw:
            raise ShapeError(f"frames: expected (H, W) = {self._size_hw} like the first frame, got {size_hw}.")
        for frame in frames:
            pixels = to_bytes(frame)
            with explained(self.path, av.error.FFmpegError):
                self._sink.write(pixels, self.frames_written)
            self.frames_written += 1

    def close(self) -> None:
        """Finish, check and rename the file. Raises: InputError when no frame was written."""
        if not self._open:
            return
        try:
            if self.frames_written == 0:
                raise InputError(f"{self.path}: expected at least one frame, got none; nothing was written.")
            with explained(self.path, av.error.FFmpegError):
                self._sink.finish(self.frames_written)
            self._open = False
        finally:
            if self._open:
                self.abort()

    def abort(self) -> None:
        """Give up: remove what was written so far."""
        self._open = False
        self._sink.discard()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *exc_info: object) -> None:
        if exc_type is None:
            self.close()
        else:
            self.abort()


class _Clock:
    """When each frame is shown, in seconds and in ticks of the encoder."""

    def __init__(self, rate: Fraction, times: Sequence[float] | None) -> None:
        self.rate = rate.limit_denominator(1_000_000)
        self.tick = 1 / self.rate if times is None else Fraction(1, 90_000)  # in seconds; 90 kHz: as in broadcasts
        self._ticks = None if times is None else [round(Fraction(time) / self.tick) for time in times]
        if self._ticks is not None and (self._ticks[:1] != [0] or any(b <= a for a, b in pairwise(self._ticks))):
            raise InputError("times: expected seconds that rise from 0, one for each frame, got other values.")

    def ticks(self, index: int) -> int:
        """When frame `index` is shown. Raises: InputError when there is no time for it."""
        if self._ticks is None:
            return index
        if index >= len(self._ticks):
            raise InputError(f"frames: expected {len(self._ticks)}, as many as times, got more.")
        return self._ticks[index]

    def end(self, index: int) -> Fraction:
        """When frame `index` is over, in seconds."""
        if self._ticks is not None and index + 1 < len(self._ticks):
            return self._ticks[index + 1] * self.tick
        return self.ticks(index) * self.tick + 1 / self.rate


class _FileSink:
    """One video file; the container is opened by the first frame, which brings the size."""

    def __init__(
        self,
        target: Path,
        clock: _Clock,
        codec: str | None,
        crf: int | None,
        audio: AudioSpan | None,
        texts: dict[str, str],
        overwrite: bool,
    ) -> None:
        suffix = target.suffix.lower()
        if suffix not in _CONTAINERS:
            names = ", ".join(_CONTAINERS)
            raise InputError(f"{target}: expected a name that ends in {names}, .png or is a folder, got {suffix!r}.")
        self._format, codecs, self._copied_audio = _CONTAINERS[suffix]
        name = codec or codecs[0]
        if name not in codecs:
            raise InputError(f"codec: expected {' or '.join(codecs)} for {suffix}, got {name!r}.")
        self._codec = _CODECS[name]
        top = 63 if name == "vp9" else 51
        if crf is not None and (self._codec.crf is None or not isinstance(crf, int) or not 0 <= crf <= top):
            lossless = self._codec.crf is None
            raise InputError(
                f"crf: expected {'nothing (lossless)' if lossless else f'0 to {top}'} for {name}, got {crf!r}."
            )
        check_target(target, overwrite)
        self._crf = self._codec.crf if crf is None else crf
        self._target, self._temporary, self._overwrite = target, temporary_name(target), overwrite
        self._clock, self._span, self._texts = clock, audio, texts
        self._container: OutputContainer | None = None
        self._audio: AudioTrack | None = None

    def _start(self, pixels: np.ndarray) -> OutputContainer:
        flags = {"movflags": "faststart+use_metadata_tags"} if self._format in ("mp4", "mov") else {}
        container = av.open(f"file:{self._temporary}", "w", format=self._format, options=flags)
        self._container = container
        container.metadata.update(self._texts)
        quality = {} if self._crf is None else {"crf": str(self._crf)}
        options = self._codec.options | quality
        stream: Any = container.add_stream(self._codec.encoder, rate=self._clock.rate, options=options)
        stream.codec_context.time_base = self._clock.tick
        stream.height, stream.width = pixels.shape[:2]
        stream.pix_fmt = self._codec.pix_fmt
        if self._codec.pix_fmt == "yuv420p":
            stream.codec_context.color_primaries = stream.codec_context.color_trc = _BT709
            stream.codec_context.colorspace, stream.codec_context.color_range = _BT709, _LIMITED
        self._stream = stream
        if self._span is not None:
            self._audio = AudioTrack(self._span, container, self._copied_audio)
        return container

    def write(self, pixels: np.ndarray, index: int) -> None:
        if self._codec.pix_fmt == "yuv420p":
            pixels = np.pad(pixels, ((0, pixels.shape[0] % 2), (0, pixels.shape[1] % 2), (0, 0)), mode="edge")
        container = self._container or self._start(pixels)
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        if self._codec.pix_fmt == "yuv420p":
            colour: dict[str, Any] = {"src_colorspace": _BT709, "dst_colorspace": _BT709}
            colour |= {"src_color_range": _FULL, "dst_color_range": _LIMITED}
            picture = picture.reformat(format="yuv420p", interpolation=ACCURATE, **colour)
            picture.colorspace, picture.color_range = _BT709, _LIMITED
        picture.pts, picture.time_base = self._clock.ticks(index), self._clock.tick
        container.mux(self._stream.encode(picture))
        if self._audio is not None:
            self._audio.advance(self._clock.end(index))

    def finish(self, count: int) -> None:
        assert self._container is not None
        self._container.mux(self._stream.encode(None))
        if self._audio is not None:
            self._audio.advance(self._clock.end(count - 1), last=True)
        self._close()
        written = _frames_on_disk(self._temporary)
        if written != count:
            raise Zero2HeroError(f"{self._target}: {written} of {count} frames reached the disk; is it full?")
        publish(self._temporary, self._target, self._overwrite)

    def _close(self) -> None:
        audio, self._audio = self._audio, None
        container, self._container = self._container, None
        if audio is not None:
            audio.close()
        if container is not None:
            container.close()

    def discard(self) -> None:
        with suppress(OSError, av.error.FFmpegError):  # there is an error already, or the user gave up
            self._close()
        self._temporary.unlink(missing_ok=True)


def _frames_on_disk(path: Path) -> int:
    """Count the frames of a finished file: a full disk does not always raise an error."""
    try:
        container, stream = open_video(path)
    except InputError:
        return 0
    with container:
        return sum(packet.size > 0 for packet in container.demux(stream))
