"""PropagateKeyFrames in a running ComfyUI: results, sockets, refusals, Cancel."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from moving import drift

from zero2hero_core.video.source import open_frames
from zero2hero_core.video.writer import VideoWriter

COUNT, HEIGHT, WIDTH = 8, 48, 64
LOAD = {"file": "drift.mkv", "anchor_frame": 0, "force_rate": 0.0, "start": 0, "maximum": 0, "stride": 1}
LOAD |= {"short_side": 0, "width": 0, "height": 0, "fit": "crop", "multiple": 1}
SAVE = {"fps": 8.0, "filename_prefix": "test/propagated", "format": "mkv", "crf": -1}
MOTION = {"engine": "dis", "longest_side": 960, "law": "unflow", "photometric": False, "soft": False}
Graph = dict[str, Any]


@pytest.fixture(scope="module")
def clips(server: Any) -> None:
    """drift.mkv, and long.mkv that takes a while."""
    with VideoWriter(server.input / "drift.mkv", 8) as writer:
        writer.write(torch.stack([drift(index) for index in range(COUNT)]))
    with VideoWriter(server.input / "long.mkv", 24) as writer:
        for index in range(120):
            writer.write(drift(index, 288, 384))


def graph(keys: str = "0", anchors: tuple[int, ...] = (0,), load: Graph | None = None, **inputs: Any) -> Graph:
    """Clip -> inverted anchors as edits -> PropagateKeyFrames -> lossless file."""
    nodes: Graph = {"clip": {"class_type": "VideoLoad", "inputs": LOAD | (load or {})}}
    for number, anchor in enumerate(anchors):
        chosen = LOAD | (load or {}) | {"anchor_frame": anchor}
        nodes[f"clip {number}"] = {"class_type": "VideoLoad", "inputs": chosen}
        nodes[f"edit {number}"] = {"class_type": "ImageInvert", "inputs": {"image": [f"clip {number}", 1]}}
    edits = ["edit 0", 0]
    for number in range(1, len(anchors)):
        joined = {"image1": edits, "image2": [f"edit {number}", 0]}
        nodes[f"edits {number}"] = {"class_type": "ImageBatch", "inputs": joined}
        edits = [f"edits {number}", 0]
    values = {"frames": ["clip", 0], "edits": edits, "keys": keys, "engine": "change"} | inputs
    nodes["carry"] = {"class_type": "PropagateKeyFrames", "inputs": values}
    nodes["save"] = {"class_type": "VideoSave", "inputs": {"frames": ["carry", 0]} | SAVE}
    return nodes


def saved(server: Any, outputs: Graph) -> torch.Tensor:
    """The frames of the lossless file."""
    item = outputs["save"]["videos"][0]
    with open_frames(server.base / item["type"] / item["subfolder"] / item["filename"], multiple=1) as source:
        return source.frames(range(len(source)))


@pytest.mark.parametrize(("keys", "anchors"), [("0", (0,)), ("7", (7,)), ("7, 0", (7, 0)), ("0 3 7", (0, 3, 7))])
def test_the_edit_reaches_every_frame(server: Any, clips: None, keys: str, anchors: tuple[int, ...]) -> None:
    outputs = server.queue(graph(keys, anchors))
    result = saved(server, outputs)
    truth = torch.stack([1 - drift(index) for index in range(COUNT)])
    assert result.shape == truth.shape and (result - truth).abs().mean() < 0.03
    for index in anchors:
        assert (result[index] - truth[index]).abs().max() <= 0.5 / 255 + 1e-6
    assert 1 <= len(outputs["carry"]["images"]) <= 8


def test_the_number_of_the_anchor_stands_for_keys(server: Any, clips: None) -> None:
    result = saved(server, server.queue(graph("0", (3,), {"anchor_frame": 3}, anchor_index=["clip", 2])))
    assert (result[3] - (1 - drift(3))).abs().max() <= 0.5 / 255 + 1e-6


def test_motion_that_was_found_already_is_taken(server: Any, clips: None) -> None:
    nodes = graph("3", (3,), flow=["flow", 0])
    nodes["flow"] = {"class_type": "OpticalFlow", "inputs": MOTION | {"frames": ["clip", 0]}}
    result = saved(server, server.queue(nodes))
    truth = torch.stack([1 - drift(index) for index in range(COUNT)])
    assert (result - truth).abs().mean() < 0.03
    other = saved(server, server.queue(graph("3", (3,))))
    assert not torch.equal(result, other) and torch.equal(result[3], other[3])


def test_a_round_trip_wears_the_edited_frame(server: Any, clips: None) -> None:
    worn, plain = (saved(server, server.queue(graph(engine="flow", round_trip=value))) for value in (True, False))
    assert torch.equal(worn[1:], plain[1:]) and not torch.equal(worn[0], plain[0])


def test_outside_the_mask_every_pixel_stays(server: Any, clips: None) -> None:
    nodes = graph(mask=["mask", 0])
    nodes["left"] = {"class_type": "SolidMask", "inputs": {"value": 0.0, "width": WIDTH, "height": HEIGHT}}
    nodes["right"] = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": WIDTH // 2, "height": HEIGHT}}
    joined = {"destination": ["left", 0], "source": ["right", 0], "x": WIDTH // 2, "y": 0, "operation": "add"}
    nodes["mask"] = {"class_type": "MaskComposite", "inputs": joined}
    result, half = saved(server, server.queue(nodes)), WIDTH // 2
    with open_frames(server.input / "drift.mkv", multiple=1) as clip:
        frames = clip.frames(range(COUNT))
    assert torch.equal(result[..., :half], frames[..., :half])
    assert (result - frames)[..., half:].abs().mean() > 0.1


@pytest.mark.parametrize(
    ("inputs", "anchors", "words"),
    [
        ({"keys": "0, 1"}, (0,), ["edits:", "2 pictures", "got 1"]),
        ({"keys": "one"}, (0,), ["keys:", "'one'"]),
        ({"keys": ""}, (0,), ["edits:", "0 pictures", "got 1"]),
        ({"flow": ["flow", 0]}, (0,), ["flow:", f"these {COUNT} frames", "that of 2"]),
        ({"keys": "8"}, (0,), ["keys:", "0 to 7", "got 8"]),
        ({"keys": "0, 0"}, (0, 0), ["keys:", "frame 0 twice"]),
        ({"mask": ["mask", 0]}, (0,), ["mask:", f"{WIDTH} x {HEIGHT}", "32 x 32"]),
        ({"edits": ["square", 0]}, (0,), ["edits:", f"{WIDTH} x {HEIGHT}", "32 x 32"]),
    ],
)
def test_wrong_wiring_gets_one_sentence(
    server: Any, clips: None, inputs: Graph, anchors: tuple[int, ...], words: list[str]
) -> None:
    nodes = graph("0", anchors) | {
        "mask": {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 32, "height": 32}},
        "two": {"class_type": "VideoLoad", "inputs": LOAD | {"maximum": 2}},
        "flow": {"class_type": "OpticalFlow", "inputs": MOTION | {"frames": ["two", 0]}},
        "square": {"class_type": "EmptyImage", "inputs": {"width": 32, "height": 32, "batch_size": 1, "color": 0}},
    }
    nodes["carry"]["inputs"] |= inputs
    with pytest.raises(Exception) as caught:
        server.queue(nodes)
    text = str(caught.value).strip()
    assert all(word in text for word in words) and "\n" not in text, text


def test_an_edit_that_changes_nothing_is_said_aloud(server: Any, clips: None) -> None:
    nodes = graph(edits=["clip", 1])
    assert "is the frame itself" in server.queue(nodes)["carry"]["text"][0]


def test_cancel_takes_effect_within_a_second(server: Any, clips: None) -> None:
    number = server.submit(graph("0, 119", (0, 119), {"file": "long.mkv"}))
    end = time.monotonic() + 120
    while not any((server.base / "temp").glob("zero2hero_*/back-*")) and time.monotonic() < end:
        time.sleep(0.05)
    assert any((server.base / "temp").glob("zero2hero_*/back-*"))  # the walk from the last key has begun
    server.post("/interrupt")
    start = time.monotonic()
    with pytest.raises(Exception, match="interrupted"):
        server.wait(number)
    assert time.monotonic() - start < 2.5  # a second, and the poll's fifth, on a machine that is busy
    assert not any((server.base / "temp").glob("zero2hero_*"))
