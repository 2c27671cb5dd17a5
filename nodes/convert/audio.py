"""Between the sound of files and the host's AUDIO.

AUDIO is {"waveform": (1, channels, samples) float32 in [-1, 1], "sample_rate": samples per second}.
"""

from __future__ import annotations

import wave
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import torch

from ...zero2hero_core.checks import InputError
from ...zero2hero_core.video.audio import timed_frames
from ...zero2hero_core.video.decode import sound_track, start_time


def read_audio(path: Path, begin: float, end: float) -> dict[str, Any] | None:
    """Return the sound of a file from `begin` to `end` seconds (clock of `FrameSource.time_of`) as AUDIO.

    Silence where the track has gaps or ends early. Returns: None when the file has no audio track.
    Raises: InputError when the track cannot be decoded.
    """
    try:
        options = {"protocol_whitelist": "file"}
        with av.open(f"file:{path}", metadata_errors="replace", options=options) as container:
            if sound_track(container) is None:
                return None
            origin = Fraction(begin) + start_time(container)
            if begin > 1:  # a second early: seeking lands on packets, and codecs need some to settle
                container.seek(int((origin - 1) * 1_000_000))
            return _decode(container, origin, end - begin)
    except av.error.FFmpegError as error:
        raise InputError(f"file: the sound of {path.name} cannot be decoded ({error.strerror}).") from error


def _decode(container: av.container.InputContainer, origin: Fraction, seconds: float) -> dict[str, Any]:
    stream = sound_track(container)
    rate = stream.codec_context.sample_rate
    resampler = av.AudioResampler(format="fltp", layout=stream.codec_context.layout.name, rate=rate)
    waveform = torch.zeros(stream.codec_context.channels, max(1, round(seconds * rate)))
    for frame in timed_frames(container.decode(stream), stream):
        for piece in resampler.resample(frame):
            time = Fraction(piece.pts or 0) * (piece.time_base or Fraction(1, rate))
            first = round((time - origin) * rate)
            if first >= waveform.shape[1]:
                return {"waveform": waveform[None], "sample_rate": rate}
            skip, stop = max(0, -first), min(piece.samples, waveform.shape[1] - first)
            if skip < stop:
                waveform[:, first + skip : first + stop] = torch.from_numpy(piece.to_ndarray()[:, skip:stop])
    return {"waveform": waveform[None], "sample_rate": rate}


def write_audio(path: Path, audio: dict[str, Any], socket: str = "audio") -> None:
    """Write AUDIO as a 16-bit .wav file. Raises: InputError unless it is one sound with samples in it."""
    waveform = audio["waveform"]
    if waveform.ndim != 3 or len(waveform) != 1 or 0 in waveform.shape:
        raise InputError(f"{socket}: expected one sound (1, channels, samples), got {tuple(waveform.shape)}.")
    samples = waveform[0].float().clamp(-1, 1).mul(32767).round().to(torch.int16)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(samples))
        file.setsampwidth(2)
        file.setframerate(int(audio["sample_rate"]))
        file.writeframes(samples.T.contiguous().cpu().numpy().astype("<i2").tobytes())
