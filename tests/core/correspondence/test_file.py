"""Correspondences on disk: what is saved is loaded, and nothing damaged or foreign passes."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from zero2hero_core.checks import InputError, Zero2HeroError
from zero2hero_core.correspondence.file import ClipCorrespondence, load_correspondences, save_correspondences
from zero2hero_core.correspondence.match import match_features

GRIDS = [(2, 3), (4, 6), (8, 12)]


def clip(k: int = 4, adaptive: bool = False) -> ClipCorrespondence:
    generator = torch.Generator().manual_seed(0)
    anchor, *frames = torch.randn(3, 5, 8, 12, generator=generator)
    found = [match_features(frame, anchor, GRIDS, k, adaptive=adaptive) for frame in frames]
    return ClipCorrespondence({7: found[0], 1234567: found[1]}, (64, 96), 7, {"k": k, "model": "tiny", "radius": None})


@pytest.mark.parametrize(("k", "adaptive"), [(1, False), (4, False), (4, True), (-1, False)])
def test_saved_and_loaded_is_the_same(tmp_path, k, adaptive):
    saved, path = clip(k, adaptive), tmp_path / "a.safetensors"
    save_correspondences(path, saved)
    loaded = load_correspondences(path)
    assert (loaded.size_hw, loaded.anchor_index, loaded.settings) == ((64, 96), 7, saved.settings)
    assert list(loaded.frames) == [7, 1234567]
    for index, before in saved.frames.items():
        after = loaded.frames[index]
        assert torch.equal(before.confidence, after.confidence) and torch.equal(before.cycle, after.cycle)
        assert [level.size_hw for level in after.levels] == GRIDS
        for a, b in zip(before.levels, after.levels, strict=True):
            assert torch.equal(a.indices, b.indices) and torch.equal(a.scores, b.scores)
            assert (a.counts is None) == (b.counts is None)
            assert a.counts is None or torch.equal(a.counts, b.counts)
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_an_existing_file_stays_unless_told(tmp_path):
    path = tmp_path / "a.safetensors"
    save_correspondences(path, clip(1))
    before = path.read_bytes()
    with pytest.raises(InputError, match="exists already"):
        save_correspondences(path, clip(4))
    assert path.read_bytes() == before
    save_correspondences(path, clip(4), overwrite=True)
    assert load_correspondences(path).settings["k"] == 4


def test_what_cannot_be_saved(tmp_path):
    with pytest.raises(InputError, match=r"\.safetensors"):
        save_correspondences(tmp_path / "a.pt", clip())
    with pytest.raises(InputError, match="at least one frame"):
        save_correspondences(tmp_path / "a.safetensors", ClipCorrespondence({}, (64, 96), 0))
    with pytest.raises(InputError, match="cannot be written"):
        save_correspondences(tmp_path / "missing" / "a.safetensors", clip())
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_correspondences(path, clip(1))
    before, write = path.read_bytes(), Path.write_bytes

    def half(self: Path, content: bytes) -> int:
        write(self, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(Zero2HeroError, match="no space left") as caught:
        save_correspondences(path, clip(4), overwrite=True)
    assert caught.value.exit_status == 1
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path, share):
    path = tmp_path / "a.safetensors"
    save_correspondences(path, clip())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match="truncated or foreign"):
        load_correspondences(path)


def test_foreign_files_are_refused(tmp_path):
    torch.save({"a": torch.zeros(3)}, tmp_path / "a.pt")
    (tmp_path / "b.safetensors").write_text("no tensors at all, just some text")
    for name in ("a.pt", "b.safetensors"):
        with pytest.raises(InputError, match="truncated or foreign"):
            load_correspondences(tmp_path / name)
    save_file({"a": torch.zeros(3)}, tmp_path / "c.safetensors")
    with pytest.raises(InputError, match="other tensors"):
        load_correspondences(tmp_path / "c.safetensors")
    with pytest.raises(InputError, match="no such file"):
        load_correspondences(tmp_path / "d.safetensors")


METADATA = {"format": "zero2hero-correspondence", "version": "1", "size_hw": "[64, 96]", "anchor_index": "7"}
METADATA |= {"settings": "{}"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "2"}, "version 1"),
        ({"size_hw": "64"}, "damaged"),
        ({"anchor_index": "x"}, "damaged"),
        ({"settings": "["}, "damaged"),
        ({"settings": "1"}, "damaged"),
    ],
)
def test_wrong_metadata_is_refused(tmp_path, change, message):
    save_correspondences(tmp_path / "a.safetensors", clip())
    tensors = load_file(tmp_path / "a.safetensors")
    save_file(tensors, tmp_path / "same.safetensors", METADATA)
    assert load_correspondences(tmp_path / "same.safetensors").anchor_index == 7
    save_file(tensors, tmp_path / "b.safetensors", METADATA | change)
    with pytest.raises(InputError, match=message):
        load_correspondences(tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("level.0.indices", torch.full((2, 3, 1), 6, dtype=torch.int32)),  # one beyond the grid
        ("level.0.indices", torch.full((2, 3, 1), -1, dtype=torch.int32)),
        ("level.0.indices", torch.zeros(2, 3, 1)),
        ("level.0.indices", torch.zeros(6, 1, dtype=torch.int32)),
        ("level.0.scores", torch.zeros(2, 3, 2)),
        ("level.1.counts", torch.full((4, 6), 5, dtype=torch.int32)),  # k is 4
        ("confidence", torch.zeros(8, 11)),
        ("cycle", torch.full((8, 12), float("nan"))),
        ("cycle", None),
        ("level.0.indices", None),
        ("level.1.scores", None),
    ],
)
def test_wrong_tensors_are_refused(tmp_path, name, value):
    save_correspondences(tmp_path / "a.safetensors", clip(4, adaptive=True))
    tensors = load_file(tmp_path / "a.safetensors")
    tensors.pop(f"000007.{name}")
    if value is not None:
        tensors[f"000007.{name}"] = value
    save_file(tensors, tmp_path / "b.safetensors", METADATA)
    with pytest.raises(InputError, match="damaged"):
        load_correspondences(tmp_path / "b.safetensors")
