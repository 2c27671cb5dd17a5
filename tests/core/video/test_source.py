"""Frame sources and reading of images: exact counts, times, sizes, colours, and what a careless user is told."""

from __future__ import annotations

import struct
import weakref
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from zero2hero_core.checks import InputError, ShapeError, Zero2HeroError
from zero2hero_core.video.source import FrameSource, open_frames

CLIPS = Path(__file__).resolve().parents[4] / "shared" / "data"


def make_clip(path: Path, count: int = 30, codec: str = "libx264", pix_fmt: str = "yuv420p", *, size_hw=(48, 64),
              rate: int = 30, times=None, gop: int = 8, tags=None, options=None) -> Path:  # fmt: skip
    """A clip of plain grey frames, frame i at 20 + 7 i of 255, starting again after 30."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"g": str(gop)} | (options or {}))
        stream.height, stream.width = size_hw
        stream.pix_fmt = pix_fmt
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        for index in range(count):
            pixels = np.full((*size_hw, 3), 20 + 7 * (index % 30), np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = (index if times is None else times[index]), Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def levels(frames) -> list[int]:
    """Which frame of `make_clip` each one is."""
    return [round((float(frame.mean()) * 255 - 20) / 7) for frame in frames]


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"bf": "3"}),
        ("open_gop.mp4", "libx264", {"bf": "3", "x264-params": "open-gop=1"}),
        ("a.mkv", "libx264", {"bf": "2"}),
        ("a.webm", "libvpx-vp9", {}),
        ("a.avi", "mpeg4", {}),
        ("b_frames.avi", "libx264", {}),
        ("a.ts", "mpeg2video", {"bf": "2", "b": "4000000"}),
        ("raw.h264", "libx264", {}),
    ],
)
def test_count_order_and_random_access_in_every_container(tmp_path, name, codec, options):
    source = open_frames(make_clip(tmp_path / name, codec=codec, options=options))
    assert len(source) == 30
    assert source.fps == 30
    streamed = list(source)
    assert levels(streamed) == list(range(30))
    for index in (29, 0, 17, 16, 15, 8, 7, 9, 23, 23):
        assert torch.equal(source[index], streamed[index]), index
    assert torch.equal(source.frames([20, 3, 20]), torch.stack([streamed[i] for i in (20, 3, 20)]))


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({}, list(range(30))),
        ({"start": 4, "stop": 9}, [4, 5, 6, 7, 8]),
        ({"start": 1, "stride": 7}, [1, 8, 15, 22, 29]),
        ({"start": 2, "stride": 5, "maximum": 3}, [2, 7, 12]),
        ({"stop": 500, "stride": 29}, [0, 29]),
    ],
)
def test_start_stop_stride_and_maximum(tmp_path, choice, expected):
    source = open_frames(make_clip(tmp_path / "clip.mp4"), **choice)
    assert len(source) == len(expected)
    assert levels(source) == expected
    assert [source.index_of(i) for i in range(len(source))] == expected
    assert [source.time_of(i) for i in range(len(source))] == pytest.approx([i / 30 for i in expected])
    assert source.fps == Fraction(30, choice.get("stride", 1))


@pytest.mark.parametrize(
    ("choice", "places"),
    [
        ({"stop": 1}, [0]),
        ({"start": 9}, [9]),
        ({"start": 3, "stop": 4}, [3]),
        ({"maximum": 1}, [0]),
        ({"stride": 4, "maximum": 2, "stop": 9}, [0, 4]),
        ({"stride": 4, "maximum": 9, "stop": 9}, [0, 4, 8]),
        ({"stop": 99, "stride": 9}, [0, 9]),
    ],
)
def test_the_least_of_each_choice(choice, places):
    frames = torch.arange(10.0).view(10, 1, 1, 1).expand(10, 3, 8, 8) / 10
    assert [round(float(frame.mean()) * 10) for frame in open_frames(frames, **choice)] == places


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"start": -1}, "start: expected a whole number from 0 up, got -1"),
        ({"start": None}, "start: expected a whole number from 0 up, got None"),
        ({"stop": 0}, "stop: expected a whole number from 1 up or nothing, got 0"),
        ({"stride": 0}, "stride: expected a whole number from 1 up, got 0"),
        ({"maximum": True}, "maximum: expected a whole number from 1 up or nothing, got True"),
        ({"start": 3, "stop": 3}, r"stop: expected more than start \(3\), got 3"),
        ({"start": 10}, r"start: expected 0 to 9 \(the clip has 10 frames\), got 10"),
    ],
)
def test_choices_that_are_none(choice, message):
    with pytest.raises(InputError, match=f"^{message}"):
        open_frames(torch.zeros(10, 3, 8, 8), **choice)


def test_ntsc_rate_is_exact_although_matroska_rounds_to_milliseconds(tmp_path):
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(30000, 1001))
        stream.height, stream.width, stream.pix_fmt = 16, 16, "bgr0"
        for _ in range(40):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    assert open_frames(path).fps == Fraction(30000, 1001)


def test_variable_frame_rate_keeps_order_and_times(tmp_path):
    times = [0, 1, 2, 10, 11, 12, 30]
    source = open_frames(make_clip(tmp_path / "clip.mp4", 7, times=times))
    assert levels(source) == list(range(7))
    assert [source.time_of(i) for i in range(7)] == pytest.approx([t / 30 for t in times])
    assert source.fps == 6  # six intervals in one second
    assert open_frames(source.source_path, start=3, stop=6).fps == 30  # the chosen span


def test_times_begin_at_zero_in_a_transport_stream(tmp_path):
    path = make_clip(tmp_path / "clip.ts", times=range(90, 120))
    with av.open(str(path)) as container:
        assert container.start_time > 1_000_000
    assert open_frames(path).time_of(3) == pytest.approx(0.1)


def patch_box(path: Path, name: bytes, offset: int, data: bytes) -> Path:
    content = bytearray(path.read_bytes())
    at = content.index(name) + 4 + offset
    content[at : at + len(data)] = data
    path.write_bytes(bytes(content))
    return path


def test_edit_list_cuts_the_first_frames(tmp_path):
    path = make_clip(tmp_path / "clip.mp4", options={"bf": "0"})
    with av.open(str(path)) as container:
        tick = container.streams.video[0].time_base
    skip = round(Fraction(10, 30) / tick)
    patch_box(path, b"elst", 12, struct.pack(">i", skip))  # media_time of the only entry
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 30  # what the container claims
    source = open_frames(path)
    assert levels(source) == list(range(10, 30))
    assert source.time_of(0) == 0.0
    assert levels([source[5]]) == [15]


ONE = 1 << 16


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((0, ONE, -ONE, 0), lambda image: image.rot90(-1, (-2, -1))),  # 90 degrees clockwise: a phone held upright
        ((-ONE, 0, 0, -ONE), lambda image: image.rot90(2, (-2, -1))),
        ((0, -ONE, ONE, 0), lambda image: image.rot90(1, (-2, -1))),
        ((-ONE, 0, 0, ONE), lambda image: image.flip(-1)),
    ],
)
def test_rotation_metadata_is_applied(tmp_path, matrix, turn):
    path = tmp_path / "clip.mp4"
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:16, :24] = 240  # one bright corner
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    plain = open_frames(path)[0]
    a, b, c, d = matrix
    patch_box(path, b"tkhd", 40, struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30))
    source = open_frames(path)
    assert source.size_hw == tuple(turn(plain).shape[-2:])
    assert torch.equal(source[0], turn(plain))


def test_streaming_a_thousand_frames_holds_only_a_few(tmp_path):
    path = make_clip(tmp_path / "clip.mp4", 1000, size_hw=(16, 16), options={"preset": "ultrafast"}, gop=250)
    source = open_frames(path)
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    most = count = 0
    for frame in source:
        alive.add(frame)
        count += 1
        most = max(most, len(alive))
    assert count == len(source) == 1000
    assert most <= 3


@pytest.mark.parametrize(("name", "count", "fps", "side", "audio"),
                         [("car-turn", 80, 10, 480, False), ("rabbit-watermelon", 186, 30, 720, True),
                          ("wolf", 40, 20, 512, False)])  # fmt: skip
def test_real_clips(name, count, fps, side, audio):
    path = CLIPS / f"{name}.mp4"
    if not path.exists():
        pytest.skip("the real clips are not part of the repository")
    source = open_frames(path)
    assert (len(source), source.fps, source.size_hw, source.has_audio) == (count, fps, (side, side), audio)
    few = open_frames(path, start=5, stop=20, stride=7, policy="crop", size=(64, 96))
    streamed = list(few)
    assert [few.index_of(i) for i in range(len(few))] == [5, 12, 19]
    for index in (2, 0, 1):
        assert torch.equal(few[index], streamed[index])


def test_frames_in_memory_are_not_copied_and_bad_values_are_told():
    clip = torch.rand(5, 3, 16, 24)
    source = open_frames(clip, stride=2, fps=12)
    assert (len(source), source.fps, source.size_hw, source.source_path) == (3, 6, (16, 24), None)
    assert source[1].data_ptr() == clip[2].data_ptr()
    assert source.time_of(2) == pytest.approx(4 / 12)
    with pytest.raises(InputError, match=r"expected values in \[0, 1\], got .* to 255"):
        open_frames(torch.full((1, 3, 8, 8), 255.0))
    with pytest.raises(ShapeError, match="divide by 255"):
        open_frames(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


def save_images(folder: Path, names, size=(24, 16)) -> None:
    for value, name in enumerate(names):
        Image.new("RGB", size, (value * 10, 0, 0)).save(folder / name)


def test_folder_and_glob_are_in_natural_order(tmp_path):
    save_images(tmp_path, ["f1.png", "f2.png", "f10.png", "g1.png"])
    (tmp_path / "notes.txt").write_text("not an image")
    for given, expected in ((tmp_path, 4), (tmp_path / "f*.png", 3), (tmp_path / "f*", 3)):
        source = open_frames(given)
        assert [round(float(frame[0].mean()) * 25.5) for frame in source] == list(range(expected))
        assert source.fps == 24
        assert source.source_path == tmp_path
    assert open_frames(tmp_path / "f2.png").frames([0]).shape == (1, 3, 16, 24)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": 30}, r"start: expected 0 to 29 \(the clip has 30 frames\), got 30"),
        ({"start": -1}, "start: expected a whole number from 0 up, got -1"),
        ({"start": 5, "stop": 5}, r"stop: expected more than start \(5\), got 5"),
        ({"stride": 0}, "stride: expected a whole number from 1 up, got 0"),
        ({"maximum": 0}, "maximum: expected a whole number from 1 up or nothing, got 0"),
        ({"size": 0}, "size: expected nothing, a short side or"),
        ({"size": (64,)}, "size: expected nothing, a short side or"),
        ({"size": 64.0}, "size: expected nothing, a short side or"),
        ({"policy": "stretch"}, "policy: expected one of resize, crop, pad, got 'stretch'"),
        ({"fps": 24}, "fps: expected nothing for a video"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    path = make_clip(tmp_path / "clip.mp4")
    with pytest.raises(InputError, match=message):
        open_frames(path, **arguments)


def test_bad_sources(tmp_path):
    (tmp_path / "text.mp4").write_text("hello " * 100)
    (tmp_path / "notes.txt").write_text("FFmpeg would show this as text art")
    (tmp_path / "void.mp4").touch()
    (tmp_path / "empty").mkdir()
    save_images(tmp_path, ["a1.png"])
    save_images(tmp_path, ["a2.png"], size=(30, 16))
    (tmp_path / "broken.png").write_bytes((tmp_path / "a1.png").read_bytes()[:40])
    for name, message in (
        ("absent.mp4", "absent.mp4: no such file"),
        ("text.mp4", "text.mp4: expected a video, but it cannot be opened as one"),
        ("notes.txt", "notes.txt: expected a video, but"),
        ("void.mp4", "void.mp4: expected a file .* got an empty one"),
        ("empty", "empty: expected at least one image"),
        ("b*.jpg", r"b\*.jpg: expected at least one image"),
        ("a*.png", "a2.png: expected 24 x 16 pixels like a1.png, got 30 x 16"),
        ("broken.png", "broken.png: expected an intact image"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            open_frames(tmp_path / name)[0]
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="expected a path or a tensor"):
        open_frames(np.zeros((2, 3, 8, 8)))


def make_noise(path: Path, codec: str) -> Path:
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
        stream = container.add_stream(codec, rate=30, options={"g": "10"})
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        noise = np.random.default_rng(0)
        for _ in range(60):
            pixels = noise.integers(0, 256, (64, 64, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.avi"])
def test_truncated_video_tells_how_far_it_can_be_read(tmp_path, name):
    path = make_noise(tmp_path / name, "mpeg4" if name.endswith("avi") else "libx264")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    with pytest.raises(InputError, match=r"damaged or incomplete: \d+ frames can be decoded") as caught:
        open_frames(path)
    good = int(str(caught.value).split(" frames can")[0].split()[-1])
    assert 20 <= good < 60
    assert len(list(open_frames(path, stop=good))) == good


def test_damage_in_the_middle_does_not_pass(tmp_path):
    path = make_noise(tmp_path / "clip.mp4", "libx264")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 300] = b"\xff" * 300
    path.write_bytes(bytes(content))
    for _ in range(10):  # with several decoder threads it would pass now and then
        with pytest.raises(
            InputError, match="damaged or incomplete: [0-9]+ frames can be decoded, then: a damaged frame"
        ):
            open_frames(path)


def test_bad_index_and_vanished_file(tmp_path):
    source = open_frames(make_clip(tmp_path / "clip.mp4"), stop=20)
    for index in (-1, 20):
        with pytest.raises(InputError, match=rf"index: expected 0 to 19 .* got {index}"):
            source[index]
    with pytest.raises(InputError, match="index: expected a whole number"):
        source["first"]
    with pytest.raises(InputError, match="at least one frame index"):
        source.frames([])
    for changed in ({"count": 5}, {"times": [*range(5), *range(6, 31)]}):
        make_clip(tmp_path / "clip.mp4", **changed)
        source.close()
        with pytest.raises(Zero2HeroError, match="the file changed"):
            source[10]
    source.close()
    assert isinstance(source, FrameSource)
