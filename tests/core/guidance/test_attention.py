"""Attention of Rerender-A-Video and FRESCO between frames: laws, and the whole layer against plain loops."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from frame_attention import (
    ALL,
    GRIDS,
    HEADS,
    WIDTH,
    motion_of,
    naive_hidden,
    naive_mates,
    naive_ways,
    normal,
    now,
    run,
    tokens,
)

from zero2hero_core.attention.guidance import Pass, check_guidances
from zero2hero_core.checks import InputError, ShapeError, Zero2HeroError
from zero2hero_core.guidance.cross_frame import CrossFrameAttention, grid_of, hidden_tokens
from zero2hero_core.guidance.motion import BatchMotion, batch_motion
from zero2hero_core.guidance.parts import Batch, CrossFramePart, FeaturePart, FlowPart, begin_parts
from zero2hero_core.guidance.spatial import InputAttention, SpatialAttention
from zero2hero_core.guidance.temporal import TrajectoryAttention


def cross(mode: str, motion: BatchMotion | None = None) -> CrossFrameAttention:
    return CrossFrameAttention(mode, motion, layers=ALL, steps=20)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["anchor_previous", "new_regions", "all"])
def test_one_frame_keeps_to_itself(mode: str) -> None:
    qkv = tokens(1)
    assert torch.equal(run([cross(mode)], now(1), 9, qkv), F.scaled_dot_product_attention(*qkv))


def test_equal_rows_are_plain_self_attention() -> None:
    """Context [n; n] is n."""
    qkv = [one.expand(3, -1, -1, -1) for one in tokens(1)]
    plain = F.scaled_dot_product_attention(*qkv)
    for mode in ("anchor_previous", "all", "new_regions"):
        assert torch.allclose(run([cross(mode)], now(3), 9, tuple(qkv)), plain, atol=1e-12)


def test_anchor_and_previous_by_hand() -> None:
    query, key, value = tokens(4)
    out = run([cross("anchor_previous")], now(4), 9, (query, key, value))
    for row, sources in enumerate([[0], [0], [0, 1], [0, 2]]):
        keys, values = (torch.cat([one[source] for source in sources], 1) for one in (key, value))
        assert torch.allclose(out[row], F.scaled_dot_product_attention(query[row], keys, values), atol=1e-12)


def test_without_occlusion_only_the_first_row_is_read() -> None:
    qkv, motion = tokens(3), motion_of(3, hidden=0.0)
    expected = F.scaled_dot_product_attention(qkv[0], *(one[:1].expand(3, -1, -1, -1) for one in qkv[1:]))
    for guidance in (cross("new_regions", motion), cross("new_regions")):
        assert torch.allclose(run([guidance], now(3), 9, qkv), expected, atol=1e-12)
    full = motion_of(3, hidden=1.0)
    everything, wanted = run([cross("all")], now(3), 9, qkv), run([cross("new_regions", full)], now(3), 9, qkv)
    assert torch.allclose(everything, wanted, atol=1e-12)


def test_without_motion_any_number_of_rows_will_do() -> None:
    guidance = cross("new_regions")
    for rows in (3, 4, 2):
        qkv = tokens(rows)
        expected = F.scaled_dot_product_attention(qkv[0], *(one[:1].expand(rows, -1, -1, -1) for one in qkv[1:]))
        assert torch.allclose(run([guidance], now(rows), 9, qkv), expected, atol=1e-12)


def test_the_way_from_the_last_frame_to_the_first_is_not_read() -> None:
    qkv, motion = tokens(3), motion_of(3)
    flow, hidden = motion.backward.clone(), motion.backward_occlusion.clone()
    flow[-1], hidden[-1] = flow[-1] + 9, ~hidden[-1]
    other = replace(motion, backward=flow, backward_occlusion=hidden)
    for one, changed in (
        (cross("new_regions", motion), cross("new_regions", other)),
        (TrajectoryAttention(motion, layers=ALL), TrajectoryAttention(other, layers=ALL)),
    ):
        assert torch.equal(run([one], now(3), 9, qkv), run([changed], now(3), 9, qkv))


@pytest.mark.parametrize("size_hw", [(8, 8), (4, 4), (16, 8)])
def test_tokens_are_hidden_with_most_of_their_middle(size_hw: tuple[int, int]) -> None:
    maps = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)) < 0.6
    found = hidden_tokens(maps, size_hw)
    assert found.tolist() == [naive_hidden(one, size_hw) for one in maps]
    assert 0.2 < found.float().mean() < 0.8


@pytest.mark.parametrize(("latent", "grids"), [((64, 64), (16, 32, 64)), ((9, 9), (3, 5, 9)), ((65, 65), (17, 33, 65))])
def test_grids_are_halved_and_rounded_up(latent: tuple[int, int], grids: tuple[int, ...]) -> None:
    """As strided convolutions with a border give them."""
    levels, grid = [latent], torch.zeros(1, 1, *latent)
    for _ in range(2):
        grid = F.conv2d(grid, torch.zeros(1, 1, 3, 3), stride=2, padding=1)
        levels.append((grid.shape[2], grid.shape[3]))
    assert [grid_of(layer, latent) for layer in ALL] == [level for level in reversed(levels) for _ in range(3)]
    assert tuple(level[0] for level in reversed(levels)) == grids


def test_odd_sizes_of_latents_go_through_every_part() -> None:
    motion = motion_of(3)
    query, key, value = (normal(3, HEADS, 25, WIDTH, seed=seed) for seed in range(3))
    at = Pass(5, 701, (0, 1, 2), (9, 9))
    guidances = [TrajectoryAttention(motion, layers=ALL), cross("new_regions", motion)]
    assert run(guidances, at, 6, (query, key, value)).shape == query.shape


def test_windows_and_layers() -> None:
    guidance = CrossFrameAttention("all", layers=range(6, 12), steps=20, window=(0.25, 0.5))
    acts = {(layer, step) for layer in ALL for step in range(20) if guidance.role(layer, step).value != "none"}
    assert acts == {(layer, step) for layer in range(6, 12) for step in range(5, 11)}
    with pytest.raises(InputError, match="mode: expected one of anchor_previous, new_regions, all, got 'first'"):
        cross("first")
    with pytest.raises(InputError, match="window: expected 0 <= start <= end <= 1, shares of the steps, got 0.9, 0.1"):
        CrossFrameAttention("all", layers=ALL, steps=20, window=(0.9, 0.1))
    with pytest.raises(InputError, match="window: expected 0 <= start <= end <= 1"):
        CrossFramePart(window=(0.9, 0.1))


def test_blunt_scores_give_the_mean_of_an_uncut_way() -> None:
    qkv, motion = tokens(4), motion_of(4, hidden=0.2)
    guidance = TrajectoryAttention(motion, layers=ALL, factor=1e9)
    out, plain = run([guidance], now(4), 9, qkv), F.scaled_dot_product_attention(*qkv)
    order, linked = naive_ways(motion, (8, 8))
    lengths = set()
    for way in range(64):
        for frame in range(4):
            mates = naive_mates(linked, way, frame)
            lengths.add(len(mates))
            mean = torch.stack([plain[other, :, order[other][way]] for other in mates]).mean(0)
            assert torch.allclose(out[frame, :, order[frame][way]], mean, atol=1e-7)
    assert lengths == {1, 2, 3, 4}


def test_blunt_likeness_gives_every_place_the_mean_query() -> None:
    inputs, qkv = InputAttention(ALL), tokens(2)
    run([inputs], now(2, 19), 9, tokens(2, seed=7))
    out = run([SpatialAttention(inputs, layers=ALL, steps=[5], factor=1e9)], now(2), 9, qkv)
    mean = qkv[0].mean(2, keepdim=True).expand_as(qkv[0])
    assert torch.allclose(out, F.scaled_dot_product_attention(mean, *qkv[1:]), atol=1e-7)


def test_late_timesteps_and_other_rows() -> None:
    qkv, guidance = tokens(4), TrajectoryAttention(motion_of(4), layers=ALL)
    plain = F.scaled_dot_product_attention(*qkv)
    assert torch.equal(run([guidance], now(4, step=13), 9, qkv), plain)  # timestep 301
    assert not torch.allclose(run([guidance], now(4, step=12), 9, qkv), plain)
    with pytest.raises(ShapeError, match="frames: expected 4 rows"):
        run([guidance], now(3), 9, tokens(3))


def test_factors_are_above_zero() -> None:
    with pytest.raises(InputError, match="factor: expected more than 0, got 0"):
        TrajectoryAttention(motion_of(2), layers=ALL, factor=0)
    with pytest.raises(InputError, match="factor: expected more than 0, got -1"):
        SpatialAttention(InputAttention(ALL), layers=ALL, steps=[0], factor=-1)


@pytest.mark.parametrize("layer", [9, 6])
@pytest.mark.parametrize("conditional", [True, False])
def test_the_whole_layer_equals_plain_loops(layer: int, conditional: bool) -> None:
    """Steps 1 to 4 of FRESCO's layer, token by token."""
    rows, motion, qkv, originals = 3, motion_of(3, seed=5), tokens(3, layer), tokens(3, layer, seed=7)
    inputs = InputAttention(ALL)
    run([inputs], now(rows, 19, conditional), layer, originals)
    spatial = SpatialAttention(inputs, layers=ALL, steps=[5])
    guidances = [TrajectoryAttention(motion, layers=ALL), spatial, cross("new_regions", motion)]
    check_guidances(guidances, ALL, 20)
    out = run(guidances, now(rows, 5, conditional), layer, qkv)

    grid = GRIDS[layer]
    hidden = [naive_hidden(one, grid) for one in motion.backward_occlusion]
    order, linked = naive_ways(motion, grid)
    (query, key, value), (query_r, key_r, _) = qkv, originals
    count, root = grid[0] * grid[1], math.sqrt(WIDTH)
    pool = [(0, token) for token in range(count)]
    pool += [(row, token) for row in range(1, rows) for token in range(count) if hidden[row - 1][token]]
    expected = torch.zeros_like(out)
    for head in range(HEADS):
        crossed = torch.zeros(rows, count, WIDTH, dtype=torch.float64)
        for row in range(rows):
            for token in range(count):
                scores = torch.stack([query_r[row, head, token] @ key_r[row, head, other] for other in range(count)])
                mixed = (scores / (5 * root)).softmax(0) @ query[row, head]
                read = torch.stack([mixed @ key[other, head, place] for other, place in pool]) / root
                values = torch.stack([value[other, head, place] for other, place in pool])
                crossed[row, token] = read.softmax(0) @ values
        for way in range(count):
            for row in range(rows):
                others = naive_mates(linked, way, row)
                places = [order[other][way] for other in others]
                mine = order[row][way]
                scores = torch.stack(
                    [query[row, head, mine] @ key[o, head, p] for o, p in zip(others, places, strict=True)]
                )
                weights = (scores / (5 * root)).softmax(0)
                found = torch.stack([crossed[o, p] for o, p in zip(others, places, strict=True)])
                expected[row, head, mine] = weights @ found
    assert torch.allclose(out, expected, atol=1e-10)


def test_parts_lie_in_one_order_however_they_are_listed() -> None:
    frames = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    batch = Batch((0, 1, 2), frames, flow=lambda source, target: torch.zeros(32, 32, 2))
    parts = [CrossFramePart(), FlowPart(), FeaturePart()]
    for listed in itertools.permutations(parts):
        kinds = [type(one) for one in begin_parts(listed, batch, range(20), 20).attention]
        assert kinds == [TrajectoryAttention, SpatialAttention, CrossFrameAttention]


@pytest.mark.parametrize("mode", ["anchor_previous", "all"])
def test_the_flow_is_not_followed_inside_of_shared_keys(mode: str) -> None:
    motion = motion_of(3)
    with pytest.raises(ShapeError, match="put attention along the flow before cross-frame attention"):
        run([cross(mode), TrajectoryAttention(motion, layers=ALL)], now(3), 9, tokens(3))


def test_the_spatial_part_asks_for_its_pass() -> None:
    guidance = SpatialAttention(InputAttention(ALL), layers=ALL, steps=[0])
    with pytest.raises(Zero2HeroError, match="layer 9, with the prompt, was never kept"):
        run([guidance], now(2, 0), 9, tokens(2))
    assert guidance.role(9, 1).value == "none"


def test_found_motion_is_a_circle() -> None:
    generator = torch.Generator().manual_seed(0)
    wide = F.interpolate(torch.rand(1, 3, 12, 16, generator=generator), size=(96, 128), mode="bicubic")[0].clamp(0, 1)
    frames = torch.stack([wide[:, 8:72, shift : shift + 96] for shift in (0, 3, 6)])
    motion = batch_motion(frames, photometric=False)
    middle = (slice(20, 44), slice(30, 60))
    for place, shift in enumerate((3, 3, -6)):  # frame i + 1 shows what lay further right
        assert motion.backward[place][middle][..., 0].mean() == pytest.approx(shift, abs=0.3)
        assert motion.forward[place][middle][..., 0].mean() == pytest.approx(-shift, abs=0.3)
    half = motion.at((32, 48))
    assert half.backward[0, 16, 24, 0] == pytest.approx(1.5, abs=0.2) and half.frames.shape == (3, 3, 32, 48)
    assert len(batch_motion(frames[:1])) == 1
