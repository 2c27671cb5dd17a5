"""The two hooks of condition tokens on plain tensors, and the layout of packed latents, each by hand."""

from __future__ import annotations

import math

import pytest
import torch

from zero2hero_core.attention.conditions import (
    Condition,
    ConditionCapture,
    ConditionInject,
    PassEnds,
    from_tokens,
    pack_latents,
    to_tokens,
    unpack_latents,
)
from zero2hero_core.checks import InputError


def rows(seed: int, count: int, batch: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    query, key, value = torch.randn(3, batch, 2, count, 4, generator=generator)
    return query, key, value


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return (query @ key.mT / 4**0.5).softmax(-1) @ value


def test_packing_puts_cells_of_2_by_2_into_the_channels() -> None:
    latents = torch.arange(16.0).view(1, 1, 4, 4)
    packed = pack_latents(latents)
    assert packed.shape == (1, 4, 2, 2)
    assert packed[0, :, 0, 0].tolist() == [0, 1, 4, 5] and packed[0, :, 1, 0].tolist() == [8, 9, 12, 13]
    assert torch.equal(unpack_latents(packed), latents)
    two = torch.rand(3, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    assert pack_latents(two)[0, 4:, 0, 0].tolist() == two[0, 1, :2, :2].flatten().tolist()  # channel first, then cell
    assert torch.equal(unpack_latents(pack_latents(two)), two)


def test_tokens_are_read_row_by_row() -> None:
    packed = torch.arange(12.0).view(1, 2, 2, 3)
    assert to_tokens(packed)[0].tolist() == [[0, 6], [1, 7], [2, 8], [3, 9], [4, 10], [5, 11]]
    assert torch.equal(from_tokens(to_tokens(packed), (2, 3)), packed)


@pytest.mark.parametrize("text", [0, 1, 3])
def test_in_a_condition_pass_text_and_image_see_each_themselves_only(text: int) -> None:
    query, key, value = rows(0, text + 5)
    hook = ConditionCapture(text)
    out = hook(2, query, key, value)
    parts = [
        attention(*(part[:, :, span] for part in (query, key, value))) for span in (slice(0, text), slice(text, None))
    ]
    torch.testing.assert_close(out, torch.cat(parts, 2))
    assert list(hook.keys_values) == [2]
    assert all(
        torch.equal(kept, part[:, :, text:]) for kept, part in zip(hook.keys_values[2], (key, value), strict=True)
    )


def test_a_pass_ends_in_its_last_layer_with_its_keys_and_values_kept() -> None:
    query, key, value = rows(0, 5)
    hook = ConditionCapture(1, last=4)
    assert hook.needs(3) == {"query", "key", "value"} and hook.needs(4) == {"key", "value"}
    hook(3, query, key, value)
    with pytest.raises(PassEnds):
        hook(4, None, key, value)
    assert list(hook.keys_values) == [3, 4] and torch.equal(hook.keys_values[4][1], value[:, :, 1:])


def test_a_layer_that_runs_again_keeps_its_first_keys() -> None:
    hook, (query, key, value) = ConditionCapture(0), rows(0, 4)
    hook(0, query, key, value)
    hook(0, query, key + 1, value + 1)
    assert torch.equal(hook.keys_values[0][0], key)


@pytest.mark.parametrize("batch", [1, 3])
def test_conditions_are_further_keys_weighted_by_their_strength(batch: int) -> None:
    query, key, value = rows(1, 6, batch)
    (_, first, first_value), (_, second, second_value) = rows(2, 3), rows(3, 4, batch)
    conditions = [Condition({0: (first, first_value)}, 0.5), Condition({0: (second, second_value)}, 2.0)]
    out = ConditionInject(conditions)(0, query, key, value)
    keys = torch.cat([key, first.expand(batch, -1, -1, -1), second], 2)
    values = torch.cat([value, first_value.expand(batch, -1, -1, -1), second_value], 2)
    bias = torch.tensor([0.0] * 6 + [math.log(0.5)] * 3 + [math.log(2.0)] * 4)
    torch.testing.assert_close(out, (query @ keys.mT / 4**0.5 + bias).softmax(-1) @ values)


def test_a_condition_of_strength_0_is_left_out() -> None:
    query, key, value = rows(1, 6)
    _, other, other_value = rows(2, 3)
    hook = ConditionInject([Condition({0: (other, other_value)}, 0.0)])
    torch.testing.assert_close(hook(0, query, key, value), attention(query, key, value))


def test_conditions_of_another_number_of_images_are_refused() -> None:
    query, key, value = rows(1, 6, 3)
    _, other, other_value = rows(2, 3, 2)
    with pytest.raises(InputError, match="expected 3 images or one for all, got 2"):
        ConditionInject([Condition({0: (other, other_value)})])(0, query, key, value)


@pytest.mark.parametrize("strength", [-0.1, math.inf, math.nan])
def test_strengths_that_are_none(strength: float) -> None:
    with pytest.raises(InputError, match="expected a number from 0 up"):
        Condition({}, strength)


def test_repeating_puts_equal_rows_side_by_side() -> None:
    _, key, value = rows(0, 2, 2)
    condition = Condition({5: (key, value)}, 0.25)
    assert condition.repeated(1) is condition
    grown = condition.repeated(3)
    assert grown.strength == 0.25 and torch.equal(grown.keys_values[5][0], key[[0, 0, 0, 1, 1, 1]])
    assert torch.equal(grown.keys_values[5][1], value[[0, 0, 0, 1, 1, 1]])
