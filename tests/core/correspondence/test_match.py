"""Top-k matches, levels, cycle error, adaptive k: against brute force and cases that can be checked by hand."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from zero2hero_core.checks import InputError, ShapeError
from zero2hero_core.correspondence import match as c

SIZES = [(4, 6), (8, 12), (16, 24)]


def features(seed: int, size: tuple[int, int] = (8, 12), channels: int = 16) -> torch.Tensor:
    return torch.randn(channels, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("k", [1, 3, 96])
def test_top_k_equals_brute_force(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    target, anchor = c.unit_tokens(features(0)), c.unit_tokens(features(1))
    expected = (target @ anchor.T).topk(k, dim=1)
    monkeypatch.setattr(c, "ROWS", 7)
    indices, scores = c.top_k_matches(target, anchor, k, (8, 12))
    assert torch.equal(indices.long(), expected.indices)
    torch.testing.assert_close(scores, expected.values)


def test_a_frame_matches_itself_and_a_shift_is_found() -> None:
    anchor = features(2)
    match = c.match_features(anchor, anchor, SIZES, 1)
    assert torch.equal(match.level((8, 12)).indices[:, 0].long(), torch.arange(96))
    assert float(match.cycle.max()) == 0.0
    shifted = c.match_features(anchor.roll(2, dims=2), anchor, SIZES, 1).level((8, 12))
    found = shifted.indices[:, 0].view(8, 12).long()
    assert torch.equal(found[:, 2:] % 12, torch.arange(10).expand(8, 10))


def test_level_rule() -> None:
    assert [c.level_k(1, level) for level in range(3)] == [1, 1, 4]
    assert [c.level_k(10, level) for level in range(3)] == [2, 10, 40]
    assert [c.level_k(-1, level) for level in range(3)] == [-1, -1, -1]
    levels = c.match_features(features(0), features(1), SIZES, 10).levels
    assert [level.indices.shape for level in levels] == [(24, 2), (96, 10), (384, 40)]


@pytest.mark.parametrize("k", [0, -2, 97])
def test_k_out_of_range_is_refused(k: int) -> None:
    target = c.unit_tokens(features(0))
    with pytest.raises(InputError, match="expected 1 to 96"):
        c.top_k_matches(target, target, k, (8, 12))


def test_neighbourhood_keeps_matches_near() -> None:
    target, anchor = c.unit_tokens(features(3)), c.unit_tokens(features(4))
    indices, _ = c.top_k_matches(target, anchor, 4, (8, 12), radius=0.2)
    rows = torch.arange(96)[:, None]
    assert int((indices % 12 - rows % 12).abs().max()) <= 2
    assert int((indices // 12 - rows // 12).abs().max()) <= 2
    free, _ = c.top_k_matches(target, anchor, 4, (8, 12))
    assert int((free % 12 - rows % 12).abs().max()) > 2
    with pytest.raises(InputError, match="neighbourhood"):
        c.top_k_matches(target, anchor, 10, (8, 12), radius=0.1)
    strip = c.unit_tokens(features(5, (4, 24)))
    with pytest.raises(InputError, match="neighbourhood"):
        c.top_k_matches(strip, strip, 60, (4, 24), radius=0.5)
    assert bool(c.top_k_matches(strip, strip, 52, (4, 24), radius=0.5)[1].isfinite().all())


def test_cycle_error_by_hand() -> None:
    forward = torch.tensor([0, 1, 2, 2])  # a 1 x 4 strip; the last token points to anchor token 2 ...
    backward = torch.tensor([0, 1, 2, 3])  # ... which points back to token 2: one step off, a quarter of the side
    assert c.cycle_error(forward, backward, (1, 4)).tolist() == [[0.0, 0.0, 0.0, 0.25]]


def test_confidence_falls_with_cycle_error_and_dissimilarity() -> None:
    similarity, cycle = torch.tensor([1.0, 1.0, 0.5, -0.3]), torch.tensor([0.0, 0.05, 0.0, 0.0])
    expected = [1.0, 0.3679, 0.5, 0.0]
    assert c.match_confidence(similarity, cycle).tolist() == pytest.approx(expected, abs=1e-4)


def test_adaptive_counts_span_one_to_the_maximum() -> None:
    counts = c.adaptive_counts(torch.tensor([1.0, 0.5, 0.0]), 16)
    assert counts.tolist() == [1, 4, 16]
    match = c.match_features(features(0), features(0), SIZES, 8, adaptive=True)
    assert all(level.counts is not None and int(level.counts.max()) == 1 for level in match.levels[1:])
    unsure = c.match_features(features(0), features(1), SIZES, 8, adaptive=True).level((8, 12)).counts
    assert unsure is not None and int(unsure.max()) > 1


def test_features_shrink_without_skipping_cells() -> None:
    spike = torch.zeros(1, 16, 16)
    spike[0, 5, 6] = 16.0
    assert float(c.resize_features(spike, (4, 4)).sum()) == pytest.approx(1.0)  # plain bilinear would miss it
    assert c.resize_features(spike, (16, 16)) is spike
    half = torch.nn.functional.interpolate(spike[None], scale_factor=0.5, mode="bilinear")[0]
    assert torch.equal(c.resize_features(spike, (8, 8)), half)  # one halving: what the authors do


def test_matches_of_another_size_are_refused() -> None:
    match = c.match_features(features(0), features(1), SIZES, 1)
    with pytest.raises(ShapeError, match="compute it again"):
        match.level((32, 48))


def test_no_square_matrix_at_1024_pixels() -> None:
    """16384 tokens a side: N x N in float32 would be 1 GiB; a chunk of rows is 64 MiB."""
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple) else (out,):
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.numel())
            return out

    target, anchor = c.unit_tokens(features(5, (128, 128), 4)), c.unit_tokens(features(6, (128, 128), 4))
    with Watch():
        c.top_k_matches(target, anchor, 4, (128, 128))
    assert largest <= c.ROWS * 128 * 128 < 128**4 / 8
    with Watch():
        _ = target @ anchor.T  # the test can see one
    assert largest == 128**4


def test_the_neighbourhood_reaches_the_radius_itself_along_both_axes() -> None:
    """On 4 x 8 tokens a quarter of the longer side is two tokens, up, down, left and right."""
    size = (4, 8)
    target = torch.ones(32, 1)
    indices, scores = c.top_k_matches(target, torch.ones(32, 1), 9, size, radius=0.25)
    assert indices.shape == (32, 9) and bool((scores == 1).all())
    far = c._window(torch.arange(32), size, 0.25)
    for token in (0, 7, 11, 20, 31):
        y, x = divmod(token, 8)
        near = {8 * v + u for v in range(4) for u in range(8) if abs(v - y) <= 2 and abs(u - x) <= 2}
        assert set((~far[token]).nonzero()[:, 0].tolist()) == near
        assert set(indices[token].tolist()) <= near


def test_counts_come_with_adaptive_matches_of_several_tokens_only() -> None:
    target, anchor = torch.randn(2, 6, 8, 8, generator=torch.Generator().manual_seed(0))
    sizes = [(2, 2), (4, 4), (8, 8)]
    fixed = c.match_features(target, anchor, sizes, 4)
    assert [level.counts for level in fixed.levels] == [None] * 3
    adaptive = c.match_features(target, anchor, sizes, 4, adaptive=True)
    assert [level.indices.shape[1] for level in adaptive.levels] == [1, 4, 16]
    assert [level.counts is None for level in adaptive.levels] == [True, False, False]
    assert [level.counts is None for level in c.match_features(target, anchor, sizes, -1, adaptive=True).levels] == [
        True
    ] * 3
