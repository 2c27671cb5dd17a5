"""LoRA on condition tokens: it starts as nothing, only it learns, and it comes off without a trace."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from tiny_models import random_flux
from zero2hero_core.attention.conditions import Condition
from zero2hero_core.backbones.flux.dit import FLUX1, FLUX2, DiTBackbone
from zero2hero_core.backbones.flux.precision import store_weights
from zero2hero_core.checks import InputError
from zero2hero_core.hero_stage.lora.adapters import HeroLoRA, LoRASpec, checkpoint_blocks
from zero2hero_core.tiny.dit import as_dit_backbone, build_dit

FAMILIES = ("flux1", "flux2")
CHANNELS, GRID = 8, (4, 4)
# Last block's queries: what the pass puts out after its keys and values is not used.
UNUSED = "single_transformer_blocks.0.attn.to_q."


def make_backbone(family: str, dtype: torch.dtype = torch.float32) -> DiTBackbone:
    return random_flux({"flux1": FLUX1, "flux2": FLUX2}[family], dtype=dtype)


def shake(lora: HeroLoRA, *indices: int) -> None:
    """Give adapters (all, if none is named) weights of a visible size."""
    generator = torch.Generator().manual_seed(6)
    state = dict(lora.state_dict())
    for key, tensor in state.items():
        if not indices or any(key.startswith(f"condition_{index}.") for index in indices):
            state[key] = 0.3 * torch.randn(tensor.shape, generator=generator)
    lora.load_state_dict(state)


def pictures(count: int) -> list[torch.Tensor]:
    return list(torch.randn(count, 1, CHANNELS, *GRID, generator=torch.Generator().manual_seed(7)))


def pass_of(backbone: DiTBackbone, lora: HeroLoRA | None, index: int) -> Condition:
    packed = pictures(2)[index]
    if lora is None:
        return backbone.condition(packed, index, GRID, guidance=1.0)
    with lora.active(index):
        return backbone.condition(packed, index, GRID, guidance=1.0)


def flat(condition: Condition) -> torch.Tensor:
    return torch.cat([tensor.flatten() for pair in condition.keys_values.values() for tensor in pair])


def velocity(backbone: DiTBackbone, conditions: list[Condition]) -> torch.Tensor:
    return backbone.velocity(pictures(3)[2], torch.tensor([0.6]), conditions, guidance=1.0)


def outputs(backbone: DiTBackbone, lora: HeroLoRA | None) -> torch.Tensor:
    conditions = [pass_of(backbone, lora, index) for index in range(2)]
    return torch.cat([*(flat(condition) for condition in conditions), velocity(backbone, conditions).flatten()])


def gradients(backbone: DiTBackbone, lora: HeroLoRA) -> dict[str, torch.Tensor | None]:
    for parameter in lora.parameters():
        parameter.grad = None
    conditions = [pass_of(backbone, lora, index) for index in range(2)]
    velocity(backbone, conditions).square().mean().backward()
    return {key: p.grad for key, p in zip(lora.state_dict(), lora.parameters(), strict=True)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_fresh_lora_changes_nothing(family, dtype):
    backbone = make_backbone(family, dtype)
    before = outputs(backbone, None)
    lora = HeroLoRA(backbone, 2, LoRASpec(4))
    assert torch.equal(outputs(backbone, lora), before)
    assert all(parameter.dtype == torch.float32 for parameter in lora.parameters())
    shake(lora)
    assert not torch.allclose(outputs(backbone, lora), before, rtol=0.05)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_adapters_receive_gradients_and_move(family):
    backbone = make_backbone(family)
    lora = HeroLoRA(backbone, 2, LoRASpec(4))
    shake(lora)
    adapters = {id(parameter) for parameter in lora.parameters()}
    base = {n: p.detach().clone() for n, p in backbone.transformer.named_parameters() if id(p) not in adapters}
    assert len(base) + len(adapters) == len(list(backbone.transformer.parameters()))
    before = {key: tensor.clone() for key, tensor in lora.state_dict().items()}
    optimiser = torch.optim.AdamW(lora.parameters(), lr=1e-2, weight_decay=0.0)
    gradients(backbone, lora)
    optimiser.step()
    for name, parameter in backbone.transformer.named_parameters():
        if name in base:
            assert parameter.grad is None and not parameter.requires_grad and torch.equal(parameter, base[name]), name
    moved = {key for key, tensor in lora.state_dict().items() if not torch.equal(tensor, before[key])}
    assert moved == {key for key in before if UNUSED not in key}


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_condition_pass_uses_its_own_adapter_only(family):
    backbone = make_backbone(family)
    stock = [flat(pass_of(backbone, None, index)) for index in range(2)]
    alone = velocity(backbone, [])
    lora = HeroLoRA(backbone, 2, LoRASpec(4))
    shake(lora, 1)
    assert torch.equal(flat(pass_of(backbone, lora, 0)), stock[0])
    assert not torch.allclose(flat(pass_of(backbone, lora, 1)), stock[1], rtol=0.05)
    assert torch.equal(velocity(backbone, []), alone)
    shake(lora, 0)
    assert not torch.allclose(flat(pass_of(backbone, lora, 0)), stock[0], rtol=0.05)
    assert torch.equal(velocity(backbone, []), alone)


@torch.no_grad()
def test_alpha_scales_the_update():
    keys = []
    for spec in (LoRASpec(4), LoRASpec(4, 4.0), LoRASpec(4, 10.0)):
        backbone = make_backbone("flux1")
        lora = HeroLoRA(backbone, 1, spec)
        shake(lora)
        linear, x = backbone.transformer.transformer_blocks[0].attn.to_q, torch.ones(1, 32)
        with lora.active(0):
            keys.append(linear(x) - linear.base_layer(x))
    assert torch.equal(keys[0], keys[1])
    torch.testing.assert_close(keys[2], 2.5 * keys[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointed_and_plain_gradients_agree(family):
    backbone = make_backbone(family)
    lora = HeroLoRA(backbone, 2, LoRASpec(4))
    shake(lora)
    plain = gradients(backbone, lora)
    checkpoint_blocks(backbone, lora)
    checkpointed = gradients(backbone, lora)
    checkpoint_blocks(backbone, lora, False)
    again = gradients(backbone, lora)
    assert any(grad is not None for grad in plain.values())
    for key, grad in plain.items():
        if grad is None:
            assert checkpointed[key] is None and UNUSED in key
        else:
            assert grad.norm() > 0
            assert (checkpointed[key] - grad).norm() <= 1e-6 * grad.norm(), key
            assert torch.equal(again[key], grad)


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointing_saves_activations(family):
    """Counts the memory that autograd keeps after the forward passes, each storage once; blocks that are recomputed
    keep their inputs only."""
    backbone = make_backbone(family)
    lora = HeroLoRA(backbone, 2, LoRASpec(4))
    base = {p.untyped_storage().data_ptr() for p in backbone.transformer.parameters()}

    def kept() -> int:
        found: dict[int, torch.Tensor] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            found[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no storage is used twice
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            velocity(backbone, [pass_of(backbone, lora, index) for index in range(2)])
        return sum(tensor.untyped_storage().nbytes() for place, tensor in found.items() if place not in base)

    plain = kept()
    checkpoint_blocks(backbone, lora)
    assert kept() < 0.5 * plain


@pytest.mark.parametrize("family", FAMILIES)
def test_recomputing_leaves_the_captured_keys_and_values_alone(family):
    backbone = make_backbone(family)
    lora = HeroLoRA(backbone, 2, LoRASpec(4))
    shake(lora)
    checkpoint_blocks(backbone, lora)
    conditions = [pass_of(backbone, lora, index) for index in range(2)]
    before = [dict(condition.keys_values) for condition in conditions]
    loss = velocity(backbone, conditions).square().mean()
    loss.backward(retain_graph=True)
    first = [None if p.grad is None else p.grad.clone() for p in lora.parameters()]
    for condition, kept in zip(conditions, before, strict=True):
        for layer, pair in kept.items():
            assert all(a is b for a, b in zip(condition.keys_values[layer], pair, strict=True))
    assert backbone.slot.hook is None and lora.current is None
    loss.backward()  # recomputes once more
    for parameter, grad in zip(lora.parameters(), first, strict=True):
        assert (grad is None) == (parameter.grad is None)
        if grad is not None:
            torch.testing.assert_close(parameter.grad, 2 * grad)


@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_remove_gives_the_stock_model_back(family, trainable):
    backbone = make_backbone(family)
    transformer = backbone.transformer.requires_grad_(trainable)
    before = outputs(backbone, None)
    modules, names = dict(transformer.named_modules()), list(vars(transformer))
    parameters = dict(transformer.named_parameters())
    lora = HeroLoRA(backbone, 2, LoRASpec(4), biased=["transformer_blocks.0.attn.to_out.0"])
    shake(lora)
    lora.remove()
    assert list(modules) == [name for name, _ in transformer.named_modules()]
    assert all(module is modules[name] for name, module in transformer.named_modules())
    assert all(parameter is parameters[name] for name, parameter in transformer.named_parameters())
    assert all(parameter.requires_grad == trainable for parameter in transformer.parameters())
    assert list(vars(transformer)) == names
    assert torch.equal(outputs(backbone, None), before)
    lora.remove()  # once more does nothing
    assert torch.equal(outputs(backbone, HeroLoRA(backbone, 2, LoRASpec(4))), before)


def test_what_was_removed_says_so():
    backbone = make_backbone("flux1")
    lora = HeroLoRA(backbone, 1, LoRASpec(4))
    state = lora.state_dict()
    lora.remove()
    for call in (lora.parameters, lora.state_dict, lambda: lora.load_state_dict(state), lora.active(0).__enter__):
        with pytest.raises(InputError, match="removed"):
            call()


def test_a_second_lora_is_refused_until_the_first_is_removed():
    backbone = make_backbone("flux1")
    first = HeroLoRA(backbone, 1, LoRASpec(4))
    with pytest.raises(InputError, match=r"carries one; remove\(\)"):
        HeroLoRA(backbone, 1, LoRASpec(4))
    first.remove()
    assert len(HeroLoRA(backbone, 1, LoRASpec(4)).parameters()) == 14


def test_active_restores_what_was_on_before():
    backbone = make_backbone("flux1")
    lora = HeroLoRA(backbone, 3, LoRASpec(4))
    layer = backbone.transformer.transformer_blocks[0].attn.to_q
    seen = []

    def note() -> None:
        assert all(parameter.requires_grad for parameter in lora.parameters())
        seen.append((lora.current, list(layer.active_adapters), layer.disable_adapters))

    note()
    with lora.active(0):
        note()
        with lora.active(2):
            note()
            with lora.active(None):
                note()
            note()
        note()
        with pytest.raises(RuntimeError, match="inside"), lora.active(1):
            note()
            raise RuntimeError("inside")
        note()
    note()
    assert [current for current, _, _ in seen] == [None, 0, 2, None, 2, 0, 1, 0, None]
    for current, adapters, disabled in seen:
        assert adapters == ([] if current is None else [f"condition_{current}"]) and not disabled


@pytest.mark.parametrize("index", [-1, 2])
def test_active_refuses_an_unknown_condition(index):
    lora = HeroLoRA(make_backbone("flux1"), 2, LoRASpec(4))
    with pytest.raises(InputError, match=f"from 0 to 1, got {index}"), lora.active(index):
        pass
    assert lora.current is None


def test_start_values_come_from_the_generator_only():
    def start(seed: int | None) -> dict[str, torch.Tensor]:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        backbone = make_backbone("flux2")
        state = torch.get_rng_state()
        made = HeroLoRA(backbone, 2, LoRASpec(8), generator=generator).state_dict()
        assert torch.equal(torch.get_rng_state(), state)
        return made

    first, second, other, default = (start(seed) for seed in (1, 1, 2, None))
    assert list(first) == list(second)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert all(torch.equal(tensor, start(0)[key]) for key, tensor in default.items())
    down = [key for key in first if key.endswith("lora_A.weight")]
    assert len(down) == 10 and not any(torch.equal(first[key], other[key]) for key in down)
    values = torch.cat([first[key].flatten() for key in down])
    assert abs(values.std() * 8 - 1) < 0.05 and abs(values.mean()) < 0.01
    assert not any(bool(first[key].any()) for key in first if key not in down)


DEFAULT_LAYERS = {
    "flux1": ["0.attn.to_q", "0.attn.to_k", "0.attn.to_v", "0.attn.to_out.0"],
    "flux2": ["0.attn.to_q", "0.attn.to_k", "0.attn.to_v", "0.attn.to_out.0"],
}
SINGLE_LAYERS = {"flux1": ["0.attn.to_q", "0.attn.to_k", "0.attn.to_v"], "flux2": ["0.attn.to_qkv_mlp_proj"]}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_default_layers_are_the_authors(family):
    lora = HeroLoRA(make_backbone(family), 2, LoRASpec(4))
    modules = [f"transformer_blocks.{name}" for name in DEFAULT_LAYERS[family]]
    modules += [f"single_transformer_blocks.{name}" for name in SINGLE_LAYERS[family]]
    sides = ("lora_A.weight", "lora_B.weight")
    expected = [f"condition_{i}.{module}.{side}" for i in range(2) for module in modules for side in sides]
    assert list(lora.state_dict()) == expected
    assert [p.data_ptr() for p in lora.parameters()] == [t.data_ptr() for t in lora.state_dict().values()]


def test_every_block_of_the_tiny_model_has_adapters():
    lora = HeroLoRA(as_dit_backbone(build_dit()), 2, LoRASpec(2))
    assert lora.groups == ("q", "k", "v", "out")
    assert len(lora.parameters()) == 2 * 2 * (1 * 4 + 6 * 3)
    assert {tuple(t.shape) for t in lora.state_dict().values()} == {(2, 192), (192, 2)}


@pytest.mark.parametrize(
    ("family", "layers", "count"),
    [("flux1", ("q", "v"), 4), ("flux1", ("out",), 1), ("flux2", ("qkv_mlp",), 1), ("flux2", ("v", "q"), 2)],
)
def test_layers_can_be_chosen(family, layers, count):
    lora = HeroLoRA(make_backbone(family), 1, LoRASpec(4, layers=layers))
    assert len(lora.parameters()) == 2 * count
    assert set(lora.groups) == set(layers)


def test_what_cannot_be_built():
    with pytest.raises(InputError, match="from 1 up, got 0"):
        LoRASpec(0)
    for alpha in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="above 0"):
            LoRASpec(4, alpha)
    for layers in (("q", "mlp"), ("q", "q")):
        with pytest.raises(InputError, match=r"some of q, k, v, out, qkv_mlp, each once"):
            LoRASpec(4, layers=layers)
    backbone = make_backbone("flux1")
    with pytest.raises(InputError, match=r"some of q, k, v, out, each once, got qkv_mlp"):
        HeroLoRA(backbone, 1, LoRASpec(4, layers=("qkv_mlp",)))
    with pytest.raises(InputError, match="at least one condition"):
        HeroLoRA(backbone, 0, LoRASpec(4))
    with pytest.raises(InputError, match=r"no adapter is \(proj_out\)"):
        HeroLoRA(backbone, 1, LoRASpec(4), biased=["proj_out"])
    assert not any("lora" in name for name, _ in backbone.transformer.named_modules())


def test_a_wrong_state_is_refused_whole():
    lora = HeroLoRA(make_backbone("flux1"), 2, LoRASpec(4))
    before = {key: tensor.clone() for key, tensor in lora.state_dict().items()}
    key = list(before)[-1]
    good = {name: tensor + 1 for name, tensor in before.items()}
    cases = [
        ({name: tensor for name, tensor in good.items() if name != key}, f"1 are missing \\({key}\\)"),
        (good | {"condition_2.x": torch.zeros(1)}, r"1 are unexpected \(condition_2.x\)"),
        (good | {key: torch.zeros(32, 5)}, r"expected shape \(32, 4\), got \(32, 5\)"),
        (good | {key: torch.full((32, 4), float("nan"))}, "NaN or infinity"),
    ]
    for state, message in cases:
        with pytest.raises(InputError, match=message):
            lora.load_state_dict(state)
        assert all(torch.equal(tensor, before[name]) for name, tensor in lora.state_dict().items())
    lora.load_state_dict(good)
    assert all(torch.equal(tensor, good[name]) for name, tensor in lora.state_dict().items())


@torch.no_grad()
def test_weights_that_are_stored_smaller_afterwards_do_not_stay():
    backbone = make_backbone("flux1")
    lora = HeroLoRA(backbone, 2, LoRASpec(4))
    shake(lora)
    layer = backbone.transformer.transformer_blocks[0].attn.to_q
    wide = weakref.ref(layer.base_layer.weight)
    before = outputs(backbone, lora)
    store_weights(backbone.transformer, "fp8", "cpu")
    gc.collect()
    assert wide() is None and layer.base_layer.weight.element_size() == 1
    assert not torch.equal(outputs(backbone, lora), before)
    torch.testing.assert_close(outputs(backbone, lora), before, atol=0.2, rtol=0.2)
