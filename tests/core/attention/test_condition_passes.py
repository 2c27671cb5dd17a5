"""Condition passes are the authors' masked concatenation, on the real classes of both families at tiny size."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from zero2hero_core.attention.conditions import Condition, ConditionInject, position_ids
from zero2hero_core.backbones.flux.attention import install_hooks
from zero2hero_core.backbones.flux.dit import FLUX1, FLUX2, TINY, DiTBackbone, TextEmbedding
from zero2hero_core.checks import InputError, ShapeError
from zero2hero_core.evaluation.speed.hero_concatenated import concatenated_velocity, peft_condition_lora

CHANNELS, TEXT, GUIDANCE = 8, 3, 3.5
ADAPTERS = ("condition_0", "condition_1")
TOLERANCE = 1e-5  # absolute; `output_of` checks that velocities are of size 1
FAMILIES = ("flux1", "flux2", "flux2-klein", "tiny")
NOISE = (4, 6)
SIZES = {  # grids of the conditions beside a noise grid of 4 x 6
    "none": [],
    "one equal": [(4, 6)],
    "one smaller": [(2, 3)],
    "two equal": [(4, 6), (4, 6)],
    "two unequal": [(8, 6), (3, 2)],
}


def build_transformer(family: str) -> Any:
    from diffusers import Flux2Transformer2DModel, FluxTransformer2DModel

    torch.manual_seed(7)
    shared = {"in_channels": CHANNELS, "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 12}
    if family.startswith("flux2"):
        model: Any = Flux2Transformer2DModel(
            **shared, num_layers=1, num_single_layers=2, timestep_guidance_channels=16, mlp_ratio=2.0,
            axes_dims_rope=(4, 4, 4, 4), guidance_embeds=family == "flux2",
        )  # fmt: skip
    else:
        model = FluxTransformer2DModel(
            **shared, num_layers=1, num_single_layers=2, pooled_projection_dim=10, guidance_embeds=True,
            axes_dims_rope=(4, 6, 6),
        )  # fmt: skip
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm_" in name and weight.ndim == 1:  # scale of queries and keys: attention far from uniform
                weight.copy_(1.5 + 0.3 * torch.randn(weight.shape))
        model.proj_out.weight.mul_(1.7)
    return model.eval().requires_grad_(False)


def build_backbone(family: str) -> DiTBackbone:
    kind = {"flux1": FLUX1, "tiny": TINY}.get(family, FLUX2)
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randn(1, TEXT, 12, generator=generator)
    pooled = torch.randn(1, 10, generator=generator) if kind.has_pooled else None
    return DiTBackbone(build_transformer(family), kind, text=TextEmbedding(tokens, pooled))


def add_adapters(transformer: Any) -> None:
    """One peft adapter per condition, with random weights of a visible size."""
    from peft import LoraConfig, inject_adapter_in_model

    layers = r"transformer_blocks\.\d+\.attn\.(to_q|to_k|to_v|to_out\.0|to_qkv_mlp_proj)"
    config = LoraConfig(r=4, lora_alpha=6, target_modules=rf"(single_)?{layers}")
    generator = torch.Generator().manual_seed(11)
    for adapter in ADAPTERS:
        inject_adapter_in_model(config, transformer, adapter_name=adapter)
    with torch.no_grad():
        for name, weight in transformer.named_parameters():
            if "lora_" in name:
                weight.copy_(0.4 * torch.randn(weight.shape, generator=generator))


@contextmanager
def switched(transformer: Any, adapter: str | None) -> Iterator[None]:
    """Exactly one adapter on, or none; adapters are left off, and all of them may learn."""
    layers = [module for module in transformer.modules() if hasattr(module, "lora_A")]
    for layer in layers:
        layer.enable_adapters(adapter is not None)
        if adapter:
            layer.set_adapter(adapter)
    yield
    for layer in layers:
        layer.enable_adapters(False)
        for weights in (layer.lora_A, layer.lora_B):
            weights.requires_grad_(True)


def latents(count: int, size_hw: tuple[int, int], seed: int) -> torch.Tensor:
    return torch.randn(count, CHANNELS, *size_hw, generator=torch.Generator().manual_seed(seed))


def condition_latents(sizes: Sequence[tuple[int, int]], count: int = 1) -> list[torch.Tensor]:
    return [latents(count, size, seed=20 + place) for place, size in enumerate(sizes)]


def run_passes(
    backbone: DiTBackbone, inputs: Sequence[torch.Tensor], noise_hw: tuple[int, int] = NOISE, adapted: bool = True
) -> list[Condition]:
    done = []
    for place, packed in enumerate(inputs):
        with switched(backbone.transformer, ADAPTERS[place] if adapted else None):
            done.append(backbone.condition(packed, place, noise_hw, guidance=GUIDANCE))
    return done


def output_of(
    backbone: DiTBackbone, conditions: Sequence[Condition], packed: torch.Tensor | None = None, sigma: float = 0.6
) -> torch.Tensor:
    packed = latents(1, NOISE, seed=1) if packed is None else packed
    with switched(backbone.transformer, None):
        velocity = backbone.velocity(packed, torch.full((len(packed),), sigma), conditions, guidance=GUIDANCE)
    assert 0.3 < float(velocity.detach().std()) < 3
    return velocity


@pytest.fixture(params=FAMILIES)
def backbone(request: pytest.FixtureRequest) -> DiTBackbone:
    return build_backbone(request.param)


@pytest.fixture
def adapted(backbone: DiTBackbone) -> DiTBackbone:
    add_adapters(backbone.transformer)
    return backbone


# ---- the hooked model ----


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_hook_the_model_is_the_stock_model(family: str) -> None:
    packed, sigma = latents(2, NOISE, seed=1), torch.tensor([0.3, 0.9])
    backbone = build_backbone(family)
    stock = build_transformer(family)
    grid = [[0.0, y, x] for y in range(NOISE[0]) for x in range(NOISE[1])]
    given: dict[str, Any] = {}
    if family.startswith("flux2"):  # time, y, x, place in the text
        img_ids, txt_ids = [[*row, 0.0] for row in grid], [[0.0, 0.0, 0.0, n] for n in range(TEXT)]
    else:
        img_ids, txt_ids = grid, [[0.0, 0.0, 0.0]] * TEXT
        assert backbone.text.pooled is not None
        given["pooled_projections"] = backbone.text.pooled.expand(2, -1)
    if family != "flux2-klein":
        given["guidance"] = torch.tensor([GUIDANCE, GUIDANCE])
    with torch.no_grad():
        expected = stock(
            hidden_states=packed.flatten(2).transpose(1, 2),
            encoder_hidden_states=backbone.text.tokens.expand(2, -1, -1),
            timestep=sigma, img_ids=torch.tensor(img_ids), txt_ids=torch.tensor(txt_ids), return_dict=False, **given,
        )[0]  # fmt: skip
        velocity = backbone.velocity(packed, sigma, guidance=GUIDANCE)
    assert float(expected.std()) > 0.3
    torch.testing.assert_close(velocity.flatten(2).transpose(1, 2), expected, atol=1e-6, rtol=0)


def test_guidance_reaches_only_models_that_embed_it() -> None:
    packed, sigma = latents(1, NOISE, seed=1), torch.tensor([0.6])
    for family in FAMILIES:
        backbone = build_backbone(family)
        one, two = (backbone.velocity(packed, sigma, guidance=value) for value in (1.0, 4.0))
        assert torch.equal(one, two) == (family == "flux2-klein")


def test_two_backbones_on_one_transformer_share_the_slot(backbone: DiTBackbone) -> None:
    other = DiTBackbone(backbone.transformer, backbone.family, text=backbone.text)
    assert other.slot is backbone.slot
    plain = output_of(backbone, [])
    conditions = run_passes(backbone, condition_latents([NOISE]), adapted=False)
    assert torch.equal(output_of(other, conditions), output_of(backbone, conditions))
    with other.hooked(ConditionInject(conditions)):
        assert float((output_of_hooked(backbone) - plain).abs().max()) > 0.05
    assert torch.equal(output_of_hooked(backbone), plain)  # and it is given back


def output_of_hooked(backbone: DiTBackbone) -> torch.Tensor:
    """A pass with whatever hook the slot holds."""
    ids = position_ids(NOISE, backbone.family.axes)
    return backbone._run(latents(1, NOISE, seed=1), torch.tensor([0.6]), GUIDANCE, ids, backbone.text)


def test_a_copied_transformer_has_a_slot_of_its_own(backbone: DiTBackbone) -> None:
    twin = DiTBackbone(copy.deepcopy(backbone.transformer), backbone.family, text=backbone.text)
    assert twin.slot is not backbone.slot
    conditions = run_passes(backbone, condition_latents([NOISE]), adapted=False)
    plain = output_of_hooked(backbone)
    with twin.hooked(ConditionInject(conditions)):
        assert torch.equal(output_of_hooked(backbone), plain)
        assert float((output_of_hooked(twin) - plain).abs().max()) > 0.05


def test_checkpointed_and_plain_gradients_agree(backbone: DiTBackbone) -> None:
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            backbone.transformer.enable_gradient_checkpointing()
        inputs = [packed.requires_grad_(True) for packed in condition_latents([NOISE, (2, 3)])]
        noisy = latents(1, NOISE, seed=1).requires_grad_(True)
        loss = output_of(backbone, run_passes(backbone, inputs, adapted=False), noisy).square().mean()
        loss.backward()  # the hooks have left the slot by now
        gradients.append([noisy.grad, *(packed.grad for packed in inputs)])
    for plain, again in zip(*gradients, strict=True):
        assert float(plain.abs().max()) > 1e-4
        torch.testing.assert_close(again, plain, atol=1e-7, rtol=1e-5)


def test_checkpointing_leaves_what_was_captured(backbone: DiTBackbone) -> None:
    backbone.transformer.enable_gradient_checkpointing()
    packed = condition_latents([NOISE])[0].requires_grad_(True)
    condition = run_passes(backbone, [packed], adapted=False)[0]
    before = {layer: id(key) for layer, (key, _) in condition.keys_values.items()}
    output_of(backbone, [condition]).sum().backward()
    assert packed.grad is not None
    assert {layer: id(key) for layer, (key, _) in condition.keys_values.items()} == before


def test_a_condition_pass_ends_at_the_last_keys_and_values(adapted: DiTBackbone) -> None:
    def passed() -> tuple[dict[int, tuple[torch.Tensor, torch.Tensor]], int]:
        calls: list[None] = []
        handle = adapted.transformer.proj_out.register_forward_hook(lambda *_: calls.append(None))
        with switched(adapted.transformer, ADAPTERS[0]):
            captured = adapted.condition(latents(1, NOISE, 5), 0, NOISE, guidance=GUIDANCE).keys_values
        handle.remove()
        return captured, len(calls)

    short, unread = passed()
    adapted.transformer.enable_gradient_checkpointing()  # blocks that are recomputed must run to their ends
    whole, read = passed()
    assert (unread, read) == (0, 1)
    assert short.keys() == whole.keys() == adapted.layers.keys()
    for layer, pair in short.items():
        for one, other in zip(pair, whole[layer], strict=True):
            assert torch.equal(one, other)


def test_another_model_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"FLUX\.1 or FLUX\.2 transformer, got Linear"):
        install_hooks(torch.nn.Linear(2, 2))


# ---- the oracle ----


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_condition_passes_are_the_masked_concatenation(adapted: DiTBackbone, sizes: list[tuple[int, int]]) -> None:
    inputs = condition_latents(sizes)
    noisy, sigma = latents(1, NOISE, seed=1), torch.tensor([0.6])
    lora = peft_condition_lora(adapted.transformer)
    with torch.no_grad():
        conditions = run_passes(adapted, inputs)
        velocity = output_of(adapted, conditions, noisy)
        expected = concatenated_velocity(adapted, noisy, sigma, inputs, guidance=GUIDANCE, lora=lora)
        all_rows = concatenated_velocity(
            adapted, noisy, sigma, inputs, guidance=GUIDANCE, lora=lora, lora_on_all_rows=True
        )
        unadapted = concatenated_velocity(adapted, noisy, sigma, inputs, guidance=GUIDANCE)
    torch.testing.assert_close(velocity, expected, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(all_rows, expected, atol=TOLERANCE, rtol=0)
    if sizes:  # what is compared depends on conditions and adapters far more than the tolerance
        assert float((expected - unadapted).abs().max()) > 0.05
        assert float((expected - output_of(adapted, [])).abs().max()) > 0.05


def test_the_concatenation_knows_where_a_condition_stands(adapted: DiTBackbone) -> None:
    inputs, noisy, sigma = condition_latents([(2, 3)]), latents(1, NOISE, seed=1), torch.tensor([0.6])
    with torch.no_grad():
        with switched(adapted.transformer, ADAPTERS[0]):
            second = adapted.condition(inputs[0], 1, NOISE, guidance=GUIDANCE)
        velocity = output_of(adapted, [second], noisy)
        there, first = (
            concatenated_velocity(
                adapted, noisy, sigma, inputs, guidance=GUIDANCE, places=[place],
                lora=peft_condition_lora(adapted.transformer),
            )
            for place in (1, 0)
        )  # fmt: skip
    torch.testing.assert_close(velocity, there, atol=TOLERANCE, rtol=0)
    moves = adapted.family.condition_times(0) != adapted.family.condition_times(1)
    assert (float((velocity - first).abs().max()) > 1e-3) == moves


def test_gradients_of_the_adapters_agree(adapted: DiTBackbone) -> None:
    inputs, noisy, sigma = condition_latents([NOISE, (2, 3)]), latents(1, NOISE, seed=1), torch.tensor([0.6])
    weights = {name: w for name, w in adapted.transformer.named_parameters() if "lora_" in name}
    for weight in weights.values():
        weight.requires_grad_(True)
    lora = peft_condition_lora(adapted.transformer)
    concatenated = concatenated_velocity(adapted, noisy, sigma, inputs, guidance=GUIDANCE, lora=lora)
    expected = torch.autograd.grad(concatenated.square().mean(), list(weights.values()), allow_unused=True)
    with switched(adapted.transformer, None):
        pass
    velocity = output_of(adapted, run_passes(adapted, inputs), noisy)
    found = torch.autograd.grad(velocity.square().mean(), list(weights.values()), allow_unused=True)
    moved = 0
    for name, one, other in zip(weights, found, expected, strict=True):
        zero = torch.zeros_like(weights[name])  # the last layer's query has no say in its keys and values
        one, other = zero if one is None else one, zero if other is None else other
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4, msg=name)
        moved += int(other.abs().max() > 1e-5)
    assert moved >= len(weights) * 0.7


# ---- laws ----


def test_strength_zero_is_the_base_model(adapted: DiTBackbone) -> None:
    with torch.no_grad():
        conditions = run_passes(adapted, condition_latents([NOISE, (2, 3)]))
        silent = [Condition(condition.keys_values, 0.0) for condition in conditions]
        assert torch.equal(output_of(adapted, silent), output_of(adapted, []))
        assert not torch.equal(output_of(adapted, conditions), output_of(adapted, []))


class DenseInject:
    """Attention written out over noise, text and all conditions, with a bias per condition."""

    def __init__(self, conditions: Sequence[Condition], biases: Sequence[float]):
        self.conditions, self.biases = conditions, biases

    def needs(self, layer: int) -> frozenset[str]:
        return frozenset({"query", "key", "value"})

    def __call__(self, layer: int, query: Any, key: Any, value: Any) -> torch.Tensor:
        weights, values = [(query @ key.mT / math.sqrt(query.shape[-1])).exp()], [value]
        for condition, bias in zip(self.conditions, self.biases, strict=True):
            k, v = condition.keys_values[layer]
            weights.append((query @ k.mT / math.sqrt(query.shape[-1]) + bias).exp())
            values.append(v)
        joined = torch.cat(weights, -1)
        return joined / joined.sum(-1, keepdim=True) @ torch.cat(values, 2)


def test_strength_is_a_bias_on_the_scores(adapted: DiTBackbone) -> None:
    with torch.no_grad():
        full = run_passes(adapted, condition_latents([NOISE, (2, 3)]))
        half = [Condition(full[0].keys_values, 0.5), full[1]]
        velocity = output_of(adapted, half)
        with adapted.hooked(DenseInject(half, [math.log(0.5), 0.0])), switched(adapted.transformer, None):
            expected = output_of_hooked(adapted)
        torch.testing.assert_close(velocity, expected, atol=TOLERANCE, rtol=0)
        assert float((velocity - output_of(adapted, full)).abs().max()) > 0.01


@pytest.mark.parametrize("strength", [-0.1, float("nan"), float("inf")])
def test_a_strength_that_is_none_is_refused(strength: float) -> None:
    with pytest.raises(InputError, match="strength of a condition: expected a number from 0 up, got"):
        Condition({}, strength)


def test_the_order_of_conditions_does_not_matter(adapted: DiTBackbone) -> None:
    inputs = condition_latents([NOISE, (2, 3)])
    noisy, sigma = latents(1, NOISE, seed=1), torch.tensor([0.6])
    with torch.no_grad():
        first, second = run_passes(adapted, inputs)
        forward, backward = output_of(adapted, [first, second]), output_of(adapted, [second, first])
        torch.testing.assert_close(forward, backward, atol=2e-6, rtol=0)
        swapped = concatenated_velocity(
            adapted, noisy, sigma, inputs[::-1], guidance=GUIDANCE, places=[1, 0],
            lora=peft_condition_lora(adapted.transformer, ADAPTERS[::-1]),
        )  # fmt: skip
        torch.testing.assert_close(forward, swapped, atol=TOLERANCE, rtol=0)
        with switched(adapted.transformer, ADAPTERS[1]):  # another's adapter does matter
            other = adapted.condition(inputs[0], 0, NOISE, guidance=GUIDANCE)
        assert float((output_of(adapted, [other, second]) - forward).abs().max()) > 0.01


def test_a_batch_is_its_single_images(adapted: DiTBackbone) -> None:
    inputs, noisy = condition_latents([NOISE, (2, 3)], count=3), latents(3, NOISE, seed=1)
    sigma = torch.tensor([0.2, 0.6, 1.0])
    with torch.no_grad():
        together = run_passes(adapted, inputs)
        velocity = adapted.velocity(noisy, sigma, together, guidance=GUIDANCE)
        shared = adapted.velocity(noisy, sigma, run_passes(adapted, [c[:1] for c in inputs]), guidance=GUIDANCE)
        for i in range(3):
            alone = run_passes(adapted, [packed[i : i + 1] for packed in inputs])
            one = adapted.velocity(noisy[i : i + 1], sigma[i : i + 1], alone, guidance=GUIDANCE)
            torch.testing.assert_close(velocity[i : i + 1], one, atol=2e-6, rtol=0)
    torch.testing.assert_close(shared[:1], velocity[:1], atol=2e-6, rtol=0)  # one condition may serve all
    assert float((shared[1] - velocity[1]).abs().max()) > 0.01


def test_a_repeated_condition_serves_several_noise_levels(adapted: DiTBackbone) -> None:
    inputs = condition_latents([NOISE], count=2)
    noisy = latents(2, NOISE, seed=1).repeat_interleave(3, 0)
    sigma = torch.tensor([0.2, 0.6, 1.0] * 2)
    with torch.no_grad():
        grown = [condition.repeated(3) for condition in run_passes(adapted, inputs)]
        by_hand = run_passes(adapted, [inputs[0].repeat_interleave(3, 0)])
        one, other = (adapted.velocity(noisy, sigma, c, guidance=GUIDANCE) for c in (grown, by_hand))
    torch.testing.assert_close(one, other, atol=2e-6, rtol=0)


# ---- position ids ----


def test_position_ids_of_an_equal_condition_are_those_of_the_noise() -> None:
    assert torch.equal(position_ids(NOISE, 3, like_hw=NOISE), position_ids(NOISE, 3))
    assert position_ids((1, 2), 4, time=20.0).tolist() == [[20, 0, 0, 0], [20, 0, 1, 0]]


def test_position_ids_are_scaled_for_a_condition_of_another_size() -> None:
    """A condition of 2 x 2 tokens beside noise of 4 x 6: a condition token covers two rows and three columns."""
    assert position_ids((2, 2), 3, like_hw=NOISE).tolist() == [[0, 0, 0], [0, 0, 3], [0, 2, 0], [0, 2, 3]]
    larger = position_ids((8, 3), 3, like_hw=NOISE)
    assert larger[:, 1].unique().tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5]
    assert larger[:, 2].unique().tolist() == [0, 2, 4]


# ---- errors ----


def test_shape_errors_say_what_came(adapted: DiTBackbone) -> None:
    noisy, sigma = latents(3, NOISE, seed=1), torch.full((3,), 0.6)
    with torch.no_grad():
        pair = run_passes(adapted, condition_latents([NOISE], count=2))
        with pytest.raises(InputError, match="conditions: expected 3 images or one for all, got 2"):
            adapted.velocity(noisy, sigma, pair, guidance=GUIDANCE)
    wrong = [
        (noisy[:, :5], [], None, r"noisy latents: expected shape \(N, 8, h, w\), got \(3, 5, 4, 6\)"),
        (noisy, [noisy[:, :5]], None, r"condition 0: expected shape \(N, 8, h, w\), got \(3, 5, 4, 6\)"),
        (noisy, [noisy, noisy[:2]], None, "condition 1: expected 3 images, got 2"),
        (noisy, [noisy], [0, 1], "places: expected one for each of 1 conditions, got 2"),
    ]
    for packed, inputs, places, message in wrong:
        with pytest.raises(InputError, match=message) as raised:
            concatenated_velocity(adapted, packed, sigma, inputs, guidance=GUIDANCE, places=places)
        assert isinstance(raised.value, ShapeError) == (places is None)


def test_adapters_that_cannot_be_concatenated_are_refused() -> None:
    from peft import LoraConfig, inject_adapter_in_model

    transformer = build_transformer("flux1")
    with pytest.raises(InputError, match="expected an adapter 'condition_0' on FluxTransformer2DModel, found none"):
        peft_condition_lora(transformer)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["proj_mlp"]), transformer, adapter_name="condition_0")
    with pytest.raises(InputError, match=r"LoRA 'condition_0': expected layers .* of attention, got .*proj_mlp"):
        peft_condition_lora(transformer, ["condition_0"])
