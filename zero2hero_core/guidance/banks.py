"""Tokens of frames that are done, kept for those that follow: attention to them is Rerender-A-Video's.

Source: arXiv 2306.07954, eq. 6: a layer reads [tokens of the anchor ; tokens of the key before] in place of its own.
Differs: keys and values are kept as they are projected, in place of what they are projected from; the result is the
same.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..attention.guidance import Guidance, Pass, Role
from ..attention.protocol import Attention
from ..checks import InputError, ShapeError, Zero2HeroError
from ..files.tensor_file import write_tensors

KEY_VALUE = frozenset({"key", "value"})
_Name = tuple[int, bool, int]  # step, conditional, layer
_NAME = re.compile(r"(?P<step>\d+)\.(?P<half>[01])\.(?P<layer>\d+)\.(?P<kind>key|value)", re.ASCII)


class TokenBank:
    """Keys and values (1, heads, N, head_dim) of one frame, by step, half of the guidance and layer.

    Args: dtype: that they are kept in, None for that of the model; device: where, None for where they were computed.
    How much it takes: `bank_size.bank_bytes`.
    """

    def __init__(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None):
        self.dtype, self.device = dtype, device
        self._tokens: dict[_Name, tuple[torch.Tensor, torch.Tensor]] = {}

    def put(self, now: Pass, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Keep the tokens of a layer in a pass, unless the step has some already: passes that others add to a step, as
        perturbed attention does, do not count.

        Raises: ShapeError when they are those of several frames.
        """
        if len(key) != 1:
            raise ShapeError(f"tokens: expected those of one frame, got those of {len(key)}; give each a bank.")
        name = (now.step, now.conditional, layer)
        if name in self._tokens:
            return
        # Copies: what comes is often a view of something larger.
        self._tokens[name] = (self._kept(key, copy=True), self._kept(value, copy=True))

    def _kept(self, tensor: torch.Tensor, *, copy: bool = False) -> torch.Tensor:
        return tensor.to(self.device or tensor.device, self.dtype or tensor.dtype, copy=copy)

    def get(self, now: Pass, layer: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values that were kept at this step, in the type and on the device of `like`.

        Raises: Zero2HeroError when there are none.
        """
        name = (now.step, now.conditional, layer)
        if name not in self._tokens:
            half = "with the prompt" if now.conditional else "with the negative prompt"
            raise Zero2HeroError(f"tokens of layer {layer} at step {now.step + 1}, {half}, were never kept.")
        key, value = self._tokens[name]
        return key.to(like), value.to(like)

    def drop(self, steps: Collection[int]) -> None:
        """Let go of what was kept at steps."""
        self._tokens = {name: tokens for name, tokens in self._tokens.items() if name[0] not in steps}

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""
        return sum(tensor.nbytes for tokens in self._tokens.values() for tensor in tokens)

    def __len__(self) -> int:
        return len(self._tokens)

    def tensors(self) -> dict[str, torch.Tensor]:
        """All of it by name, for a file."""
        return {
            f"{step}.{int(conditional)}.{layer}.{kind}": tensor.cpu().contiguous()
            for (step, conditional, layer), tokens in self._tokens.items()
            for kind, tensor in zip(("key", "value"), tokens, strict=True)
        }

    def save(self, path: Path) -> None:
        """Write it to a file, whole or not at all. Raises: as `write_tensors`."""
        write_tensors(path, self.tensors(), {})

    def load(self, path: Path) -> TokenBank:
        """Take over what a file holds; returns itself. Raises: InputError when it is missing, damaged or something
        else."""
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise InputError(f"tokens: {path} cannot be read: {error}.") from error
        if not tensors:
            raise InputError(f"tokens: expected those of a frame in {path}, got none; choose a file that a bank wrote.")
        return self.take(tensors)

    def take(self, tensors: Mapping[str, torch.Tensor]) -> TokenBank:
        """Take over what `tensors` gave, as this bank keeps it; returns itself.

        Raises: InputError for anything else; then the bank stays as it was.
        """
        taken: dict[_Name, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            if not (parts := _NAME.fullmatch(name)) or tensor.ndim != 4 or len(tensor) != 1:
                raise InputError(
                    f"tokens: expected them by step, half and layer, (1, heads, N, head_dim), got {name} "
                    f"{tuple(tensor.shape)}; choose what a bank wrote."
                )
            place = int(parts["step"]), parts["half"] == "1", int(parts["layer"])
            taken.setdefault(place, {})[parts["kind"]] = self._kept(tensor)
        for (step, _, layer), pair in taken.items():
            if pair.keys() != KEY_VALUE or pair["key"].shape != pair["value"].shape:
                what = " and ".join(f"{kind} {tuple(tensor.shape)}" for kind, tensor in sorted(pair.items()))
                raise InputError(
                    f"tokens: expected key and value of one shape in layer {layer} at step {step + 1}, got {what}; "
                    "choose what a bank wrote."
                )
        self._tokens |= {place: (pair["key"], pair["value"]) for place, pair in taken.items()}
        return self


class Record(Guidance):
    """Keeps the tokens of a frame in a bank and changes nothing. layers: of which."""

    name = "record of tokens"

    def __init__(self, bank: TokenBank, layers: Collection[int]):
        self.bank, self.layers = bank, frozenset(layers)

    def role(self, layer: int, step: int) -> Role:
        """Looks on in its layers."""
        return Role.CHAIN if layer in self.layers else Role.NONE

    def needs(self, layer: int, step: int) -> frozenset[str]:
        """What is kept."""
        return KEY_VALUE

    def attend(
        self,
        now: Pass,
        layer: int,
        query: torch.Tensor | None,
        key: torch.Tensor | None,
        value: torch.Tensor | None,
        following: Attention,
    ) -> torch.Tensor:
        """What follows, unchanged."""
        assert key is not None and value is not None
        self.bank.put(now, layer, key, value)
        return following(layer, query, key, value)


class BankAttention(Guidance):
    """Attention to the tokens of other frames, which earlier samplings kept; the frame's own are not read.

    Args: banks: of the frames, joined in this order. layers, steps: where it acts.
    Raises: InputError when there are no banks.
    """

    name = "attention to earlier keys"

    def __init__(self, banks: Sequence[TokenBank], layers: Collection[int], steps: Collection[int]):
        if not banks:
            raise InputError("banks: expected at least one, the anchor's, got none.")
        self.banks, self.layers, self.steps = tuple(banks), frozenset(layers), frozenset(steps)

    def role(self, layer: int, step: int) -> Role:
        """Makes the output of its layers in its steps."""
        return Role.OUTPUT if layer in self.layers and step in self.steps else Role.NONE

    def needs(self, layer: int, step: int) -> frozenset[str]:
        """The query."""
        return frozenset({"query"})

    def attend(
        self,
        now: Pass,
        layer: int,
        query: torch.Tensor | None,
        key: torch.Tensor | None,
        value: torch.Tensor | None,
        following: Attention,
    ) -> torch.Tensor:
        """Attention output (B, heads, N, head_dim)."""
        assert query is not None
        keys, values = zip(*(bank.get(now, layer, query) for bank in self.banks), strict=True)
        shape = (len(query), -1, -1, -1)
        return F.scaled_dot_product_attention(
            query, torch.cat(keys, 2).expand(shape), torch.cat(values, 2).expand(shape)
        )
