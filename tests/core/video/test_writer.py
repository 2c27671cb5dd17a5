"""Writing videos, PNG sequences and images: exact or close colours, sound, metadata, and never a half-written file."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from zero2hero_core.checks import InputError, ShapeError, Zero2HeroError
from zero2hero_core.video import writer as video_writer
from zero2hero_core.video.source import open_frames, read_image, read_mask
from zero2hero_core.video.writer import VideoWriter, write_image

CLIPS = Path(__file__).resolve().parents[4] / "shared" / "data"


def smooth_clip(count: int = 8, height: int = 64, width: int = 96) -> torch.Tensor:
    """Coloured waves that drift, without hard edges; (N, 3, H, W) in [0, 1]."""
    t, y, x = (torch.linspace(0, 6.28, n) for n in (count, height, width))
    phase = t.view(-1, 1, 1) / 4
    waves = [y.view(1, -1, 1) + phase, x.view(1, 1, -1) - phase, y.view(1, -1, 1) / 2 + x.view(1, 1, -1) + phase]
    return torch.stack([0.5 + 0.45 * wave.sin().expand(count, height, width) for wave in waves], 1)


def noise_clip(count: int = 5, height: int = 33, width: int = 47) -> torch.Tensor:
    """Every pixel an 8-bit colour of its own, odd sides."""
    values = torch.randint(0, 256, (count, 3, height, width), generator=torch.Generator().manual_seed(0))
    return values.float() / 255


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * (a - b).square().mean().log10())


def write(path, frames, fps=25, **options) -> Path:
    with VideoWriter(path, fps, **options) as writer:
        for part in frames.split(3):
            writer.write(part)
    return path


@pytest.mark.parametrize("name", ["clip.mkv", "frames", "shots/take_*.png"])
def test_lossless_targets_are_exact(tmp_path, name):
    clip = noise_clip()
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    write(path, clip)
    source = open_frames(path, multiple=1)
    assert torch.equal(source.frames(range(len(source))), clip)
    assert list(path.parent.glob(".*")) == []


def test_lossless_rounds_to_the_nearest_level(tmp_path):
    clip = torch.tensor([0.4, 0.6, 254.6]).view(1, 3, 1, 1).expand(1, 3, 16, 16) / 255
    write(tmp_path / "clip.mkv", clip)
    assert (open_frames(tmp_path / "clip.mkv")[0][:, 0, 0] * 255).tolist() == pytest.approx([0, 1, 255])


@pytest.mark.parametrize(("name", "crf", "least"), [("clip.mp4", 12, 38), ("clip.webm", 12, 38), ("clip.mov", 12, 38)])
def test_lossy_colours_come_back(tmp_path, name, crf, least):
    clip = smooth_clip()
    source = open_frames(write(tmp_path / name, clip, crf=crf))
    back = source.frames(range(len(source)))
    assert psnr(back, clip) > least
    assert (back - clip).mean((0, 2, 3)).abs().max() < 0.5 / 255  # no shift of any channel


def test_h264_is_tagged_and_converted_as_bt709(tmp_path):
    red = torch.tensor([191.0, 16.0, 16.0]).view(1, 3, 1, 1).expand(2, 3, 32, 32) / 255
    path = write(tmp_path / "clip.mp4", red, crf=1)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.color_primaries, context.color_trc, context.colorspace, context.color_range) == (1, 1, 1, 1)
        frame = next(container.decode(video=0))
    y, u, v = (np.frombuffer(memoryview(plane), np.uint8)[5] for plane in frame.planes)
    assert (y, u, v) == pytest.approx((61.69, 110.20, 204.86), abs=1.1)


def test_mp4_can_play_before_it_is_loaded(tmp_path):
    content = write(tmp_path / "clip.mp4", smooth_clip()).read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize("fps", [Fraction(30000, 1001), 10, 12.5, 23.976, Fraction(7, 3)])
@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.webm"])
def test_count_and_rate_come_back(tmp_path, name, fps):
    source = open_frames(write(tmp_path / name, smooth_clip(20, 16, 16), fps))
    assert len(source) == 20
    assert float(source.fps) == pytest.approx(float(fps), rel=1e-3)
    if isinstance(fps, Fraction) and fps > 20:
        assert source.fps == fps


def test_odd_sides_repeat_the_edge(tmp_path):
    clip = smooth_clip(2, 129, 95)
    source = open_frames(write(tmp_path / "clip.mp4", clip, crf=4), multiple=1)
    assert source.size_hw == (130, 96)
    assert psnr(source[0][:, :129, :95], clip[0]) > 38
    assert (source[0][:, 129] - clip[0][:, 128, [*range(95), 94]]).abs().max() < 0.05


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.webm", "frames"])
def test_metadata_comes_back(tmp_path, name):
    texts = {"zero2hero": '{"seed": 3, "prompt": "a grün car; 50 %"}', "comment": "line 1\nline 2"}
    path = write(tmp_path / name, smooth_clip(2), metadata=texts)
    if path.is_dir():
        with Image.open(path / "000001.png") as picture:
            found = dict(picture.info)
    else:
        with av.open(str(path)) as container:
            found = {key.lower(): value for key, value in container.metadata.items()}
    assert {key: found.get(key) for key in texts} == texts


def tone(path: Path, codec: str = "aac", seconds: float = 4.0, rate: int = 48000, layout: str = "stereo") -> Path:
    """A clip at 10 fps whose sound is a sine of 440 Hz in the first half and of 1760 Hz in the second."""
    time = np.arange(int(seconds * rate)) / rate
    wave = 0.5 * np.sin(2 * np.pi * np.where(time < seconds / 2, 440, 1760) * time)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.height, video.width, video.pix_fmt = 16, 16, "yuv420p"
        audio = container.add_stream(codec, rate=rate, layout=layout)
        for _ in range(int(seconds * 10)):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
        for begin in range(0, len(wave), 960):
            values = np.stack([wave[begin : begin + 960]] * (1 if layout == "mono" else 2)).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(values, format="fltp", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, begin, Fraction(1, rate)
            container.mux(audio.encode(frame))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    return path


def heard(path: Path) -> tuple[str, float, float, list[int]]:
    """Codec, begin and end in seconds, and the pitch in Hz of every tenth of a second."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        codec, rate = stream.codec_context.codec.canonical_name, stream.codec_context.sample_rate
        frames = list(container.decode(audio=0))
        begin = float(frames[0].pts * frames[0].time_base)
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate)
    sound = np.concatenate([piece.to_ndarray()[0] for frame in frames for piece in resampler.resample(frame)])
    tenth = rate // 10
    pieces = [sound[i : i + tenth] for i in range(0, len(sound) - tenth + 1, tenth)]
    return codec, begin, begin + len(sound) / rate, [10 * int(np.abs(np.fft.rfft(p)).argmax()) for p in pieces]


@pytest.mark.parametrize(
    ("source", "codec", "target", "result"),
    [
        ("tone.mp4", "aac", "clip.mp4", "aac"),
        ("tone.mp4", "aac", "clip.mkv", "aac"),
        ("tone.mp4", "aac", "clip.webm", "opus"),
        ("tone.mkv", "pcm_s16le", "clip.mp4", "aac"),
        ("tone.mkv", "libopus", "clip.webm", "opus"),
    ],
)
@pytest.mark.parametrize("start", [0.0, 1.0, 2.003])
def test_sound_is_trimmed_to_the_frames(tmp_path, source, codec, target, result, start):
    sound = tone(tmp_path / source, codec)
    path = write(tmp_path / target, smooth_clip(15, 16, 16), 10, audio_from=sound, audio_start=start)
    found, begin, end, pitches = heard(path)
    assert found == result
    assert begin == pytest.approx(0, abs=0.03)
    assert end == pytest.approx(1.5, abs=0.04)
    change = max(0, round((2 - start) * 10))  # in tenths of a second
    inner = [i for i in range(1, 14) if i not in (change - 1, change)]  # the ends and the change itself are mixed
    assert [pitches[i] for i in inner] == [440 if i < change else 1760 for i in inner]
    with_picture = open_frames(path)
    assert (len(with_picture), with_picture.fps, with_picture.time_of(0)) == (15, 10, pytest.approx(0, abs=0.03))


@pytest.mark.parametrize(
    ("source", "codec", "target", "result"),
    [
        ("tone.mov", "alac", "clip.mp4", "alac"),
        ("tone.mov", "alac", "clip.mov", "alac"),
        ("tone.mov", "alac", "clip.mkv", "aac"),
        ("tone.mkv", "flac", "clip.mp4", "flac"),
        ("tone.mkv", "flac", "clip.mov", "aac"),
        ("tone.mkv", "pcm_s16le", "clip.mov", "pcm_s16le"),
        ("tone.mkv", "pcm_s16le", "clip.mkv", "pcm_s16le"),
        ("tone.mkv", "flac", "clip.mkv", "flac"),
        ("tone.mkv", "ac3", "clip.mp4", "ac3"),
        ("tone.mkv", "ac3", "clip.mov", "ac3"),
        ("tone.mkv", "ac3", "clip.mkv", "ac3"),
        ("tone.mkv", "ac3", "clip.webm", "opus"),
        ("tone.mkv", "eac3", "clip.mp4", "eac3"),
        ("tone.mkv", "eac3", "clip.mkv", "eac3"),
        ("tone.mkv", "libopus", "clip.mp4", "opus"),
        ("tone.mkv", "libopus", "clip.mkv", "opus"),
        ("tone.mov", "pcm_s24le", "clip.mov", "pcm_s24le"),
    ],
)
def test_sound_is_copied_where_the_container_takes_it(tmp_path, source, codec, target, result):
    sound = tone(tmp_path / source, codec, seconds=1.0)
    found, begin, end, _ = heard(write(tmp_path / target, smooth_clip(8, 16, 16), 10, audio_from=sound))
    assert found == result and begin == pytest.approx(0, abs=0.04) and 0.78 < end < 0.92


@pytest.mark.parametrize("layout", ["mono", "stereo"])
@pytest.mark.parametrize("target", ["clip.mp4", "clip.webm"])
def test_sound_that_is_encoded_anew_keeps_its_channels_and_rate(tmp_path, target, layout):
    sound = tone(tmp_path / "tone.mkv", "pcm_s16le", seconds=1.0, rate=32000, layout=layout)
    with av.open(str(write(tmp_path / target, smooth_clip(8, 16, 16), 10, audio_from=sound))) as container:
        made = container.streams.audio[0].codec_context
        assert made.layout.name == layout
        assert made.sample_rate == (48000 if target.endswith("webm") else 32000)


def test_sound_ends_at_audio_stop_or_with_its_source(tmp_path):
    sound = tone(tmp_path / "tone.mp4")
    clip = smooth_clip(20, 16, 16)
    assert heard(write(tmp_path / "a.mp4", clip, 10, audio_from=sound, audio_start=1, audio_stop=1.8))[2] == (
        pytest.approx(0.8, abs=0.04)
    )
    assert heard(write(tmp_path / "b.mp4", clip, 10, audio_from=sound, audio_start=3))[2] == pytest.approx(1, abs=0.04)
    with pytest.raises(InputError, match=r"audio_start: expected a time at which .* has sound, got 100 seconds"):
        VideoWriter(tmp_path / "c.mp4", 10, audio_from=sound, audio_start=100)


def test_sound_of_a_real_clip(tmp_path):
    path = CLIPS / "rabbit-watermelon.mp4"
    if not path.exists():
        pytest.skip("the real clips are not part of the repository")
    source = open_frames(path, start=30, stop=120, stride=3, size=64)
    copy = tmp_path / "copy.mp4"
    with VideoWriter(copy, source.fps, audio_from=path, audio_start=source.time_of(0)) as writer:
        for frame in source:
            writer.write(frame)
    again = open_frames(copy)
    assert (len(again), again.fps, again.has_audio) == (30, 10, True)
    assert heard(copy)[2] == pytest.approx(3.0, abs=0.03)


@pytest.mark.parametrize("name", ["clip.mp4", "frames", "shots_*.png"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interruption_leaves_nothing(tmp_path, name, error):
    with pytest.raises(error), VideoWriter(tmp_path / name, 10) as writer:
        writer.write(smooth_clip())
        raise error
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_while_finishing_leaves_the_old_file(tmp_path, monkeypatch):
    path = write(tmp_path / "clip.mp4", smooth_clip(3))
    before = path.read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(path, smooth_clip(5), overwrite=True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["clip.mp4", "frames"])
def test_overwriting_needs_to_be_told(tmp_path, name):
    path = write(tmp_path / name, smooth_clip(6))
    with pytest.raises(InputError, match="allow overwriting"):
        VideoWriter(path, 10)
    assert len(open_frames(path)) == 6
    write(path, smooth_clip(4), overwrite=True)
    assert len(open_frames(path)) == 4


def test_other_files_in_a_png_folder_stay(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.json").write_text("{}")
    write(tmp_path / "out", smooth_clip(3))
    write(tmp_path / "out", smooth_clip(2), overwrite=True)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["000000.png", "000001.png", "report.json"]


@pytest.mark.parametrize("name", ["clip.mp4", "frames"])
def test_no_frames_is_an_error(tmp_path, name):
    with pytest.raises(InputError, match="expected at least one frame, got none"), VideoWriter(tmp_path / name, 10):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("clip.avi", {}, r"clip.avi: expected a name that ends in .mp4, .mov, .webm, .mkv, .png"),
        ("no/clip.mp4", {}, "the folder .*no does not exist; create it first"),
        ("frame.png", {}, "give a folder or a name with one asterisk"),
        ("clip.webm", {"codec": "h264"}, "codec: expected vp9 for .webm, got 'h264'"),
        ("clip.mkv", {"crf": 10}, r"crf: expected nothing \(lossless\) for ffv1, got 10"),
        ("clip.mp4", {"crf": 52}, "crf: expected 0 to 51 for h264, got 52"),
        ("clip.mp4", {"fps": 0}, "fps: expected frames per second above 0"),
        ("clip.mp4", {"audio_from": "absent.wav"}, "absent.wav: no such file"),
        ("clip.mp4", {"audio_from": __file__}, "audio_from: .* cannot be opened|has no audio track"),
        ("frames", {"audio_from": __file__}, "a PNG sequence takes no"),
    ],
)
def test_bad_arguments_are_told_before_any_work(tmp_path, name, options, message):
    with pytest.raises(InputError, match=message) as caught:
        VideoWriter(tmp_path / name, **{"fps": 10} | options)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_bad_frames(tmp_path):
    for frames, message in (
        (torch.zeros(4, 8, 8, 3), "expected shape"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "divide by 255"),
        (torch.full((3, 8, 8), float("nan")), "NaN"),
    ):
        with pytest.raises(InputError, match=message), VideoWriter(tmp_path / "a.mp4", 10) as writer:
            writer.write(frames)
    with pytest.raises(ShapeError, match="like the first frame"), VideoWriter(tmp_path / "a.mp4", 10) as writer:
        writer.write(torch.zeros(3, 16, 16))
        writer.write(torch.zeros(3, 16, 32))
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import resource, sys, torch
from zero2hero_core.checks import Zero2HeroError
from zero2hero_core.video.writer import VideoWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
for path in sys.argv[1:]:
    try:
        with VideoWriter(path, 10) as writer:
            for _ in range(40):
                writer.write(torch.rand(3, 64, 64))
    except Zero2HeroError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, repository):
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "clip.mp4"), str(tmp_path / "clip.mkv")]
    ran = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    lines = ran.stdout.splitlines()
    assert len(lines) == 2
    assert all("no space left on the disk" in line or "reached the disk; is it full?" in line for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_frames_that_did_not_reach_the_disk_are_missed(tmp_path, monkeypatch):
    monkeypatch.setattr(video_writer, "_frames_on_disk", lambda path: 2)
    with pytest.raises(Zero2HeroError, match="2 of 3 frames reached the disk; is it full"):
        write(tmp_path / "clip.mp4", smooth_clip(3))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def refused(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(av, "open", refused)  # chmod does not stop an administrator
    with pytest.raises(InputError, match="is not writable"):
        write(tmp_path / "clip.mp4", smooth_clip(1))
    with pytest.raises(Zero2HeroError, match="expected a folder for the PNG files, got a file"):
        (tmp_path / "file").touch()
        VideoWriter(tmp_path / "file" / "x_*.png", 10)


def test_images_and_masks_come_back(tmp_path):
    image = noise_clip(1)[0]
    write_image(tmp_path / "image.png", image)
    assert torch.equal(read_image(tmp_path / "image.png"), image)
    write_image(tmp_path / "mask.png", image[:1])
    assert torch.allclose(read_mask(tmp_path / "mask.png"), image[:1], atol=1e-6)
    with pytest.raises(InputError, match="exists already"):
        write_image(tmp_path / "image.png", image)
    write_image(tmp_path / "image.png", 1 - image, overwrite=True)
    assert torch.allclose(read_image(tmp_path / "image.png"), 1 - image, atol=1e-6)
    with pytest.raises(InputError, match="ends in .png"):
        write_image(tmp_path / "image.jpg", image)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["image.png", "mask.png"]


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(8, 8),
        torch.zeros(1, 3, 8, 8),
        torch.zeros(2, 8, 8),
        torch.zeros(4, 8, 8),
        torch.zeros(3, 8, 8, dtype=torch.uint8),
        torch.zeros(1, 8, 8, dtype=torch.bool),
    ],
    ids=lambda image: f"{image.dtype} {tuple(image.shape)}",
)
def test_what_is_no_image_is_not_written(tmp_path, image):
    with pytest.raises(ShapeError, match=r"image: expected floating point \(3, H, W\) or \(1, H, W\), got torch"):
        write_image(tmp_path / "a.png", image)
    assert list(tmp_path.iterdir()) == []


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


@pytest.mark.parametrize("target", ["clip.mp4", "clip.mov", "clip.mkv"])
def test_sound_that_the_container_takes_is_copied_bit_for_bit(tmp_path, target):
    sound = tone(tmp_path / "tone.mp4", "aac", seconds=1.0)
    copied, source = packets(write(tmp_path / target, smooth_clip(8, 16, 16), 10, audio_from=sound)), packets(sound)
    assert len(copied) > 20 and all(packet in source for packet in copied)


@pytest.mark.parametrize(
    ("name", "codec", "found"),
    [
        ("a.mp4", None, "h264"),
        ("a.mov", None, "h264"),
        ("a.webm", None, "vp9"),
        ("a.mkv", None, "ffv1"),
        ("a.mkv", "h264", "h264"),
        ("a.mkv", "vp9", "vp9"),
    ],
)
def test_each_container_has_its_codecs(tmp_path, name, codec, found):
    write(tmp_path / name, smooth_clip(3, 32, 32), **({"codec": codec} if codec else {}))
    with av.open(str(tmp_path / name)) as container:
        assert container.streams.video[0].codec_context.codec.canonical_name == found
