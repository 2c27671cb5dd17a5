"""VideoLoad, VideoSave, VideoMetrics and PixelSwap in a running ComfyUI."""

from __future__ import annotations

import json
import struct
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from zero2hero_core.video.source import open_frames
from zero2hero_core.video.writer import VideoWriter

RATE = 16000
LOAD = {
    "file": "clip.mkv",
    "anchor_frame": 2,
    "force_rate": 0.0,
    "start": 0,
    "maximum": 0,
    "stride": 1,
    "short_side": 0,
    "width": 0,
    "height": 0,
    "fit": "crop",
    "multiple": 16,
}
SAVE = {"fps": 12.0, "filename_prefix": "test/out", "format": "mkv", "crf": -1}
WORKFLOW = {"nodes": [{"title": "braces } and ümlaut {{"}], "version": 0.4}


def clip_frames(count: int = 12, height: int = 48, width: int = 64) -> torch.Tensor:
    """(N, 3, H, W) with 8-bit values; the red level of frame i is 20 i."""
    values = torch.randint(0, 256, (count, 3, height, width), generator=torch.Generator().manual_seed(0))
    values[:, 0] = 20 * torch.arange(count).view(-1, 1, 1)
    return values.float() / 255


def tone(path: Path, seconds: float) -> Path:
    """A loud 440 Hz in the right channel, silence in the left."""
    times = np.arange(round(seconds * RATE)) / RATE
    samples = np.stack([0 * times, 20000 * np.sin(2 * np.pi * 440 * times)], 1).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.tobytes())
    return path


@pytest.fixture(scope="module")
def clip(server):
    """A lossless clip of 12 frames, 12 per second, with sound, in the input folder."""
    frames = clip_frames()
    sound = tone(server.base / "tone.wav", 1.0)
    with VideoWriter(server.input / "clip.mkv", 12, audio_from=sound) as writer:
        writer.write(frames)
    return frames


def graph(load: dict | None = None, save: dict | None = None, texts: tuple[str, ...] = ()) -> dict:
    """VideoLoad -> VideoSave; the numbers in `texts` are outputs of VideoLoad that are shown as text."""
    nodes = {
        "load": {"class_type": "VideoLoad", "inputs": LOAD | (load or {})},
        "save": {"class_type": "VideoSave", "inputs": {"frames": ["load", 0]} | SAVE | (save or {})},
    }
    return nodes | {slot: {"class_type": "PreviewAny", "inputs": {"source": ["load", int(slot)]}} for slot in texts}


def saved(server, outputs: dict) -> torch.Tensor:
    """The frames of the lossless file that VideoSave wrote."""
    item = outputs["save"]["videos"][0]
    with open_frames(server.base / item["type"] / item["subfolder"] / item["filename"], multiple=1) as source:
        return source.frames(range(len(source)))


def text(outputs: dict, slot: str) -> str:
    return outputs[slot]["text"][0]


def test_frames_go_through_unchanged(server, clip):
    outputs = server.queue(graph(texts=("2", "3", "4")))
    assert torch.equal(saved(server, outputs), clip)
    assert [text(outputs, slot) for slot in "234"] == ["2", "12.0", "12"]


@pytest.mark.parametrize(
    ("choice", "expected", "fps"),
    [
        ({"start": 3, "maximum": 2}, [3, 4], 12.0),
        ({"stride": 5, "anchor_frame": 0}, [0, 5, 10], 2.4),
        ({"force_rate": 6.0}, [0, 2, 4, 6, 8, 10], 6.0),
        ({"force_rate": 24.0, "start": 1, "maximum": 4}, [0, 1, 1, 2], 24.0),
        ({"force_rate": 6.0, "stride": 2, "start": 1}, [2, 6, 10], 3.0),
    ],
)
def test_choice_of_frames(server, clip, choice, expected, fps):
    outputs = server.queue(graph({"anchor_frame": 0} | choice, texts=("3",)))
    assert torch.equal(saved(server, outputs), clip[expected])
    assert float(text(outputs, "3")) == pytest.approx(fps)


@pytest.mark.parametrize(
    ("choice", "size_hw"),
    [
        ({"short_side": 32}, (32, 48)),  # 42.7 becomes the nearest multiple of 16
        ({"width": 64, "height": 64}, (64, 64)),
        ({"width": 64, "height": 32, "fit": "pad"}, (32, 64)),
        ({"multiple": 10}, (50, 60)),
    ],
)
def test_sizes(server, clip, choice, size_hw):
    outputs = server.queue(graph({"maximum": 1, "anchor_frame": 0} | choice))
    assert saved(server, outputs).shape[-2:] == size_hw


def test_anchor_is_one_of_the_frames(server, clip):
    nodes = graph({"start": 1, "stride": 2}, {"frames": ["load", 1]})
    assert torch.equal(saved(server, server.queue(nodes)), clip[5:6])


def sound_of(path: Path) -> tuple[np.ndarray, int]:
    """(channels, samples) float and the rate."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="fltp", layout="stereo", rate=stream.rate)
        parts = [piece.to_ndarray() for frame in container.decode(stream) for piece in resampler.resample(frame)]
    return np.concatenate(parts, 1), stream.rate


@pytest.mark.parametrize("name", ["mp4", "webm", "mov"])
def test_sound_goes_along(server, clip, name):
    nodes = graph({"start": 3, "anchor_frame": 0}, {"format": name, "audio": ["load", 5]})
    outputs = server.queue(nodes)
    samples, rate = sound_of(server.files(outputs, "save")[0])
    assert samples.shape[1] / rate == pytest.approx(0.75, abs=0.08)
    left, right = np.abs(samples[:, rate // 10 : rate // 2]).max(1)
    assert left < 0.02 < 0.5 < right < 0.7


def test_video_socket_brings_rate_and_sound(server, clip):
    nodes = graph({"stride": 2, "anchor_frame": 0}, {"frames": ["load", 6], "fps": 99.0, "format": "mp4"})
    path = server.files(server.queue(nodes), "save")[0]
    with open_frames(path, multiple=1) as source:
        assert (len(source), source.fps, source.has_audio) == (6, Fraction(6), True)


def test_a_video_of_the_host_is_streamed(server, clip):
    nodes = graph(save={"frames": ["host", 0]}) | {"host": {"class_type": "LoadVideo", "inputs": {"file": "clip.mkv"}}}
    del nodes["load"]
    outputs = server.queue(nodes)
    assert torch.equal(saved(server, outputs), clip)


def test_numbers_go_up_and_previews_show(server, clip):
    first, second = (server.queue(graph({"maximum": n}, {"format": "mp4"})) for n in (4, 5))
    names = [outputs["save"]["images"][0]["filename"] for outputs in (first, second)]
    numbers = [int(name.split("_")[1]) for name in names]
    assert numbers[1] > numbers[0] and first["save"]["animated"] == [True]


def boxes(data: bytes) -> dict[bytes, bytes]:
    """The boxes of an MP4 at one level."""
    found, place = {}, 0
    while place + 8 <= len(data):
        size, kind = struct.unpack(">I4s", data[place : place + 8])
        found.setdefault(kind, data[place + 8 : place + size])
        place += max(size, 8)
    return found


def mp4_texts(path: Path) -> dict[str, str]:
    """Texts of an MP4 where the front end looks: moov, udta, meta, keys and ilst."""
    meta = boxes(boxes(boxes(path.read_bytes())[b"moov"])[b"udta"])[b"meta"]
    inner = boxes(meta[4:])
    keys, place = [], 8
    while place < len(inner[b"keys"]):
        size = struct.unpack(">I", inner[b"keys"][place : place + 4])[0]
        keys.append(inner[b"keys"][place + 8 : place + size].decode())
        place += size
    texts, place, items = {}, 0, inner[b"ilst"]
    while place < len(items):
        size, index = struct.unpack(">II", items[place : place + 8])
        texts[keys[index - 1]] = items[place + 24 : place + size].decode()
        place += size
    return texts


def webm_text(path: Path, name: bytes) -> str:
    """A text of a WebM as the front end finds it: in the first 2 MB, tag in capitals, end where the braces match."""
    data = path.read_bytes()[: 2 << 20]
    begin = data.index(b"{", data.index(name))
    depth, place = 1, begin + 1
    while depth:
        depth += {ord("{"): 1, ord("}"): -1}.get(data[place], 0)
        place += 1
    return data[begin:place].decode()


@pytest.mark.parametrize("name", ["mp4", "mov", "webm", "mkv", "png"])
def test_the_graph_is_in_the_file(server, clip, name):
    nodes = graph({"maximum": 3}, {"format": name})
    outputs = server.queue(nodes, workflow=WORKFLOW)
    path = server.files(outputs, "save")[0]
    if name in ("mp4", "mov"):
        texts = mp4_texts(path)
    elif name == "webm":
        texts = {"workflow": webm_text(path, b"WORKFLOW"), "prompt": webm_text(path, b"PROMPT")}
    else:
        with Image.open(path) as picture:
            texts = dict(picture.text)
        assert path.suffix == ".png" and b"iTXt" not in path.read_bytes()
    assert json.loads(texts["workflow"]) == WORKFLOW
    assert json.loads(texts["prompt"]) == nodes


def test_a_png_sequence_is_complete(server, clip):
    path = server.files(server.queue(graph(save={"format": "png"})), "save")[0]
    with open_frames(path.parent, multiple=1) as source:
        assert torch.equal(source.frames(range(len(source))), clip)


@pytest.mark.parametrize(
    ("load", "save", "told"),
    [
        ({"file": "gone.mp4"}, {}, "file: 'gone.mp4' is not in the input folder"),
        ({"anchor_frame": 12}, {}, "anchor_frame: expected 0 to 11 (12 frames are loaded), got 12"),
        ({"start": 12}, {}, "start: expected 0 to 11"),
        ({"start": 9, "force_rate": 6.0}, {}, "start: expected 0 to 5 (6 frames at 6 fps), got 9"),
        ({"width": 64}, {}, "height: expected both width and height"),
        ({}, {"format": "png", "audio": ["load", 5]}, "audio: a folder of PNG files holds no sound"),
        ({}, {"format": "mp4", "crf": 60}, "crf: expected 0 to 51 for h264, got 60"),
    ],
)
def test_errors_name_the_socket(server, clip, load, save, told):
    with pytest.raises(Exception, match=r"(?s).*") as caught:
        server.queue(graph(load, save))
    assert told in str(caught.value).replace("\\", "")


def test_metrics_of_equal_and_of_shifted_frames(server, clip):
    nodes = graph() | {
        "other": {"class_type": "VideoLoad", "inputs": LOAD | {"start": 1, "anchor_frame": 0}},
        "some": {"class_type": "VideoLoad", "inputs": LOAD | {"maximum": 11}},
        "shifted": {"class_type": "VideoMetrics", "inputs": {"frames": ["some", 0], "truth": ["other", 0]}},
        "equal": {"class_type": "VideoMetrics", "inputs": {"frames": ["some", 0], "truth": ["some", 0]}},
    }
    outputs = server.queue(nodes)
    expected = -10 * (clip[:-1] - clip[1:]).square().mean((1, 2, 3)).log10().mean()
    assert text(outputs, "shifted").startswith(f"mean: PSNR {expected:.2f} dB, SSIM ")
    assert "11 of 11 frames equal the truth exactly" in text(outputs, "equal")
    with pytest.raises(Exception, match="truth: expected 12 frames of 64 x 48 like frames, got 11 frames"):
        server.queue(
            nodes | {"bad": {"class_type": "VideoMetrics", "inputs": {"frames": ["load", 0], "truth": ["some", 0]}}}
        )


def test_parts_without_a_server(run_in_host):
    assert run_in_host("video_parts.py").stdout.splitlines()[-1] == "ok"
