"""Gather form = dense oracle, and the laws of masked cross-image attention."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from zero2hero_core.attention import cross_image as attention
from zero2hero_core.attention.cross_image import (
    blend_queries,
    dense_mask,
    dense_masked_attention,
    full_attention,
    gather_rows,
    masked_attention,
)
from zero2hero_core.checks import ShapeError


def tensors(batch: int, tokens: int, keys: int, references: int = 1, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    heads, width = 3, 8
    query = torch.randn(batch, heads, tokens, width, generator=generator) * 2
    key, value = (torch.randn(references, heads, keys, width, generator=generator) for _ in range(2))
    return query, key, value


def selection(batch: int, tokens: int, keys: int, k: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, tokens, keys, generator=generator).topk(k, dim=2).indices


@pytest.mark.parametrize("k", [1, 2, 4, 10, 35])
@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize(("tokens", "keys"), [(35, 35), (24, 35), (117, 63)])
@pytest.mark.parametrize("tau", [1.0, 1.7])
def test_gather_equals_dense_oracle(k: int, batch: int, tokens: int, keys: int, tau: float) -> None:
    for references in (1, batch):
        query, key, value = tensors(batch, tokens, keys, references)
        indices = selection(batch, tokens, keys, k)
        mask = dense_mask(indices, keys)
        assert mask.sum(-1).eq(k).all()
        expected = dense_masked_attention(query, key, value, mask, tau=tau)
        got = masked_attention(query, key, value, indices, tau=tau)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch", [1, 3])
def test_counts_equal_a_dense_mask_of_that_many(batch: int) -> None:
    query, key, value = tensors(batch, 35, 35)
    indices = selection(batch, 35, 35, 8)
    counts = torch.randint(1, 9, (batch, 35), generator=torch.Generator().manual_seed(3))
    mask = dense_mask(indices, 35, counts)
    assert torch.equal(mask.sum(-1).long(), counts)
    expected = dense_masked_attention(query, key, value, mask)
    got = masked_attention(query, key, value, indices, counts=counts)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_all_tokens_equals_plain_attention() -> None:
    query, key, value = tensors(2, 20, 30)
    everything = torch.arange(30).expand(2, 20, 30)
    expected = dense_masked_attention(query, key, value, torch.ones(2, 20, 30), tau=1.3)
    torch.testing.assert_close(full_attention(query, key, value, tau=1.3), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(masked_attention(query, key, value, everything, tau=1.3), expected, atol=1e-5, rtol=1e-5)


def test_large_logits_in_half_precision_stay_finite() -> None:
    query = torch.full((1, 1, 4, 64), 60.0, dtype=torch.float16)  # q . k = 230400, beyond float16
    indices = torch.arange(4)[None, None].expand(1, 4, 4)
    got = masked_attention(query, query, torch.ones_like(query), indices)
    assert got.dtype == torch.float16 and bool((got == 1).all())


def test_one_key_is_a_gather_of_values() -> None:
    query, key, value = tensors(2, 6, 9)
    indices = selection(2, 6, 9, 1)
    got = masked_attention(query, key, value, indices)
    for frame in range(2):
        for token in range(6):
            assert torch.equal(got[frame, :, token], value[0, :, indices[frame, token, 0]])
    assert torch.equal(got, masked_attention(query * -5, key * 3, value, indices))  # neither query nor key matter


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = tensors(2, 50, 40)
    indices = selection(2, 50, 40, 6)
    whole = masked_attention(query, key, value, indices)
    seven_rows = 3 * 2 * 6 * 8 * 7
    monkeypatch.setattr("zero2hero_core.attention.cross_image.GATHER_ELEMENTS", seven_rows)
    torch.testing.assert_close(masked_attention(query, key, value, indices), whole, atol=1e-6, rtol=1e-6)


def test_gather_rows_by_hand() -> None:
    tokens = torch.arange(2 * 1 * 3 * 1.0).view(2, 1, 3, 1)  # two references: 0 1 2 and 3 4 5
    indices = torch.tensor([[[2, 0]], [[1, 1]]])
    assert gather_rows(tokens, indices).flatten().tolist() == [2.0, 0.0, 4.0, 4.0]


def test_blend_queries() -> None:
    inverted, current = torch.ones(2), torch.full((2,), 3.0)
    assert blend_queries(inverted, None, 1.0) is inverted
    assert blend_queries(inverted, current, 0.25).tolist() == [2.5, 2.5]


def test_wrong_shapes_are_named() -> None:
    query, key, value = tensors(2, 6, 9)
    with pytest.raises(ShapeError, match=r"indices \(B, N, k\).*\(2, 5, 1\)"):
        masked_attention(query, key, value, selection(2, 5, 9, 1))


def test_no_square_tensor_at_1024_pixels() -> None:
    """16384 tokens: a mask or scores of N x N would be 2^28 elements."""
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    count, heads, width = 128 * 128, 2, 4
    query, key, value = (torch.zeros(1, heads, count, width) for _ in range(3))
    indices = torch.arange(count)[None, :, None].expand(1, count, 4)
    with Watch():
        masked_attention(query, key, value, indices)
    assert largest <= heads * count * 4 * width < count * count / 64
    with Watch():
        _ = query[:, :1] @ key[:, :1].transpose(2, 3)  # the test can see one
    assert largest == count * count


def test_contrast_by_hand():
    # Two keys with scores 0 and ln 3: weights 1/4 and 3/4, mean 1/2; contrast 1.5 makes them 1/8 and 7/8.
    query, key = torch.ones(1, 1, 1, 1), torch.tensor([0.0, math.log(3)]).view(1, 1, 2, 1)
    value = torch.tensor([[8.0, 0.0], [0.0, 8.0]]).view(1, 1, 2, 2)
    assert full_attention(query, key, value, contrast=1.5).flatten().tolist() == pytest.approx([1.0, 7.0])
    # Contrast 3 would make them -1/4 and 5/4: cut to 0 and 1.
    assert full_attention(query, key, value, contrast=3.0).flatten().tolist() == pytest.approx([0.0, 8.0])


def test_contrast_near_one_is_plain_attention_and_rows_may_be_split(monkeypatch):
    generator = torch.Generator().manual_seed(2)
    query, key, value = (torch.randn(2, 3, 10, 4, generator=generator) for _ in range(3))
    plain = full_attention(query, key, value, tau=1.2)
    torch.testing.assert_close(full_attention(query, key, value, tau=1.2, contrast=1 + 1e-6), plain, atol=1e-5, rtol=0)
    whole = full_attention(query, key[:1], value[:1], contrast=1.67)
    monkeypatch.setattr(attention, "GATHER_ELEMENTS", 200)
    torch.testing.assert_close(full_attention(query, key[:1], value[:1], contrast=1.67), whole)
    assert (whole - full_attention(query, key[:1], value[:1])).abs().max() > 1e-2


def test_queries_are_blended_or_the_inversions_own() -> None:
    inverted, current = torch.full((1, 1, 2, 2), 4.0), torch.full((1, 1, 2, 2), 8.0)
    assert torch.equal(blend_queries(inverted, current, 0.75), torch.full((1, 1, 2, 2), 5.0))
    assert blend_queries(inverted, None, 0.75) is inverted
    assert blend_queries(inverted, current, 1.0) is inverted and blend_queries(inverted, None, 1.0) is inverted
    assert torch.equal(blend_queries(inverted, current, 0.0), current)
