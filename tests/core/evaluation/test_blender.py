"""The Blender data set: shapes, cameras and matches without Blender; the whole command where `bpy` is at hand."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from zero2hero_core.checks import InputError, Zero2HeroError
from zero2hero_core.cli import dataset as cli_dataset
from zero2hero_core.cli.main import main
from zero2hero_core.evaluation.blender import render
from zero2hero_core.evaluation.blender.camera import Camera, CameraPath, look_at
from zero2hero_core.evaluation.blender.job import JOB, SUBSAMPLES, RenderJob, geometry_name, picture_name
from zero2hero_core.evaluation.blender.matches import at_centres, coverage, match_frames
from zero2hero_core.evaluation.blender.meshes import (
    Mesh,
    cylinder,
    ellipsoid,
    lathe,
    prism,
    ring,
    rounded_box,
    tube,
    turn_matrix,
)
from zero2hero_core.evaluation.blender.objects import OBJECTS, PATTERNS
from zero2hero_core.evaluation.dataset.task import hash_files, load_task
from zero2hero_core.metrics.psnr import psnr
from zero2hero_core.video.writer import write_image

PYTHON = os.environ.get("ZERO2HERO_BPY_PYTHON") or (sys.executable if importlib.util.find_spec("bpy") else "")
needs_bpy = pytest.mark.skipif(
    not PYTHON,
    reason="NOT RUN: rendering with Blender. It needs bpy (python3.11 -m pip install bpy) in this environment, or in "
    "another one whose Python is named by ZERO2HERO_BPY_PYTHON",
)
JOB_64 = RenderJob("chair", 64, 2, 2, 1, 0)


# Shapes


def enclosed_volume(mesh: Mesh) -> float:
    """The sum of signed tetrahedra; positive when all faces turn the right way."""
    triangles = np.array([(face[0], b, c) for face in mesh.faces for b, c in pairwise(face[1:])])
    return float(np.linalg.det(mesh.vertices[triangles]).sum()) / 6


@pytest.mark.parametrize(
    ("mesh", "volume"),
    [
        (ellipsoid((1.0, 0.5, 0.25)), 4 / 3 * math.pi * 0.125),
        (cylinder(0.5, 1.0), math.pi * 0.25 * 2),
        (ring(1.0, 0.2), 2 * math.pi**2 * 0.04),
        (rounded_box((1.0, 0.5, 0.25), 1e-6), 1.0),
        (prism([(-1, 0), (1, 0), (0, 1)], 0.5), 1.0),
        (tube([(0, 0, 0), (0, 0, 1), (0, 0, 2)], (0.5, 0.5, 0.5), segments=64), math.pi * 0.25 * 2),
        (lathe([(0, 0), (1, 0), (0, 3)]), math.pi),
    ],
)
def test_shapes_have_their_volume(mesh: Mesh, volume: float) -> None:
    assert enclosed_volume(mesh) == pytest.approx(volume, rel=0.02)


def test_a_rounded_box_is_smaller_than_its_box_by_its_edges() -> None:
    """Steiner's formula: inner box, six slabs, twelve quarter cylinders, a sphere."""
    inner, r = 2 * np.array([0.7, 0.4, 0.2]), 0.1
    faces = 2 * r * (inner[0] * inner[1] + inner[1] * inner[2] + inner[0] * inner[2])
    volume = inner.prod() + faces + math.pi * r**2 * inner.sum() + 4 / 3 * math.pi * r**3
    assert enclosed_volume(rounded_box((0.8, 0.5, 0.3), r, steps=12)) == pytest.approx(volume, rel=2e-3)


def test_a_turn_goes_about_x_then_y_then_z() -> None:
    np.testing.assert_allclose(turn_matrix((90, 0, 0)) @ [0, 1, 0], [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(turn_matrix((90, 0, 90)) @ [0, 1, 0], [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(turn_matrix((0, 90, 90)) @ [1, 0, 0], [0, 0, -1], atol=1e-12)
    moved = Mesh(np.array([[1.0, 0, 0]]), ()).placed((0, 0, 5), (0, 0, 90), (2, 1, 1))
    np.testing.assert_allclose(moved.vertices, [[0, 2, 5]], atol=1e-12)


def edges(mesh: Mesh) -> list[tuple[int, int]]:
    return [(face[i - 1], face[i]) for face in mesh.faces for i in range(len(face))]


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_are_sound(name: str) -> None:
    """Closed parts that face outward, on the ground, in two looks that differ everywhere."""
    content = OBJECTS[name]()
    assert content.name == name and 7 <= len(content.parts) < 255
    for part in content.parts:
        directed = edges(part.mesh)
        assert len(set(directed)) == len(directed), part.look
        assert {(b, a) for a, b in directed} == set(directed), f"{part.look} is not closed"
        assert enclosed_volume(part.mesh) > 1e-5, part.look
    points = np.concatenate([part.mesh.vertices for part in content.parts])
    assert -0.03 < points[:, 2].min() < 0.03 and 1.2 < points[:, 2].max() < 2.5
    assert 1.0 < np.ptp(points[:, 0]) < 3.2
    first, second = content.appearances
    assert set(first) == set(second) == {part.look for part in content.parts}
    assert all(first[look] != second[look] for look in first)
    surfaces = [*first.values(), *second.values()]
    assert all(surface.pattern in PATTERNS and min(surface.first + surface.second) >= 0 for surface in surfaces)
    assert all(max(surface.first + surface.second) <= 1 for surface in surfaces)


@pytest.mark.parametrize("name", OBJECTS)
def test_the_camera_pans_and_zooms_and_keeps_the_object_in_view(name: str) -> None:
    content = OBJECTS[name]()
    points = np.concatenate([part.mesh.vertices for part in content.parts])
    for share in (0.0, 0.5, 1.0):
        coords, depth = content.path.at(share, 100).project(points)
        assert coords.min() > 2 and coords.max() < 98 and depth.min() > 2
        assert np.ptp(coords, axis=0).max() > 45, "the object is small in the frame"
    first, last = content.path.at(0, 100), content.path.at(1, 100)
    moved = np.linalg.norm(first.project(points)[0] - last.project(points)[0], axis=1)
    assert first.intrinsics[0, 0] != last.intrinsics[0, 0] and moved.max() > 10


def test_the_command_names_the_objects() -> None:
    assert tuple(OBJECTS) == cli_dataset.OBJECTS


# Cameras and matches


def test_a_camera_by_hand() -> None:
    """At (0, -4, 0), looking along +y, one side of 100 pixels as focal length: 1 unit right, 1 up, 4 away."""
    camera = look_at(np.array([0.0, -4, 0]), np.zeros(3), 1.0, 100)
    coords, depth = camera.project(np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))
    np.testing.assert_allclose(coords, [[75, 25], [50, 50]])
    np.testing.assert_allclose(depth, [4, 4])


def test_unproject_is_the_inverse_of_project() -> None:
    camera = CameraPath((10, 40), (5, 30), 5.0, ((0, 0, 1), (1, 0, 0)), (1.2, 1.6)).at(0.3, 64)
    points = np.random.default_rng(0).uniform(-1, 1, (20, 3))
    np.testing.assert_allclose(camera.unproject(*camera.project(points)), points, atol=1e-12)
    again = Camera.from_json(json.loads(json.dumps(camera.to_json())))
    np.testing.assert_array_equal(again.world_to_camera, camera.world_to_camera)


def test_coverage_is_the_share_of_samples() -> None:
    part = np.zeros((2 * SUBSAMPLES, 2 * SUBSAMPLES), np.uint8)
    part[:, 0] = 7
    part[0, 0] = 0
    expected = [[2 / 9, 0], [3 / 9, 0]]
    np.testing.assert_allclose(coverage(part), expected, rtol=1e-6)
    assert at_centres(part).shape == (2, 2) and SUBSAMPLES % 2 == 1


def plane_depths(camera: Camera, size: int) -> np.ndarray:
    """A wall at y = 2 and, 2 units before it, a square of half side 0.5 at y = 0."""
    axis = (np.arange(size * SUBSAMPLES) + 0.5) / SUBSAMPLES
    places = np.stack(np.meshgrid(axis, axis), -1)
    start, end = (camera.unproject(places, np.full(places.shape[:2], depth)) for depth in (0.0, 1.0))
    depths = []
    for y in (2.0, 0.0):
        depth = (y - start[..., 1]) / (end - start)[..., 1]
        hit = start + depth[..., None] * (end - start)
        near = np.abs(hit[..., [0, 2]]).max(-1) < (0.5 if y == 0 else np.inf)
        depths.append(np.where(near, depth, np.inf))
    return np.minimum(*depths).astype(np.float32)


def test_matches_of_two_planes() -> None:
    size = 48
    cameras = [look_at(np.array([x, -4.0, 0.3]), np.array([x / 2, 0, 0]), 1.4, size) for x in (-0.6, 0.7)]
    depths = [plane_depths(camera, size) for camera in cameras]
    coords, visible = match_frames(cameras[0], depths[0], cameras[1], depths[1])
    back, _ = match_frames(cameras[1], depths[1], cameras[0], depths[0])
    axis = np.arange(size) + 0.5
    centres = np.stack(np.meshgrid(axis, axis), -1)
    points = cameras[0].unproject(centres, at_centres(depths[0]))
    on_square = np.abs(points[..., 1]) < 1e-3
    # Seen from the second camera, the square hides the wall where the ray to the wall passes through it.
    eye = np.array([0.7, -4.0, 0.3])
    crossing = eye + (points - eye) * (4 / (points[..., 1:2] + 4))
    outward = np.abs(crossing[..., [0, 2]]).max(-1)
    inside = ((coords >= 0) & (coords < size)).all(-1)
    hidden = ~on_square & (outward < 0.48) & inside
    open_wall = ~on_square & (outward > 0.52) & inside
    assert hidden.sum() > 50 and not visible[hidden].any()
    assert open_wall.sum() > 500 and visible[open_wall].all()
    assert visible[on_square & (np.abs(points[..., [0, 2]]).max(-1) < 0.48)].all() and on_square.sum() > 100
    assert not visible[~inside].any()
    # There and back is where one was: read the map back at the nearest pixel of a visible point inside the square.
    x, y = (int(v) for v in coords[size // 2, size // 2])
    np.testing.assert_allclose(back[y, x], [size / 2, size / 2], atol=1.5)


def test_a_frame_matches_itself() -> None:
    camera = look_at(np.array([0.3, -4.0, 0.3]), np.zeros(3), 1.4, 24)
    depth = plane_depths(camera, 24)
    coords, visible = match_frames(camera, depth, camera, depth)
    axis = np.arange(24) + 0.5
    np.testing.assert_allclose(coords, np.stack(np.meshgrid(axis, axis), -1), atol=1e-4)
    assert visible.all()


# The process, without Blender


def fake_python(folder: Path, *lines: str, status: int = 0) -> str:
    """A program that says `lines` and ends with `status`, in place of a Python."""
    program = folder / "python"
    text = "".join(f"echo '{line}'\n" for line in lines)
    program.write_text(f"#!/bin/sh\n{text}echo 'the last words' >&2\nexit {status}\n")
    program.chmod(0o755)
    return str(program)


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for Python is a shell script")
def test_the_process_is_watched(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    steps: list[int] = []
    seconds = '{"first": 1.0, "second": 2.0, "geometry": 0.5}'
    messages = ('{"blender": "9.9"}', f'{{"frame": 0, "seconds": {seconds}}}', '{"frame": 1, "seconds": {}}')
    facts = render.run_blender(work, fake_python(tmp_path, *messages), lambda: steps.append(1))
    assert facts == {"blender": "9.9", "rendered": 1, "seconds_per_frame": json.loads(seconds)} and len(steps) == 2
    with pytest.raises(InputError, match=r"begun with Blender 9\.9, this is 9\.8"):
        render.run_blender(work, fake_python(tmp_path, '{"blender": "9.8"}'), lambda: None)
    with pytest.raises(Zero2HeroError, match="stopped with status 3: the last words"):
        render.run_blender(work, fake_python(tmp_path, '{"blender": "9.9"}', status=3), lambda: None)
    with pytest.raises(InputError, match=r"No module named bpy; bpy needs Python 3\.11"):
        render.run_blender(work, fake_python(tmp_path, '{"missing": "No module named bpy"}'), lambda: None)
    with pytest.raises(InputError, match="python .*none: cannot be run"):
        render.run_blender(work, str(tmp_path / "none"), lambda: None)


@pytest.mark.skipif(importlib.util.find_spec("bpy") is not None, reason="this Python has bpy")
def test_a_python_without_bpy_is_an_error_that_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--frames", "2", "--size", "64", "--out", str(tmp_path), "--python", sys.executable]
    assert main(["dataset", "blender", *options]) == 2
    error = capsys.readouterr().err
    assert "expected a Python that has bpy" in error and "python3.11 -m pip install bpy" in error
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_run_is_gone_on_with_only_when_asked(tmp_path: Path) -> None:
    JOB_64.write(tmp_path)
    render._prepare(tmp_path, JOB_64, resume=False, overwrite=False)  # no picture yet: nothing to lose
    (tmp_path / picture_name(0, 0)).touch()
    with pytest.raises(InputError, match="add resume to go on with it, or overwrite"):
        render._prepare(tmp_path, JOB_64, resume=False, overwrite=False)
    with pytest.raises(InputError, match="differs from the one begun in size, samples"):
        render._prepare(tmp_path, replace(JOB_64, size=32, samples=9), resume=True, overwrite=False)
    render._prepare(tmp_path, replace(JOB_64, threads=4), resume=True, overwrite=False)
    assert RenderJob.read(tmp_path).threads == 4 and (tmp_path / picture_name(0, 0)).exists()
    render._prepare(tmp_path, replace(JOB_64, size=32), resume=False, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == [JOB]


@pytest.mark.parametrize("change", [{"object": "tree"}, {"size": 8}, {"frames": 1}, {"samples": 0}])
def test_jobs_are_checked(change: dict) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        render.task_info(replace(JOB_64, **change))


def test_importing_does_not_load_blender() -> None:
    import zero2hero_core.evaluation.blender.scene
    import zero2hero_core.evaluation.blender.worker  # noqa: F401

    assert "bpy" not in sys.modules


# The whole command, with Blender


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chair of 96 pixels in three frames, and the command's report beside it."""
    out = tmp_path_factory.mktemp("blender")
    options = ["--objects", "chair", "--size", "96", "--frames", "3", "--samples", "4", "--threads", "1", "--quiet"]
    command = ["dataset", "blender", *options, "--out", str(out), "--python", PYTHON]
    assert main([*command, "--json", str(out / "report.json")]) == 0
    return out


@needs_bpy
def test_blender_makes_a_task(made: Path) -> None:
    task = load_task(made / "blender-chair")
    assert task.metadata.sha256 == hash_files(task.folder)
    assert task.metadata.kind == "blender-color-edit" and task.truth_frames == (0, 1, 2)
    assert {file.name for file in task.folder.iterdir()} == {
        "content", "style", "mask", "target", "correspondence", "cameras.json", "task.json",
    }  # fmt: skip
    assert {file.name for file in made.iterdir()} == {"blender-chair", "report.json", "zero.json"}
    row = json.loads((made / "report.json").read_text())["tasks"][0]
    assert row["rendered"] == 3 and set(row["seconds_per_frame"]) == {"first", "second", "geometry"}
    cameras = json.loads((task.folder / "cameras.json").read_text())
    assert cameras["blender"] == row["blender"] and len(cameras["frames"]) == 3


@needs_bpy
def test_the_second_appearance_changes_the_object_alone(made: Path) -> None:
    task = load_task(made / "blender-chair")
    assert task.truth is not None and task.masks is not None
    for index in range(3):
        change = (task.truth[index] - task.frames[index]).abs().mean(0)
        mask = task.masks[index][0]
        assert 0.05 < float(mask.mean()) < 0.6
        assert float(change[mask > 0.99].mean()) > 0.15 and float(change[mask == 0].mean()) < 0.02


@needs_bpy
def test_the_matches_are_those_of_the_pictures(made: Path) -> None:
    """The reference, moved along the matches, is the truth where it is seen; moved by half a pixel more it is not."""
    task = load_task(made / "blender-chair")
    assert task.truth is not None and task.masks is not None
    for index in (1, 2):
        matches, truth = task.correspondence(index), task.truth[index]
        seen = matches.to_anchor_visible
        assert 0.4 < float(seen.float().mean()) < 1
        moved = _psnr(matches.warp(task.reference), truth, seen)
        assert moved > 26 and moved > _psnr(task.reference, truth, seen) + 8
        surroundings = seen & (task.masks[index][0] == 0)
        best = _psnr(matches.warp(task.reference), truth, surroundings)
        for x, y in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)):
            shifted = replace(matches, to_anchor_xy=matches.to_anchor_xy + torch.tensor([x, y]))
            assert _psnr(shifted.warp(task.reference), truth, surroundings) < best


@needs_bpy
def test_the_depth_is_that_of_the_cameras(tmp_path: Path) -> None:
    """Seen through the camera, the floor is at z = 0; finished frames are not rendered again."""
    JOB_64.write(tmp_path)
    facts = render.run_blender(tmp_path, PYTHON, lambda: None)
    assert facts["rendered"] == 2
    geometry = np.load(tmp_path / geometry_name(1))
    axis = (np.arange(64 * SUBSAMPLES) + 0.5) / SUBSAMPLES
    points = JOB_64.cameras()[1].unproject(np.stack(np.meshgrid(axis, axis), -1), geometry["depth"].astype(float))
    floor = (geometry["part"] == 0) & (np.hypot(points[..., 0], points[..., 1]) < 8)
    assert floor.mean() > 0.2 and float(np.abs(points[floor][:, 2]).max()) < 1e-4
    assert len(np.unique(geometry["part"])) > 8
    kept = tmp_path / picture_name(0, 0)
    write_image(kept, torch.zeros(3, 64, 64), overwrite=True)
    stamp = kept.stat().st_mtime_ns
    (tmp_path / picture_name(1, 1)).unlink()
    assert render.run_blender(tmp_path, PYTHON, lambda: None)["rendered"] == 0
    assert kept.stat().st_mtime_ns == stamp and (tmp_path / picture_name(1, 1)).is_file()
    assert not list(tmp_path.glob(".partial*"))


def _psnr(picture: torch.Tensor, truth: torch.Tensor, where: torch.Tensor) -> float:
    return float(psnr(picture[None], truth[None], where[None, None].float()))
