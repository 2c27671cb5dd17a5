"""OpticalFlow and SelectKeyFrames in a running ComfyUI, on two pans behind each other."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from moving import pan

from zero2hero_core.video.source import open_frames, read_image
from zero2hero_core.video.writer import VideoWriter

LOAD = {"file": "pans.mkv", "anchor_frame": 0, "force_rate": 0.0, "start": 0, "maximum": 0, "stride": 1}
LOAD |= {"short_side": 0, "width": 0, "height": 0, "fit": "crop", "multiple": 16}
FLOW = {"engine": "dis", "longest_side": 0, "law": "unflow", "photometric": False, "soft": False}
SELECT = {"method": "advice", "count": 0, "every": 4, "smallest_gap": 2, "largest_gap": 5, "keys_so_far": ""}
SAVE = {"fps": 12.0, "filename_prefix": "test/keys", "format": "mkv", "crf": -1}
SHOWN = {"text": 1, "next": 3, "list": 2}
Answer = Callable[..., Any]


@pytest.fixture(scope="module")
def clip(server: Any) -> torch.Tensor:
    """9 frames of a pan by 8 pixels, then 7 of another one, in the input folder."""
    frames = (torch.cat([pan(0, 9, 8), pan(1, 7, 4)]) * 255).round() / 255
    with VideoWriter(server.input / "pans.mkv", 12) as writer:
        writer.write(frames)
    return frames


def graph(select: dict[str, Any] | None = None, *, model: bool = True, **load: Any) -> dict[str, Any]:
    """VideoLoad -> OpticalFlow -> SelectKeyFrames, with its outputs shown; without a model no OpticalFlow."""
    nodes: dict[str, Any] = {
        "load": {"class_type": "VideoLoad", "inputs": LOAD | load},
        "select": {"class_type": "SelectKeyFrames", "inputs": {"frames": ["load", 0]} | SELECT | (select or {})},
        "save": {"class_type": "VideoSave", "inputs": {"frames": ["select", 0]} | SAVE},
    }
    for name, place in SHOWN.items():
        nodes[name] = {"class_type": "PreviewAny", "inputs": {"source": ["select", place]}}
    if model:
        flow = {"frames": ["load", 0], "optical_flow": ["model", 0]} | FLOW
        nodes["model"] = {"class_type": "StandInOpticalFlow", "inputs": {}}
        nodes["flow"] = {"class_type": "OpticalFlow", "inputs": flow}
        nodes["select"]["inputs"]["flow"] = ["flow", 0]
        for place in (1, 2):
            nodes[f"mask {place}"] = {"class_type": "MaskToImage", "inputs": {"mask": ["flow", place]}}
            nodes[f"hidden {place}"] = {"class_type": "PreviewImage", "inputs": {"images": [f"mask {place}", 0]}}
    return nodes


def saved(server: Any, outputs: dict[str, Any]) -> torch.Tensor:
    item = outputs["save"]["videos"][0]
    with open_frames(server.base / item["type"] / item["subfolder"] / item["filename"], multiple=1) as source:
        return source.frames(range(len(source)))


def test_advice_with_flow_of_the_hosts_model(server: Any, clip: torch.Tensor) -> None:
    outputs = server.queue(graph())
    key, following = (int(outputs[name]["text"][0]) for name in ("text", "next"))
    assert 0 <= key < 9 <= following < 16  # the longer shot first
    assert torch.equal(saved(server, outputs), clip[key : key + 1])
    said = outputs["select"]["text"][0]
    assert f"key frames {key}: they show" in said and "new shots begin at 9." in said
    assert f"edit next is {following}" in said
    (picture,) = server.files(outputs, "select")
    assert read_image(picture).shape[-1] == 960
    assert len(server.files(outputs, "flow")) == 8 and "of the pixels" in outputs["flow"]["text"][0]


def test_masks_belong_to_their_frames(server: Any, clip: torch.Tensor) -> None:
    outputs = server.queue(graph())
    hidden_next, hidden_previous = (
        torch.stack([read_image(file)[0] for file in server.files(outputs, f"hidden {place}")]) for place in (1, 2)
    )
    assert hidden_next.shape == hidden_previous.shape == (16, 64, 96)
    assert hidden_next[0, 5].tolist() == [1.0] * 8 + [0.0] * 88 and not bool(hidden_next[15].any())
    assert hidden_previous[1, 5].tolist() == [0.0] * 88 + [1.0] * 8 and not bool(hidden_previous[0].any())
    assert float(hidden_next[8].mean()) > 0.8  # the cut


@pytest.mark.parametrize(
    ("choice", "keys"),
    [
        ({"method": "uniform"}, [0, 4, 8, 9, 13, 15]),
        ({"method": "uniform", "keys_so_far": "2, 11"}, [0, 2, 6, 8, 9, 11, 15]),
        ({"method": "uniform", "count": 5}, [0, 4, 8, 9, 15]),
        ({"method": "adaptive", "smallest_gap": 4, "largest_gap": 4}, [0, 4, 8, 9, 13, 15]),
    ],
)
def test_keys_come_as_text_list_and_frames(
    server: Any, clip: torch.Tensor, choice: dict[str, Any], keys: list[int]
) -> None:
    outputs = server.queue(graph(choice))
    assert outputs["text"]["text"][0] == ",".join(map(str, keys))
    assert outputs["list"]["text"] == [str(key) for key in keys]
    assert outputs["next"]["text"][0] == "-1"
    assert torch.equal(saved(server, outputs), clip[keys])


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"keys_so_far": "3,16"}, "keys_so_far: expected 0 to 15 (the clip has 16 frames), got 16."),
        ({"keys_so_far": "3,3"}, "keys_so_far: expected each frame once, got 3 twice; leave one out."),
        ({"keys_so_far": "all"}, "keys_so_far: expected frame numbers like 0,12,31, got 'all'."),
        ({"smallest_gap": 6, "largest_gap": 5}, "smallest_gap: expected at most largest_gap (5), got 6"),
        ({"count": 17}, "count: expected at most 16, the frames of the clip, got 17."),
        ({"method": "uniform", "count": 1}, "count: expected 4 or more, for the first and last frames"),
    ],
)
def test_wrong_settings_are_one_sentence(server: Any, clip: torch.Tensor, choice: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=r".") as caught:
        server.queue(graph(choice))
    assert str(caught.value).startswith(message) and caught.value.node_id == "select"


def test_one_frame(server: Any, clip: torch.Tensor) -> None:
    with pytest.raises(Exception, match="frames: expected at least 2 frames, for flow is between neighbours") as caught:
        server.queue(graph(maximum=1))
    assert caught.value.node_id == "flow"


def test_without_flow_opencv_is_used_or_asked_for(server: Any, clip: torch.Tensor, host_python: Path) -> None:
    has_opencv = subprocess.run([host_python, "-c", "import cv2"], capture_output=True).returncode == 0
    if has_opencv:
        assert "new shots begin at 9." in server.queue(graph(model=False))["select"]["text"][0]
        return
    with pytest.raises(Exception, match="Optical flow needs OpenCV.*, or connect flow of OpticalFlow"):
        server.queue(graph(model=False))


def test_the_socket_is_that_of_the_hosts_loader(described: dict[str, Any]) -> None:
    ours = described["OpticalFlow"]["input"]["optional"]["optical_flow"][0]
    assert ours == "OPTICAL_FLOW"
    if "OpticalFlowLoader" in described:  # hosts from about 0.33 on
        assert described["OpticalFlowLoader"]["output"] == [ours]


def test_raft_previews_and_cancel(answer: Answer) -> None:
    got = answer("key_frame_parts.py")
    assert max(got["raft"]) < 1e-4 < 1e-2 < got["largest"] and got["flow map"] == [2, 128, 256, 3]
    assert got["cancelled frames"] == ["cancelled", 2] and got["cancelled chains"] == ["cancelled", 2]
    assert got["cancelled flow"][0] == "cancelled" and got["cancelled flow"][1] <= 2
    assert got["shown"] == [1, 2]
    assert "the flows of 3 frames of 128 x 128 need" in got["memory"]
    assert "optical_flow: expected the model of Load Optical Flow Model, got object" in got["another"]
    assert "expected those of 6 frames (5 pairs), got 3 pairs" in got["short flow"]
