"""Carry the sound of a file, trimmed, into a new video."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.container import OutputContainer

from ..checks import InputError
from .decode import start_time
from .image_reader import existing_file


class AudioSpan:
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
        """Open the source container; the caller closes it."""
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


class AudioTrack:
    """The sound of a span, shifted to 0 and fed to the container in step with the picture."""

    def __init__(self, span: AudioSpan, output: OutputContainer, copied: set[str]) -> None:
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
