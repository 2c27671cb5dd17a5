"""The renderer: deterministic, exact correspondence, an edit that leaves the wall alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from zero2hero_core.checks import InputError
from zero2hero_core.metrics.psnr import psnr
from zero2hero_core.tiny.scenes.geometry import FAR, Solid, hit_solids, rotation
from zero2hero_core.tiny.scenes.scene import EDITS, SEED_RANGES, Scene, split_seed

SIZE = 96


def scene(index: int, num_frames: int = 5) -> Scene:
    return Scene(split_seed("validation", index), num_frames, SIZE)


def test_same_seed_same_clip() -> None:
    one, again, other = scene(0), scene(0), scene(1)
    assert torch.equal(one.render(2)[0], again.render(2)[0])
    assert not torch.equal(one.render(2)[0], other.render(2)[0])


def test_splits_are_disjoint() -> None:
    ranges = sorted(SEED_RANGES.values())
    assert all(high <= low for (_, high), (low, _) in pairwise(ranges))
    with pytest.raises(InputError, match="scene index"):
        split_seed("train", 1_000_000)


@pytest.mark.parametrize("index", range(4))
def test_correspondence_is_exact(index: int) -> None:
    """Both ends of a visible match are the same point of a surface; where a point is hidden, another shows."""
    clip = scene(index)
    coords, visible = clip.correspondence(4, 0)
    start = clip._pixel_grid(SIZE).view(SIZE, SIZE, 2)
    there = clip.cast(clip.pose(0), coords.reshape(-1, 2))
    here = clip.cast(clip.pose(4), start.reshape(-1, 2))
    distance = (there.points - here.points).norm(dim=-1).view(SIZE, SIZE)
    assert float(visible.float().mean()) > 0.4
    assert float(distance[visible].max()) < 1e-2  # the same point of the same surface
    hidden = ~visible & ((coords >= 0) & (coords < SIZE)).all(-1)
    assert not bool(hidden.any()) or float(distance[hidden].median()) > 1e-2  # what is hidden shows another point


def test_a_frame_corresponds_to_itself() -> None:
    clip = scene(0)
    coords, visible = clip.correspondence(3, 3, 24)
    assert bool(visible.all())
    expected = clip._pixel_grid(24).view(24, 24, 2)
    torch.testing.assert_close(coords, expected, atol=1e-2, rtol=0)


def test_warped_frame_resembles_the_other() -> None:
    clip = scene(2)
    coords, visible = clip.correspondence(1, 0)
    warped = F.grid_sample(clip.render(0)[0][None], (coords / SIZE * 2 - 1)[None], align_corners=False)
    truth = clip.render(1)[0][None]
    unmoved = psnr(clip.render(0)[0][None], truth, visible[None, None].float())
    assert float(psnr(warped, truth, visible[None, None].float())) > float(unmoved) + 3


def test_edit_changes_the_object_only() -> None:
    for index in range(4):
        clip = scene(index)
        first, mask = clip.render(1, 0)
        second, again = clip.render(1, 1)
        assert torch.equal(mask, again) and 0.05 < float(mask.mean()) < 0.8
        changed = (first - second).abs().amax(0)
        assert float(changed[mask[0] == 0].max()) == 0.0
        assert float(changed[mask[0] == 1].mean()) > 0.02
    assert {scene(i).edit for i in range(30)} == set(EDITS)


def test_pictures_stay_in_range_and_sizes_are_checked() -> None:
    picture, mask = scene(3).render(0, 1)
    assert picture.shape == (3, SIZE, SIZE) and mask.shape == (1, SIZE, SIZE)
    assert float(picture.min()) >= 0 and float(picture.max()) <= 1
    with pytest.raises(InputError, match="size"):
        Scene(0, 4, 8)
    with pytest.raises(InputError, match="frame"):
        scene(0).render(5)


@pytest.mark.parametrize("kind", ["ellipsoid", "box", "cylinder"])
def test_rays_hit_solids_where_they_should(kind: str) -> None:
    solid = (Solid(kind, torch.tensor([1.0, 2.0, 0.5]), torch.tensor([0.0, 0.0, 5.0])),)
    direction = torch.tensor([[0.0, 0.0, 1.0], [0.5, 0.0, 1.0]])
    depth, normal = hit_solids(solid, torch.zeros(2, 3), direction)
    assert float(depth[0]) == pytest.approx(4.5) and float(depth[1]) == FAR
    torch.testing.assert_close(normal[0], torch.tensor([0.0, 0.0, -1.0]))


def test_rotation_by_hand() -> None:
    quarter = rotation(torch.tensor([0.0, 0.0, 1.0]), torch.pi / 2)
    turned = quarter @ torch.tensor([1.0, 0.0, 0.0])
    torch.testing.assert_close(turned, torch.tensor([0.0, 1.0, 0.0]), atol=1e-6, rtol=0)
