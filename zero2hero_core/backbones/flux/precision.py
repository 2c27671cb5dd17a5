"""In which precision the frozen weights of a FLUX transformer are stored: bf16, fp8 or nf4.

Only linear layers inside the blocks are stored small: they hold all but one to four percent of the weights. Embeddings,
norms, the output layer, biases and LoRA adapters stay as they are, and all arithmetic stays in the type that the model
was loaded in.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ...checks import InputError, Zero2HeroError

PRECISIONS = ("bf16", "fp8", "nf4")
FP8 = torch.float8_e4m3fn
_STACKS = ("transformer_blocks", "single_transformer_blocks")


class _ScaledLinear(torch.autograd.Function):
    """Linear layer on float8 weights that keeps only these for the backward pass, not their wider copy."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(weight, scale)
        return F.linear(x, _widen(weight, scale, x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        weight, scale = ctx.saved_tensors
        (grad,) = grads
        return grad @ _widen(weight, scale, grad.dtype), None, None


def _widen(weight: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return weight.to(dtype).mul_(scale.to(dtype)[:, None])  # before the product: sums of raw float8 overflow float16


class Float8Linear(nn.Linear):
    """A frozen linear layer whose weights are float8 (e4m3) times one float32 factor per output row.

    The factor puts the largest weight of a row at the largest number of the type; without it most weights of a
    transformer fall where e4m3 has no full precision left. Gradients reach the input, not the weights.

    Args:
        linear: the layer to store.
        device: where to.
    """

    def __init__(self, linear: nn.Linear, device: torch.device):
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        wide = linear.weight.detach().to(device)
        scale = wide.float().abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / torch.finfo(FP8).max
        self.weight = nn.Parameter((wide.float() / scale[:, None]).to(FP8), requires_grad=False)
        self.register_buffer("scale", scale)
        if linear.bias is not None:
            self.bias = nn.Parameter(linear.bias.detach().to(device), requires_grad=False)
        self.compute_dtype = linear.weight.dtype  # peft gives adapters this type

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in_features) -> (..., out_features), in the type of `x`."""
        out: torch.Tensor = _ScaledLinear.apply(x, self.weight, self.scale)  # type: ignore[no-untyped-call]  # torch's own
        return out if self.bias is None else out + self.bias.to(out.dtype)

    def wide_weight(self) -> torch.Tensor:
        """The weight (out, in) with its factors, float64 on the CPU."""
        return self.weight.detach().cpu().double() * self.get_buffer("scale").cpu().double()[:, None]


def stored_linears(module: nn.Module) -> dict[str, nn.Linear]:
    """Linear layers inside the blocks by name, adapters left out; already stored ones among them."""
    return {
        name: child
        for name, child in module.named_modules()
        if isinstance(child, nn.Linear)
        and not any(part.startswith("lora_") for part in name.split("."))
        and any(part in _STACKS for part in name.split("."))
    }


def check_weights(weights: str, device: str | torch.device) -> None:
    """Raise `InputError` unless these weights can be stored on this device; costs nothing."""
    if weights not in PRECISIONS:
        raise InputError(f"weights: expected {', '.join(PRECISIONS)}, got {weights!r}.")
    if weights == "nf4":
        if torch.device(device).type != "cuda":
            raise InputError(
                f"weights nf4: needs an NVIDIA GPU (device cuda), got {device}; choose fp8 or bf16 for this device."
            )
        _bitsandbytes()


def store_weights(transformer: nn.Module, weights: str, device: str | torch.device) -> None:
    """Bring a transformer to a device, its weights stored in one of `PRECISIONS`; one layer at a time.

    So the device never holds more than the stored model and one wide layer, and of a memory-mapped model the machine
    neither. LoRA adapters only move.

    Args:
        transformer: a FLUX transformer whose weights are in the type to compute in.
        weights: "bf16", "fp8" (float8 e4m3 with a factor per row) or "nf4" (bitsandbytes, CUDA only).

    Raises:
        InputError: unknown weights, nf4 elsewhere than on CUDA or without bitsandbytes, weights that are fp8 or nf4
            already and are to become something else.
        Zero2HeroError: the device has too little memory.
    """
    check_weights(weights, device)
    place = torch.device(device)
    try:
        if weights == "bf16":
            _to_bfloat16(transformer, place)
            return
        for name in stored_linears(transformer):
            store_linear(transformer, name, weights, place)
        transformer.to(place)
    except torch.cuda.OutOfMemoryError as error:
        raise Zero2HeroError(
            f"transformer: too little memory on {device} for {weights} weights; choose fp8, or nf4, which is smallest."
        ) from error
    if weights == "nf4":
        transformer.is_loaded_in_4bit = True  # type: ignore[assignment]  # peft asks for it


def store_linear(transformer: nn.Module, name: str, weights: str, device: torch.device) -> None:
    """Store one of `stored_linears` as "fp8" or "nf4" on a device; a step of `store_weights`.

    Raises: InputError when it is stored as the other already.
    """
    linear = transformer.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    kind = _kind(linear)
    if kind == weights:
        return
    if kind != "bf16":
        raise InputError(f"weights: {name} is stored as {kind} already, cannot become {weights}; load the model again.")
    new = Float8Linear(linear, device) if weights == "fp8" else _nf4(linear, device)
    parent, _, child = name.rpartition(".")
    setattr(transformer.get_submodule(parent), child, new)


def _kind(linear: nn.Linear) -> str:
    if isinstance(linear, Float8Linear):
        return "fp8"
    return "nf4" if type(linear).__name__ == "Linear4bit" else "bf16"


def _nf4(linear: nn.Linear, device: torch.device) -> nn.Linear:
    bnb = _bitsandbytes()
    has_bias = linear.bias is not None
    new = bnb.nn.Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=has_bias,
        compute_dtype=linear.weight.dtype,
        compress_statistics=True,
        quant_type="nf4",
        device="meta",
    )
    new.weight = bnb.nn.Params4bit(
        linear.weight.detach(), requires_grad=False, compress_statistics=True, quant_type="nf4", module=new
    )
    new.bias = nn.Parameter(linear.bias.detach(), requires_grad=False) if has_bias else None
    placed: nn.Linear = new.to(device)  # bitsandbytes quantises on the way to the GPU
    return placed


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes
    except ImportError as error:
        raise InputError(
            "weights nf4: needs the package bitsandbytes; install it (pip install bitsandbytes) or choose fp8 or bf16."
        ) from error
    return bitsandbytes


def _to_bfloat16(transformer: nn.Module, device: torch.device) -> None:
    for name, linear in stored_linears(transformer).items():
        if _kind(linear) != "bf16":
            raise InputError(f"weights: {name} is stored as {_kind(linear)} already; load the model again.")
    for module_name, module in transformer.named_modules():
        if any(part.startswith("lora_") for part in module_name.split(".")):
            module.to(device)
            continue
        for tensor in module.parameters(recurse=False):
            tensor.data = tensor.data.to(device, torch.bfloat16)
    transformer.to(device)
