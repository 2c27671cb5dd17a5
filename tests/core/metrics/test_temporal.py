"""Flicker, warp error and tOF: by hand on tiny clips, and against other implementations on larger ones."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from zero2hero_core.checks import InputError, ShapeError
from zero2hero_core.flow.clip import ClipFlows, clip_flows
from zero2hero_core.flow.occlusion import visible_pixels
from zero2hero_core.metrics.temporal import flicker_excess, tof, warp_error
from zero2hero_core.tiny.scenes.scene import Scene
from zero2hero_core.video.source import open_frames


def greys(*values: float, height: int = 4, width: int = 4) -> torch.Tensor:
    return torch.stack([torch.full((3, height, width), value) for value in values])


def constant_flow(dx: float, dy: float, pairs: int = 1, height: int = 4, width: int = 4) -> torch.Tensor:
    return torch.tensor([dx, dy], dtype=torch.float32).expand(pairs, height, width, 2)


def still(pairs: int = 1, height: int = 4, width: int = 4) -> ClipFlows:
    flows = constant_flow(0, 0, pairs, height, width)
    return ClipFlows(flows, flows)


def random_clip(frames: int = 3, height: int = 24, width: int = 30, seed: int = 0) -> torch.Tensor:
    return torch.rand(frames, 3, height, width, generator=torch.Generator().manual_seed(seed))


def random_flows(pairs: int = 2, height: int = 24, width: int = 30) -> ClipFlows:
    """Smooth motion of some pixels whose way back nearly closes the loop in some places and not in others."""
    generator = torch.Generator().manual_seed(5)
    coarse = torch.randn(pairs * 2, 2, 3, 4, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").permute(0, 2, 3, 1)
    return ClipFlows(2 + 0.8 * fine[:pairs], -2 - 0.8 * fine[:pairs] + 0.5 * fine[pairs:])


@cache
def rendered() -> tuple[Scene, torch.Tensor, torch.Tensor, torch.Tensor]:
    scene = Scene(2_000_003, 16, 96)
    parts = [[scene.render(i, appearance) for i in range(3)] for appearance in (0, 1)]
    first, second = (torch.stack([frame for frame, _ in part]) for part in parts)
    return scene, first, second, torch.stack([mask for _, mask in parts[0]])


@cache
def real_clip(folder: Path) -> torch.Tensor:
    with open_frames(folder / "car-turn.mp4", size=96) as source:
        return source.frames([0, 1, 2])


# Other implementations, in numpy and scipy, pixel by pixel where that is clearest.


def read(values: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(H, W, C) at places, bilinear, the border repeated."""
    channels = np.moveaxis(values, -1, 0)
    return np.stack([map_coordinates(c, [y, x], order=1, mode="nearest") for c in channels], -1)


def numpy_visible(flow: np.ndarray, back: np.ndarray) -> np.ndarray:
    height, width = flow.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    returned = read(back, columns + flow[..., 0], rows + flow[..., 1])
    seen = np.zeros((height, width), bool)
    for y in range(height):
        for x in range(width):
            (u, v), (a, b) = flow[y, x], returned[y, x]
            closed = (u + a) ** 2 + (v + b) ** 2 <= 0.01 * (u**2 + v**2 + a**2 + b**2) + 0.5
            slope = sum(((flow[y, x + 1] - flow[y, x]) ** 2).tolist()) if x + 1 < width else 0
            slope += sum(((flow[y + 1, x] - flow[y, x]) ** 2).tolist()) if y + 1 < height else 0
            inside = -0.5 <= x + u <= width - 0.5 and -0.5 <= y + v <= height - 0.5
            seen[y, x] = closed and slope <= 0.01 * (u**2 + v**2) + 0.002 and inside
    return seen


def numpy_warp_error(pictures: torch.Tensor, flows: ClipFlows, mask: torch.Tensor) -> list[float]:
    frames, result = pictures.permute(0, 2, 3, 1).double().numpy(), []
    rows, columns = np.mgrid[: frames.shape[1], : frames.shape[2]]
    for i, (flow, back) in enumerate(zip(flows.forward.double().numpy(), flows.backward.double().numpy(), strict=True)):
        moved = read(frames[i + 1], columns + flow[..., 0], rows + flow[..., 1])
        weight = numpy_visible(flow, back) * mask[i, 0].double().numpy()
        result.append(float((((moved - frames[i]) ** 2).mean(-1) * weight).sum() / weight.sum()))
    return result


def farneback(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """TecoGAN's flow."""
    greys = [
        cv2.cvtColor((picture.permute(1, 2, 0) * 255).round().byte().numpy(), cv2.COLOR_RGB2GRAY)
        for picture in (source, target)
    ]
    return torch.from_numpy(cv2.calcOpticalFlowFarneback(*greys, None, 0.5, 3, 15, 3, 5, 1.2, 0))


# Flicker


def flicker(clip: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Changes of the clip, as those in excess of a still one."""
    return flicker_excess(clip, clip[:1].expand_as(clip), mask)


def test_flicker_by_hand() -> None:
    clip = greys(0.5, 0.7, 0.6)
    assert flicker(clip).tolist() == pytest.approx([0.2, 0.1])
    clip[1, 0, 0, 0] = 1.0  # one of 48 values: changes of 0.5 instead of 0.2, and of 0.4 instead of 0.1
    assert flicker(clip).tolist() == pytest.approx([0.2 + 0.3 / 48, 0.1 + 0.3 / 48])
    assert flicker(greys(0.3, 0.3)).tolist() == [0]
    assert flicker(greys(0.0, 1.0)).tolist() == [1]


def test_flicker_counts_pixels_that_both_masks_share() -> None:
    clip = greys(0.0, 0.0, 0.0)
    clip[1, ..., :2] = 0.5
    mask = torch.zeros(3, 1, 4, 4)
    mask[0, ..., :2], mask[1, ..., 1:3] = 1, 1
    assert flicker(clip, mask)[:1].tolist() == [0.5]  # column 1 is in both
    assert bool(flicker(clip, mask)[1:].isnan().all())
    assert flicker(clip, torch.ones(3, 1, 4, 4)).tolist() == flicker(clip).tolist() == [0.25, 0.25]


def test_flicker_is_what_vbench_subtracts_from_1() -> None:
    """VBench, temporal flickering: (255 - mean of cv2.absdiff of successive 8-bit frames) / 255."""
    frames = (random_clip() * 255).round()
    images = [frame.permute(1, 2, 0).numpy().astype(np.float32) for frame in frames]
    expected = (255 - np.mean([np.mean(cv2.absdiff(a, b)) for a, b in itertools.pairwise(images)])) / 255
    assert 1 - float(flicker(frames / 255).mean()) == pytest.approx(expected, abs=1e-6)


def test_flicker_excess_by_hand() -> None:
    clip, other = greys(0.2, 0.2), greys(0.4, 0.4)
    clip[1, ..., :2], other[1, ..., :2] = 0.5, 0.5  # changes 0.3 and 0.1: 0.2 more
    clip[1, ..., 2:], other[1, ..., 2:] = 0.3, 0.7  # changes 0.1 and 0.3: none more
    assert flicker_excess(clip, other).tolist() == pytest.approx([0.1])
    right = torch.zeros(2, 1, 4, 4)
    right[..., 2:] = 1
    assert flicker_excess(clip, other, right).tolist() == [0]
    assert flicker_excess(clip, other, 1 - right).tolist() == pytest.approx([0.2])


def test_flicker_excess_leaves_out_motion() -> None:
    _, first, second, _ = rendered()
    assert flicker_excess(second, second).tolist() == [0, 0]
    restless = second.clone()
    restless[1] = (restless[1] - 0.1).clamp_min(0)
    assert float(flicker_excess(restless, second).min()) > 0.05


# Warp error


def test_warp_error_without_motion_by_hand() -> None:
    assert warp_error(greys(0.5, 0.7), still()).tolist() == pytest.approx([0.04])
    clip = torch.zeros(2, 3, 2, 2)
    clip[1, 0, 0, 0] = 1.0  # red of one of four pixels: 1 / 12
    flows = still(height=2, width=2)
    assert warp_error(clip, flows).tolist() == pytest.approx([1 / 12])
    mask = torch.tensor([[1.0, 0.5], [0.0, 0.0]]).expand(2, 1, 2, 2)
    assert warp_error(clip, flows, mask).tolist() == pytest.approx([1 / (3 * 1.5)])
    assert bool(warp_error(clip, flows, 0 * mask).isnan().all())


def test_warp_error_follows_the_motion_of_the_original_by_hand() -> None:
    """Everything moves 1 pixel to the right: columns a b c d become ? a b c; what leaves the picture does not count."""
    first = torch.tensor([0.1, 0.4, 0.6, 0.9]).expand(3, 4, 4)
    second = torch.tensor([0.8, 0.1, 0.4, 0.6]).expand(3, 4, 4)
    flows = ClipFlows(constant_flow(1, 0), constant_flow(-1, 0))
    assert warp_error(torch.stack([first, second]), flows).tolist() == pytest.approx([0], abs=1e-12)
    assert warp_error(torch.stack([first, second + 0.1]), flows).tolist() == pytest.approx([0.01], abs=1e-6)
    assert float(warp_error(torch.stack([second, first]), flows)) > 0.1  # the wrong way round
    last = torch.zeros(2, 1, 4, 4)
    last[0, ..., 3] = 1
    assert bool(warp_error(torch.stack([first, second]), flows, last).isnan())


def test_flows_of_a_clip_go_both_ways() -> None:
    def flow(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (target - source)[:2].permute(1, 2, 0)

    flows = clip_flows(greys(0.0, 0.25, 1.0), flow=flow)
    assert flows.forward.shape == flows.backward.shape == (2, 4, 4, 2)
    assert flows.forward[:, 0, 0, 0].tolist() == [0.25, 0.75]
    assert flows.backward[:, 3, 3, 1].tolist() == [-0.25, -0.75]


def test_visible_pixels_by_hand() -> None:
    flow = constant_flow(3, 0, height=3, width=8)[0].clone()
    assert visible_pixels(flow, -flow).tolist() == [[True] * 5 + [False] * 3] * 3  # three columns leave the picture
    # |w + w'|^2 against 0.01 (9 + |w'|^2) + 0.5: a loop that misses by 0.79 is closed, by 0.81 not.
    for miss, closed in ((0.79, True), (0.81, False)):
        assert bool(visible_pixels(flow, -flow + torch.tensor([miss, 0.0]))[1, 1]) is closed
    # A jump to the right or below by more than sqrt(0.01 * 9 + 0.002) = 0.303 is a motion boundary.
    for jump, smooth in ((0.30, True), (0.31, False)):
        for part in ((slice(None), slice(4, None)), (slice(2, None), slice(None))):
            bent = flow.clone()
            bent[(*part, 1)] += jump
            seen = visible_pixels(bent, -flow)[:, :5]
            assert bool(seen[1, 3]) is smooth and bool(seen[0, 2])
    # Where nothing moves, by more than sqrt(0.002) = 0.0447.
    for jump, smooth in ((0.044, True), (0.046, False)):
        bent = torch.zeros(3, 8, 2)
        bent[:, 4:, 1] = jump
        assert bool(visible_pixels(bent, -bent)[1, 3]) is smooth


def test_warp_error_equals_numpy_on_random_clips() -> None:
    flows, clip = random_flows(), random_clip()
    mask = torch.rand(3, 1, 24, 30, generator=torch.Generator().manual_seed(2))
    for flow, back in zip(flows.forward, flows.backward, strict=True):
        seen = visible_pixels(flow, back)
        assert np.array_equal(seen.numpy(), numpy_visible(flow.double().numpy(), back.double().numpy()))
        assert 0.05 < float(seen.float().mean()) < 0.95
    expected = numpy_warp_error(clip, flows, torch.ones(3, 1, 24, 30))
    assert warp_error(clip, flows).tolist() == pytest.approx(expected, abs=1e-6)
    assert warp_error(clip, flows, mask).tolist() == pytest.approx(numpy_warp_error(clip, flows, mask), abs=1e-6)


def test_warp_error_equals_numpy_on_real_clips(shared_data: Path) -> None:
    clip = real_clip(shared_data)
    flows = clip_flows(clip)
    expected = numpy_warp_error(1 - clip, flows, torch.ones(3, 1, *clip.shape[-2:]))
    assert warp_error(1 - clip, flows).tolist() == pytest.approx(expected, abs=1e-6)


def test_warp_error_and_tof_tell_a_flickering_clip_from_a_steady_one() -> None:
    _, first, second, mask = rendered()
    flows = clip_flows(first)
    restless = second.clone()
    restless[1] = (restless[1] - 0.1).clamp_min(0)
    steady, shaken = warp_error(second, flows), warp_error(restless, flows)
    assert float(steady.max()) < 0.004 and float((shaken - steady).min()) > 0.004
    assert torch.allclose(warp_error(second, first), steady)  # the clip or its flows
    inside, outside = warp_error(second, flows, mask), warp_error(second, flows, 1 - mask)
    assert bool(((steady - inside) * (steady - outside) < 0).all())  # the whole lies between its parts
    assert float(tof(second, second).max()) == 0


def test_exact_motion_hides_what_the_renderer_knows_to_be_hidden() -> None:
    scene, first, _, _ = rendered()
    _, seen = scene.correspondence(0, 2)
    ways = [scene.correspondence(a, b)[0] for a, b in ((0, 2), (2, 0))]
    axis = torch.arange(96) + 0.5
    here = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    visible = visible_pixels(*(way - here for way in ways))
    assert float(visible[seen].float().mean()) > 0.85  # the rest lies along edges
    assert float(visible[~seen].float().mean()) < 0.05 and int((~seen).sum()) > 100


# tOF


def test_tof_by_hand() -> None:
    clip, truth = greys(0.1, 0.2, 0.3), greys(0.6, 0.7, 0.8)

    def flow(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        assert float(target.mean() - source.mean()) == pytest.approx(0.1)  # from the earlier to the later frame
        moves = float(source.mean()) < 0.5
        found = constant_flow(3.0, 4.0)[0] if moves else constant_flow(0.0, 0.0)[0]
        return found * (torch.arange(4) < 2)[:, None, None]  # the upper half only

    assert tof(clip, truth, flow=flow).tolist() == pytest.approx([2.5, 2.5])
    assert tof(truth, clip, flow=flow).tolist() == pytest.approx([2.5, 2.5])
    assert tof(clip, still(2), flow=flow).tolist() == pytest.approx([2.5, 2.5])
    mask = torch.zeros(3, 1, 4, 4)
    mask[0, :, :2], mask[1, :, 2:] = 1, 1
    assert tof(clip, truth, mask, flow=flow).tolist() == pytest.approx([5, 0])


def tecogan_tof(clip: torch.Tensor, truth: torch.Tensor) -> list[float]:
    values = []
    for i in range(len(clip) - 1):
        u, v = (farneback(clip[i], clip[i + 1]) - farneback(truth[i], truth[i + 1])).double().unbind(-1)
        values.append(float(torch.hypot(u, v).mean()))
    return values


def test_tof_equals_tecogans_formula_with_its_flow() -> None:
    _, first, second, _ = rendered()
    for clip, truth in ((random_clip(), random_clip(seed=1)), (second, first)):
        assert tof(clip, truth, flow=farneback).tolist() == pytest.approx(tecogan_tof(clip, truth), abs=1e-5)


def test_tof_equals_tecogans_formula_on_real_clips(shared_data: Path) -> None:
    clip = real_clip(shared_data)
    assert tof(clip**2, clip, flow=farneback).tolist() == pytest.approx(tecogan_tof(clip**2, clip), abs=1e-5)


# Errors


def test_wrong_input_is_explained() -> None:
    clip = random_clip()
    with pytest.raises(InputError, match="at least 2 frames, got 1"):
        flicker(clip[:1])
    with pytest.raises(ShapeError, match=r"other: expected equal shapes, got \(2, 3, 24, 30\)"):
        flicker_excess(clip, clip[:2])
    with pytest.raises(ShapeError, match=r"original: expected equal shapes, got \(2, 3, 24, 30\)"):
        warp_error(clip, clip[:2])
    with pytest.raises(ShapeError, match=r"original: expected flows \(2, 24, 30, 2\).*got \(1, 24, 30, 2\)"):
        warp_error(clip, still(1, 24, 30))
    with pytest.raises(ShapeError, match=r"truth: expected flows \(2, 24, 30, 2\)"):
        tof(clip, still(2, 24, 24))
    with pytest.raises(ShapeError, match=r"mask: expected \(3, 1, 24, 30\).*got \(2, 1, 24, 30\)"):
        warp_error(clip, still(2, 24, 30), torch.ones(2, 1, 24, 30))
    with pytest.raises(ShapeError, match=r"backward: expected shape \(1, 4, 4, 2\)"):
        ClipFlows(constant_flow(0, 0), constant_flow(0, 0, 2))
    with pytest.raises(ShapeError, match=r"back: expected shape \(4, 4, 2\)"):
        visible_pixels(constant_flow(0, 0)[0], constant_flow(0, 0, height=5)[0])
    with pytest.raises(InputError, match=r"flow: expected a function that gives \(24, 30, 2\).*got \(2, 24, 30\)"):
        tof(clip, clip, flow=lambda source, target: source[:2])
    with pytest.raises(InputError, match="at least 16 x 16"):
        warp_error(clip[..., :12, :], clip[..., :12, :])
