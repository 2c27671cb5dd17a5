"""Carry the sound of a file, trimmed, into a new video."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer, OutputContainer

from ..checks import InputError
from .decode import sound_track, start_time
from .image_reader import existing_file

_AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)  # in Hz


def timed_frames(frames: Iterable[av.AudioFrame], stream: Any) -> Iterator[av.AudioFrame]:
    """Yield decoded sound with a time on every frame, in ticks of one sample.

    A frame without a time (WMA, some AVI) follows the one before it without a gap.
    """
    due = Fraction(stream.start_time or 0) * (stream.time_base or 0)
    for frame in frames:
        rate = frame.sample_rate
        begin = due if frame.pts is None else frame.pts * (frame.time_base or stream.time_base)
        frame.time_base = Fraction(1, rate)
        frame.pts = round(begin * rate)
        due = begin + Fraction(frame.samples, rate)
        yield frame


def _timed_packets(
    container: InputContainer, stream: Any
) -> Iterator[tuple[Fraction, Fraction, av.Packet[av.AudioStream]]]:
    """Yield begin and end in seconds, and the packet, which has a time then; like `timed_frames`."""
    due = round(stream.start_time or 0)
    for packet in container.demux(stream):
        if not packet.size:  # marks the end
            continue
        if packet.pts is None:
            packet.pts = due
        if packet.dts is None:
            packet.dts = packet.pts
        due = packet.pts + (packet.duration or 0)
        yield packet.pts * stream.time_base, due * stream.time_base, packet


def silence_reason(path: str | os.PathLike[str], start: float, stop: float | None) -> str:
    """Return why a file has no sound from `start` to `stop` (None: the end) seconds; "" when it has some.

    The clock is that of `FrameSource.time_of`. Raises: InputError when the file cannot be opened or has no audio track.
    """
    with open_sound(Path(path)) as container:
        stream = sound_track(container)
        zero = start_time(container)
        origin, latest = zero + Fraction(start), Fraction(0)
        _seek(container, origin)
        for begin, end, _ in _timed_packets(container, stream):
            if stop is not None and begin >= zero + Fraction(stop):
                return f"the sound of {path} begins at {float(begin - zero):.2f} s, the chosen frames end before"
            if end > origin:
                return ""
            latest = max(latest, end - zero)
    return f"the sound of {path} ends at {float(latest):.2f} s, the chosen frames begin at {float(start):.2f} s"


def open_sound(file: Path) -> InputContainer:
    """Open a file with an audio track; the caller closes it. Raises: InputError."""
    try:
        container = av.open(f"file:{file}", metadata_errors="replace", options={"protocol_whitelist": "file"})
    except av.error.FFmpegError as error:
        raise InputError(f"audio_from: {file} cannot be opened as sound or video ({error.strerror}).") from error
    if sound_track(container) is None:
        container.close()
        raise InputError(f"audio_from: {file} has no audio track of a known codec; leave audio_from out.")
    return container


def _seek(container: InputContainer, seconds: Fraction) -> None:
    with suppress(av.error.FFmpegError):  # a file that cannot be searched is read from where it stands
        container.seek(int(seconds * 1_000_000))


class AudioSpan:
    """A checked request for sound."""

    def __init__(self, path: str | os.PathLike[str], start: float, stop: float | None) -> None:
        self.file = existing_file(path, "file with an audio track")
        if not 0 <= start < float("inf") or (stop is not None and not start < stop):
            raise InputError(f"audio_start, audio_stop: expected 0 <= start < stop in seconds, got {start} and {stop}.")
        self.start = Fraction(start)
        self.length = None if stop is None else Fraction(stop) - self.start
        if silence_reason(self.file, start, stop):
            raise InputError(f"audio_start: expected a time at which {self.file} has sound, got {start} seconds.")


class AudioTrack:
    """The sound of a span, shifted to 0 and fed to the container in step with the picture."""

    def __init__(self, span: AudioSpan, output: OutputContainer, copied: set[str]) -> None:
        self._source = open_sound(span.file)
        self._length = span.length
        self._output = output
        stream = sound_track(self._source)
        self._origin = span.start + start_time(self._source)
        self._exact = output.format.name in ("mp4", "mov")  # a packet from before 0 is cut by an edit list
        self._copy = stream.codec_context.codec.canonical_name in copied
        if self._copy:
            self._stream: Any = output.add_stream_from_template(stream)
        else:
            opus = output.format.name == "webm"
            layout = "mono" if stream.codec_context.channels == 1 else "stereo"
            rate = stream.codec_context.sample_rate
            rate = rate if rate in _AAC_RATES and not opus else 48000
            self._stream = output.add_stream("libopus" if opus else "aac", rate=rate, layout=layout)
        if span.start > 1:
            _seek(self._source, self._origin - 1)
        self._items = self._packets(stream) if self._copy else self._samples(stream)
        self._next = next(self._items, None)

    def close(self) -> None:
        """Close the source container."""
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
        for _, _, packet in _timed_packets(self._source, stream):
            assert packet.pts is not None and packet.dts is not None
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            if packet.pts >= 0 or (self._exact and packet.pts + (packet.duration or 0) > 0):
                begin = packet.pts * stream.time_base
                packet.stream = self._stream
                yield begin, packet

    def _samples(self, stream: Any) -> Iterator[tuple[Fraction, Any]]:
        encoder = self._stream.codec_context
        rate, channels = encoder.sample_rate, len(encoder.layout.channels)
        resampler, kind = None, None
        for frame in timed_frames(self._source.decode(stream), stream):
            here = (frame.format.name, frame.layout.name, frame.sample_rate)
            if resampler is None or kind != here:  # some broadcasts change from stereo to 5.1 and back
                resampler = av.AudioResampler(format=encoder.format.name, layout=encoder.layout.name, rate=rate)
                kind = here
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
