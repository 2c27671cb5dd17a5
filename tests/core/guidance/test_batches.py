"""Batches of key frames, and the latents that they hand on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from zero2hero_core.checks import InputError, ShapeError
from zero2hero_core.guidance.batches import CarriedLatents, KeyBatch, plan_batches

SIZES = (2, 3, 4, 5, 6, 8, 16, 17, 20)


def rows(keys: int, size: int, **more: int) -> list[tuple[tuple[int, ...], int]]:
    return [(batch.frames, batch.carried) for batch in plan_batches(range(keys), size, **more)]


def test_plans_by_hand() -> None:
    assert rows(1, 8) == [((0,), 0)]
    assert rows(2, 8) == [((0, 1), 0)]
    assert rows(5, 3) == [((0, 1, 2), 0), ((0, 2, 3), 2), ((0, 3, 4), 2)]
    assert rows(3, 2) == [((0, 1), 0), ((0, 2), 1)]
    assert rows(8, 8) == [(tuple(range(8)), 0)]
    assert rows(17, 8) == [
        (tuple(range(8)), 0),
        ((0, 7, 8, 9, 10, 11, 12, 13), 2),
        ((0, 13, 14, 15, 16), 2),
    ]


def test_a_small_last_batch_borrows() -> None:
    assert rows(16, 8) == [(tuple(range(8)), 0), ((0, 7, 8, 9, 10, 11, 12), 2), ((0, 12, 13, 14, 15), 2)]
    assert rows(9, 8) == [(tuple(range(6)), 0), ((0, 5, 6, 7, 8), 2)]
    assert rows(5, 4) == [((0, 1, 2), 0), ((0, 2, 3, 4), 2)]
    assert rows(7, 4)[1:] == [((0, 3, 4, 5), 2), ((0, 5, 6), 2)]  # the one before would have fewer


def test_an_anchor_in_the_middle_has_a_side_after_and_a_side_before() -> None:
    plan = plan_batches((3, 9, 14, 20, 31, 40), 4, anchor=14)
    assert plan == (KeyBatch((14, 20, 31, 40), 0), KeyBatch((14, 9, 3), 1))
    assert [batch.new for batch in plan] == [(14, 20, 31, 40), (9, 3)]
    assert rows(9, 4, anchor=8) == [((8, 7, 6, 5), 0), ((8, 5, 4, 3), 2), ((8, 3, 2, 1), 2), ((8, 1, 0), 2)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 9, 16, 17])
def test_every_key_is_produced_once_next_to_those_it_follows(count: int, size: int) -> None:
    keys = [3 * place + place % 2 for place in range(count)]
    for anchor in keys:
        plan = plan_batches(keys, size, anchor=anchor)
        produced = [key for batch in plan for key in batch.new]
        assert produced == [anchor, *(k for k in keys if k > anchor), *(k for k in reversed(keys) if k < anchor)]
        assert plan[0].carried == 0
        for before, batch in zip((None, *plan), plan, strict=False):
            assert batch.frames[0] == anchor
            assert 1 <= len(batch.frames) <= size
            assert len(set(batch.frames)) == len(batch.frames)
            assert batch.new
            if before is not None:
                turns = batch.new[0] < anchor < before.frames[-1] or before.frames == (anchor,)
                assert batch.carried == (1 if size == 2 or turns else 2)
                assert batch.carried == 1 or batch.frames[1] == before.frames[-1]


def test_refuses_plans_that_cannot_be() -> None:
    for keys, size, anchor, words in (
        ([0, 1], 1, None, "batch_size: expected at least 2"),
        ([], 8, None, "at least one key frame"),
        ([4, 2], 8, None, "ascending"),
        ([2, 2], 8, None, "ascending"),
        ([2, 4], 8, 3, "anchor: expected one of the key frames"),
    ):
        with pytest.raises(InputError, match=words):
            plan_batches(keys, size, anchor=anchor)


def latents(first: float, count: int) -> torch.Tensor:
    """Rows of constant value: first, first + 1, ..."""
    return torch.arange(first, first + count)[:, None, None, None].expand(count, 4, 2, 3).contiguous()


def values(rows: torch.Tensor) -> list[float]:
    return rows[:, 0, 0, 0].tolist()


def test_first_and_last_rows_are_carried_step_by_step() -> None:
    record = CarriedLatents()
    for step in (5, 6):
        assert values(record.exchange(step, latents(100 * step, 4), 0)) == [100 * step + row for row in range(4)]
    batch = latents(0, 3)
    assert values(record.exchange(6, batch, 2)) == [600, 603, 2]
    assert values(batch) == [0, 1, 2]
    assert values(record.exchange(5, latents(0, 3), 2)) == [500, 503, 2]
    assert values(record.exchange(6, latents(10, 3), 2)) == [600, 2, 12]  # of the batch before, as it was carried on
    assert values(record.exchange(6, latents(20, 2), 1)) == [600, 21]
    assert values(record.exchange(6, latents(30, 2), 2)) == [600, 21]


def test_the_record_is_of_its_own() -> None:
    record, batch = CarriedLatents(), latents(0, 3)
    record.exchange(0, batch, 0).fill_(9)
    assert values(record.exchange(0, latents(50, 3), 2)) == [0, 2, 52]


def test_a_batch_of_one_is_first_and_last() -> None:
    record = CarriedLatents()
    record.exchange(0, latents(7, 1), 0)
    assert values(record.exchange(0, latents(0, 3), 1)) == [7, 1, 2]


def test_a_saved_record_goes_on_as_it_would_have(tmp_path: Path) -> None:
    record, path = CarriedLatents(), tmp_path / "record.safetensors"
    for step in (0, 3, 12):
        record.exchange(step, torch.randn(5, 4, 6, 8, generator=torch.Generator().manual_seed(step)).half(), 0)
    record.save(path)
    again = CarriedLatents.load(path)
    for step in (0, 3, 12):
        batch = latents(0, 4).half()[..., :1].expand(4, 4, 2, 8).repeat(1, 1, 3, 1)
        assert torch.equal(again.exchange(step, batch, 2), record.exchange(step, batch, 2))
    again.save(tmp_path / "again.safetensors")
    record.save(path)
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_refuses_what_it_cannot_carry(tmp_path: Path) -> None:
    record = CarriedLatents()
    record.exchange(0, latents(0, 3), 0)
    with pytest.raises(InputError, match="record of step 1"):
        record.exchange(1, latents(0, 3), 1)
    for batch, carried in ((latents(0, 1), 2), (latents(0, 4), 3), (latents(0, 4), -1)):
        with pytest.raises(InputError, match="carried: expected 0 to"):
            record.exchange(0, batch, carried)
    with pytest.raises(ShapeError, match="carried latents"):
        record.exchange(0, torch.zeros(3, 4, 5, 5), 2)
    with pytest.raises(InputError, match="cannot be read"):
        CarriedLatents.load(tmp_path / "none.safetensors")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"not tensors")
    with pytest.raises(InputError, match="cannot be read"):
        CarriedLatents.load(damaged)
