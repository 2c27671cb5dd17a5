"""Tasks on disk: the authors' layout, writing all or nothing, a reader that says what is wrong."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from zero2hero_core.checks import InputError, ShapeError, Zero2HeroError
from zero2hero_core.evaluation.dataset.correspondence import (
    FrameCorrespondence,
    load_frame_correspondence,
    save_frame_correspondence,
)
from zero2hero_core.evaluation.dataset.info import TaskInfo
from zero2hero_core.evaluation.dataset.kinds import grey, write_colorization, write_general, write_rendered
from zero2hero_core.evaluation.dataset.task import find_tasks, hash_files, load_task
from zero2hero_core.evaluation.dataset.writer import TaskWriter, is_made, remove_unfinished, write_index
from zero2hero_core.files.tensor_file import write_tensors
from zero2hero_core.metrics.psnr import psnr
from zero2hero_core.tiny.scenes.scene import Scene, split_seed
from zero2hero_core.video.source import open_frames
from zero2hero_core.video.writer import write_image

SIZE = 32
INFO = TaskInfo(
    kind="color-edit",
    name="clip",
    appearance="red",
    anchor=1,
    frames=3,
    size_hw=(SIZE, SIZE),
    fps=Fraction(30000, 1001),
    truth_frames=(0, 1, 2),
    has_masks=True,
    has_correspondence=True,
    seed=5,
    source={"renderer": "zero2hero scenes"},
)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene(split_seed("validation", 3), 3, SIZE)


@pytest.fixture
def task(tmp_path: Path, scene: Scene) -> Path:
    with TaskWriter(tmp_path, INFO) as writer:
        write_rendered(writer, scene)
    return tmp_path / "clip"


def files(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def frames(count: int = 3, size: int = SIZE) -> torch.Tensor:
    return torch.rand((count, 3, size, size), generator=torch.Generator().manual_seed(0))


def test_layout_is_the_one_that_the_authors_code_reads(task: Path) -> None:
    assert files(task) == {
        "task.json",
        "style/frame_0001_red.png",
        *(f"{part}/frame_000{i}.png" for part in ("content", "mask", "target") for i in range(3)),
        "correspondence/frame_0000.safetensors",
        "correspondence/frame_0002.safetensors",
    }
    write_index(task.parent)
    assert json.loads((task.parent / "zero.json").read_text()) == [
        {
            "active": True,
            "exp_name": "clip",
            "appearance": "red",
            "anchor_frame": 1,
            "frame_id": [0, 3, 1],
            "resolution": [SIZE, SIZE],
            "k": [1],
            "gamma": [1.0],
            "tau": [1.0],
        }
    ]
    assert {file.name for file in task.parent.iterdir()} == {"clip", "zero.json"}


def test_what_is_read_is_what_was_rendered(task: Path, scene: Scene) -> None:
    loaded = load_task(task)
    level = 0.5 / 255 + 1e-6
    assert (len(loaded.frames), loaded.anchor, loaded.truth_frames) == (3, 1, (0, 1, 2))
    assert loaded.frames.fps == Fraction(30000, 1001) and loaded.frames.size_hw == (SIZE, SIZE)
    assert loaded.masks is not None and loaded.truth is not None
    for index in range(3):
        (first, mask), (second, _) = scene.render(index, 0), scene.render(index, 1)
        assert float((loaded.frames[index] - first).abs().max()) <= level
        assert float((loaded.truth[index] - second).abs().max()) <= level
        assert float((loaded.masks[index] - mask).abs().max()) <= level
    assert torch.equal(loaded.reference, loaded.truth[1])
    assert loaded.masks.frames([2, 0]).shape == (2, 1, SIZE, SIZE) and len(loaded.masks) == 3
    found, (coords, visible) = loaded.correspondence(2), scene.correspondence(1, 2)
    assert torch.equal(found.to_frame_xy, coords) and torch.equal(found.to_frame_visible, visible)
    assert loaded.metadata == replace(INFO, made_by=loaded.metadata.made_by, sha256=hash_files(task))
    assert loaded.metadata.made_by.startswith("zero2hero ")


def test_the_same_seed_makes_the_same_files(task: Path, scene: Scene, tmp_path: Path) -> None:
    with TaskWriter(tmp_path / "again", INFO) as writer:
        write_rendered(writer, scene)
    assert (tmp_path / "again" / "clip" / "task.json").read_text() == (task / "task.json").read_text()


def test_the_matches_carry_the_reference_to_a_frame(tmp_path: Path) -> None:
    scene = Scene(split_seed("validation", 1), 3, 64)
    with TaskWriter(tmp_path, replace(INFO, size_hw=(64, 64))) as writer:
        write_rendered(writer, scene)
    loaded = load_task(tmp_path / "clip")
    assert loaded.truth is not None
    matches, truth = loaded.correspondence(2), loaded.truth[2][None]
    seen = matches.to_anchor_visible[None, None].float()
    moved, still = (psnr(picture[None], truth, seen) for picture in (matches.warp(loaded.reference), loaded.reference))
    assert float(moved) > float(still) + 2


def test_colorization_is_grey_in_and_colour_out(tmp_path: Path) -> None:
    clip = frames()
    info = replace(INFO, kind="colorization", has_masks=False, has_correspondence=False)
    steps: list[int] = []
    with TaskWriter(tmp_path, info) as writer:
        write_colorization(writer, open_frames(clip, multiple=1), progress=lambda: steps.append(1))
    loaded = load_task(tmp_path / "clip")
    assert loaded.truth is not None and loaded.masks is None and len(steps) == 3
    for index in range(3):
        assert float((loaded.truth[index] - clip[index]).abs().max()) < 0.002
        assert bool((loaded.frames[index] == loaded.frames[index][:1]).all())
    assert torch.equal(loaded.reference, loaded.truth[1])


def test_grey_is_bt601_luma() -> None:
    picture = torch.tensor([1.0, 0.5, 0.0]).view(3, 1, 1)
    torch.testing.assert_close(grey(picture), torch.full((3, 1, 1), 0.299 + 0.587 * 0.5))


def test_general_edit_has_truth_on_the_anchor_only(tmp_path: Path) -> None:
    reference = frames(1)[0]
    info = replace(INFO, kind="general-edit", truth_frames=(1,), has_masks=False, has_correspondence=False)
    with TaskWriter(tmp_path, info) as writer:
        write_general(writer, open_frames(frames(), multiple=1), reference)
    loaded = load_task(tmp_path / "clip")
    assert loaded.truth is not None and len(loaded.truth) == 1 and loaded.truth_frames == (1,)
    assert torch.equal(loaded.truth[0], loaded.reference)
    with pytest.raises(InputError, match="only rendered clips have"):
        loaded.correspondence(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda task: (task / "task.json").unlink(), "no such file"),
        (lambda task: (task / "task.json").write_text("{"), "cannot be read"),
        (lambda task: (task / "task.json").write_text("[]"), "expected a task"),
        (lambda task: (task / "content/frame_0002.png").unlink(), "frame_0002.png is missing"),
        (lambda task: (task / "mask/frame_0000.png").unlink(), "frame_0000.png is missing"),
        (lambda task: (task / "style/frame_0001_red.png").unlink(), "no such file"),
        (lambda task: write_image(task / "target/frame_0003.png", frames(1)[0]), "got also frame_0003.png"),
        (lambda task: write_image(task / "mask/frame_0000.png", frames(1, 16)[0], overwrite=True), "of a clip need"),
        (lambda task: write_image(task / "style/frame_0001_red.png", frames(1, 16)[0], overwrite=True), "resize it"),
    ],
)
def test_the_reader_says_what_is_wrong(change, message: str, task: Path) -> None:
    change(task)
    with pytest.raises(InputError, match=message):
        load_task(task)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version: expected 1, got 2"),
        ({"frames": 4}, "frame_0003.png is missing"),
        ({"frames": "3"}, "frames: expected int"),
        ({"size_hw": [16, 16]}, "expected 16 x 16 pixels"),
        ({"size_hw": [16.5, 16]}, "size_hw: expected whole numbers"),
        ({"anchor": True}, "anchor: expected int"),
        ({"anchor": 3}, "anchor: expected 0 to 2"),
        ({"truth_frames": [2, 1]}, "truth_frames: expected ascending"),
        ({"fps": "fast"}, "fps: expected a number"),
        ({"kind": "guess"}, "kind: expected one of"),
        ({"name": "a b"}, "name: expected up to 100 letters"),
        ({"more": 1}, r"unknown: \['more'\]"),
    ],
)
def test_task_json_is_checked(changes: dict, message: str, task: Path) -> None:
    path = task / "task.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=message):
        load_task(task)


def test_info_survives_json() -> None:
    assert TaskInfo.from_json(json.loads(json.dumps(INFO.to_json()))) == INFO


@pytest.mark.parametrize("name", ["my-content", "freestyle"])
def test_a_name_must_not_confuse_the_folders(name: str) -> None:
    with pytest.raises(InputError, match="which are folders"):
        replace(INFO, name=name)


def test_an_incomplete_task_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is missing"), TaskWriter(tmp_path, INFO) as writer:
        writer.content(0, frames()[0])
    with pytest.raises(KeyboardInterrupt), TaskWriter(tmp_path, INFO) as writer:
        writer.content(0, frames()[0])
        raise KeyboardInterrupt
    with pytest.raises(ShapeError, match="content/frame_0000.png"), TaskWriter(tmp_path, INFO) as writer:
        writer.content(0, frames(1, 16)[0])
    assert list(tmp_path.iterdir()) == []


def test_a_task_is_replaced_only_when_asked(task: Path, scene: Scene) -> None:
    before = task.stat().st_ino
    with pytest.raises(InputError, match="overwrite"):
        TaskWriter(task.parent, INFO)
    with TaskWriter(task.parent, INFO, overwrite=True) as writer:
        write_rendered(writer, scene)
    assert task.stat().st_ino != before and [file.name for file in task.parent.iterdir()] == ["clip"]
    (task / "task.json").unlink()
    with pytest.raises(InputError, match="got other files"):
        TaskWriter(task.parent, INFO, overwrite=True)


def test_is_made_knows_the_task(task: Path) -> None:
    assert is_made(task, INFO) and not is_made(task.parent / "other", INFO)
    with pytest.raises(InputError, match="differs in anchor, seed"):
        is_made(task, replace(INFO, anchor=0, seed=6))


def test_find_tasks(task: Path) -> None:
    (task.parent / ".hidden").mkdir()
    (task.parent / ".hidden" / "task.json").touch()
    assert find_tasks(task.parent) == [task] and find_tasks(task) == [task]
    with pytest.raises(InputError, match="zero2hero dataset"):
        find_tasks(task / "content")


def test_correspondence_files_are_checked(tmp_path: Path) -> None:
    coords, visible = torch.zeros(4, 6, 2), torch.ones(4, 6, dtype=torch.bool)
    matches = FrameCorrespondence(coords, visible, coords, visible)
    path = tmp_path / "frame_0000.safetensors"
    save_frame_correspondence(path, matches)
    assert torch.equal(load_frame_correspondence(path, (4, 6)).to_anchor_visible, visible)
    with pytest.raises(InputError, match=r"expected a map of \(6, 4\)"):
        load_frame_correspondence(path, (6, 4))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match="truncated or damaged"):
        load_frame_correspondence(path, (4, 6))
    write_tensors(path, {"x": coords}, {"format": "other"})
    with pytest.raises(InputError, match="expected zero2hero-dense-correspondence"):
        load_frame_correspondence(path, (4, 6))
    with pytest.raises(InputError, match="no such file"):
        load_frame_correspondence(tmp_path / "none", (4, 6))
    with pytest.raises(ShapeError, match="to_anchor_xy: expected float32"):
        FrameCorrespondence(coords, visible, coords.double(), visible)
    with pytest.raises(ShapeError, match="to_frame_xy: expected shape"):
        FrameCorrespondence(coords[:2], visible, coords, visible)


def test_warp_reads_the_anchor_at_the_places() -> None:
    """2 x 2 pixels; every pixel of the frame shows the point at (0.5, 1.5): the centre of the lower left pixel."""
    coords, visible = torch.tensor([0.5, 1.5]).expand(2, 2, 2), torch.ones(2, 2, dtype=torch.bool)
    picture = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    moved = FrameCorrespondence(coords, visible, coords, visible).warp(picture)
    torch.testing.assert_close(moved, torch.full((1, 2, 2), 3.0))


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(Zero2HeroError, match="no space left"), TaskWriter(tmp_path, INFO):
        pass


def test_a_run_that_died_while_it_replaced_a_task_loses_none(task: Path) -> None:
    parent, before = task.parent, hash_files(task)
    half = parent / f".{task.name}.0123abcd.partial"
    half.mkdir()
    os.replace(task, parent / f".{task.name}.0123abcd.replaced")  # it dies before the new one has its name
    remove_unfinished(parent)
    assert hash_files(task) == before and not half.exists()
    shutil.copytree(task, parent / f".{task.name}.0123abcd.replaced")  # it dies after that
    remove_unfinished(parent)
    assert hash_files(task) == before and not list(parent.glob(".*"))
