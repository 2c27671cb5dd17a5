"""Frames of Zero-Stage, and of any other tool, by their index."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch

from zero2hero_core.checks import InputError
from zero2hero_core.jobs.zero_frames import ZeroFrames
from zero2hero_core.video.writer import VideoWriter, write_image


def frames(count: int) -> torch.Tensor:
    return torch.stack([torch.full((3, 16, 16), (index + 1) / 16) for index in range(count)])


def video(path: Path, count: int) -> str:
    with VideoWriter(path, Fraction(8), codec="ffv1") as writer:
        writer.write(frames(count))
    return str(path)


def level(zero: ZeroFrames, index: int) -> int:
    return round(float(zero.read(index, (16, 16)).mean()) * 16)


def test_a_video_of_the_chosen_frames(tmp_path: Path) -> None:
    zero = ZeroFrames([video(tmp_path / "tool.mkv", 3)])
    assert zero.foreign and zero.size_hw is None
    zero.bind([4, 6, 8])
    zero.need([4, 6, 8])
    assert [level(zero, index) for index in (4, 6, 8)] == [1, 2, 3] and not zero.has(5)


def test_a_video_of_the_whole_clip(tmp_path: Path) -> None:
    zero = ZeroFrames([video(tmp_path / "tool.mkv", 10)])
    zero.bind([4, 6, 8])
    assert [level(zero, index) for index in (4, 6, 8)] == [5, 7, 9]


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    for index, picture in enumerate(frames(2)):
        write_image(tmp_path / f"{index}.png", picture)
    zero = ZeroFrames([str(tmp_path)])
    zero.bind([0, 5])
    assert [level(zero, index) for index in (0, 5)] == [1, 2]


def test_our_own_folder_needs_no_binding(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    write_image(tmp_path / "frames" / "frame_000007.png", frames(1)[0])
    zero = ZeroFrames([str(tmp_path)])
    zero.bind([7])
    assert not zero.foreign and level(zero, 7) == 1


def test_too_few_frames_and_no_frames_at_all(tmp_path: Path) -> None:
    zero = ZeroFrames([video(tmp_path / "tool.mkv", 3)], "witness")
    with pytest.raises(InputError, match="witness .*: expected 2 frames, one for each chosen one, or .*, got 3"):
        zero.bind([4, 6])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="expected a folder that .* or a video or a folder of pictures"):
        ZeroFrames([str(tmp_path / "empty")])
