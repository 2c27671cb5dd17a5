"""Condition tokens of Hero-Stage: packed latents, position ids, and the two hooks that keep a condition's keys and
values in one pass and append them in another (paper, Hero-Stage; the layout is EasyControl's).

A condition attends only to itself, so its keys and values do not depend on the noise: computed once, they serve every
sampling step. Hooks are called as `(layer, query, key, value) -> output` with tensors (B, heads, N, d) whose first
`text_tokens` rows are text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..checks import InputError

KEYS_VALUES = frozenset({"key", "value"})
ALL = KEYS_VALUES | {"query"}
KeysValues = dict[int, tuple[torch.Tensor, torch.Tensor]]  # layer -> key and value, (B, heads, N, d) each


def pack_latents(latents: torch.Tensor) -> torch.Tensor:
    """2 x 2 cells into the channels: (N, C, 2h, 2w) -> (N, 4C, h, w), FLUX's order (channel first, then cell)."""
    return F.pixel_unshuffle(latents, 2)


def unpack_latents(packed: torch.Tensor) -> torch.Tensor:
    """Inverse of `pack_latents`."""
    return F.pixel_shuffle(packed, 2)


def to_tokens(packed: torch.Tensor) -> torch.Tensor:
    """(N, C, h, w) -> tokens (N, h * w, C), row by row."""
    return packed.flatten(2).transpose(1, 2)


def from_tokens(tokens: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    """Inverse of `to_tokens` for a grid of `size_hw`."""
    packed: torch.Tensor = tokens.transpose(1, 2).unflatten(2, size_hw)
    return packed


def position_ids(
    size_hw: tuple[int, int], axes: int, *, like_hw: tuple[int, int] | None = None, time: float = 0.0
) -> torch.Tensor:
    """Position ids (h * w, axes) of an image grid: time on the first axis, y on the second, x on the third, else 0.

    Args: like_hw: the noisy grid that a condition covers; where the sizes differ the ids are scaled by noise size /
    condition size, so that both grids span the same picture.
    """
    (h, w), (like_h, like_w) = size_hw, like_hw or size_hw
    ids = torch.zeros(h, w, axes)
    ids[..., 0] = time
    ids[..., 1] = (torch.arange(h) * (like_h / h))[:, None]
    ids[..., 2] = (torch.arange(w) * (like_w / w))[None, :]
    return ids.flatten(0, 1)


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Attention (B, heads, N, d) of queries to keys, with an additive bias on the scores."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)


@dataclass(frozen=True)
class Condition:
    """What a condition pass left: keys and values of every layer, and how strongly they are attended to.

    A strength between 0 and 1 adds its logarithm to the scores of the condition's tokens; 0 leaves them out, which is
    the base model; 1 is the trained behaviour.
    """

    keys_values: KeysValues
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.strength) and self.strength >= 0):
            raise InputError(f"strength of a condition: expected a number from 0 up, got {self.strength}; 1 is normal.")

    def repeated(self, times: int) -> Condition:
        """Every row `times` times in a row: one condition for several noise levels."""
        if times == 1:
            return self
        keys_values = {
            n: (k.repeat_interleave(times, 0), v.repeat_interleave(times, 0)) for n, (k, v) in self.keys_values.items()
        }
        return Condition(keys_values, self.strength)


class PassEnds(Exception):
    """Raised by a hook when a pass has given all that was wanted of it."""


class ConditionCapture:
    """Keeps keys and values of the image tokens; image and text attend each to themselves only.

    Args: last: layer where the pass ends, by `PassEnds`, for what comes after its keys and values goes unread; None
    lets it run on.
    """

    def __init__(self, text_tokens: int, last: int | None = None):
        self.text_tokens, self.last = text_tokens, last
        self.keys_values: KeysValues = {}

    def needs(self, layer: int) -> frozenset[str]:
        """Everything while the pass goes on with the image's own attention."""
        return KEYS_VALUES if layer == self.last else ALL

    def __call__(
        self, layer: int, query: torch.Tensor | None, key: torch.Tensor | None, value: torch.Tensor | None
    ) -> torch.Tensor:
        """Attention output (B, heads, N, d). Raises: PassEnds in the last layer."""
        assert key is not None and value is not None
        start = self.text_tokens
        # Copies: a slice would keep all that it was cut from, for FLUX.2 a projection nine times as wide.
        pair = key[:, :, start:].contiguous(), value[:, :, start:].contiguous()
        self.keys_values.setdefault(layer, pair)  # a block may run again in the backward pass (gradient checkpointing)
        if layer == self.last:
            raise PassEnds
        assert query is not None
        image = attend(query[:, :, start:], *pair)
        if start == 1:  # one token attends to itself: its value
            return torch.cat([value[:, :, :1], image], 2)
        text = attend(*(part[:, :, :start].contiguous() for part in (query, key, value)))
        return torch.cat([text, image], 2) if start else image


class ConditionInject:
    """Appends the conditions' keys and values for text and noise queries."""

    def __init__(self, conditions: Sequence[Condition]):
        self.conditions = [condition for condition in conditions if condition.strength > 0]

    def needs(self, layer: int) -> frozenset[str]:
        """Everything."""
        return ALL

    def __call__(
        self, layer: int, query: torch.Tensor | None, key: torch.Tensor | None, value: torch.Tensor | None
    ) -> torch.Tensor:
        """Attention output (B, heads, N, d)."""
        assert query is not None and key is not None and value is not None
        if not self.conditions:
            return attend(query, key, value)
        keys, values = [key], [value]
        for condition in self.conditions:
            for own, extra in zip((keys, values), condition.keys_values[layer], strict=True):
                if len(extra) not in (1, len(key)):
                    raise InputError(f"conditions: expected {len(key)} images or one for all, got {len(extra)}.")
                extra = extra.to(key.dtype).expand(len(key), -1, -1, -1)
                if extra.requires_grad:
                    extra.register_hook(torch.clone)  # its gradient is a slice, which would keep that of all keys
                own.append(extra)
        bias = self._bias(query, [k.shape[2] for k in keys])
        return attend(query, torch.cat(keys, 2), torch.cat(values, 2), bias)

    def _bias(self, query: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor | None:
        """Logarithm of the strengths on the conditions' columns; None where all are 1: the fast kernels serve."""
        if all(condition.strength == 1 for condition in self.conditions):
            return None
        strengths = [1.0, *(condition.strength for condition in self.conditions)]
        parts = [query.new_full((n,), math.log(s)) for n, s in zip(lengths, strengths, strict=True)]
        return torch.cat(parts).expand(1, 1, query.shape[2], -1)
