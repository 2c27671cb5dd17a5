"""How a video file is read: where a reader seeks, when it ends, which rate a few frames have, whether the file is
whole."""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from zero2hero_core.checks import InputError, Zero2HeroError
from zero2hero_core.video import decode
from zero2hero_core.video import writer as video_writer
from zero2hero_core.video.video_file import VideoClip


def clip_of(path: Path, times: list[int], gop: int = 4) -> VideoClip:
    """A clip of grey frames at these thirtieths of a second, with a key frame every `gop`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"g": str(gop), "bf": "0", "sc_threshold": "0"})
        stream.height = stream.width = 32
        stream.pix_fmt = "yuv420p"
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 + 9 * index, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return VideoClip(path, None)


@pytest.fixture
def decoders(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The containers whose decoding was begun, once for every beginning."""
    begun: list[Any] = []
    plain = decode.FrameDecoder.__iter__

    def keep(decoder: decode.FrameDecoder) -> Any:
        begun.append(decoder._container)
        return plain(decoder)

    monkeypatch.setattr(decode.FrameDecoder, "__iter__", keep)
    return begun


def level(picture: torch.Tensor) -> int:
    return round((float(picture.mean()) * 255 - 20) / 9)


def test_the_reader_goes_on_or_seeks_once(tmp_path: Path, decoders: list[Any]) -> None:
    clip = clip_of(tmp_path / "a.mp4", list(range(20)))
    assert clip.keys == [0, 4, 8, 12, 16]
    decoders.clear()
    with clip.reader() as read:
        steps = [
            (0, 1),  # from the start
            (1, 1),
            (3, 1),  # goes on, nothing to gain from a seek
            (4, 1),  # the very next frame is a key frame: no seek
            (8, 2),  # a key frame further on: straight to it, and it alone is enough
            (8, 2),  # held
            (7, 3),  # back
            (18, 4),
            (17, 5),
        ]
        for index, begun in steps:
            assert level(read(index)) == index and len(decoders) == begun, index


def test_a_reader_ends_with_its_block(tmp_path: Path, decoders: list[Any]) -> None:
    clip = clip_of(tmp_path / "a.mp4", list(range(6)))
    decoders.clear()
    with clip.reader() as read:
        read(0)
    (container,) = decoders
    with pytest.raises((AssertionError, ValueError)):  # which of them depends on PyAV
        container.seek(0)


def test_a_file_that_changed_is_told(tmp_path: Path) -> None:
    clip = clip_of(tmp_path / "a.mp4", list(range(6)))
    clip_of(tmp_path / "a.mp4", [0, 1, 2, 5])
    with clip.reader() as read:
        assert level(read(2)) == 2
        with pytest.raises(Zero2HeroError, match="frame 3 is gone; the file changed"):
            read(3)


def test_the_rate_of_one_frame_is_that_of_the_clip(tmp_path: Path) -> None:
    clip = clip_of(tmp_path / "a.mp4", [0, 1, 2, 10, 11, 12, 30])
    assert clip.rate_of(range(0, 7)) == 6
    assert clip.rate_of(range(2, 3)) == 6
    assert clip.rate_of(range(2, 4)) == Fraction(30, 8)
    assert clip.rate_of(range(3, 6)) == 30


def test_a_clip_of_one_frame_has_the_nominal_rate(tmp_path: Path) -> None:
    assert clip_of(tmp_path / "a.mp4", [0]).rate_of(range(0, 1)) == 30


def boxes(*lengths: int, held: Callable[[int], int] = lambda length: length) -> bytes:
    """Top-level boxes of an MP4 file that say they have these lengths, header included; `held`: what is there."""
    return b"".join(struct.pack(">I4s", length, b"free") + bytes(max(0, held(length) - 8)) for length in lengths)


@pytest.mark.parametrize(
    ("content", "overruns"),
    [
        (boxes(24, 16), False),
        (boxes(24, 8), False),
        (boxes(24, 8) + boxes(40, held=lambda length: length - 1), True),
        (boxes(24) + boxes(40, held=lambda length: length - 1), True),
        (boxes(24) + struct.pack(">I4s", 0, b"mdat") + bytes(5), False),  # to the end of the file
        (struct.pack(">I4sQ", 1, b"mdat", 24) + bytes(8), False),  # a long length
        (struct.pack(">I4sQ", 1, b"mdat", 25) + bytes(8), True),
        (boxes(24) + bytes(7), False),  # less than a header
        (b"", False),
    ],
)
def test_boxes_that_go_on_behind_the_end(tmp_path: Path, content: bytes, overruns: bool) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    assert (decode._mp4_end(tmp_path / "a.mp4") > len(content)) is overruns


def test_frames_on_disk_are_counted(tmp_path: Path) -> None:
    clip_of(tmp_path / "a.mp4", list(range(6)))
    assert video_writer._frames_on_disk(tmp_path / "a.mp4") == 6
    (tmp_path / "b.mp4").write_bytes(b"nothing that is a video")
    assert video_writer._frames_on_disk(tmp_path / "b.mp4") == 0


def test_a_file_without_pictures_is_refused_and_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate, sound.pts = 8000, 0
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    opened = []
    real = av.open

    def keep(*args: Any, **named: Any) -> Any:
        opened.append(real(*args, **named))
        return opened[-1]

    monkeypatch.setattr(decode.av, "open", keep)
    with pytest.raises(InputError, match="found no video track that can be decoded"):
        decode.open_video(tmp_path / "sound.mkv")
    (container,) = opened
    with pytest.raises((AssertionError, ValueError)):
        container.seek(0)


def test_a_text_or_a_playlist_is_no_video(tmp_path: Path) -> None:
    """FFmpeg paints text files as video and follows lists of other files."""
    clip_of(tmp_path / "a.mp4", list(range(6)))
    (tmp_path / "a.ans").write_text("plain words\n" * 50)
    (tmp_path / "list.ffconcat").write_text("ffconcat version 1.0\nfile a.mp4\n")
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.2,\na.mp4\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.m3u8").write_text(playlist)
    for name in ("a.ans", "list.ffconcat", "list.m3u8"):
        with pytest.raises(InputError, match="expected a video, but"):
            decode.open_video(tmp_path / name)


def test_only_files_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file cannot make the decoder ask another machine: FFmpeg is told that it may read files only."""
    clip_of(tmp_path / "a.mp4", list(range(6)))
    options = []
    real = av.open

    def keep(*args: Any, **named: Any) -> Any:
        options.append(named.get("options"))
        return real(*args, **named)

    monkeypatch.setattr(decode.av, "open", keep)
    decode.open_video(tmp_path / "a.mp4")[0].close()
    assert options == [{"protocol_whitelist": "file"}]
