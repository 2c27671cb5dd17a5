"""Optical-flow propagation against motion that is known exactly: a band-limited texture, shifted and turned."""

from __future__ import annotations

import math
import sys

import pytest
import torch

from zero2hero_core.checks import InputError, ShapeError
from zero2hero_core.flow.dis import dis_flow
from zero2hero_core.flow.warp import chain_flows, warp_backward
from zero2hero_core.metrics.psnr import psnr
from zero2hero_core.propagation.optical_flow import propagate_frames, propagate_reference
from zero2hero_core.video.source import open_frames

SIZE = 96


def texture(x: torch.Tensor, y: torch.Tensor, seed: int) -> torch.Tensor:
    """(3, H, W) in [0, 1] at any places: waves of 9 to 30 pixels in all directions, other ones in each channel."""
    generator = torch.Generator().manual_seed(seed)
    channels = []
    for _ in range(3):
        waves = [torch.rand(3, generator=generator).tolist() for _ in range(12)]
        total = torch.zeros_like(x)
        for angle, length, phase in waves:
            wave = 2 * math.pi / (9 + 21 * length)
            total = total + torch.sin(wave * (x * math.cos(7 * angle) + y * math.sin(7 * angle)) + 7 * phase)
        channels.append((0.5 + total / 12).clamp(0, 1))
    return torch.stack(channels)


def pixel_places() -> tuple[torch.Tensor, torch.Tensor]:
    axis = torch.arange(float(SIZE))
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return x, y


def shifted(dx: float, dy: float, seed: int = 0) -> torch.Tensor:
    """The texture, moved by (dx, dy)."""
    x, y = pixel_places()
    return texture(x - dx, y - dy, seed)


def turned(degrees: float, seed: int = 0) -> torch.Tensor:
    """The texture, turned about the centre; the flow from here back to the start is `turn_flow`."""
    x, y = pixel_places()
    flow = turn_flow(degrees)
    return texture(x + flow[..., 0], y + flow[..., 1], seed)


def turn_flow(degrees: float) -> torch.Tensor:
    angle, centre = math.radians(degrees), (SIZE - 1) / 2
    x, y = (places - centre for places in pixel_places())
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.stack([cos * x + sin * y - x, cos * y - sin * x - y], -1)


def disc(radius: float) -> torch.Tensor:
    x, y = (places - (SIZE - 1) / 2 for places in pixel_places())
    return x**2 + y**2 < radius**2


@pytest.mark.parametrize(("dx", "dy"), [(0.0, 0.0), (0.5, 0.0), (-0.25, 0.7), (3.3, -2.6)])
def test_the_flow_of_a_shift_is_found_to_a_twentieth_of_a_pixel(dx: float, dy: float) -> None:
    flow = dis_flow(shifted(dx, dy), shifted(0, 0))
    assert flow.shape == (SIZE, SIZE, 2) and flow.dtype == torch.float32
    error = (flow - torch.tensor([-dx, -dy]))[12:-12, 12:-12].norm(dim=-1)
    assert float(error.mean()) < 0.05 and float(error.max()) < 0.15


def test_the_flow_of_a_turn_is_found() -> None:
    error = (dis_flow(turned(6), turned(0)) - turn_flow(6)).norm(dim=-1)
    assert float(turn_flow(6)[disc(36)].norm(dim=-1).max()) > 3.5
    assert float(error[disc(36)].mean()) < 0.15


def test_a_picture_is_read_where_the_flow_points_and_its_border_repeats() -> None:
    ramp = torch.arange(5.0).expand(1, 4, 5)
    flow = torch.zeros(4, 5, 2)
    flow[..., 0] = 1.5
    assert warp_backward(ramp, flow)[0, 2].tolist() == pytest.approx([1.5, 2.5, 3.5, 4.0, 4.0])
    assert warp_backward(ramp, -flow)[0, 0].tolist() == pytest.approx([0.0, 0.0, 0.5, 1.5, 2.5], abs=1e-6)
    moved = warp_backward(ramp.transpose(1, 2), flow.flip(-1).transpose(0, 1))
    assert moved[0, :, 3].tolist() == pytest.approx([1.5, 2.5, 3.5, 4.0, 4.0])


def test_half_precision_reads_the_same_place_as_full_precision() -> None:
    picture = torch.rand(3, 4, 700, generator=torch.Generator().manual_seed(3)).half()
    flow = torch.full((4, 700, 2), 0.25)
    moved = warp_backward(picture, flow)
    assert moved.dtype == torch.float16
    assert torch.allclose(moved.float(), warp_backward(picture.float(), flow), atol=1e-3)


def test_two_turns_add_up_to_one() -> None:
    chained = chain_flows(turn_flow(5), turn_flow(7))
    assert float((chained - turn_flow(12))[disc(40)].abs().max()) < 1e-3
    assert float((turn_flow(5) + turn_flow(7) - turn_flow(12))[disc(40)].abs().max()) > 0.3  # a plain sum is not enough


@pytest.mark.parametrize("chained", [False, True])
def test_a_drifting_clip_gets_the_reference_moved_along_on_both_sides(chained: bool) -> None:
    places = [(-2.6, 1.4), (-1.3, 0.7), (0.0, 0.0), (1.3, -0.7), (2.6, -1.4)]
    frames = torch.stack([shifted(*place) for place in places])
    truth = torch.stack([shifted(*place, seed=5) for place in places])
    moved = propagate_reference(frames, truth[2], 2, chained=chained)
    assert moved.shape == frames.shape
    assert torch.equal(moved[2], truth[2])
    inner = (..., slice(10, -10), slice(10, -10))
    kept, still = psnr(moved[inner], truth[inner]), psnr(truth[2].expand_as(truth)[inner], truth[inner])
    for side in (0, 1, 3, 4):
        assert float(kept[side]) > 40 and float(kept[side] - still[side]) > 10


def test_chained_flow_follows_a_large_turn_that_direct_flow_loses() -> None:
    angles = [9.0 * step for step in range(6)]
    frames = torch.stack([turned(angle) for angle in angles])
    truth = torch.stack([turned(angle, seed=5) for angle in angles])
    inside = disc(36).float().expand(1, 1, SIZE, SIZE)
    direct, chained = (
        psnr(propagate_reference(frames, truth[0], 0, chained=chained)[-1:], truth[-1:], inside)
        for chained in (False, True)
    )
    assert float(chained) > 23 and float(chained) > float(direct) + 10


def test_frames_come_one_by_one_outward_from_the_anchor_and_are_read_once() -> None:
    clip = torch.stack([shifted(step, 0) for step in range(4)])
    asked: list[int] = []

    class Source:
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> torch.Tensor:
            asked.append(index)
            return clip[index]

    pictures = propagate_frames(Source(), clip[1], 1, chained=True)  # type: ignore[arg-type]
    assert next(pictures)[0] == 1 and asked == [1]
    assert next(pictures)[0] == 2 and asked == [1, 2]
    assert [index for index, _ in pictures] == [3, 0] and asked == [1, 2, 3, 0]


def test_a_frame_source_gives_the_same_as_its_tensor() -> None:
    clip = torch.stack([shifted(step, 0.5 * step) for step in range(3)])
    with open_frames(clip) as source:
        from_source = propagate_reference(source, clip[0], 0, chained=True)
    assert torch.equal(from_source, propagate_reference(clip, clip[0], 0, chained=True))


def test_a_clip_of_one_frame_is_the_reference_and_not_the_same_memory() -> None:
    reference = shifted(0, 0)
    (pair,) = propagate_frames(shifted(1, 1)[None], reference, 0, chained=False)
    assert pair[0] == 0 and torch.equal(pair[1], reference)
    pair[1].zero_()
    assert float(reference.max()) > 0.5


@pytest.mark.parametrize("chained", [False, True])
def test_another_flow_is_asked_from_each_frame_to_the_anchor_or_its_neighbour(
    chained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)  # only DIS needs OpenCV
    clip = torch.stack([torch.full((3, 20, 24), 0.1 * index) for index in range(4)])
    asked: list[tuple[int, int]] = []

    def one_to_the_right(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        asked.append((round(10 * float(source.max())), round(10 * float(target.max()))))
        return torch.tensor([1.0, 0.0]).expand(20, 24, 2)

    reference = (torch.arange(24.0) / 24).expand(3, 20, 24)
    moved = propagate_reference(clip, reference, 1, chained=chained, flow=one_to_the_right)
    assert asked == ([(2, 1), (3, 2), (0, 1)] if chained else [(2, 1), (3, 1), (0, 1)])
    for index, steps in enumerate((1, 0, 1, 2 if chained else 1)):
        wanted = (torch.arange(24) + steps).clamp(max=23) / 24
        assert torch.allclose(moved[index], wanted.expand(3, 20, 24), atol=1e-6)


def test_wrong_input_is_explained() -> None:
    clip = torch.rand(2, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match=r"anchor: expected 0 to 1 .* got 2"):
        propagate_frames(clip, clip[0], 2, chained=False)
    with pytest.raises(ShapeError, match=r"reference: expected the size of the frames.*resize it first"):
        propagate_frames(clip, clip[0, :, :, :20], 0, chained=False)
    with pytest.raises(ShapeError, match="divide by 255"):
        propagate_frames(clip, clip[0].mul(255).byte(), 0, chained=False)
    with pytest.raises(ShapeError, match="frames"):
        propagate_frames(clip[0], clip[0], 0, chained=False)
    with pytest.raises(ShapeError, match="target"):
        dis_flow(clip[0], clip[1, :, :18])
    with pytest.raises(InputError, match="at least 16 x 16 pixels"):
        dis_flow(clip[0, :, :15], clip[1, :, :15])
    with pytest.raises(InputError, match="target: expected finite values"):
        dis_flow(clip[0], clip[1].clone().fill_(math.nan))
    with pytest.raises(ShapeError, match="flow"):
        warp_backward(clip[0], torch.zeros(20, 20, 2))
    with pytest.raises(ShapeError, match="second"):
        chain_flows(torch.zeros(20, 24, 2), torch.zeros(20, 20, 2))


def test_without_opencv_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    clip = torch.zeros(2, 3, 16, 16)
    with pytest.raises(InputError, match=r"pip install opencv-python-headless") as caught:
        propagate_reference(clip, clip[0], 0, chained=True)
    assert caught.value.exit_status == 2
