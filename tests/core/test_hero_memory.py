"""The computed memory against what diffusers, peft and autograd hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from zero2hero_core import condition_tokens
from zero2hero_core.backbones import dit_attention
from zero2hero_core.backbones.dit import FLUX1, FLUX2, DiTBackbone, TextEmbedding
from zero2hero_core.backbones.dit_precision import store_weights
from zero2hero_core.backbones.lora import HeroLoRA, LoRASpec, checkpoint_blocks, find_linears
from zero2hero_core.checks import InputError
from zero2hero_core.condition_tokens import Condition
from zero2hero_core.hero_memory import (
    FLUX1_DEV,
    FLUX2_KLEIN_4B,
    MemoryEstimate,
    ModelSize,
    Pass,
    estimate_restoring,
    estimate_training,
    kept_by_pass,
)

# As on the pages of the models, from their transformer/config.json.
FLUX1_DEV_CONFIG = {"guidance_embeds": True}  # the rest is the class's default
KLEIN_CONFIG = {
    "num_layers": 5,
    "num_single_layers": 20,
    "num_attention_heads": 24,
    "joint_attention_dim": 7680,
    "guidance_embeds": False,
}
TINY = {"in_channels": 16, "num_layers": 2, "num_single_layers": 3, "num_attention_heads": 4, "attention_head_dim": 16}
TEXT, GRID = 24, (6, 8)
RANK = 4


def on_meta(layout: str, config: dict[str, Any]) -> Any:
    import diffusers

    with torch.device("meta"):
        return getattr(diffusers, {"flux1": "FluxTransformer2DModel", "flux2": "Flux2Transformer2DModel"}[layout])(
            **config
        )


def tiny(layout: str, dtype: torch.dtype = torch.float32) -> DiTBackbone:
    import diffusers

    torch.manual_seed(0)
    text = TextEmbedding(torch.randn(1, TEXT, 32), torch.randn(1, 32) if layout == "flux1" else None)
    if layout == "flux1":
        model = diffusers.FluxTransformer2DModel(
            **TINY, joint_attention_dim=32, pooled_projection_dim=32, guidance_embeds=True, axes_dims_rope=(4, 6, 6)
        )
    else:
        model = diffusers.Flux2Transformer2DModel(
            **TINY, joint_attention_dim=32, guidance_embeds=False, axes_dims_rope=(4, 4, 4, 4)
        )
    model.to(dtype).requires_grad_(False)
    return DiTBackbone(model, FLUX1 if layout == "flux1" else FLUX2, text=text)


def size_of(backbone: DiTBackbone) -> ModelSize:
    return ModelSize.from_config(backbone.transformer.config, text_tokens=TEXT)


@pytest.mark.parametrize(
    ("size", "config", "millions"), [(FLUX1_DEV, FLUX1_DEV_CONFIG, 11901), (FLUX2_KLEIN_4B, KLEIN_CONFIG, 3876)]
)
def test_sizes_are_those_of_the_real_models(size, config, millions):
    model = on_meta(size.layout, config)
    assert size.parameters() == sum(p.numel() for p in model.parameters())
    assert round(size.parameters() / 1e6) == millions
    assert ModelSize.from_config(model.config, name=size.name) == size
    assert size.weight_bytes("bf16") == 2 * size.parameters()
    assert size.weight_bytes("fp32", 4) == 4 * size.parameters()


@pytest.mark.parametrize(("size", "config"), [(FLUX1_DEV, FLUX1_DEV_CONFIG), (FLUX2_KLEIN_4B, KLEIN_CONFIG)])
@pytest.mark.parametrize("rank", [32, 128])
def test_lora_parameters_are_those_that_peft_makes(size, config, rank):
    from peft import LoraConfig, inject_adapter_in_model

    model = on_meta(size.layout, config)
    _, linears = find_linears(model)
    config = LoraConfig(r=rank, target_modules="|".join(name.replace(".", r"\.") for name in linears))
    inject_adapter_in_model(config, model, "condition_0", low_cpu_mem_usage=True)
    assert size.lora_parameters(rank) == sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)


def test_the_authors_lora_has_149_million_parameters():
    assert round(FLUX1_DEV.lora_parameters(128) / 1e6) == 149


@pytest.mark.parametrize("layout", ["flux1", "flux2"])
@pytest.mark.parametrize("weights", ["fp32", "bf16", "fp8"])
def test_weight_bytes_are_those_of_the_stored_model(layout, weights):
    backbone = tiny(layout, torch.float32 if weights == "fp32" else torch.bfloat16)
    if weights != "fp32":
        store_weights(backbone.transformer, weights, "cpu")
    held = [*backbone.transformer.parameters(), *backbone.transformer.buffers()]
    truth = sum(t.numel() * t.element_size() for t in held)
    assert size_of(backbone).weight_bytes(weights, 4 if weights == "fp32" else 2) == truth


# ---- activations ----


class Kept:
    """Bytes of what autograd keeps while it is open: each storage once, without parameters and without `apart`."""

    def __init__(self, *apart: torch.Tensor):
        self.apart = {t.untyped_storage().data_ptr() for t in apart}
        self.storages: dict[int, torch.UntypedStorage] = {}

    def __enter__(self) -> Kept:
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda t: t)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.hooks.__exit__(*error)

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if not isinstance(tensor, torch.nn.Parameter) and storage.data_ptr() not in self.apart:
            self.storages[storage.data_ptr()] = storage  # held, so that its address is not used again
        return tensor

    def bytes(self, *apart: torch.Tensor) -> int:
        left = self.storages.keys() - {t.untyped_storage().data_ptr() for t in apart}
        return sum(self.storages[pointer].nbytes() for pointer in left)


def held_by(conditions: list[Condition]) -> list[torch.Tensor]:
    return [tensor for condition in conditions for pair in condition.keys_values.values() for tensor in pair]


def fused(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: Any = None) -> torch.Tensor:
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)


@pytest.fixture
def use_fused_attention(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """The kernel of a GPU, which on a CPU is left out where gradients are wanted."""

    def use(wanted: bool) -> None:
        if wanted:
            monkeypatch.setattr(condition_tokens, "attend", fused)
            monkeypatch.setattr(dit_attention, "attend", fused)

    return use


def measure(backbone: DiTBackbone, checkpointing: bool) -> tuple[int, int, list[Condition], torch.Tensor]:
    """What two condition passes with LoRA, and a pass over the noise, keep."""
    lora = HeroLoRA(backbone, 2, LoRASpec(RANK))
    checkpoint_blocks(backbone, lora, checkpointing)
    for parameter in lora.parameters():
        torch.nn.init.normal_(parameter)
    base = [p for p in backbone.transformer.parameters()]
    packed = torch.randn(1, 16, *GRID)
    conditions = []
    with Kept(*base) as in_conditions:
        for index in range(2):
            with lora.active(index):
                conditions.append(backbone.condition(packed, index, GRID, guidance=1.0))
    held = held_by(conditions)
    with Kept(*base, *held) as in_noise:
        out = backbone.velocity(packed, torch.tensor([0.5]), conditions, guidance=1.0)
    return in_conditions.bytes(*held), in_noise.bytes(), conditions, out


@pytest.mark.parametrize("layout", ["flux1", "flux2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fused_attention", [False, True])
def test_kept_activations_are_those_of_autograd(layout, dtype, fused_attention, use_fused_attention):
    use_fused_attention(fused_attention)
    backbone = tiny(layout, dtype)
    size, image, value = size_of(backbone), GRID[0] * GRID[1], dtype.itemsize
    shown = Pass(image, 1, 0, RANK, value, fused_attention)
    noise = Pass(image, TEXT, 2 * image, 0, value, fused_attention)
    in_conditions, in_noise, _, _ = measure(backbone, checkpointing=False)
    print(
        layout,
        dtype,
        fused_attention,
        in_conditions / 2 / kept_by_pass(size, shown, checkpointing=False),
        in_noise / kept_by_pass(size, noise, checkpointing=False),
    )
    assert in_conditions / 2 == pytest.approx(kept_by_pass(size, shown, checkpointing=False), rel=0.25)
    assert in_noise == pytest.approx(kept_by_pass(size, noise, checkpointing=False), rel=0.25)


@pytest.mark.parametrize("layout", ["flux1", "flux2"])
def test_with_checkpointing_only_the_inputs_of_blocks_are_kept(layout):
    backbone = tiny(layout, torch.bfloat16)
    size, image = size_of(backbone), GRID[0] * GRID[1]
    in_conditions, in_noise, _, _ = measure(backbone, checkpointing=True)
    shown, noise = (kept_by_pass(size, Pass(image, text), checkpointing=True) for text in (1, TEXT))
    print(layout, in_conditions / 2 / shown, in_noise / noise)
    assert in_conditions / 2 == pytest.approx(shown, rel=0.25)
    assert in_noise == pytest.approx(noise, rel=0.25)
