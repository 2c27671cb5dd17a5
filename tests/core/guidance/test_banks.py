"""Tokens of frames that are done: what is kept, read again, written to a file, and how much it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from frame_attention import ALL, HEADS, WIDTH, now, run, tokens
from safetensors.torch import save_file

from zero2hero_core.attention.guidance import check_guidances
from zero2hero_core.checks import InputError, ShapeError, Zero2HeroError
from zero2hero_core.guidance.bank_size import bank_bytes
from zero2hero_core.guidance.banks import BankAttention, Record, TokenBank
from zero2hero_core.guidance.cross_frame import CrossFrameAttention, grid_of


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


def test_one_after_another_reads_what_a_joint_batch_reads() -> None:
    """Anchor and previous key from banks, frame by frame, equal the attention to other rows of one batch."""
    qkv = tokens(4)
    joint = run([CrossFrameAttention("anchor_previous", layers=ALL, steps=20)], now(4), 9, qkv)
    banks = []
    for row in range(4):
        own, bank = [one[row : row + 1] for one in qkv], TokenBank()
        sources = [banks[0], banks[-1]] if banks else []
        reading = [BankAttention(sources, ALL, range(20))] if banks else []
        alone = run([Record(bank, ALL), *reading], now(1), 9, own)
        banks.append(bank)
        assert torch.allclose(alone[0], joint[row], atol=1e-12)


def test_two_that_make_the_output_or_keys_that_nobody_reads_are_refused() -> None:
    reading = BankAttention([TokenBank()], ALL, range(20))
    with pytest.raises(InputError, match="both make the attention's output in layer 3 at step 1 of 20"):
        check_guidances([reading, reading], ALL, 20)
    with pytest.raises(InputError, match="cross-frame attention changes key and value in layer 3 at step 1"):
        check_guidances([CrossFrameAttention("all", layers=ALL, steps=20), reading], ALL, 20)
    check_guidances([Record(TokenBank(), ALL), reading], ALL, 20)
    with pytest.raises(InputError, match="banks: expected at least one"):
        BankAttention([], ALL, range(20))


def test_banks_in_half_precision_and_what_is_let_go() -> None:
    bank, qkv = TokenBank(torch.float16), tokens(1)
    for step in range(3):
        run([Record(bank, [9])], now(1, step), 9, qkv)
    assert bank.nbytes == 3 * 2 * qkv[1].nbytes // 4
    assert (bank.get(now(1, 1), 9, qkv[0])[0] - qkv[1]).abs().max() < 2e-3
    bank.drop([0, 1])
    assert len(bank) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_goes_through_a_file_to_the_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    bank, path = TokenBank(dtype, "cpu"), tmp_path / "bank.safetensors"
    query, key, value = (one.float() for one in tokens(1))
    for step in range(2):
        run([Record(bank, [9])], now(1, step), 9, (query, key + step, value))
    bank.save(path)
    again = TokenBank().load(path)
    assert again.nbytes == bank.nbytes == 2 * 2 * key.numel() * 2
    for step in range(2):
        read, kept = again.get(now(1, step), 9, query), bank.get(now(1, step), 9, query)
        assert torch.equal(read[0], kept[0]) and torch.equal(read[1], kept[1]) and read[0].dtype == torch.float32
        assert torch.equal(read[0], (key + step).to(dtype).float())


def test_a_bank_keeps_what_it_takes_over_in_its_own_precision() -> None:
    whole = TokenBank()
    run([Record(whole, [9])], now(1), 9, tokens(1))
    assert TokenBank(torch.float16).take(whole.tensors()).nbytes == whole.nbytes // 4


def test_a_bank_holds_one_frame() -> None:
    with pytest.raises(ShapeError, match="tokens: expected those of one frame, got those of 2"):
        run([Record(TokenBank(), ALL)], now(2), 9, tokens(2))


@pytest.mark.parametrize("text", [b"", b"not a file of tensors"])
def test_a_damaged_bank_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "bank.safetensors"
    path.write_bytes(text)
    with pytest.raises(InputError, match="cannot be read"):
        TokenBank().load(path)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({}, "expected those of a frame in .*bank.safetensors, got none"),
        ({"lora.weight": (2, 2)}, "by step, half and layer, .* got lora.weight"),
        ({"0.7.9.key": (1, 2, 4, 4), "0.7.9.value": (1, 2, 4, 4)}, "by step, half and layer, .* got 0.7.9"),
        ({"0.1.9.key": (3, 2, 4, 4), "0.1.9.value": (3, 2, 4, 4)}, "by step, half and layer, .* got 0.1.9"),
        ({"0.1.9.value": (1, 2, 4, 4)}, "layer 9 at step 1, got value"),
        ({"0.1.9.key": (1, 2, 4, 4)}, "layer 9 at step 1, got key"),
        ({"0.1.9.key": (1, 2, 4, 4), "0.1.9.value": (1, 2, 3, 4)}, "of one shape in layer 9 at step 1, got key"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, shapes: dict[str, tuple[int, ...]], words: str) -> None:
    path, bank = tmp_path / "bank.safetensors", TokenBank()
    run([Record(bank, [9])], now(1), 9, tokens(1))
    save_file({name: torch.ones(shape) for name, shape in shapes.items()}, path)
    with pytest.raises(InputError, match=f"tokens: .*{words}"):
        bank.load(path)
    assert len(bank) == 1


def test_what_a_bank_will_take_is_known_beforehand() -> None:
    """1.1 GB and 0.94 GB are the figures for 512 x 512 pixels and 20 steps."""
    assert bank_bytes((64, 64), 20, layers=range(3, 12)) == 1_101_004_800
    assert bank_bytes((64, 64), 20, layers=range(6, 12)) == 943_718_400
    bank, steps, latent = TokenBank(torch.float16), 3, (9, 7)
    for step in range(steps):
        for conditional in (True, False):
            for layer in ALL:
                (height, across), heads = grid_of(layer, latent), HEADS * 2 ** (3 - layer // 3)
                own = torch.zeros(1, heads, height * across, WIDTH)
                run([Record(bank, ALL)], now(1, step, conditional), layer, (own, own, own))
    assert bank.nbytes == bank_bytes(latent, steps, layers=ALL, width=HEADS * WIDTH)
    assert bank.nbytes == 2 * bank_bytes(latent, steps, layers=ALL, width=HEADS * WIDTH, halves=1)
    assert 2 * bank.nbytes == bank_bytes(latent, steps, layers=ALL, width=HEADS * WIDTH, dtype=torch.float32)
