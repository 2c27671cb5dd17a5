"""E*: encoding that makes up beforehand for what a round of decoding and encoding loses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from zero2hero_core.guidance.fidelity import encode_faithfully


class Codec:
    """An autoencoder with cells of one pixel; a round keeps the share r of what lies in the latents.

    It counts its calls.
    """

    def __init__(self, share: float = 1.0):
        self.share, self.calls = share, [0, 0]

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        self.calls[0] += 1
        return self.share * images

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        self.calls[1] += 1
        return latents


def _pictures(seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _encode(codec: Any, pictures: torch.Tensor, **options: float) -> torch.Tensor:
    return encode_faithfully(codec, pictures, **options)


def test_an_invertible_autoencoder_needs_no_compensation() -> None:
    pictures = _pictures()
    assert torch.equal(_encode(Codec(), pictures), pictures)


@pytest.mark.parametrize("rounds", [1, 5, 10, 20])
def test_a_contraction_loses_far_less(rounds: int) -> None:
    """Plain rounds keep r^k, compensated ones (r (2 - r))^k: 0.349 and 0.904 after ten at 0.9."""
    share, codec = 0.9, Codec(0.9)
    plain = faithful = start = _pictures()
    for _ in range(rounds):
        plain = codec.decode(codec.encode(plain))
        faithful = codec.decode(_encode(codec, faithful, threshold=2.0))
    assert torch.allclose(plain, start * share**rounds, atol=1e-12)
    assert torch.allclose(faithful, start * (share * (2 - share)) ** rounds, atol=1e-12)
    if rounds == 10:
        assert (share**10, (share * (2 - share)) ** 10) == pytest.approx((0.3487, 0.9044), abs=1e-4)


def test_without_compensation_it_is_plain_encoding_at_its_cost() -> None:
    codec, pictures = Codec(0.9), _pictures()
    assert torch.equal(_encode(codec, pictures, compensation=0.0), 0.9 * pictures) and codec.calls == [1, 0]
    _encode(codec, pictures)
    assert codec.calls == [3, 2]


def test_cells_that_come_back_wrong_are_left_plain_with_their_neighbours() -> None:
    class Spoilt(Codec):
        """Decodes one cell wrongly."""

        def decode(self, latents: torch.Tensor) -> torch.Tensor:
            pictures = super().decode(latents).clone()
            pictures[:, :, 3, 3] = 1 - pictures[:, :, 3, 3].round()
            return pictures

    pictures = _pictures()
    latents, plain = _encode(Spoilt(0.95), pictures), 0.95 * pictures
    changed = (latents - plain).abs().amax((0, 1)) > 0
    assert not changed[2:5, 2:5].any() and changed.sum() == 64 - 9
    assert torch.equal(_encode(Spoilt(0.95), pictures, threshold=0.0), plain)
