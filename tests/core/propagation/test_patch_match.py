"""The patch search against brute force, and its two engines against each other."""

from __future__ import annotations

import pytest
import torch

from zero2hero_core.propagation import patch_kernels, patch_torch
from zero2hero_core.propagation.patch_layout import Plane, mix, pack, steps_per_level
from zero2hero_core.propagation.patch_match import (
    Engine,
    Search,
    occurrence_unit,
    pass_radii,
    random_field,
    search_field,
    stream,
)

SIZE = (16, 16)
ENGINES = [pytest.param(patch_kernels, id="compiled"), pytest.param(patch_torch, id="torch")]


def packed(size_hw: tuple[int, int], seed: int, channels: int = 3) -> torch.Tensor:
    picture = torch.rand((channels, *size_hw), generator=torch.Generator().manual_seed(seed))
    plane = Plane(picture, 6.0)
    return pack([plane], steps_per_level([(plane, plane)], 5), 5)


def search(radii: tuple[tuple[int, ...], ...] | None = None, uniformity: float = 3500.0) -> Search:
    return Search(5, ((8, 4, 2, 1),) * 4 if radii is None else radii, uniformity, 8.0)


def everywhere(size_hw: tuple[int, int]) -> torch.Tensor:
    return torch.ones(size_hw, dtype=torch.bool)


def brute_force(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The smallest error of any source patch for every target patch, (16, 16)."""
    patches = [rows.long().unfold(0, 5, 1).unfold(1, 5, 1).reshape(256, -1) for rows in (target, source)]
    return torch.stack([(patches[1] - one).square().sum(1).min() for one in patches[0]]).view(SIZE)


def test_packed_differences_are_weighted_differences_of_8_bit_levels() -> None:
    ones, zeros = Plane(torch.ones(2, 5, 5), 3.0), Plane(torch.zeros(2, 5, 5), 3.0)
    rows = [pack([plane], 8.0, 5) for plane in (ones, zeros)]
    assert rows[0].shape == (9, 9, 16) and rows[0].dtype == torch.int16
    error = patch_torch.field_errors(*rows, torch.zeros(5, 5, 2).int(), everywhere((5, 5)), 5)
    assert error.double().div(64 * 25 * 255**2).sub(3).abs().max() < 2e-3  # weight 3 on two channels


def test_steps_keep_an_error_below_2_to_the_31() -> None:
    pair = (Plane(torch.zeros(3, 8, 8), 10.0), Plane(torch.ones(3, 8, 8), 10.0))
    assert steps_per_level([pair], 5) == 8.0
    assert steps_per_level([pair], 9) == 4.0


def test_the_field_comes_to_the_brute_force_without_occurrence() -> None:
    source, target = packed(SIZE, 0), packed(SIZE, 1)
    least = brute_force(source, target)
    start = random_field(SIZE, SIZE, 0)
    _, few = search_field(source, target, start, everywhere(SIZE), search(((8, 4, 2, 1),)), 0, patch_kernels)
    assert (few >= least).all() and (few > least).any()
    settings = search(((16,) * 32,) * 100, uniformity=0.0)
    _, error = search_field(source, target, start, everywhere(SIZE), settings, 0, patch_kernels)
    assert torch.equal(error.long(), least)


def test_errors_belong_to_the_field() -> None:
    source, target = packed((20, 18), 0), packed(SIZE, 1)
    field, error = search_field(
        source, target, random_field(SIZE, (20, 18), 0), everywhere(SIZE), search(), 0, patch_kernels
    )
    x, y = field.tolist()[7][3]
    difference = target[7:12, 3:8].long() - source[y : y + 5, x : x + 5].long()
    assert int(error[7, 3]) == int(difference.square().sum())


@pytest.mark.parametrize("radii", [(), (1,), (16, 8, 4, 2, 1)])
@pytest.mark.parametrize("uniformity", [0.0, 3500.0])
def test_torch_and_compiled_find_one_field(radii: tuple[int, ...], uniformity: float) -> None:
    source, target = packed((19, 23), 0, 17), packed((21, 17), 1, 17)
    mask = torch.rand(21, 17, generator=torch.Generator().manual_seed(2)) < 0.8
    start = random_field((21, 17), (19, 23), 5)
    results = [
        search_field(source, target, start, mask, search((radii,) * 4, uniformity), 9, engine)
        for engine in (patch_kernels, patch_torch)
    ]
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
    assert not torch.equal(results[0][0], start)


def test_torch_and_compiled_vote_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    style, weight = torch.rand(19, 23, 3, generator=generator), torch.rand(21, 17, generator=generator).double()
    mask = torch.rand(21, 17, generator=generator) < 0.8
    field = random_field((21, 17), (19, 23), 5)
    votes = [engine.vote(style, field, weight, mask, 5) for engine in (patch_kernels, patch_torch)]
    assert torch.equal(votes[0], votes[1]) and not votes[0].isnan().any()


def test_threads_change_nothing() -> None:
    source, target = packed((40, 40), 0), packed((40, 40), 1)
    start, results = random_field((40, 40), (40, 40), 0), []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(search_field(source, target, start, everywhere((40, 40)), search(), 3, patch_kernels))
    finally:
        torch.set_num_threads(before)
    for field, error in results[1:]:
        assert torch.equal(field, results[0][0]) and torch.equal(error, results[0][1])


def test_bands_are_all_rows_once_and_their_errors_come_out() -> None:
    before, seen = torch.get_num_threads(), []
    try:
        torch.set_num_threads(2)
        patch_kernels.in_bands(11, lambda first, last: seen.append((first, last)))
        with pytest.raises(ZeroDivisionError):
            patch_kernels.in_bands(11, lambda first, last: 1 // 0)
    finally:
        torch.set_num_threads(before)
    assert [row for first, last in sorted(seen) for row in range(first, last)] == list(range(11))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_field_of_one_place_costs_more_than_the_identity(engine: Engine) -> None:
    unit = occurrence_unit(SIZE, SIZE, search())
    identity = torch.stack(torch.meshgrid(torch.arange(16), torch.arange(16), indexing="xy"), -1).int()
    assert engine.occurrence_cost(identity, unit, 5).unique().tolist() == [3500 * 64]
    crowd = engine.occurrence_cost(torch.full_like(identity, 8), unit, 5)
    assert int(crowd[8, 8]) == 3500 * 64 * 256 * 25 // 625  # 256 patches, all 25 pixels shared, 625 is the mean
    assert int(crowd[8, 8 + 5]) == 0


def test_occurrence_lowers_the_most_frequent_use() -> None:
    """A flat source with one bright pixel, which all patches would like to cover."""
    picture = torch.full((1, 24, 24), 0.5)
    picture[:, 12, 12] = 0.52
    plane, wish = Plane(picture, 6.0), Plane(torch.full((1, 24, 24), 0.52), 6.0)
    source, target = (pack([side], 8.0, 5) for side in (plane, wish))
    most = []
    for uniformity in (0.0, 3500.0):
        settings = search(((24, 8, 4, 2, 1),) * 16, uniformity)
        start = random_field((24, 24), (24, 24), 0)
        field, _ = search_field(source, target, start, everywhere((24, 24)), settings, 0, patch_kernels)
        most.append(int(patch_kernels.occurrence_cost(field, torch.ones(24, 24).double(), 5).max()))
    assert most[1] * 3 < most[0]


def test_outside_the_mask_nothing_is_searched() -> None:
    source, target = packed(SIZE, 0), packed(SIZE, 1)
    mask = everywhere(SIZE)
    mask[:, 8:] = False
    start = random_field(SIZE, SIZE, 0)
    field, error = search_field(source, target, start, mask, search(), 0, patch_kernels)
    assert torch.equal(field[:, 8:], start[:, 8:]) and not error[:, 8:].any()
    assert not torch.equal(field[:, :8], start[:, :8]) and (error[:, :8] > 0).all()


def test_seeds_give_other_numbers() -> None:
    assert not torch.equal(random_field(SIZE, SIZE, 0), random_field(SIZE, SIZE, 1))
    assert torch.equal(random_field(SIZE, SIZE, 1), random_field(SIZE, SIZE, 1))
    assert len({stream(0, 0), stream(0, 1), stream(1, 0), stream(0), stream(2**40), stream(2**41)}) == 6
    field = random_field((64, 64), (7, 300), 3)
    assert field[..., 0].max() == 299 and field[..., 1].max() == 6 and field.min() == 0


def test_the_hash_of_numbers_tensors_and_compiled_code_is_one() -> None:
    numbers = [0, 1, 12345, 2**32 - 1]
    assert [mix(number) for number in numbers] == mix(torch.tensor(numbers)).tolist()
    assert [mix(number) for number in numbers] == [int(patch_kernels.hash32(number)) for number in numbers]
    assert mix(1) == 1753845952


def test_near_radii_come_in_every_pass_and_wide_ones_in_turn() -> None:
    assert pass_radii(4, 2) == ((4, 2, 1), (4, 2, 1))
    assert pass_radii(100, 2) == ((100, 3, 1), (25, 3, 1))
    assert pass_radii(32, 6) == tuple((wide, 4, 2, 1) for wide in (32, 32, 16, 16, 8, 8))
    assert pass_radii(1, 1) == ((1,),)
