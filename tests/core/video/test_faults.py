"""Videos, sounds and pictures as cameras, editors and players leave them: each of these once went wrong.

The files of tests/data/faults are described in the README there.
"""

from __future__ import annotations

import io
import json
import re
import shutil
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from zero2hero_core.checks import InputError
from zero2hero_core.cli.main import main
from zero2hero_core.files.tensor_file import write_tensors
from zero2hero_core.jobs.clip import Clip, check_paths, read_reference
from zero2hero_core.jobs.folder import check_folder
from zero2hero_core.jobs.listener import Listener, Notes
from zero2hero_core.tiny import unet as model
from zero2hero_core.tiny.autoencoder import PatchAutoencoder
from zero2hero_core.video import decode as video_decode
from zero2hero_core.video.audio import silence_reason
from zero2hero_core.video.image_reader import image_notes, image_size
from zero2hero_core.video.source import FrameSource, open_frames, read_image
from zero2hero_core.video.writer import VideoWriter, write_image

FAULTS = Path(__file__).resolve().parents[2] / "data" / "faults"


def make(
    path: Path,
    count: int = 30,
    codec: str = "libx264",
    *,
    size_hw=(48, 64),
    rate: int = 25,
    options=None,
    tags=None,
    frame_tags=None,
    times=None,
) -> Path:
    """A clip of moving noise."""
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    noise = np.random.default_rng(0).integers(0, 128, (size_hw[0], size_hw[1] + 70, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = size_hw
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        for index in range(count):
            pixels = np.ascontiguousarray(noise[:, index % 70 : index % 70 + size_hw[1]] + index % 100)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            for name, value in (frame_tags or {}).items():
                setattr(frame, name, value)
            frame.pts, frame.time_base = index if times is None else times[index], Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def copy_packets(source: Path, target: Path, first: int = 0) -> Path:
    """A copy without re-encoding, from packet `first` on."""
    with av.open(str(source)) as original, av.open(str(target), "w") as container:
        stream = original.streams.video[0]
        copied = container.add_stream_from_template(stream)
        for number, packet in enumerate(original.demux(stream)):
            if number >= first and packet.dts is not None:
                packet.stream = copied
                container.mux(packet)
    return target


def check_random_access(source: FrameSource) -> None:
    streamed = list(source)
    for index in (len(streamed) - 1, 0, len(streamed) // 2, len(streamed) // 3):
        assert torch.equal(source[index], streamed[index]), index


@pytest.mark.parametrize(
    ("name", "count", "fps"),
    [
        ("01_timelapse_exif.mkv", 5, 10),
        ("02_opengop_cut.mp4", 50, 25),
        ("03_remuxed.avi", 25, 25),
        ("03_xvid.avi", 30, 30),  # in 31 places: the second is empty
        ("06_clock_wraps.ts", 100, 25),
        ("08_animated.webp", 10, 10),
        ("10_one_frame.mkv", 1, 1),
    ],
)
def test_count_rate_and_random_access(name, count, fps):
    source = open_frames(FAULTS / name)
    assert (len(source), source.fps) == (count, fps)
    check_random_access(source)


# ---- side data ----


def exif_jpeg(orientation: int) -> bytes:
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:16, :16] = 250  # the upper left corner
    exif, memory = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(memory, "JPEG", exif=exif, quality=95)
    return memory.getvalue()


@pytest.mark.parametrize("orientation", [1, 2, 3, 4])
def test_side_data_without_a_name_does_not_hide_the_display_matrix(tmp_path, orientation):
    (tmp_path / "o.jpg").write_bytes(exif_jpeg(orientation))
    with av.open(str(tmp_path / "o.jpg"), format="jpeg_pipe") as container:
        frame = next(container.decode(video=0))
    if orientation > 1 and not video_decode.display_matrix(frame):
        pytest.skip("this FFmpeg reads no EXIF")
    bright = video_decode.frame_to_rgb(frame).mean(0) > 0.5
    left, top = orientation in (1, 4), orientation in (1, 2)
    assert bool(bright[4 if top else -5, 4 if left else -5])
    assert float(bright.float().mean()) == pytest.approx(1 / 6, abs=0.02)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_of_a_16_bit_png_is_applied_as_for_8_bits(tmp_path, orientation):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "plain.png", exif=exif)
    encoder = av.CodecContext.create("png", "w")
    encoder.height, encoder.width, encoder.pix_fmt, encoder.time_base = 8, 12, "rgb48be", Fraction(1)
    frame = av.VideoFrame.from_ndarray(pixels.astype(np.uint16) * 257, format="rgb48le").reformat(format="rgb48be")
    deep = b"".join(bytes(packet) for packet in encoder.encode(frame) + encoder.encode(None))
    plain = (tmp_path / "plain.png").read_bytes()
    begin = plain.index(b"eXIf") - 4
    chunk = plain[begin : begin + 12 + int.from_bytes(plain[begin : begin + 4], "big")]
    (tmp_path / "deep.png").write_bytes(deep[:33] + chunk + deep[33:])
    expected = read_image(tmp_path / "plain.png")
    assert torch.allclose(read_image(tmp_path / "deep.png"), expected, atol=1e-6)
    assert image_size(tmp_path / "deep.png") == tuple(expected.shape[-2:])


def test_16_bit_png_with_exif_is_read():
    assert (read_image(FAULTS / "14_png16_exif.png")[:, 3, 3] * 255).tolist() == pytest.approx([200, 60, 30], abs=0.01)


# ---- cut without re-encoding ----

CUT = "was cut without re-encoding"


def test_an_open_group_of_pictures_is_decoded_and_the_cut_is_told():
    source = open_frames(FAULTS / "02_opengop_cut.mp4")
    assert len(source) == 50
    assert [note for note in source.notes if CUT in note]


@pytest.mark.parametrize(
    ("codec", "options", "name", "first"),
    [
        ("libx264", {"x264-params": "intra-refresh=1:keyint=20:log-level=none"}, "refresh.ts", 37),
        ("libx264", {"x264-params": "intra-refresh=1:keyint=20:log-level=none"}, "refresh.mp4", 37),
        ("libx264", {"g": "30"}, "between_keys.ts", 7),
        ("mpeg2video", {"g": "12", "bf": "2", "b": "2000000"}, "broadcast.ts", 13),
        ("libx265", {"x265-params": "open-gop=1:keyint=20:min-keyint=20:log-level=none"}, "hevc.ts", 37),
    ],
)
def test_streams_cut_anywhere_give_the_frames_that_ffmpeg_decodes(tmp_path, codec, options, name, first):
    whole = make(tmp_path / f"whole_{name}", 100, codec, options=options)
    path = copy_packets(whole, tmp_path / name, first)
    assert open_frames(whole).notes == ()
    source = open_frames(path)
    with av.open(str(path)) as container:
        expected = sum(1 for _ in container.decode(video=0))
    assert len(source) == expected > 40
    assert [note for note in source.notes if CUT in note]
    check_random_access(source)


def test_damage_behind_a_cut_is_still_told(tmp_path):
    content = bytearray((FAULTS / "02_opengop_cut.mp4").read_bytes())
    place = content.index(b"mdat") + (len(content) - content.index(b"mdat")) * 8 // 10
    content[place : place + 400] = b"\xff" * 400
    (tmp_path / "clip.mp4").write_bytes(bytes(content))
    with pytest.raises(InputError, match="damaged or incomplete"):
        open_frames(tmp_path / "clip.mp4")


# ---- headers that lie, and files that are cut off ----


@pytest.mark.parametrize("name", ["03_xvid.avi", "10_one_frame.mkv"])
def test_a_file_cut_off_at_its_end_is_still_told(tmp_path, name):
    content = (FAULTS / name).read_bytes()
    for part in (0.5, 0.9):
        (tmp_path / name).write_bytes(content[: int(len(content) * part)])
        with pytest.raises(InputError, match=r"damaged or incomplete: \d+ frames can be decoded"):
            open_frames(tmp_path / name)


def test_a_live_recording_of_unknown_length_is_whole(tmp_path):
    path = make(tmp_path / "clip.mkv", 20)
    content = bytearray(path.read_bytes())
    place = content.index(b"\x18\x53\x80\x67") + 4
    content[place : place + 8] = b"\x01" + b"\xff" * 7
    path.write_bytes(bytes(content))
    assert len(open_frames(path)) == 20


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mov", "clip.mkv", "clip.webm"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_slow_clips_of_the_writer_come_back(tmp_path, name, count):
    with VideoWriter(tmp_path / name, Fraction(1, 5)) as writer:
        writer.write(torch.rand(count, 3, 32, 32))
    source = open_frames(tmp_path / name)
    assert (len(source), source.fps) == (count, Fraction(1, 5))


def test_a_long_last_frame_is_no_damage(tmp_path):
    path = make(tmp_path / "clip.mkv", 5, times=[0, 1, 2, 3, 4])
    with VideoWriter(tmp_path / "slides.mkv", 1, times=[0, 0.04, 0.08]) as writer:
        writer.write(torch.rand(3, 3, 32, 32))
    assert [len(open_frames(file)) for file in (path, tmp_path / "slides.mkv")] == [5, 3]


# ---- picture and sound in step ----


def flashes(path: Path) -> list[float]:
    source = open_frames(path)
    bright = [False, *(float(frame.mean()) > 0.5 for frame in source)]
    return [source.time_of(i) for i, (before, now) in enumerate(pairwise(bright)) if now and not before]


def beeps(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    resampler = av.AudioResampler(format="flt", layout="mono", rate=8000)
    sound = np.concatenate([piece.to_ndarray()[0] for frame in frames for piece in resampler.resample(frame)])
    loud = np.flatnonzero(np.abs(sound) > 0.1 * np.abs(sound).max())
    begin = float(frames[0].pts * frames[0].time_base)
    return [i / 8000 + begin for k, i in enumerate(loud) if k == 0 or loud[k - 1] < i - 2000]


def write_again(name: str, path: Path, **choice) -> FrameSource:
    """What the commands do: chosen frames and their sound into a new file."""
    source = open_frames(FAULTS / name, **choice)
    begin = source.time_of(0)
    times = None if source.even else [source.time_of(index) - begin for index in range(len(source))]
    with VideoWriter(path, source.fps, times=times, audio_from=FAULTS / name, audio_start=begin) as writer:
        for frame in source:
            writer.write(frame)
    return source


@pytest.mark.parametrize("name", ["06_clock_wraps.ts", "07_variable_rate.mp4"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
@pytest.mark.parametrize("start", [0, 20])
def test_flashes_and_beeps_stay_together(tmp_path, name, suffix, start):
    path = tmp_path / f"clip{suffix}"
    source = write_again(name, path, start=start)
    assert source.even == (name == "06_clock_wraps.ts")
    begin = source.time_of(0)
    lag = 0.021 if name == "06_clock_wraps.ts" else 0.0  # its clock starts with the sound, 21 ms before the picture
    expected = [second + lag - begin for second in (1, 2, 3)]
    assert flashes(path) == pytest.approx(expected, abs=0.025)
    assert beeps(path) == pytest.approx(expected, abs=0.045)


def test_times_of_the_writer(tmp_path):
    times = [0, 0.04, 0.52, 1.0]
    for name in ("clip.mp4", "clip.mkv", "clip.webm"):
        with VideoWriter(tmp_path / name, 25, times=times) as writer:
            writer.write(torch.rand(4, 3, 32, 32))
        source = open_frames(tmp_path / name)
        assert [source.time_of(i) for i in range(4)] == pytest.approx(times, abs=1e-3)
        assert not source.even
    for bad in ([0.1, 0.2], [0, 0.2, 0.2], []):
        with pytest.raises(InputError, match="times: expected seconds that rise from 0"):
            VideoWriter(tmp_path / "bad.mp4", 25, times=bad)
    with pytest.raises(InputError, match="frames: expected 4, as many as times"):  # noqa: SIM117
        with VideoWriter(tmp_path / "bad.mp4", 25, times=times) as writer:
            writer.write(torch.rand(5, 3, 32, 32))
    with pytest.raises(InputError, match="a PNG sequence takes no crf, times"):
        VideoWriter(tmp_path / "frames", 25, times=times)


def test_sound_packets_without_a_time_are_carried(tmp_path):
    write_again("04_wma.wmv", tmp_path / "clip.mp4")
    source = open_frames(tmp_path / "clip.mp4")
    assert (len(source), source.has_audio) == (3, True)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) >= 3000


def test_a_sound_of_192_khz_is_carried(tmp_path):
    with av.open(str(tmp_path / "high.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=192000, layout="mono")
        tone = (np.sin(np.arange(192000) / 50) * 9000).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 192000, 0, Fraction(1, 192000)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with VideoWriter(tmp_path / "clip.mp4", 10, audio_from=tmp_path / "high.wav") as writer:
        writer.write(torch.rand(8, 3, 16, 16))
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert container.streams.audio[0].codec_context.sample_rate == 48000


def test_why_there_is_no_sound():
    path = FAULTS / "05_sound_ends_early.mp4"
    assert silence_reason(path, 0.0, 3.0) == silence_reason(path, 0.9, None) == ""
    assert silence_reason(path, 1.6, 3.0) == f"the sound of {path} ends at 1.00 s, the chosen frames begin at 1.60 s"
    with pytest.raises(InputError, match="audio_start: expected a time at which .* has sound, got 1.6 seconds"):
        VideoWriter("clip.mp4", 25, audio_from=path, audio_start=1.6)


@pytest.fixture
def tiny_model(monkeypatch):
    torch.manual_seed(0)
    backbone = model.as_backbone(model.build_unet(), PatchAutoencoder())
    monkeypatch.setattr(model, "load_tiny", lambda device="cpu": backbone)


def zero(tmp_path: Path, video: Path, *more: str) -> list[str]:
    if not (tmp_path / "edit.png").exists():
        write_image(tmp_path / "edit.png", torch.rand(3, 64, 64))
    fixed = ["--anchor", "0", "--reference", str(tmp_path / "edit.png"), "--size", "64", "--steps", "1", "--quiet"]
    return ["zero", "--tiny", "--video", str(video), *fixed, "--out", str(tmp_path / "out"), *more]


def test_frames_behind_the_end_of_the_sound_make_a_silent_video_and_a_note(tmp_path, tiny_model, capsys):
    more = ["--start", "40", "--max-frames", "2"]
    assert main(zero(tmp_path, FAULTS / "05_sound_ends_early.mp4", *more)) == 0
    told = "the video is written without sound: the sound of "
    assert told in capsys.readouterr().err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert not report["audio"]
    assert any(note.startswith(told) for note in report["notes"])
    assert not open_frames(report["video"]).has_audio


def test_a_variable_rate_is_kept(tmp_path, tiny_model):
    more = ["--start", "31", "--max-frames", "4"]
    assert main(zero(tmp_path, FAULTS / "07_variable_rate.mp4", *more)) == 0
    source = open_frames(json.loads((tmp_path / "out" / "report.json").read_text())["video"])
    original = open_frames(FAULTS / "07_variable_rate.mp4", start=31, maximum=4)
    begin = original.time_of(0)
    assert [source.time_of(i) for i in range(4)] == pytest.approx([original.time_of(i) - begin for i in range(4)])
    assert not source.even


def test_notes_on_the_clip_come_before_the_work(tmp_path, tiny_model, capsys):
    assert main(zero(tmp_path, FAULTS / "02_opengop_cut.mp4", "--overwrite", "--k", "99999")) != 0
    assert CUT in capsys.readouterr().err  # although no frame was computed


# ---- alpha ----


def test_alpha_of_vp9_is_composited_over_black():
    if "libvpx-vp9" not in av.codecs_available:
        pytest.skip("this FFmpeg has no libvpx")
    source = open_frames(FAULTS / "09_alpha_vp9.webm")
    assert len(source) == 10
    check_random_access(source)
    for frame in source:
        assert float(frame[:, :, :28].max()) < 0.02  # hidden
        assert (frame[:, 32, 48] * 255).tolist() == pytest.approx([254, 0, 0], abs=3)


def test_alpha_that_cannot_be_decoded_is_told(monkeypatch):
    monkeypatch.setitem(video_decode._ALPHA_DECODERS, "vp9", "no such decoder")
    source = open_frames(FAULTS / "09_alpha_vp9.webm")
    assert len(source) == 10
    assert any("the video has alpha, which this FFmpeg cannot decode" in note for note in source.notes)


# ---- colour profiles ----


def test_display_p3_is_brought_to_srgb():
    image = read_image(FAULTS / "13_display_p3.png") * 255
    assert image[:, 3, 3].tolist() == pytest.approx([130, 53, 28], abs=0.01)
    assert image_notes(FAULTS / "13_display_p3.png") == ()


def p3_profile() -> bytes:
    with Image.open(FAULTS / "13_display_p3.png") as picture:
        return picture.info["icc_profile"]


def grey_profile(gamma: float) -> bytes:
    """A grey ICC profile (version 2.1) with a gamma: header, white point and curve."""
    curve = b"curv" + bytes(4) + (1).to_bytes(4, "big") + round(gamma * 256).to_bytes(2, "big") + bytes(2)
    white = b"XYZ " + bytes(4) + b"".join(round(v * 65536).to_bytes(4, "big") for v in (0.9642, 1.0, 0.8249))
    text = b"desc" + bytes(4) + (5).to_bytes(4, "big") + b"grey\0" + bytes(78 + 1)
    parts = {b"desc": text + bytes(-len(text) % 4), b"wtpt": white, b"kTRC": curve}
    place, table, body = 128 + 4 + 12 * len(parts), len(parts).to_bytes(4, "big"), b""
    for name, part in parts.items():
        table += name + (place + len(body)).to_bytes(4, "big") + len(part).to_bytes(4, "big")
        body += part
    size = (128 + len(table) + len(body)).to_bytes(4, "big")
    kind = b"mntrGRAYXYZ " + bytes(12) + b"acsp"
    illuminant = b"".join(round(v * 65536).to_bytes(4, "big") for v in (0.9642, 1.0, 0.8249))
    header = size + bytes(4) + b"\x02\x10\0\0" + kind + bytes(28) + illuminant + bytes(48)
    return header + table + body


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.png", {}), ("a.jpg", {"quality": 100}), ("a.webp", {"lossless": True}), ("a.tif", {})],
)
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_profiles_count_in_every_format(tmp_path, name, options, mode):
    if mode == "RGBA" and name == "a.jpg":
        pytest.skip("JPEG has no alpha")
    colour = (120, 60, 40, 128)[: len(mode)]
    Image.new(mode, (16, 16), colour).save(tmp_path / name, icc_profile=p3_profile(), **options)
    expected = np.array([130, 53, 28]) * (128 / 255 if mode == "RGBA" else 1)
    assert (read_image(tmp_path / name)[:, 3, 3] * 255).tolist() == pytest.approx(
        expected.tolist(), abs=2.1 if name == "a.jpg" else 1.1
    )


def test_srgb_profiles_and_grey_pictures_with_them_keep_every_level(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    for name, image in (("a.png", Image.fromarray(pixels)), ("b.png", Image.fromarray(pixels[..., 0]))):
        image.save(tmp_path / name, icc_profile=srgb)
        expected = torch.from_numpy(np.asarray(image.convert("RGB")).transpose(2, 0, 1) / np.float32(255))
        assert torch.allclose(read_image(tmp_path / name), expected, atol=1e-7)
        assert image_notes(tmp_path / name) == ()


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_grey_profiles_are_converted(tmp_path, mode):
    level = 128
    value = {"L": level, "LA": (level, 255), "I;16": level * 257}[mode]
    Image.new(mode, (8, 8), value).save(tmp_path / "grey.png", icc_profile=grey_profile(1.0))
    linear = level / 255
    expected = 1.055 * linear ** (1 / 2.4) - 0.055  # sRGB of a linear grey: 0.7366
    assert read_image(tmp_path / "grey.png").mean().item() == pytest.approx(expected, abs=0.01)


def test_a_profile_on_16_bit_colour_is_converted(tmp_path):
    encoder = av.CodecContext.create("png", "w")
    encoder.height, encoder.width, encoder.pix_fmt, encoder.time_base = 8, 8, "rgb48be", Fraction(1)
    pixels = np.broadcast_to(np.array([120, 60, 40], np.uint16) * 257, (8, 8, 3)).copy()
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb48le").reformat(format="rgb48be")
    deep = b"".join(bytes(packet) for packet in encoder.encode(frame) + encoder.encode(None))
    plain = (FAULTS / "13_display_p3.png").read_bytes()
    begin = plain.index(b"iCCP") - 4
    chunk = plain[begin : begin + 12 + int.from_bytes(plain[begin : begin + 4], "big")]
    (tmp_path / "deep.png").write_bytes(deep[:33] + chunk + deep[33:])
    assert (read_image(tmp_path / "deep.png")[:, 3, 3] * 255).tolist() == pytest.approx([130, 53, 28], abs=1.1)


@pytest.mark.parametrize(
    ("mode", "profile", "said"),
    [
        ("RGB", b"no profile at all", "its colour profile is damaged or of an unknown kind"),
        ("RGB", "grey", "its colour profile is for L, its pixels are RGB"),
        ("CMYK", "p3", "its colour profile is for RGB, its pixels are CMYK"),
    ],
)
def test_a_profile_that_cannot_be_used_is_told_and_passed_over(tmp_path, mode, profile, said):
    content = {"grey": grey_profile(1.0), "p3": p3_profile()}.get(profile, profile)
    plain, tagged = tmp_path / "plain.tif", tmp_path / "tagged.tif"
    image = Image.new(mode, (8, 8), (120, 60, 40, 20)[: len(mode)])
    image.save(plain)
    image.save(tagged, icc_profile=content)
    assert torch.equal(read_image(tagged), read_image(plain))
    (told,) = image_notes(tagged)
    assert said in told
    assert told.startswith("tagged.tif: ")


def test_exif_and_profile_are_both_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (16, 8), (120, 60, 40)).save(tmp_path / "a.png", icc_profile=p3_profile(), exif=exif)
    image = read_image(tmp_path / "a.png")
    assert image.shape == (3, 16, 8)
    assert (image[:, 3, 3] * 255).tolist() == pytest.approx([130, 53, 28], abs=0.01)


# ---- animations ----


def animation(path: Path, count: int = 6, duration: int | list[int] = 125) -> Path:
    pictures = [Image.new("RGB", (32, 24), (40 * index, 0, 200 - 40 * index)) for index in range(count)]
    options = {"lossless": True} if path.suffix == ".webp" else {}
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=duration, loop=0, **options)
    return path


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.gif"])
def test_animations_are_clips(tmp_path, name):
    source = open_frames(animation(tmp_path / name, duration=120), multiple=1)
    assert (len(source), source.size_hw) == (6, (24, 32))
    assert float(source.fps) == pytest.approx(1 / 0.12, rel=1e-3)
    assert source.time_of(2) == pytest.approx(0.24)
    assert [round(float(frame[0].mean()) * 255 / 40) for frame in source] == list(range(6))
    assert [round(float(source[index][0].mean()) * 255 / 40) for index in (5, 0, 3)] == [5, 0, 3]
    assert len(open_frames(tmp_path / name, start=1, stop=5, stride=2)) == 2


def test_pictures_of_an_animation_keep_their_own_times(tmp_path):
    source = open_frames(animation(tmp_path / "a.webp", 4, [100, 500, 100, 100]))
    assert [source.time_of(i) for i in range(4)] == pytest.approx([0, 0.1, 0.6, 0.7])
    assert not source.even
    assert open_frames(tmp_path / "a.webp", fps=8).time_of(3) == pytest.approx(3 / 8)


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.gif"])
def test_an_animation_as_a_picture_gives_its_first_and_says_so(tmp_path, name):
    path = animation(tmp_path / name)
    assert float(read_image(path)[0].max()) < 0.01
    assert image_notes(path) == (f"{name} is one animation of 6 pictures; the first is taken",)
    clip = Clip(open_frames(torch.rand(2, 3, 24, 32)), [0, 1], [0, 1], torch.rand(3, 24, 32), (24, 32), "resize")
    notes = Notes(Listener())
    read_reference(str(path), clip, notes)
    assert notes == [f"the reference: {name} is one animation of 6 pictures; the first is taken"]


@pytest.mark.parametrize(("mode", "alpha"), [("RGBA", 128), ("LA", 0), ("RGBA", 255), ("LA", 255)])
def test_a_transparent_picture_is_told_and_an_opaque_one_is_not(tmp_path, mode, alpha):
    picture = Image.new(mode, (8, 8), (200,) * (len(mode) - 1) + (255,))
    picture.putpixel((3, 4), (200,) * (len(mode) - 1) + (alpha,))
    picture.save(tmp_path / "a.png")
    told = ("a.png is transparent in places, which become black; lay it over the frame first",)
    assert image_notes(tmp_path / "a.png") == (told if alpha < 255 else ())
    assert round(float(read_image(tmp_path / "a.png")[0, 4, 3]) * 255) == round(200 * alpha / 255)


def test_the_transparent_colour_of_a_palette_is_told_where_it_is_used(tmp_path):
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette([0, 0, 0, 250, 0, 0])
    for name, index in (("used.png", 1), ("unused.png", 0)):
        picture.save(tmp_path / name, transparency=index)
        assert len(image_notes(tmp_path / name)) == (name == "used.png")


def test_pages_of_a_tiff_are_told(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.tif", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")])
    source = open_frames(tmp_path / "a.tif")
    assert (len(source), source.notes) == (1, ("a.tif is one file of 2 pictures; the first is taken",))


# ---- what is wrong is named ----


def test_an_odd_rotation_names_the_file():
    with pytest.raises(InputError, match=r"12_rotated_45\.mp4: expected a rotation by quarter turns, got 45 degrees"):
        open_frames(FAULTS / "12_rotated_45.mp4")


def test_a_size_that_changes_names_frame_and_sizes(tmp_path):
    small, large = make(tmp_path / "a.ts", 10), make(tmp_path / "b.ts", 10, size_hw=(96, 128), times=range(10, 20))
    (tmp_path / "both.ts").write_bytes(small.read_bytes() + large.read_bytes())
    told = (
        r"both.ts: expected 64 x 48 pixels like the frames before, but frame 10 has 128 x 96; scale .* stop 10 or less"
    )
    with pytest.raises(InputError, match=told):
        open_frames(tmp_path / "both.ts")
    assert len(open_frames(tmp_path / "both.ts", stop=10)) == 10


# ---- names ----


@pytest.mark.parametrize("letter", ["x", "é", "画"])
def test_names_as_long_as_the_file_system_takes(tmp_path, letter):
    name = letter * ((255 - len("_000000.png")) // len(letter.encode()))
    with VideoWriter(tmp_path / f"{name}.mkv", 10) as writer:
        writer.write(torch.rand(2, 3, 16, 16))
    with VideoWriter(tmp_path / name, 10) as writer:
        writer.write(torch.rand(2, 3, 16, 16))
    with VideoWriter(tmp_path / f"{name}_*.png", 10) as writer:
        writer.write(torch.rand(2, 3, 16, 16))
    write_image(tmp_path / f"{name}.png", torch.rand(3, 16, 16))
    write_tensors(tmp_path / f"{name}.sft", {"a": torch.zeros(1)}, {})
    assert len(open_frames(tmp_path / f"{name}.mkv")) == 2
    assert not list(tmp_path.glob(".*"))


def test_names_that_are_too_long_are_told(tmp_path):
    long, told = tmp_path / ("x" * 256 + ".mkv"), "expected a name of at most 255 bytes .* got 260; shorten the name"
    for attempt in (lambda: VideoWriter(long, 10), lambda: open_frames(long), lambda: check_paths(str(long)),
                    lambda: write_tensors(long, {}, {}),
                    lambda: check_folder(long, may_exist=True)):  # fmt: skip
        with pytest.raises(InputError, match=told):
            attempt()
    with pytest.raises(InputError, match="at most 255 bytes .* got 256"):
        VideoWriter(tmp_path / ("x" * 246 + "*.png"), 10)


def test_brackets_in_the_names_of_folders_are_literal(tmp_path, monkeypatch):
    folder = tmp_path / "[v1]" / "cut?[a]"
    folder.mkdir(parents=True)
    for index in range(3):
        Image.new("RGB", (16, 16), (index * 40, 0, 0)).save(folder / f"f{index}.png")
    shutil.copy(FAULTS / "10_one_frame.mkv", folder / "clip[1].mkv")
    for base in (tmp_path, Path(".")):
        monkeypatch.chdir(tmp_path)
        inner = base / "[v1]" / "cut?[a]"
        assert (
            len(open_frames(inner)) == len(open_frames(inner / "f*.png")) == len(open_frames(inner / "f[0-2].png")) == 3
        )
        assert len(open_frames(inner / "clip[1].mkv")) == 1
    with pytest.raises(InputError, match="no such file"):
        open_frames(folder / "absent.mkv")
    with pytest.raises(InputError, match="no such file"):
        check_paths(str(folder / "absent.png"))
    check_paths(str(folder / "f*.png"))


# ---- notes ----


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"color_trc": 16, "color_primaries": 9}, r"the video is HDR \(PQ\)"),
        ({"color_trc": 18, "color_primaries": 9}, r"the video is HDR \(HLG\)"),
        ({"color_trc": 1, "color_primaries": 9}, "the colours of the video are BT.2020"),
        ({"color_trc": 13, "color_primaries": 12}, "the colours of the video are Display P3"),
        ({"sample_aspect_ratio": Fraction(4, 3)}, r"the pixels of the video are not square \(4:3\)"),
    ],
)
def test_what_a_player_would_show_otherwise_is_told(tmp_path, tags, said):
    frames = {name: value for name, value in tags.items() if hasattr(av.VideoFrame, name)}
    source = open_frames(make(tmp_path / "clip.mp4", 3, tags=tags, frame_tags=frames))
    (note,) = source.notes
    assert re.match(said, note)


def test_an_ordinary_clip_has_no_notes(tmp_path):
    ordinary = {"color_trc": 1, "color_primaries": 1, "sample_aspect_ratio": Fraction(1)}
    assert open_frames(make(tmp_path / "clip.mp4", 3, tags=ordinary)).notes == ()


def test_interlacing_is_told(tmp_path):
    path = make(tmp_path / "clip.mp4", 4, options={"flags": "+ildct+ilme", "x264-params": "tff=1:log-level=none"})
    with av.open(str(path)) as container:
        if not next(container.decode(video=0)).interlaced_frame:
            pytest.skip("this encoder does not interlace")
    assert ["interlaced" in note for note in open_frames(path).notes] == [True]


def test_a_second_sound_track_that_is_the_default_is_told(tmp_path):
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.height, video.width, video.pix_fmt = 16, 16, "yuv420p"
        tracks = [container.add_stream("pcm_s16le", rate=8000, layout="mono") for _ in range(2)]
        tracks[0].disposition, tracks[1].disposition = 0, int(av.stream.Disposition.default)
        for _ in range(4):
            pixels = np.zeros((16, 16, 3), np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        for track in tracks:
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 3200), np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 8000, 0, Fraction(1, 8000)
            container.mux(track.encode(frame))
        for stream in (video, *tracks):
            container.mux(stream.encode(None))
    (note,) = open_frames(path).notes
    assert note.startswith("the video has 2 sound tracks; track 1 is used, although track 2 is marked as the default")
