"""Stretches between keys and cuts, walks that go on where they were, masks to the bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from moving import pan

from zero2hero_core.checks import InputError
from zero2hero_core.jobs.propagation import Propagation, Stretch, key_frames, put_within, stretches
from zero2hero_core.jobs.spool import Spool
from zero2hero_core.propagation.names import ENGINES
from zero2hero_core.propagation.patch_carry import CarrySettings
from zero2hero_core.propagation.patch_synthesis import PatchSettings
from zero2hero_core.propagation.settings import PropagationSettings

SETTINGS = PropagationSettings(engine="change", cuts=False)
QUICK = CarrySettings(PatchSettings(votes=2, searches=1, levels=1))


def clip(count: int, height: int = 64, width: int = 96) -> dict[int, torch.Tensor]:
    """A texture that pans, 8 bits a value."""
    frames = torch.nn.functional.interpolate(pan(0, count, 1), (height, width), mode="bilinear")
    return dict(enumerate((frames * 255).round() / 255))


def run(folder, frames, keys, done=(), settings=SETTINGS, **options):
    edits = [(index, 1 - frames[index]) for index in keys]
    work = Propagation(frames, key_frames(frames, edits), settings, Spool(folder / "walks"), **options)
    return {result.index: result.carried for result in work.results(done)}


@pytest.mark.parametrize(
    ("count", "keys", "cuts", "expected"),
    [
        (1, {0}, (), []),
        (3, {0}, (), [Stretch(0, None, (1, 2))]),
        (3, {2}, (), [Stretch(None, 2, (0, 1))]),
        (2, {0, 1}, (), []),
        (5, {1, 4}, (), [Stretch(None, 1, (0,)), Stretch(1, 4, (2, 3))]),
        (6, {1}, (3,), [Stretch(None, 1, (0,)), Stretch(1, None, (2,)), Stretch(None, None, (3, 4, 5))]),
        (4, {0, 3}, (2,), [Stretch(0, None, (1,)), Stretch(None, 3, (2,))]),
    ],
)
def test_stretches_lie_between_keys_and_cross_no_cut(count, keys, cuts, expected):
    assert stretches(range(count), keys, cuts) == expected


def test_a_walk_steps_over_each_frame_once_from_each_of_its_keys(tmp_path):
    frames, steps = clip(8), []
    keys = key_frames(frames, [(index, 1 - frames[index]) for index in (1, 4)])
    work = Propagation(frames, keys, SETTINGS, Spool(tmp_path), cuts=(6,), on_step=steps.append)
    assert sorted(result.index for result in work.results()) == list(range(8))
    assert len(steps) == work.steps == 1 + 2 * 2 + 1 + 2


@pytest.mark.parametrize("count", [1, 2, 3, 17])
@pytest.mark.parametrize("end", [0, -1])
def test_as_many_frames_come_out_with_the_key_at_either_end(tmp_path, count, end):
    frames = clip(count)
    key = sorted(frames)[end]
    results = run(tmp_path, frames, [key])
    assert sorted(results) == list(range(count))
    assert torch.equal(results[key].picture, 1 - frames[key])
    assert not any(tmp_path.glob("walks/*"))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_walk_carries_the_edit_along(tmp_path, engine):
    frames = clip(6)
    for index, carried in run(tmp_path, frames, [0], settings=replace(SETTINGS, engine=engine, patch=QUICK)).items():
        assert (carried.picture - (1 - frames[index])).abs().mean() < 0.05


def test_keys_out_of_order_give_the_same(tmp_path):
    frames = clip(5)
    one, other = (run(tmp_path, frames, keys) for keys in ([0, 4], [4, 0]))
    assert all(torch.equal(one[index].picture, other[index].picture) for index in frames)


@pytest.mark.parametrize(("keys", "engine"), [([0], "change"), ([0, 7], "change"), ([3], "patch")])
def test_a_run_that_stopped_goes_on_to_the_same_bytes(tmp_path, keys, engine):
    frames, settings = clip(8 if len(keys) > 1 else 5), replace(SETTINGS, engine=engine, patch=QUICK)
    whole = run(tmp_path / "whole", frames, keys, settings=settings)

    class Stop(Exception):
        pass

    for stop in (1, 3, 6, 11):
        folder, pictures, steps = tmp_path / f"stop {stop}", {}, 0

        def count(what: str, stop: int = stop) -> None:
            nonlocal steps
            steps += 1
            if steps == stop:
                raise Stop

        edits = key_frames(frames, [(index, 1 - frames[index]) for index in keys])
        work = Propagation(frames, edits, settings, Spool(folder), on_step=count)
        try:
            for result in work.results():
                pictures[result.index] = result.carried.picture
        except Stop:
            pass
        again = Propagation(frames, edits, settings, Spool(folder))
        pictures |= {result.index: result.carried.picture for result in again.results(set(pictures))}
        assert sorted(pictures) == sorted(frames)
        assert all(torch.equal(pictures[index], whole[index].picture) for index in frames), stop


def test_a_walk_goes_on_and_does_not_begin_anew(tmp_path):
    frames, read = clip(8), []

    class Counting(dict):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    edits = key_frames(frames, [(0, 1 - frames[0])])
    work = Propagation(Counting(frames), edits, SETTINGS, Spool(tmp_path))
    results = work.results()
    for _ in range(6):  # the key and five frames, of which four are known to be kept
        next(results)
    read.clear()
    list(Propagation(Counting(frames), edits, SETTINGS, Spool(tmp_path)).results({0, 1, 2, 3, 4}))
    assert read == [5, 6, 7]


def test_cuts_are_looked_for_once(tmp_path):
    frames = dict(enumerate(torch.cat([pan(0, 4, 1), pan(1, 4, 1)])))
    settings, read = PropagationSettings(engine="flow"), []

    class Counting(dict):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    keys = key_frames(frames, [(0, 1 - frames[0])])
    work = Propagation(Counting(frames), keys, settings, Spool(tmp_path))
    assert work.cuts == [4] and work.uncarried == [4, 5, 6, 7] and read == list(range(8))
    read.clear()
    assert Propagation(Counting(frames), keys, settings, Spool(tmp_path)).cuts == [4] and read == []


def test_nothing_crosses_a_cut(tmp_path):
    frames = clip(6)
    work = run(tmp_path, frames, [0], cuts=(3,))
    assert all(torch.equal(work[index].picture, frames[index]) for index in (3, 4, 5))
    assert not torch.equal(work[2].picture, frames[2])


def test_a_small_edit_changes_large_frames_and_keeps_their_size(tmp_path):
    frames = clip(3, 128, 192)
    small = torch.nn.functional.avg_pool2d(frames[0][None], 2)[0]
    keys = key_frames(frames, [(0, (small * 0.5).contiguous())])
    work = Propagation(frames, keys, SETTINGS, Spool(tmp_path))
    results = {result.index: result.carried for result in work.results()}
    for index, frame in frames.items():
        assert results[index].picture.shape == frame.shape
        assert (results[index].picture - frame * 0.5).abs().mean() < 0.03


@pytest.mark.parametrize(
    ("keys", "message"),
    [([], "got none"), ([1, 1], "frame 1 twice"), ([7], r"\(0 to 2\), got 7"), ([-1], r"\(0 to 2\), got -1")],
)
def test_keys_that_cannot_be(tmp_path, keys, message):
    frames = clip(3)
    edits = [(index, frames[0]) for index in keys]
    with pytest.raises(InputError, match=message):
        key_frames(frames, edits)
        Propagation(frames, [], SETTINGS, Spool(tmp_path))


def test_an_edit_of_another_shape_is_refused():
    frames = clip(1)
    with pytest.raises(InputError, match=r"96 x 64.* 40 x 40"):
        key_frames(frames, [(0, torch.zeros(3, 40, 40))])


def test_masks_none_all_half():
    frame, picture = torch.rand(3, 8, 8), torch.rand(3, 8, 8)
    assert torch.equal(put_within(torch.zeros(1, 8, 8), picture, frame), frame)
    assert torch.equal(put_within(torch.ones(1, 8, 8), picture, frame), picture)
    half = torch.zeros(1, 8, 8)
    half[:, :, 4:] = 0.5
    result = put_within(half, picture, frame)
    assert torch.equal(result[:, :, :4], frame[:, :, :4])
    assert torch.allclose(result[:, :, 4:], (frame + picture)[:, :, 4:] / 2)


def test_a_round_trip_wears_the_key_as_other_frames(tmp_path):
    frames = clip(6)
    plain, worn = (
        run(tmp_path, frames, [2], settings=PropagationSettings(engine="flow", cuts=False, round_trip=round_trip))
        for round_trip in (False, True)
    )
    assert all(torch.equal(plain[index].picture, worn[index].picture) for index in frames if index != 2)
    wear = (worn[2].picture - (1 - frames[2])).abs().mean()
    assert 0.001 < wear < 0.05


def test_results_bring_the_frame_along_and_nothing_is_kept_that_nobody_takes_up(tmp_path):
    frames = clip(5)
    keys = key_frames(frames, [(index, 1 - frames[index]) for index in (0, 4)])
    work = Propagation(frames, keys, SETTINGS, Spool(tmp_path), resumable=False)
    kept = set()
    for result in work.results():
        assert torch.equal(result.frame, frames[result.index])
        kept |= {path.name.split("-")[0] for path in tmp_path.glob("*")}
    assert kept == {"back"}


def test_what_else_lies_in_the_folder_stays(tmp_path):
    spool = Spool(tmp_path / "walks")
    spool.put("one", {"value": torch.ones(1)})
    (tmp_path / "walks" / "notes.txt").touch()
    spool.close()
    assert [path.name for path in (tmp_path / "walks").iterdir()] == ["notes.txt"]
    spool.put("one", {"value": torch.ones(1)})
    (tmp_path / "walks" / "notes.txt").unlink()
    spool.close()
    assert not (tmp_path / "walks").exists()
