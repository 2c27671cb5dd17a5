"""LoRA files: what is saved is loaded, the authors' files do what they do with the authors, and nothing else passes."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tiny_models import random_flux
from zero2hero_core import __version__
from zero2hero_core.backbones.flux.dit import FLUX1, FLUX2, TINY, DiTBackbone, Family
from zero2hero_core.backbones.flux.precision import store_weights
from zero2hero_core.checks import InputError, Zero2HeroError
from zero2hero_core.hero_stage.lora.adapters import HeroLoRA, LoRASpec
from zero2hero_core.hero_stage.lora.file import HeroMetadata, load_lora, read_metadata, save_lora

CHANNELS, GRID, RANK = 8, (4, 4), 4
DIGEST = "0" * 64


def make_backbone(family: Family = FLUX1, **size: int) -> DiTBackbone:
    return random_flux(family, seed=8, **size)


def trained(backbone: DiTBackbone, count: int = 2, **spec: Any) -> HeroLoRA:
    lora = HeroLoRA(backbone, count, LoRASpec(RANK, **spec))
    generator = torch.Generator().manual_seed(9)
    lora.load_state_dict({k: 0.3 * torch.randn(t.shape, generator=generator) for k, t in lora.state_dict().items()})
    return lora


@torch.no_grad()
def keys_values(backbone: DiTBackbone, index: int, lora: HeroLoRA | None = None) -> torch.Tensor:
    packed = torch.randn(1, CHANNELS, *GRID, generator=torch.Generator().manual_seed(10))
    if lora is None:
        condition = backbone.condition(packed, index, GRID, guidance=1.0)
    else:
        with lora.active(index):
            condition = backbone.condition(packed, index, GRID, guidance=1.0)
    return torch.cat([tensor.flatten() for pair in condition.keys_values.values() for tensor in pair])


def saved(folder: Path, family: Family = FLUX1, **size: int) -> Path:
    """A file of our format with two conditions."""
    lora, path = trained(make_backbone(family, **size)), folder / "hero.safetensors"
    save_lora(path, lora, HeroMetadata.of(lora, mode="explicit", step=400))
    return path


def authors_state(
    count: int = 1, *, rank: int = RANK, width: int = 32, double: int = 1, single: int = 1, seed: int = 0
):
    """Tensors under the authors' names."""
    generator = torch.Generator().manual_seed(seed)
    blocks = [(f"transformer_blocks.{i}", "q k v proj") for i in range(double)]
    blocks += [(f"single_transformer_blocks.{i}", "q k v") for i in range(single)]
    state = {}
    for block, names in blocks:
        for name in names.split():
            for c in range(count):
                key = f"{block}.attn.processor.{name}_loras.{c}"
                state[f"{key}.down.weight"] = 0.3 * torch.randn(rank, width, generator=generator)
                state[f"{key}.up.weight"] = 0.3 * torch.randn(width, rank, generator=generator)
    return state


def write(path: Path, state: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Path:
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path, metadata)
    return path


def as_the_authors(backbone: DiTBackbone, state: dict[str, torch.Tensor], index: int) -> torch.Tensor:
    """Keys and values with the authors' LoRA written out: q, k, v read the layer's input, proj its output."""
    handles = []
    for key, down in state.items():
        if not key.endswith(f"loras.{index}.down.weight"):
            continue
        up = state[key.replace("down", "up")]
        block, name = key.split(".attn.processor.")
        linear = backbone.transformer.get_submodule(f"{block}.attn")
        linear = linear.to_out[0] if name.startswith("proj") else getattr(linear, f"to_{name[0]}")

        own = name.startswith("proj")

        def add(_: Any, args: Any, out: torch.Tensor, down=down, up=up, own=own) -> torch.Tensor:
            return out + ((out if own else args[0]) @ down.T) @ up.T

        handles.append(linear.register_forward_hook(add))
    result = keys_values(backbone, 0)
    for handle in handles:
        handle.remove()
    return result


@pytest.mark.parametrize("family", [FLUX1, FLUX2], ids=lambda family: family.name)
@pytest.mark.parametrize("spec", [{}, {"alpha": 10.0}, {"layers": ("v", "q")}], ids=str)
def test_saved_and_loaded_gives_the_same_output(tmp_path, family, spec):
    lora = trained(make_backbone(family), **spec)
    before = [keys_values(lora.backbone, index, lora) for index in range(2)]
    metadata = HeroMetadata.of(lora, mode="explicit", resolution="512x768", clip_hash=DIGEST, anchor_hash="é", step=400)
    assert (metadata.family, metadata.rank, metadata.alpha) == (family.name, RANK, spec.get("alpha", 4.0))
    save_lora(tmp_path / "a.safetensors", lora, metadata)
    assert read_metadata(tmp_path / "a.safetensors") == metadata and metadata.version == __version__
    backbone = make_backbone(family)
    loaded, found = load_lora(tmp_path / "a.safetensors", backbone)
    assert found == metadata and loaded.current is None and loaded.count == 2
    for index in range(2):
        assert torch.equal(keys_values(backbone, index, loaded), before[index])
    stock = keys_values(make_backbone(family), 0)
    assert not torch.allclose(before[0], stock, rtol=0.05) and torch.equal(keys_values(backbone, 0), stock)
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_half_precision_files_are_half_the_size(tmp_path):
    lora = trained(make_backbone())
    metadata = HeroMetadata.of(lora, mode="explicit")
    sizes = []
    for dtype in (torch.float32, torch.bfloat16):
        save_lora(tmp_path / "a.safetensors", lora, metadata, dtype=dtype)  # the second replaces the first
        sizes.append(sum(tensor.nbytes for tensor in load_file(tmp_path / "a.safetensors").values()))
    assert sizes[0] == 2 * sizes[1]
    loaded, _ = load_lora([tmp_path / "a.safetensors"], make_backbone())
    for key, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, lora.state_dict()[key].bfloat16().float())


def test_our_file_keeps_a_converted_lora(tmp_path):
    """The bias that the authors' output projection becomes is saved and loaded, too."""
    first, _ = load_lora(write(tmp_path / "a.safetensors", authors_state(2)), make_backbone())
    save_lora(tmp_path / "b.safetensors", first, HeroMetadata.of(first, mode="explicit"))
    second, metadata = load_lora(tmp_path / "b.safetensors", make_backbone())
    assert metadata is not None and sum(key.endswith("bias") for key in second.state_dict()) == 2
    for index in range(2):
        assert torch.equal(keys_values(first.backbone, index, first), keys_values(second.backbone, index, second))


@pytest.mark.parametrize("prefix", ["", "transformer.", "module.", "module.transformer."])
def test_the_authors_files_do_what_they_do_with_the_authors(tmp_path, prefix):
    state = authors_state(2, double=2, single=2)
    path = write(tmp_path / "lora.safetensors", {prefix + key: tensor for key, tensor in state.items()})
    assert read_metadata(path) is None
    backbone = make_backbone(double=2, single=2)
    expected = [as_the_authors(backbone, state, index) for index in range(2)]
    stock = keys_values(backbone, 0)
    lora, metadata = load_lora(path, backbone)
    assert metadata is None and lora.count == 2 and lora.spec == LoRASpec(RANK, None, ("q", "k", "v", "out"))
    for index in range(2):
        torch.testing.assert_close(keys_values(backbone, index, lora), expected[index], atol=1e-5, rtol=1e-5)
        assert (expected[index] - stock).abs().max() > 0.1
    lora.remove()
    assert torch.equal(keys_values(backbone, 0), stock)


def test_the_output_projection_of_the_authors_is_converted_exactly(tmp_path):
    """y + up(down(y)) with y = W x + b, in float64, against the adapter on x."""
    state = authors_state()
    backbone = make_backbone()
    linear = backbone.transformer.transformer_blocks[0].attn.to_out[0]
    x = torch.randn(50, 32, generator=torch.Generator().manual_seed(1))
    y = x.double() @ linear.weight.double().T + linear.bias.double()
    down, up = (state[f"transformer_blocks.0.attn.processor.proj_loras.0.{side}.weight"] for side in ("down", "up"))
    lora, _ = load_lora(write(tmp_path / "a.safetensors", state), backbone)
    with lora.active(0), torch.no_grad():
        got = backbone.transformer.transformer_blocks[0].attn.to_out[0](x)
    expected = y + y @ down.double().T @ up.double().T
    assert (got - expected).abs().max() < 2e-6 * expected.abs().max()
    # without the constant it is not the same function
    assert (linear.bias.double() @ down.double().T @ up.double().T).abs().max() > 1e-3 * expected.abs().max()


def test_the_output_projection_is_converted_for_the_weights_that_are_there(tmp_path):
    state = authors_state()
    backbone = make_backbone()
    store_weights(backbone.transformer, "fp8", "cpu")
    expected = as_the_authors(backbone, state, 0)
    lora, _ = load_lora(write(tmp_path / "a.safetensors", state), backbone)
    torch.testing.assert_close(keys_values(backbone, 0, lora), expected, atol=1e-5, rtol=1e-5)


def test_several_files_of_the_authors_are_conditions_in_turn(tmp_path):
    states = [authors_state(seed=1), authors_state(2, seed=2)]
    paths = [write(tmp_path / f"{i}.safetensors", state) for i, state in enumerate(states)]
    backbone = make_backbone()
    expected = [as_the_authors(backbone, *which) for which in ((states[0], 0), (states[1], 0), (states[1], 1))]
    lora, _ = load_lora(paths, backbone)
    assert lora.count == 3
    for index in range(3):
        torch.testing.assert_close(keys_values(backbone, index, lora), expected[index], atol=1e-5, rtol=1e-5)
    twice, _ = load_lora([paths[0], paths[0]], make_backbone())
    assert twice.count == 2


def refused(paths: Any, backbone: DiTBackbone, message: str, **wanted: Any) -> None:
    names = [name for name, _ in backbone.transformer.named_modules()]
    with pytest.raises(InputError, match=message) as caught:
        load_lora(paths, backbone, **wanted)
    first = paths if isinstance(paths, Path) else paths[0] if paths else None
    assert first is None or str(first.parent) in str(caught.value)  # the message says which file
    assert [name for name, _ in backbone.transformer.named_modules()] == names


def test_another_family_is_refused_by_name(tmp_path):
    ours, theirs = saved(tmp_path), write(tmp_path / "theirs.safetensors", authors_state())
    for path in (ours, theirs):
        refused(path, make_backbone(FLUX2), "trained for flux1, this model is flux2")
        refused(path, make_backbone(TINY), "trained for flux1, this model is tiny")
        refused(path, make_backbone(FLUX1), "trained for flux1, wanted is flux2", family="flux2")
    refused(saved(tmp_path, FLUX2), make_backbone(FLUX1), "trained for flux2, this model is flux1")


@pytest.mark.parametrize(
    ("size", "there"),
    [
        ({"heads": 3}, "1 double and 1 single blocks of width 48"),
        ({"double": 2}, "2 double and 1 single blocks of width 32"),
        ({"single": 3}, "1 double and 3 single blocks of width 32"),
    ],
)
def test_another_size_of_model_is_refused_by_its_numbers(tmp_path, size, there):
    here = "1 double and 1 single blocks of width 32"
    theirs = write(tmp_path / "theirs.safetensors", authors_state())
    for path in (saved(tmp_path), theirs):
        refused(path, make_backbone(**size), f"made for a model with {here}, this one has {there}")
    refused(saved(tmp_path, **size), make_backbone(), f"made for a model with {there}, this one has {here}")


def test_another_rank_or_mode_than_demanded_is_refused(tmp_path):
    ours, theirs = saved(tmp_path), write(tmp_path / "theirs.safetensors", authors_state())
    for path in (ours, theirs):
        refused(path, make_backbone(), "expected rank 32, got 4", rank=32)
        assert load_lora(path, make_backbone(), rank=4)[0].spec.rank == 4
    refused(ours, make_backbone(), "trained in mode explicit, not implicit", mode="implicit")
    assert load_lora(ours, make_backbone(), mode="explicit")[1] is not None


@pytest.mark.parametrize("make", ["ours", "theirs"])
@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, -1])
def test_truncated_files_are_refused(tmp_path, make, keep):
    path = saved(tmp_path) if make == "ours" else write(tmp_path / "hero.safetensors", authors_state())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep) if isinstance(keep, float) else keep])
    refused(path, make_backbone(), "truncated or corrupt")
    with pytest.raises(InputError, match="truncated or corrupt"):
        read_metadata(path)


def test_other_files_are_refused(tmp_path):
    refused(tmp_path / "none.safetensors", make_backbone(), "no such file")
    pickled = tmp_path / "lora.pt"
    torch.save(authors_state(), pickled)
    refused(pickled, make_backbone(), "pickle")
    refused([], make_backbone(), "at least one file")
    names = r"lora_unet_a\.lora_down\.weight"
    kohya = write(tmp_path / "kohya.safetensors", {"lora_unet_a.lora_down.weight": torch.zeros(4, 4)})
    refused(kohya, make_backbone(), f"got tensors named {names}; accepted are condition_0.*and transformer_blocks")
    refused(write(tmp_path / "empty.safetensors", {}), make_backbone(), r"got tensors named \(none\); accepted are")


def test_keys_that_do_not_belong_are_named(tmp_path):
    proj = "single_transformer_blocks.0.attn.processor.proj_loras.0.down.weight"
    for key in ("alpha", "transformer_blocks.0.ff.up.weight", proj):
        path = write(tmp_path / "a.safetensors", authors_state() | {key: torch.zeros(4, 32)})
        refused(path, make_backbone(), rf"1 of 15 tensors do not belong .*\({re.escape(key)}\)")


def test_missing_layers_are_refused(tmp_path):
    state = authors_state(2, single=2)
    key = "single_transformer_blocks.0.attn.processor.k_loras.1.up.weight"
    path = write(tmp_path / "a.safetensors", {name: tensor for name, tensor in state.items() if name != key})
    refused(path, make_backbone(single=2), r"1 are missing \(condition_1.single_transformer_blocks.0.attn.to_k.lora_B")
    gap = {name.replace("loras.1", "loras.7"): tensor for name, tensor in state.items()}
    refused(write(tmp_path / "b.safetensors", gap), make_backbone(single=2), "2 conditions, numbered from 0, got 0, 7")
    path = saved(tmp_path)
    metadata = header_of(path)
    ours = load_file(path)
    for name in ("condition_0.transformer_blocks.0.attn.to_v.lora_A.weight", "condition_1"):
        some = {key: tensor for key, tensor in ours.items() if not key.startswith(name)}
        message = "1 are missing" if name.endswith("weight") else "2 conditions, numbered from 0, got 0;"
        refused(write(path, some, metadata), make_backbone(), message)


def header_of(path: Path) -> dict[str, str]:
    content = path.read_bytes()
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]


def test_bad_values_and_shapes_are_refused(tmp_path):
    ours, theirs = saved(tmp_path), write(tmp_path / "theirs.safetensors", authors_state())
    for path in (ours, theirs):
        state, metadata = load_file(path), header_of(path) if path is ours else None
        key = next(name for name in state if re.search(r"to_q\.lora_B|q_loras.*up", name))
        cases = [
            (torch.full_like(state[key], float("nan")), "NaN or infinity"),
            (torch.full_like(state[key], float("inf")), "NaN or infinity"),
            (torch.zeros(32, RANK + 1), r"expected shape \(32, 4\), got \(32, 5\)"),
            (torch.zeros(()), r"expected shape \(32, 4\), got \(\)"),
            (torch.zeros(32, RANK, dtype=torch.int8), "expected one of F16, BF16, F32, F64, got I8"),
        ]
        for tensor, message in cases:
            refused(write(path, state | {key: tensor}, metadata), make_backbone(), message)
    down = {name: torch.zeros(()) for name in authors_state()}
    refused(write(theirs, down), make_backbone(), "expected matrices")


def test_files_that_do_not_go_together_are_refused(tmp_path):
    ours = saved(tmp_path)
    first = write(tmp_path / "a.safetensors", authors_state())
    other = write(tmp_path / "b.safetensors", authors_state(rank=6))
    refused(
        [first, other], make_backbone(), "b.safetensors: has rank 6 on q, k, v, out, but .*a.safetensors has rank 4"
    )
    refused([ours, ours], make_backbone(), "expected it alone, got 2 files")
    refused([first, ours], make_backbone(), "hero.safetensors: holds all conditions")


def test_a_model_with_adapters_is_refused(tmp_path):
    path, backbone = saved(tmp_path), make_backbone()
    lora, _ = load_lora(path, backbone)
    with pytest.raises(InputError, match=r"remove\(\) the former"):
        load_lora(path, backbone)
    lora.remove()
    assert load_lora(path, backbone)[0].count == 2


def test_damaged_metadata_are_refused(tmp_path):
    path = saved(tmp_path)
    state, metadata = load_file(path), header_of(path)
    cases = [
        ({"zero2hero.format": "hero-lora-9"}, "expected format hero-lora-1, got hero-lora-9"),
        ({"zero2hero.rank": "many"}, "metadata are damaged"),
        ({"zero2hero.rank": "0"}, "metadata are damaged"),
        ({"zero2hero.alpha": "nan"}, "metadata are damaged"),
        ({"zero2hero.count": "0"}, "metadata are damaged"),
        ({"zero2hero.layers": "q,x"}, "metadata are damaged"),
    ]
    for change, message in cases:
        write(path, state, metadata | change)
        with pytest.raises(InputError, match=message):
            read_metadata(path)
        refused(path, make_backbone(), message)
    write(path, state, {key: value for key, value in metadata.items() if key != "zero2hero.step"})
    refused(path, make_backbone(), r"metadata are damaged \('step'\)")
    refused(write(path, state, metadata | {"zero2hero.count": "3"}), make_backbone(), "expected 3 conditions")
    refused(write(path, state, metadata | {"zero2hero.rank": "8"}), make_backbone(), r"expected shape \(8, 32\)")
    refused(write(path, state), make_backbone(), "tensors and metadata together")
    refused(write(path, authors_state(), metadata), make_backbone(), "tensors and metadata together")


def test_what_cannot_be_saved(tmp_path, monkeypatch):
    lora, path = trained(make_backbone()), tmp_path / "a.safetensors"
    metadata = HeroMetadata.of(lora, mode="explicit")
    save_lora(path, lora, metadata)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"\.safetensors"):
        save_lora(tmp_path / "a.pt", lora, metadata)
    for change in ({"rank": 8}, {"family": "flux2"}, {"count": 1}, {"layers": "q"}, {"alpha": 1.0}):
        (name,) = change
        with pytest.raises(InputError, match=f"expected {name} .*, as the LoRA has"):
            save_lora(path, lora, dataclasses.replace(metadata, **change))
    with pytest.raises(InputError, match="cannot be written"):
        save_lora(tmp_path / "no" / "folder.safetensors", lora, metadata)
    for code, kind in ((errno.ENOSPC, Zero2HeroError), (errno.EACCES, InputError)):
        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", lambda *_, code=code: (_ for _ in ()).throw(OSError(code, "stop")))
            with pytest.raises(Zero2HeroError) as caught:
                save_lora(path, lora, metadata)
            assert type(caught.value) is kind
    with torch.no_grad():
        lora.parameters()[3][0, 0] = 1e20
    with pytest.raises(Zero2HeroError, match="NaN or infinity"):
        save_lora(path, lora, metadata, dtype=torch.float16)
    with torch.no_grad():
        lora.parameters()[3][0, 0] = float("nan")
    with pytest.raises(Zero2HeroError, match="NaN or infinity"):
        save_lora(path, lora, metadata)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
