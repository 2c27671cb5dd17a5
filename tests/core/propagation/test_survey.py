"""One look at a clip: differences, motion at a small size, shots."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from moving import pan, pan_flow, texture

from zero2hero_core.checks import InputError, ShapeError
from zero2hero_core.flow.clip import ClipFlows, clip_flows
from zero2hero_core.flow.dis import dis_flow
from zero2hero_core.propagation.survey import small_size, survey_clip
from zero2hero_core.video.resize import resize_frames


def test_a_survey_of_joined_clips() -> None:
    clip, steps = torch.cat([pan(0, 5, 2), pan(1, 4, 0)]), []
    survey = survey_clip(clip, len(clip), step=lambda: steps.append(1))
    assert (len(survey), survey.cuts, len(steps)) == (9, (5,), 9)
    assert survey.shots == [range(0, 5), range(5, 9)]
    assert survey.size_hw == (64, 96) and survey.forward[0].dtype == torch.float16
    assert len(survey.forward) == len(survey.backward) == 8
    motion = survey.forward[0].float()[8:-8, 12:-12].mean((0, 1))
    assert abs(float(motion[0]) + 2) < 0.1 and abs(float(motion[1])) < 0.1
    assert survey.differences[0] == 0 and survey.differences[6:] == (0.0, 0.0, 0.0)
    assert survey.differences[5] > 3 * survey.differences[1] > 0


def test_differences_are_opencvs() -> None:
    """Short side 512, Gaussian 9 x 9 of the sigma that OpenCV takes for it, in [-1, 1]."""
    clip = torch.stack([texture(seed, 64, 80) for seed in (0, 1)])
    big = resize_frames(clip, (512, 640)).permute(0, 2, 3, 1).numpy()
    one, other = (cv2.GaussianBlur(np.ascontiguousarray(2 * frame - 1), (9, 9), 0) for frame in big)
    expected = float(((one - other) ** 2).mean())
    assert expected > 0.05
    assert abs(survey_clip(clip, 2).differences[1] / expected - 1) < 1e-3


def test_one_frame_has_no_motion() -> None:
    survey = survey_clip(pan(0, 1, 0), 1)
    assert (survey.differences, survey.cuts, survey.forward) == ((0.0,), (), ())
    assert survey.shots == [range(0, 1)]


def test_known_flows_are_taken_and_scaled() -> None:
    clip = resize_frames(pan(0, 3, 4), (256, 384))
    there, back = (way.repeat(4, 4, 1)[None].repeat(2, 1, 1, 1) * 4 for way in pan_flow(4))

    def refuse(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the flows are known")

    survey = survey_clip(clip, 3, flow=refuse, flows=ClipFlows(there, back))
    assert survey.size_hw == (128, 192)
    assert torch.equal(survey.forward[1], torch.tensor([-8.0, 0.0]).half().expand(128, 192, 2))
    assert torch.equal(survey.backward[0], torch.tensor([8.0, 0.0]).half().expand(128, 192, 2))
    with pytest.raises(ShapeError, match=r"flows: expected those of 4 frames \(3 pairs\), got 2 pairs"):
        survey_clip(pan(0, 4, 1), 4, flow=refuse, flows=clip_flows(pan(0, 3, 1)))


@pytest.mark.parametrize(
    ("size", "count", "expected"),
    [
        ((1080, 1920), 200, (128, 228)),
        ((1920, 1080), 1, (228, 128)),
        ((100, 60), 10, (100, 60)),
        ((1080, 1920), 3000, (96, 171)),
        ((1080, 1920), 100_000, (64, 114)),
        ((20, 2000), 10, (20, 2000)),
    ],
)
def test_long_clips_are_looked_at_smaller(size: tuple[int, int], count: int, expected: tuple[int, int]) -> None:
    assert small_size(size, count) == expected


def test_what_cannot_be_looked_at_is_refused() -> None:
    with pytest.raises(InputError, match="frames: expected at least one frame"):
        survey_clip([], 0)
    with pytest.raises(InputError, match="frames: expected at least 16 x 16 pixels"):
        survey_clip(torch.zeros(2, 3, 15, 40), 2)
    with pytest.raises(InputError, match="flow: expected a function"):
        survey_clip(pan(0, 2, 1), 2, flow=lambda source, target: dis_flow(source, target)[:5])
