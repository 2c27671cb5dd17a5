"""The computed memory against what diffusers, peft and autograd hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from zero2hero_core.attention.conditions import Condition
from zero2hero_core.backbones.flux.dit import FLUX1, FLUX2, DiTBackbone, TextEmbedding
from zero2hero_core.backbones.flux.precision import store_weights
from zero2hero_core.checks import InputError
from zero2hero_core.evaluation.speed.hero_memory import count_step, measure_step
from zero2hero_core.evaluation.speed.live_bytes import counting
from zero2hero_core.hero_stage.lora.adapters import HeroLoRA, LoRASpec, checkpoint_blocks
from zero2hero_core.hero_stage.lora.formats import find_linears
from zero2hero_core.hero_stage.memory.estimate import (
    CONTEXT,
    FLUX1_DEV,
    FLUX2_KLEIN_4B,
    MemoryEstimate,
    ModelSize,
    Pass,
    condition_bytes,
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
    assert ModelSize.from_config(model.config, cell=8).tokens(64) == 64
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


def measure(backbone: DiTBackbone, checkpointing: bool) -> tuple[int, int, list[Condition], torch.Tensor]:
    """What two condition passes with LoRA, and a pass over the noise, keep."""
    lora = HeroLoRA(backbone, 2, LoRASpec(RANK))
    checkpoint_blocks(backbone, lora, checkpointing)
    for parameter in lora.parameters():
        torch.nn.init.normal_(parameter)
    base = list(backbone.transformer.parameters())
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
def test_kept_activations_are_those_of_autograd(layout, dtype):
    backbone = tiny(layout, dtype)
    size, image, value = size_of(backbone), GRID[0] * GRID[1], dtype.itemsize
    shown = Pass(image, 1, 0, RANK, value)
    noise = Pass(image, TEXT, 2 * image, 0, value)
    in_conditions, in_noise, _, _ = measure(backbone, checkpointing=False)
    assert in_conditions / 2 == pytest.approx(kept_by_pass(size, shown, checkpointing=False), rel=0.1)
    assert in_noise == pytest.approx(kept_by_pass(size, noise, checkpointing=False), rel=0.1)


@pytest.mark.parametrize("layout", ["flux1", "flux2"])
def test_with_checkpointing_only_the_inputs_of_blocks_are_kept(layout):
    backbone = tiny(layout, torch.bfloat16)
    size, image = size_of(backbone), GRID[0] * GRID[1]
    in_conditions, in_noise, _, _ = measure(backbone, checkpointing=True)
    shown, noise = (kept_by_pass(size, Pass(image, text), checkpointing=True) for text in (1, TEXT))
    assert in_conditions / 2 == pytest.approx(shown, rel=0.1)
    assert in_noise == pytest.approx(noise, rel=0.1)


@pytest.mark.parametrize("layout", ["flux1", "flux2"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_conditions_hold_no_more_than_their_own_keys_and_values(layout, checkpointing):
    """A slice of FLUX.2's fused projection would keep all of it: nine times as much."""
    _, _, conditions, _ = measure(tiny(layout), checkpointing)
    held = held_by(conditions)
    assert len(held) == 2 * 5 * 2
    for tensor in held:
        assert tensor.untyped_storage().nbytes() == GRID[0] * GRID[1] * 64 * 4
    assert sum(tensor.nbytes for tensor in held) == 2 * condition_bytes(5, GRID[0] * GRID[1], 64, 4)


def test_gradients_of_keys_and_values_hold_no_more_than_themselves():
    """They wait for the conditions' backward pass; as slices they would keep those of the noise tokens too."""
    _, _, conditions, out = measure(tiny("flux2"), True)
    sizes: list[int] = []
    for tensor in held_by(conditions):
        tensor.register_hook(lambda grad: sizes.append(grad.untyped_storage().nbytes()))
    out.sum().backward()
    assert sizes == [GRID[0] * GRID[1] * 64 * 4] * 20


# ---- estimates ----


def small(layout: str) -> ModelSize:
    wide = {"flux1": 1024, "flux2": 768}[layout]
    size = ModelSize("small", layout, 1, 3, 256, 2, wide, 64, 128, text_tokens=64)
    return size if layout == "flux2" else replace(size, pooled_width=128, guidance=True)


@pytest.mark.parametrize(
    ("layout", "weights", "checkpointing"),
    [("flux1", "bf16", True), ("flux1", "nf4", True), ("flux2", "bf16", False), ("flux2", "fp8", True)],
)
def test_the_estimate_covers_the_real_step_and_is_not_far_above_it(layout, weights, checkpointing):
    """Counted over the trainer's passes, adapters and checkpointing, on tensors without content."""
    size, given = small(layout), {"resolution": 256, "rank": 8, "checkpointing": checkpointing}
    counted = count_step(size, weights, **given)
    estimate = estimate_training(size, weights=weights, **given)
    without_context = estimate.total - CONTEXT
    assert counted <= without_context <= 1.3 * counted


def test_counting_counts_each_storage_once_and_while_it_lives():
    with counting() as live:
        base = torch.empty(1000)
        view = base.view(10, 100)
        assert live.alive() == 4000
        twice = view * 2
        assert live.alive() == live.peak == 8000
        del base, view
        assert live.alive() == 4000 and twice.shape == (10, 100)
        torch.empty(500)
        assert live.alive() == 4000 and live.peak == 8000
    assert isinstance(torch.zeros(1).sum().item(), float)  # outside, tensors have content again


@pytest.mark.parametrize("layout", ["flux1", "flux2"])
def test_the_step_that_is_measured_on_a_gpu_runs(layout):
    report = measure_step(small(layout), "fp8", resolution=64, rank=2, device="cpu")
    assert report["seconds_per_step"] > 0 and "allocated_bytes" not in report


@pytest.mark.parametrize(
    ("size", "weights", "gigabytes"), [(FLUX1_DEV, "nf4", 16), (FLUX2_KLEIN_4B, "bf16", 12), (FLUX2_KLEIN_4B, "nf4", 8)]
)
def test_training_fits_consumer_memory(size, weights, gigabytes):
    assert estimate_training(size, resolution=512, rank=32, weights=weights).total <= gigabytes * 10**9


def total(**changed: Any) -> int:
    return estimate_training(FLUX2_KLEIN_4B, **{"resolution": 512, "rank": 32, **changed}).total


@pytest.mark.parametrize(
    ("cheaper", "dearer"),
    [
        ({}, {"checkpointing": False}),
        ({"optimiser": "adamw8bit"}, {}),
        ({"weights": "nf4"}, {"weights": "fp8"}),
        ({"weights": "fp8"}, {"weights": "bf16"}),
        ({"weights": "bf16"}, {"weights": "fp32"}),
        ({}, {"rank": 128}),
        ({}, {"resolution": 768}),
        ({"resolution": (512, 768)}, {"resolution": 768}),
        ({"conditions": 1}, {}),
        ({"condition_resolution": 256}, {}),
        ({}, {"batch": 2}),
        ({}, {"draws": 2}),
        ({"weights": "fp8"}, {"weights": "fp8", "float32": True}),
    ],
)
def test_every_option_moves_the_estimate_the_right_way(cheaper, dearer):
    assert total(**cheaper) < total(**dearer)


def test_a_cpu_has_no_context():
    gpu, cpu = (estimate_training(FLUX2_KLEIN_4B, resolution=512, rank=32, device=d) for d in ("cuda", "cpu"))
    assert [part for part in gpu.parts if part not in cpu.parts] == [("CUDA context and allocator (assumed)", CONTEXT)]


def test_the_table_adds_up_and_says_that_it_is_computed():
    estimate = MemoryEstimate("a model", (("weights", 2**30), ("the rest of it", 2**29)))
    assert estimate.total == 3 * 2**29
    assert estimate.text().splitlines() == [
        "a model (computed, not measured)",
        "weights            1.00 GiB",
        "the rest of it     0.50 GiB",
        "total              1.50 GiB",
    ]
    assert estimate.as_dict()["total_bytes"] == 3 * 2**29 and estimate.as_dict()["computed"] is True


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weights": "int8"}, "weights: expected"),
        ({"optimiser": "sgd"}, "optimiser: expected"),
        ({"resolution": 500}, "multiples of 16 from 16 up, got 500 x 500"),
        ({"rank": 0}, "rank: expected"),
        ({"conditions": -1}, "conditions: expected"),
        ({"batch": 0}, "batch: expected"),
    ],
)
def test_impossible_options_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        total(**options)


def test_another_configuration_is_refused():
    with pytest.raises(InputError, match="expected the configuration of a FLUX transformer, it lacks"):
        ModelSize.from_config({"in_channels": 4, "num_attention_heads": 2, "attention_head_dim": 8})
    with pytest.raises(InputError, match="layout flux1 or flux2"):
        replace(FLUX1_DEV, layout="sd3")
