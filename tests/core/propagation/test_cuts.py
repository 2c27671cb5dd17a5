"""Cuts are found; motion, flashes, foreign frames, dissolves and noise are none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from moving import pan, pan_flow, texture

from zero2hero_core.flow.clip import neighbour_flows
from zero2hero_core.flow.dis import dis_flow
from zero2hero_core.propagation.cuts import CutFinder, best_shift, pair_unexplained, shots_of, unexplained
from zero2hero_core.video.source import open_frames


def cuts(frames: torch.Tensor) -> tuple[int, ...]:
    finder = CutFinder(dis_flow)
    finder.add(frames[0])
    for frame, pair in zip(frames[1:], neighbour_flows(frames), strict=True):
        finder.add(frame, pair.forward, pair.backward)
    return finder.cuts()


def test_what_motion_explains_and_what_another_picture_does_not() -> None:
    clip, (there, back) = pan(0, 2, 5), pan_flow(5)
    moved, inside = clip[0], clip[1]
    assert unexplained(inside, inside, torch.zeros(64, 96, 2)) < 1e-6
    assert unexplained(inside, moved, back) < 0.05  # the left border shows what the other one does not
    assert pair_unexplained(moved, inside, there, back) < 0.1
    assert unexplained(texture(9, 64, 96), moved, torch.zeros(64, 96, 2)) > 0.7


def test_a_change_of_light_explains_as_well() -> None:
    picture, still = texture(1, 64, 96), torch.zeros(64, 96, 2)
    assert unexplained(picture, 0.4 + 0.5 * picture, still) < 0.05
    assert unexplained(picture, torch.ones_like(picture), still) > 0.8


def test_flat_pictures_explain_each_other() -> None:
    still = torch.zeros(64, 96, 2)
    assert unexplained(torch.zeros(3, 64, 96), torch.ones(3, 64, 96), still) < 1e-3


def test_cuts_of_joined_clips() -> None:
    assert cuts(torch.cat([pan(0, 6, 2), pan(1, 5, 3), pan(2, 6, 1)])) == (6, 11)
    assert cuts(torch.cat([pan(0, 5, 2), pan(1, 1, 0), pan(2, 5, 2)])) == (5, 6)
    assert cuts(pan(0, 1, 0)) == () and cuts(torch.cat([pan(0, 1, 0), pan(1, 1, 0)])) == (1,)


@pytest.mark.parametrize("speed", [0, 4, 12, 30, 45])
def test_a_fast_pan_is_no_cut(speed: int) -> None:
    assert cuts(pan(3, 6, speed)) == ()


def test_flashes_and_foreign_frames_are_none() -> None:
    clip = pan(0, 14, 2)
    flash, white, foreign = clip.clone(), clip.clone(), clip.clone()
    flash[5] = (1.5 * flash[5] + 0.4).clamp(0, 1)
    white[5:7] = 1.0
    foreign[5:8] = pan(7, 3, 1)
    assert cuts(flash) == cuts(white) == cuts(foreign) == ()
    assert cuts(torch.cat([clip[:6], pan(8, 6, 1)])) == (6,)


def test_dissolves_and_noise_are_none() -> None:
    share = torch.linspace(0, 1, 12).view(-1, 1, 1, 1)
    assert cuts(pan(0, 12, 1) * (1 - share) + pan(1, 12, 1) * share) == ()
    assert cuts(torch.rand(10, 3, 64, 96, generator=torch.Generator().manual_seed(0))) == ()


def test_the_best_shift_is_found() -> None:
    clip = pan(4, 3, 20)
    assert best_shift(clip[0], clip[1]) == (-20, 0) and best_shift(clip[1], clip[0]) == (20, 0)
    down = clip.transpose(2, 3)
    assert best_shift(down[0], down[1]) == (0, -20)


def test_shots_by_hand() -> None:
    assert shots_of((), 3) == [range(0, 3)]
    assert shots_of((4, 2), 5) == [range(0, 2), range(2, 4), range(4, 5)]


def test_real_clips_are_cut_where_they_were_joined(shared_data: Path) -> None:
    parts = []
    for name in ("car-turn.mp4", "rabbit-watermelon.mp4", "wolf.mp4"):
        with open_frames(shared_data / name, size=(96, 96), maximum=8) as source:
            parts.append(source.frames(range(len(source))))
    assert cuts(torch.cat(parts)) == (8, 16)
