"""Write frames as a video (H.264, VP9, FFV1) or as a PNG sequence, with sound and metadata, all or nothing.

Everything is written under a temporary name beside the target, checked, and renamed at the end. Whatever goes wrong
before (Ctrl-C too), the temporary is removed and the target is as it was.

H.264 and VP9 are 8-bit 4:2:0, limited range, converted and tagged as BT.709. 4:2:0 needs even sides: an odd frame gets
its last row or column once more, so the file is one pixel larger there. FFV1 and PNG hold 8-bit RGB exactly.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.container import OutputContainer
from PIL import Image, PngImagePlugin

from zero2hero_core.checks import InputError, ShapeError, Zero2HeroError, check_images
from zero2hero_core.resize import ACCURATE, existing_file, open_video, start_time
from zero2hero_core.video import frame_rate

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
    "h264": _Codec("libx264", "yuv420p", 16, {"preset": "medium"}),
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
            if audio_from is not None or crf is not None or codec not in (None, "png"):
                raise InputError(
                    f"{target}: a PNG sequence takes no crf, audio or other codec; give a video file (.mp4)."
                )
            self._sink: _PngSink | _FileSink = _PngSink(target, texts, overwrite)
        else:
            audio = None if audio_from is None else _AudioSpan(audio_from, audio_start, audio_stop)
            self._sink = _FileSink(target, rate, codec, crf, audio, texts, overwrite)
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
            pixels = _to_bytes(frame)
            with _explained(self.path):
                self._sink.write(pixels, self.frames_written)
            self.frames_written += 1

    def close(self) -> None:
        """Finish, check and rename the file. Raises: InputError when no frame was written."""
        if not self._open:
            return
        try:
            if self.frames_written == 0:
                raise InputError(f"{self.path}: expected at least one frame, got none; nothing was written.")
            with _explained(self.path):
                self._sink.finish(self.frames_written)
        except BaseException:
            self.abort()
            raise
        self._open = False

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


def write_image(path: str | os.PathLike[str], image: torch.Tensor, *, overwrite: bool = False) -> None:
    """Write one image (3, H, W), or a mask (1, H, W), in [0, 1] as an 8-bit PNG.

    Raises: InputError when `path` does not end in .png or exists and `overwrite` is not set; Zero2HeroError.
    """
    target = Path(path)
    if target.suffix.lower() != ".png":
        raise InputError(f"{target}: expected a name that ends in .png.")
    if image.ndim != 3 or image.shape[0] not in (1, 3) or not image.is_floating_point():
        raise ShapeError(
            f"image: expected floating point (3, H, W) or (1, H, W), got {image.dtype} {tuple(image.shape)}."
        )
    _check_target(target, overwrite)
    temporary = _temporary(target)
    try:
        with _explained(target):
            _save_png(temporary, _to_bytes(image), {})
            _publish(temporary, target, overwrite)
    finally:
        temporary.unlink(missing_ok=True)


def _to_bytes(image: torch.Tensor) -> np.ndarray:
    """(C, H, W) in [0, 1] -> (H, W, C) uint8, rounded to nearest."""
    image = image.detach().to("cpu", torch.float32)
    if not bool(torch.isfinite(image).all()):
        raise InputError("frames: expected finite values in [0, 1], got NaN or infinity.")
    return image.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def _save_png(path: Path, pixels: np.ndarray, texts: dict[str, str]) -> None:
    info = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        info.add_itxt(name, text)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    picture.save(path, format="PNG", pnginfo=info, compress_level=4)


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.stem}.{secrets.token_hex(4)}.partial{target.suffix}")


def _publish(temporary: Path, target: Path, overwrite: bool) -> None:
    if target.exists() and not overwrite:
        raise InputError(f"{target}: was made by something else meanwhile; choose another name or allow overwriting.")
    os.replace(temporary, target)


def _frames_on_disk(path: Path) -> int:
    """Count the frames of a finished file: a full disk does not always raise an error."""
    try:
        container, stream = open_video(path)
    except InputError:
        return 0
    with container:
        return sum(packet.size > 0 for packet in container.demux(stream))


def _check_target(target: Path, overwrite: bool) -> None:
    _check_parent(target)
    if target.is_dir():
        raise InputError(f"{target}: expected the name of a file to write, got a folder.")
    if target.exists() and not overwrite:
        raise InputError(f"{target}: exists already; choose another name or allow overwriting.")


def _check_parent(target: Path) -> None:
    if not target.parent.is_dir():
        raise InputError(f"{target}: the folder {target.parent} does not exist; create it first.")
    if not os.access(target.parent, os.W_OK):
        raise InputError(f"{target}: the folder {target.parent} is not writable; choose another one.")


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    """Turn errors of the system and of FFmpeg into one clear line."""
    try:
        yield
    except (OSError, av.error.FFmpegError) as error:
        number = error.errno
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise Zero2HeroError(
                f"{target}: no space left on the disk; nothing was kept. Free some and repeat."
            ) from error
        if number in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise InputError(f"{target}: the folder {target.parent} is not writable; choose another one.") from error
        raise Zero2HeroError(f"{target}: writing failed ({error.strerror or error}); nothing was kept.") from error


class _PngSink:
    """Numbered PNG files, collected in a temporary folder beside the target."""

    def __init__(self, target: Path, texts: dict[str, str], overwrite: bool) -> None:
        pattern = target.name if target.suffix else "*.png"
        self._folder = target.parent if target.suffix else target
        if pattern.count("*") != 1:
            raise InputError(
                f"{target}: for a PNG sequence give a folder or a name with one asterisk, like shot_*.png."
            )
        self._before, self._after = pattern.split("*")
        self._texts = texts
        if self._folder.exists() and not self._folder.is_dir():
            raise InputError(f"{self._folder}: expected a folder for the PNG files, got a file.")
        if self._existing() and not overwrite:
            raise InputError(f"{self._folder}: holds frames already; choose another folder or allow overwriting.")
        _check_parent(self._folder)
        self._temporary = _temporary(self._folder)

    def _existing(self) -> list[Path]:
        numbered = re.compile(re.escape(self._before) + r"\d{6,}" + re.escape(self._after))
        return [file for file in self._folder.glob("*") if numbered.fullmatch(file.name)]

    def write(self, pixels: np.ndarray, index: int) -> None:
        self._temporary.mkdir(exist_ok=True)
        _save_png(self._temporary / f"{self._before}{index:06d}{self._after}", pixels, self._texts)

    def finish(self, count: int) -> None:
        if not self._folder.exists():
            os.replace(self._temporary, self._folder)
            return
        fresh = sorted(self._temporary.iterdir())
        for file in fresh:
            os.replace(file, self._folder / file.name)
        for stale in set(self._existing()) - {self._folder / file.name for file in fresh}:
            stale.unlink()
        self._temporary.rmdir()

    def discard(self) -> None:
        shutil.rmtree(self._temporary, ignore_errors=True)


class _FileSink:
    """One video file; the container is opened by the first frame, which brings the size."""

    def __init__(
        self,
        target: Path,
        rate: Fraction,
        codec: str | None,
        crf: int | None,
        audio: _AudioSpan | None,
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
        _check_target(target, overwrite)
        self._crf = self._codec.crf if crf is None else crf
        self._target, self._temporary, self._overwrite = target, _temporary(target), overwrite
        self._rate, self._span, self._texts = rate.limit_denominator(1_000_000), audio, texts
        self._container: OutputContainer | None = None
        self._audio: _AudioTrack | None = None

    def _start(self, pixels: np.ndarray) -> OutputContainer:
        flags = {"movflags": "faststart+use_metadata_tags"} if self._format in ("mp4", "mov") else {}
        container = av.open(f"file:{self._temporary}", "w", format=self._format, options=flags)
        self._container = container
        container.metadata.update(self._texts)
        quality = {} if self._crf is None else {"crf": str(self._crf)}
        stream: Any = container.add_stream(self._codec.encoder, rate=self._rate, options=self._codec.options | quality)
        stream.height, stream.width = pixels.shape[:2]
        stream.pix_fmt = self._codec.pix_fmt
        if self._codec.pix_fmt == "yuv420p":
            stream.codec_context.color_primaries = stream.codec_context.color_trc = _BT709
            stream.codec_context.colorspace, stream.codec_context.color_range = _BT709, _LIMITED
        self._stream = stream
        if self._span is not None:
            self._audio = _AudioTrack(self._span, container, self._copied_audio)
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
        picture.pts, picture.time_base = index, 1 / self._rate
        container.mux(self._stream.encode(picture))
        if self._audio is not None:
            self._audio.advance((index + 1) / self._rate)

    def finish(self, count: int) -> None:
        assert self._container is not None
        self._container.mux(self._stream.encode(None))
        if self._audio is not None:
            self._audio.advance(count / self._rate, last=True)
        self._close()
        written = _frames_on_disk(self._temporary)
        if written != count:
            raise Zero2HeroError(f"{self._target}: {written} of {count} frames reached the disk; is it full?")
        _publish(self._temporary, self._target, self._overwrite)

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


class _AudioSpan:
    """A checked request for sound."""

    def __init__(self, path: str | os.PathLike[str], start: float, stop: float | None) -> None:
        self.file = existing_file(path, "file with an audio track")
        if not 0 <= start < float("inf") or (stop is not None and not start < stop):
            raise InputError(f"audio_start, audio_stop: expected 0 <= start < stop in seconds, got {start} and {stop}.")
        self.start = Fraction(start)
        self.length = None if stop is None else Fraction(stop) - self.start
        with self.open() as container:
            stream = container.streams.audio[0]
            origin = self.start + start_time(container)
            container.seek(int(origin * 1_000_000))
            ends = ((p.pts + p.duration) * p.time_base for p in container.demux(stream) if p.pts is not None)
            if not any(end > origin for end in ends):
                raise InputError(f"audio_start: expected a time at which {self.file} has sound, got {start} seconds.")

    def open(self) -> av.container.InputContainer:
        try:
            container = av.open(f"file:{self.file}", metadata_errors="replace", options={"protocol_whitelist": "file"})
        except av.error.FFmpegError as error:
            raise InputError(
                f"audio_from: {self.file} cannot be opened as sound or video ({error.strerror})."
            ) from error
        if not container.streams.audio:
            container.close()
            raise InputError(f"audio_from: {self.file} has no audio track; leave audio_from out.")
        return container


class _AudioTrack:
    """The sound of a span, shifted to 0 and fed to the container in step with the picture."""

    def __init__(self, span: _AudioSpan, output: OutputContainer, copied: set[str]) -> None:
        self._source = span.open()
        self._length = span.length
        self._output = output
        stream = self._source.streams.audio[0]
        self._origin = span.start + start_time(self._source)
        self._exact = output.format.name in ("mp4", "mov")  # a packet from before 0 is cut by an edit list
        self._copy = stream.codec_context.codec.canonical_name in copied
        if self._copy:
            self._stream: Any = output.add_stream_from_template(stream)
        else:
            opus = output.format.name == "webm"
            layout = "mono" if stream.codec_context.channels == 1 else "stereo"
            rate = 48000 if opus else stream.codec_context.sample_rate
            self._stream = output.add_stream("libopus" if opus else "aac", rate=rate, layout=layout)
        if span.start > 1:
            self._source.seek(int((self._origin - 1) * 1_000_000))
        self._items = self._packets(stream) if self._copy else self._samples(stream)
        self._next = next(self._items, None)

    def close(self) -> None:
        self._source.close()

    def advance(self, until: Fraction, last: bool = False) -> None:
        """Mux what begins before `until` seconds of the new clip; with `last`, nothing comes after."""
        end = until if self._length is None else min(until, self._length)
        while self._next is not None and self._next[0] < end:
            self._output.mux(self._next[1] if self._copy else self._stream.encode(self._next[1]))
            self._next = next(self._items, None)
        if last and not self._copy:
            self._output.mux(self._stream.encode(None))

    def _packets(self, stream: Any) -> Iterator[tuple[Fraction, Any]]:
        shift = round(self._origin / stream.time_base)
        for packet in self._source.demux(stream):
            if packet.pts is None or packet.dts is None:
                continue
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            if packet.pts >= 0 or (self._exact and packet.pts + packet.duration > 0):
                begin = packet.pts * stream.time_base
                packet.stream = self._stream
                yield begin, packet

    def _samples(self, stream: Any) -> Iterator[tuple[Fraction, Any]]:
        encoder = self._stream.codec_context
        rate, channels = encoder.sample_rate, len(encoder.layout.channels)
        resampler = av.AudioResampler(format=encoder.format.name, layout=encoder.layout.name, rate=rate)
        for frame in self._source.decode(stream):
            piece: Any
            for piece in resampler.resample(frame):
                first = round((piece.pts * piece.time_base - self._origin) * rate)  # in samples of the new clip
                skip = max(0, -first)
                if skip >= piece.samples:
                    continue
                step = 1 if piece.format.is_planar else channels
                values: Any = np.ascontiguousarray(piece.to_ndarray()[:, skip * step :])
                cut = av.AudioFrame.from_ndarray(values, format=piece.format.name, layout=piece.layout.name)
                cut.sample_rate, cut.pts, cut.time_base = rate, first + skip, Fraction(1, rate)
                yield Fraction(first + skip, rate), cut
