"""Counts what tensors hold while a computation runs, on tensors without content: no memory and no GPU are needed.

Shapes, types and the order of operations are the real ones (torch's fake tensors); two things that cannot run here are
stood in for by what they make and keep: fused attention, and bitsandbytes' nf4.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from ...attention import conditions as condition_tokens
from ...backbones.flux import attention as dit_attention


class LivePeak(TorchDispatchMode):
    """Bytes of all tensors that were made under it and are alive, each storage once, and the most at one time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.held: dict[int, tuple[StorageWeakRef, int]] = {}
        self.sum = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self._see, out)
        if self.sum > self.peak:  # an upper bound, for what has died was not taken off: look
            self.peak = max(self.peak, self.alive())
        return out

    def _see(self, tensor: torch.Tensor) -> None:
        if tensor.device.type == "meta":
            return
        storage = tensor.untyped_storage()
        known = self.held.get(storage._cdata)
        if known is None or known[0].expired():
            self.sum += storage.nbytes() - (known[1] if known else 0)
            self.held[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())

    def alive(self) -> int:
        """Bytes now."""
        self.held = {key: entry for key, entry in self.held.items() if not entry[0].expired()}
        self.sum = sum(size for _, size in self.held.values())
        return self.sum


class _FusedAttention(torch.autograd.Function):
    """What a fused kernel makes and keeps, without the numbers."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        rows = torch.empty(query.shape[:3], dtype=torch.float32, device=query.device)
        ctx.save_for_backward(query, key, value, out, rows)
        return out

    @staticmethod
    def backward(ctx: Any, *_: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


@contextmanager
def counting() -> Iterator[LivePeak]:
    """Tensors without content, counted; attention as on a GPU."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: Any = None) -> torch.Tensor:
        out: torch.Tensor = _FusedAttention.apply(query, key, value)  # type: ignore[no-untyped-call]  # torch's
        return out

    # Modules of such tensors cannot be moved, and all are where they belong already.
    module: Any = torch.nn.Module
    move = module.to
    before = condition_tokens.attend
    callers: list[Any] = [condition_tokens, dit_attention]  # modules that have the name
    for caller in callers:
        caller.attend = attend
    module.to = lambda one, *_, **__: one
    try:
        with FakeTensorMode(), LivePeak() as live:
            yield live
    finally:
        module.to = move
        for caller in callers:
            caller.attend = before


class _Unpacked(torch.autograd.Function):
    """A linear layer that makes its wide weights for a product, and makes them again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, packed: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        ctx.save_for_backward(packed)
        ctx.shape = shape
        return x @ torch.empty(shape, dtype=x.dtype, device=x.device).t()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grads
        return grad @ torch.empty(ctx.shape, dtype=grad.dtype, device=grad.device), None, None


class Nf4Shape(torch.nn.Linear):
    """Holds what bitsandbytes' `Linear4bit` holds with nested statistics: half a byte a weight and two levels of
    scales."""

    def __init__(self, linear: torch.nn.Linear):
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        count, device = linear.weight.numel(), linear.weight.device
        sizes = (count // 2 + count // 64 + 4 * (count // (64 * 256)),)
        self.weight = torch.nn.Parameter(torch.empty(sizes, dtype=torch.uint8, device=device), requires_grad=False)
        self.bias = linear.bias
        self.compute_dtype = linear.weight.dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in_features) -> (..., out_features)."""
        shape = (self.out_features, self.in_features)
        out: torch.Tensor = _Unpacked.apply(x, self.weight, shape)  # type: ignore[no-untyped-call]  # torch's
        return out if self.bias is None else out + self.bias
