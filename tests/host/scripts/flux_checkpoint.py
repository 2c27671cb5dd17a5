"""Writes FLUX.1 with random weights as it is published, but with one block of each kind.

The host knows FLUX by its full width and counts its blocks. About 1 GB.
"""

from __future__ import annotations

from pathlib import Path

import torch

WIDTH, TEXT, POOLED, HEAD = 3072, 4096, 768, 128


def shapes() -> dict[str, tuple[int, ...]]:
    """Linear layers (out, in) and gains of FLUX.1-dev with one block of each kind, in the original layout."""
    d, linears = WIDTH, {"img_in": (WIDTH, 64), "txt_in": (WIDTH, TEXT), "final_layer.linear": (64, WIDTH)}
    linears["final_layer.adaLN_modulation.1"] = (2 * d, d)
    for name, width in (("time_in", 256), ("guidance_in", 256), ("vector_in", POOLED)):
        linears |= {f"{name}.in_layer": (d, width), f"{name}.out_layer": (d, d)}
    found = {}
    for stream in ("img", "txt"):
        block = f"double_blocks.0.{stream}"
        linears |= {f"{block}_mod.lin": (6 * d, d), f"{block}_attn.qkv": (3 * d, d), f"{block}_attn.proj": (d, d)}
        linears |= {f"{block}_mlp.0": (4 * d, d), f"{block}_mlp.2": (d, 4 * d)}
        found |= {f"{block}_attn.norm.{part}_norm.scale": (HEAD,) for part in ("query", "key")}
    block = "single_blocks.0"
    linears |= {f"{block}.linear1": (7 * d, d), f"{block}.linear2": (d, 5 * d), f"{block}.modulation.lin": (3 * d, d)}
    found |= {f"{block}.norm.{part}_norm.scale": (HEAD,) for part in ("query", "key")}
    for name, shape in linears.items():
        found |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return found


def write_checkpoint(path: Path) -> None:
    """Write the file."""
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in shapes().items():
        scale = 0.02 if len(shape) == 1 else shape[-1] ** -0.5
        tensor = torch.empty(shape, dtype=torch.bfloat16)
        tensor.normal_(generator=generator).mul_(scale)
        tensors[name] = tensor + 1 if name.endswith("scale") else tensor
    save_file(tensors, path)
