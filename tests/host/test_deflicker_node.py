"""The node Deflicker in a real host: the core's frames, progress, Cancel, refusals, and a run from a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

Answer = Callable[..., Any]


def test_the_node_gives_the_frames_of_the_core(answer: Answer) -> None:
    got = answer("deflicker.py")
    assert got["as the core"] is True
    before, after = got["change"]
    assert after < 0.5 * before
    assert got["strength 0"] is True and "the frames stay as they are" in got["said"][0]
    assert got["alpha"] == [6, 48, 48, 3] and got["one frame"] == [1, 48, 48, 3]


def test_progress_and_cancel(answer: Answer) -> None:
    got = answer("deflicker.py")
    assert got["steps"][-1] == 6 and got["steps"] == sorted(got["steps"]) and got["previews"] == 1
    assert got["cancel"] == "cancelled" and got["frames after Cancel"] == 0


def test_refusals_name_the_socket(answer: Answer) -> None:
    words = {
        "count": ["InputError: stylised:", "4 frames of 48 x 48", "got 6 frames"],
        "size": ["InputError: stylised:", "48 x 48", "48 x 32"],
        "window": ["InputError: window:", "0 to 60", "got 61"],
        "strength": ["InputError: strength:", "0 to 1", "got 1.5"],
        "small": ["InputError: originals:", "16 x 16", "(8, 48)"],
        "kind": ["ShapeError: stylised:", "IMAGE"],
    }
    refused = answer("deflicker.py")["refused"]
    assert set(refused) == set(words)
    for name, (start, *parts) in words.items():
        assert refused[name].startswith(start) and all(part in refused[name] for part in parts), refused[name]


def test_it_runs_in_a_graph(server: Any) -> None:
    """Frames of one picture that differ in brightness alone come out nearer to each other."""
    values = np.random.default_rng(0).integers(60, 160, (6, 6, 3), dtype=np.uint8)
    picture = Image.fromarray(values).resize((64, 64), Image.Resampling.BICUBIC)
    picture.save(server.base / "input" / "still.png")
    Image.fromarray((np.asarray(picture) * 0.8).astype(np.uint8)).save(server.base / "input" / "dark.png")
    loaded = {str(n): {"class_type": "LoadImage", "inputs": {"image": name}} for n, name in ((1, "still"), (2, "dark"))}
    for node in loaded.values():
        node["inputs"]["image"] += ".png"
    graph = loaded | {
        "3": {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["1", 0]}},
        "4": {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["2", 0]}},
        "5": {
            "class_type": "Deflicker",
            "inputs": {"originals": ["3", 0], "stylised": ["4", 0], "window": 1, "strength": 1.0},
        },
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "steady"}},
    }
    outputs = server.wait(server.submit(graph))
    files = server.files(outputs, "6")
    assert len(files) == 2
    first, second = (torch.from_numpy(np.array(Image.open(path))).float() for path in files)
    mean = torch.from_numpy(np.array(picture)).float() * 0.9
    inner = slice(4, 60)
    assert (first - second)[inner, inner].abs().max() <= 4
    assert (first - mean)[inner, inner].abs().mean() < 1
