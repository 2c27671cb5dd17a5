"""Attention of Rerender-A-Video and FRESCO between frames: laws, and the whole layer against plain loops."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from zero2hero_core.attention.guidance import Guidance, GuidedPass, Pass, check_guidances
from zero2hero_core.checks import InputError, ShapeError, Zero2HeroError
from zero2hero_core.guidance.banks import BankAttention, Record, TokenBank
from zero2hero_core.guidance.cross_frame import CrossFrameAttention, hidden_tokens
from zero2hero_core.guidance.motion import BatchMotion, batch_motion
from zero2hero_core.guidance.spatial import InputAttention, SpatialAttention
from zero2hero_core.guidance.temporal import TrajectoryAttention
from zero2hero_core.guidance.trajectories import follow_tokens

LATENT, HEADS, WIDTH = (8, 8), 2, 4  # layer 9 then has a grid of 8 x 8 tokens, layer 6 of 4 x 4
TOKENS = {9: 64, 6: 16}
ALL = range(3, 12)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tokens(rows: int, layer: int = 9, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    query, key, value = (normal(rows, HEADS, TOKENS[layer], WIDTH, seed=3 * seed + each) for each in range(3))
    return query, key, value


def motion_of(rows: int, seed: int = 0, hidden: float = 0.3) -> BatchMotion:
    """Random frames of 32 x 32 pixels with flows of up to some pixels and random occlusions in blocks."""
    generator = torch.Generator().manual_seed(seed)
    flows = torch.randn(2, rows, 4, 4, 2, generator=generator).repeat_interleave(8, 2).repeat_interleave(8, 3) * 6
    blocks = torch.rand(2, rows, 8, 8, generator=generator) < hidden
    occlusions = blocks.repeat_interleave(4, 2).repeat_interleave(4, 3)
    return BatchMotion(torch.rand(rows, 3, 32, 32, generator=generator), *flows, *occlusions)


def run(guidances: list[Guidance], now: Pass, layer: int, qkv: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return GuidedPass(guidances, now)(layer, *qkv)


def now(rows: int, step: int = 5, conditional: bool = True) -> Pass:
    return Pass(step, 951 - 50 * step, tuple(range(rows)), LATENT, conditional)


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


def test_windows_and_layers() -> None:
    guidance = CrossFrameAttention("all", layers=range(6, 12), steps=20, window=(0.25, 0.5))
    acts = {(layer, step) for layer in ALL for step in range(20) if guidance.role(layer, step).value != "none"}
    assert acts == {(layer, step) for layer in range(6, 12) for step in range(5, 11)}
    with pytest.raises(InputError, match="mode: expected one of anchor_previous, new_regions, all, got 'first'"):
        cross("first")


def naive_ways(motion: BatchMotion, size_hw: tuple[int, int]) -> tuple[list[list[int]], list[list[bool]]]:
    """Trajectories token by token, in plain loops."""
    small, (height, width) = motion.at(size_hw), size_hw
    hidden = hidden_tokens(motion.backward_occlusion, size_hw).tolist()
    order, linked = [list(range(height * width))], []
    for place in range(len(motion) - 1):
        partner, costs, taken = {}, {}, {}
        for token in range(height * width):
            y, x = divmod(token, width)
            dx, dy = small.backward[place, y, x].tolist()
            px, py = round(x + dx), round(y + dy)
            if hidden[place][token] or not (0 <= px < width and 0 <= py < height):
                continue
            before, after = small.frames[place][:, py, px], small.frames[place + 1][:, y, x]
            costs[token], partner[token] = float((after - before).abs().mean()), py * width + px
        for token, other in partner.items():
            if other not in taken or costs[token] < costs[taken[other]]:
                taken[other] = token
        free = iter([token for token in range(height * width) if token not in taken.values()])
        following = [taken[other] if other in taken else next(free) for other in range(height * width)]
        order.append([following[token] for token in order[-1]])
        linked.append([token in taken for token in order[-2]])
    return order, linked


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size_hw", [(8, 8), (4, 4), (16, 8)])
def test_trajectories_equal_the_loop_and_lead_back(seed: int, size_hw: tuple[int, int]) -> None:
    motion = motion_of(4, seed)
    ways, (order, linked) = follow_tokens(motion, size_hw), naive_ways(motion, size_hw)
    assert ways.order.tolist() == order and ways.linked.tolist() == linked
    every = torch.arange(size_hw[0] * size_hw[1])
    for there, back in zip(ways.order, ways.back, strict=True):
        assert torch.equal(there[back], every) and torch.equal(there.sort().values, every)
    assert 0 < ways.linked.float().mean() < 1


def test_still_frames_have_straight_ways() -> None:
    frames = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).expand(3, -1, -1, -1)
    still = BatchMotion(frames, *torch.zeros(2, 3, 32, 32, 2), *torch.zeros(2, 3, 32, 32, dtype=torch.bool))
    ways = follow_tokens(still, (8, 8))
    assert torch.equal(ways.order, torch.arange(64).expand(3, -1)) and ways.linked.all() and ways.together.all()


def test_blunt_scores_give_the_mean_of_an_uncut_way() -> None:
    qkv, motion = tokens(4), motion_of(4, hidden=0.2)
    guidance = TrajectoryAttention(motion, layers=ALL, factor=1e9)
    out, plain = run([guidance], now(4), 9, qkv), F.scaled_dot_product_attention(*qkv)
    ways = follow_tokens(motion, (8, 8))
    for way in range(64):
        for frame in range(4):
            same = ways.together[way, frame].nonzero().flatten().tolist()
            mean = torch.stack([plain[other, :, ways.order[other, way]] for other in same]).mean(0)
            assert torch.allclose(out[frame, :, ways.order[frame, way]], mean, atol=1e-7)


def test_late_timesteps_and_other_rows() -> None:
    qkv, guidance = tokens(4), TrajectoryAttention(motion_of(4), layers=ALL)
    plain = F.scaled_dot_product_attention(*qkv)
    assert torch.equal(run([guidance], now(4, step=13), 9, qkv), plain)  # timestep 301
    assert not torch.allclose(run([guidance], now(4, step=12), 9, qkv), plain)
    with pytest.raises(ShapeError, match="frames: expected 4 rows"):
        run([guidance], now(3), 9, tokens(3))


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

    grid = {9: (8, 8), 6: (4, 4)}[layer]
    hidden, ways = hidden_tokens(motion.backward_occlusion, grid), follow_tokens(motion, grid)
    (query, key, value), (query_r, key_r, _) = qkv, originals
    count, root = TOKENS[layer], math.sqrt(WIDTH)
    pool = [(0, token) for token in range(count)]
    pool += [(row, token) for row in range(1, rows) for token in range(count) if hidden[row - 1, token]]
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
                others = ways.together[way, row].nonzero().flatten().tolist()
                places = [int(ways.order[other, way]) for other in others]
                mine = int(ways.order[row, way])
                scores = torch.stack(
                    [query[row, head, mine] @ key[o, head, p] for o, p in zip(others, places, strict=True)]
                )
                weights = (scores / (5 * root)).softmax(0)
                found = torch.stack([crossed[o, p] for o, p in zip(others, places, strict=True)])
                expected[row, head, mine] = weights @ found
    assert torch.allclose(out, expected, atol=1e-10)


def test_the_spatial_part_asks_for_its_pass() -> None:
    guidance = SpatialAttention(InputAttention(ALL), layers=ALL, steps=[0])
    with pytest.raises(Zero2HeroError, match="layer 9, with the prompt, was never kept"):
        run([guidance], now(2, 0), 9, tokens(2))
    assert guidance.role(9, 1).value == "none"


def test_banks_hold_what_a_pass_had_and_the_next_frame_reads_both(tmp_path: Path) -> None:
    banks, frames = [TokenBank(), TokenBank()], [tokens(1, seed=1), tokens(1, seed=2)]
    for bank, qkv in zip(banks, frames, strict=True):
        for conditional in (True, False):
            plain = run([Record(bank, ALL)], now(1, 3, conditional), 9, qkv)
            assert torch.equal(plain, F.scaled_dot_product_attention(*qkv))
    query, key, value = tokens(1)
    reading = BankAttention(banks, ALL, range(20))
    keys, values = (torch.cat([frame[place] for frame in frames], 2) for place in (1, 2))
    expected = F.scaled_dot_product_attention(query, keys, values)
    assert torch.equal(run([reading], now(1, 3), 9, (query, key, value)), expected)

    run([Record(banks[0], ALL)], now(1, 3), 9, tokens(1, seed=8))  # a further pass of the same step
    assert torch.equal(run([reading], now(1, 3), 9, (query, key, value)), expected)

    own = TokenBank()  # the same pass records its own tokens, not those that it reads
    assert torch.equal(run([Record(own, ALL), reading], now(1, 3), 9, (query, key, value)), expected)
    assert torch.equal(own.get(now(1, 3), 9, query)[0], key)

    path = tmp_path / "bank.safetensors"
    banks[0].save(path)
    again = TokenBank().load(path)
    assert again.nbytes == banks[0].nbytes == 2 * 2 * key.nbytes and len(again) == 2
    assert torch.equal(again.get(now(1, 3, False), 9, query)[1], frames[0][2])
    with pytest.raises(Zero2HeroError, match="tokens of layer 9 at step 5, with the prompt, were never kept"):
        run([reading], now(1, 4), 9, (query, key, value))


def test_banks_in_half_precision_and_what_is_let_go() -> None:
    bank, qkv = TokenBank(torch.float16), tokens(1)
    for step in range(3):
        run([Record(bank, [9])], now(1, step), 9, qkv)
    assert bank.nbytes == 3 * 2 * qkv[1].nbytes // 4
    assert (bank.get(now(1, 1), 9, qkv[0])[0] - qkv[1]).abs().max() < 2e-3
    bank.drop([0, 1])
    assert len(bank) == 1


@pytest.mark.parametrize("text", [b"", b"not a file of tensors"])
def test_a_damaged_bank_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "bank.safetensors"
    path.write_bytes(text)
    with pytest.raises(InputError, match="cannot be read"):
        TokenBank().load(path)


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


def test_following_all_tokens_at_once_is_far_faster_than_one_by_one() -> None:
    """A pair at 64 x 64 tokens; judged by a ratio within one run."""
    motion = motion_of(2)
    large = BatchMotion(
        F.interpolate(motion.frames, size=(64, 64), mode="nearest"),
        *(flow.repeat_interleave(2, 1).repeat_interleave(2, 2) for flow in (motion.forward, motion.backward)),
        *(
            hidden.repeat_interleave(2, 1).repeat_interleave(2, 2)
            for hidden in (motion.forward_occlusion, motion.backward_occlusion)
        ),
    )
    begun = time.perf_counter()
    naive_ways(large, (64, 64))
    slow, begun = time.perf_counter() - begun, time.perf_counter()
    for _ in range(3):
        follow_tokens(large, (64, 64))
    assert slow > 10 * (time.perf_counter() - begun) / 3
