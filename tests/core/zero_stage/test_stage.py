"""Laws of Zero-Stage on the bundled tiny models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from zero2hero_core.attention.capture_inject import Capture, CrossImage, Selection
from zero2hero_core.attention.guidance import GuidedPass, Pass
from zero2hero_core.backbones.sd.unet import UNetBackbone
from zero2hero_core.checks import InputError, ShapeError, Zero2HeroError
from zero2hero_core.diffusion.adain import adain
from zero2hero_core.memory_batches import halving, is_out_of_memory
from zero2hero_core.tiny.unet import load_tiny
from zero2hero_core.zero_stage.stage import ZeroStage, ZeroStageSettings

SIZE = (64, 128)  # not square, to catch swapped sides
FAST = ZeroStageSettings(num_inference_steps=3, ensemble=2, seed=4)


@pytest.fixture(scope="module")
def backbone() -> UNetBackbone:
    return load_tiny()


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(6, 3, 16, 32, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=SIZE, mode="bilinear").clamp(0, 1)


def stage(backbone: UNetBackbone, frames: torch.Tensor, settings: ZeroStageSettings = FAST) -> ZeroStage:
    return ZeroStage(backbone, frames[0], frames[5], 0, settings)


@pytest.mark.parametrize("k", [1, "adaptive", -1])
def test_same_frames_whatever_the_batch(backbone: UNetBackbone, frames: torch.Tensor, k: int | str) -> None:
    zero = stage(backbone, frames, replace(FAST, k=k, gamma=0.8))
    clip = frames[:5]
    whole = zero.edit(clip, range(5))
    pairs = torch.cat([zero.edit(clip[a : a + 2], range(5)[a : a + 2]) for a in (0, 2, 4)])
    single = torch.cat([stage(backbone, frames, zero.settings).edit(frames[i : i + 1], [i]) for i in range(5)])
    assert float((whole - pairs).abs().max()) < 1e-4
    assert float((whole - single).abs().max()) < 1e-4
    assert float((whole[0] - whole[1]).abs().max()) > 1e-2


def test_same_seed_same_frames_other_seed_other_features(backbone: UNetBackbone, frames: torch.Tensor) -> None:
    one, again = (stage(backbone, frames).features(frames[1], 1) for _ in range(2))
    other = stage(backbone, frames, replace(FAST, seed=5)).features(frames[1], 1)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_one_decode_a_frame_and_the_reference_once(backbone: UNetBackbone, frames: torch.Tensor) -> None:
    calls = {"unet": 0, "decode": 0}
    unet, vae = backbone.unet, backbone.vae
    hooks = [unet.register_forward_pre_hook(lambda *_: calls.__setitem__("unet", calls["unet"] + 1))]
    original = vae.decode
    vae.decode = lambda latents: (calls.__setitem__("decode", calls["decode"] + len(latents)), original(latents))[1]
    try:
        zero = stage(backbone, frames)
        zero.edit(frames[:2], [0, 1])
        zero.edit(frames[2:4], [2, 3])
    finally:
        vae.decode = original
        hooks[0].remove()
    steps = FAST.num_inference_steps
    features = 4  # each frame once, the anchor among them
    assert calls == {"unet": features + steps + 2 * (steps + steps), "decode": 4}


def test_mask_of_zeros_gives_the_frame_back_and_of_ones_changes_nothing(
    backbone: UNetBackbone, frames: torch.Tensor
) -> None:
    zero = stage(backbone, frames)
    plain = zero.edit(frames[1:2], [1])
    ones = zero.edit(frames[1:2], [1], masks=torch.ones(1, 1, *SIZE))
    assert float((plain - ones).abs().max()) < 1e-5
    none = zero.edit(frames[1:2], [1], masks=torch.zeros(1, 1, *SIZE))
    own = ZeroStage(backbone, frames[1], frames[1], 1, replace(FAST, k=-1)).edit(frames[1:2], [1])
    assert float((none - own).abs().max()) < 1e-4  # plain attention to itself is what is left outside the mask
    half = torch.zeros(1, 1, *SIZE)
    half[..., :64] = 1
    mixed = zero.edit(frames[1:2], [1], masks=half)
    assert float((mixed - plain).abs().mean()) > 1e-4
    assert float((mixed - none).abs().mean()) > 1e-4


def test_layers_left_out_keep_their_own_attention(backbone: UNetBackbone, frames: torch.Tensor) -> None:
    some = stage(backbone, frames, replace(FAST, layers=(3, 4))).edit(frames[1:2], [1])
    every = stage(backbone, frames).edit(frames[1:2], [1])
    assert float((some - every).abs().max()) > 1e-3


def test_hook_computes_only_what_is_read() -> None:
    gather, top4 = (Selection(torch.zeros(1, 5, k, dtype=torch.int64)) for k in (1, 4))
    everything = Selection(None)
    assert gather.reference_needs() == {"value"} and gather.target_needs() == set()
    assert top4.reference_needs() == {"key", "value"} and top4.target_needs() == {"query"}
    assert everything.target_needs() == {"query"}
    now = Pass(0, 951, (0,), (8, 8))
    hook = GuidedPass([CrossImage({3: gather, 9: top4}, [], [], gamma=1.0, tau=1.0)], now)
    assert hook.needs(3) == set() and hook.needs(9) == set() and hook.needs(5) == {"query", "key", "value"}
    blended = GuidedPass([CrossImage({3: gather, 9: top4}, [], [], gamma=0.5, tau=1.0)], now)
    assert blended.needs(3) == set() and blended.needs(9) == {"query"}


def test_projections_nobody_reads_are_not_computed(backbone: UNetBackbone, frames: torch.Tensor) -> None:
    zero = stage(backbone, frames)
    zero.edit(frames[1:2], [1])  # the reference is inverted now
    counts = {(layer, name): 0 for layer in (3, 9) for name in ("to_q", "to_k", "to_v")}
    handles = []
    for layer, name in counts:
        linear = getattr(backbone.layers[layer], name)
        handles.append(
            linear.register_forward_hook(lambda *_, key=(layer, name): counts.__setitem__(key, counts[key] + 1))
        )
    try:
        zero.edit(frames[2:3], [2])
    finally:
        for handle in handles:
            handle.remove()
    steps = FAST.num_inference_steps  # of the inversion; sampling computes none of them: k = 1 and gamma = 1
    read = {layer: {count for (at, _), count in counts.items() if at == layer} for layer in (3, 9)}
    assert read == {3: {steps + 1}, 9: {steps}}  # and features of block 2 pass layer 3, not layer 9


def test_two_backbones_of_one_unet_both_work(backbone: UNetBackbone) -> None:
    other = UNetBackbone(
        backbone.unet, backbone.vae, prediction_type="epsilon", alphas_cumprod=backbone.alphas_cumprod,
        empty_embedding=backbone.empty_embedding, scaling_factor=1.0,
    )  # fmt: skip
    latents = torch.zeros(1, 8, 8, 8)
    for one in (backbone, other):
        capture = Capture({3: frozenset({"value"})})
        one.predict_noise(latents, 300, one.empty_embedding, GuidedPass([capture], Pass(0, 300, (0,), (8, 8))))
        assert "value" in capture.tensors[3]


def test_half_precision_keeps_the_sampler_in_float32(frames: torch.Tensor) -> None:
    whole, half = load_tiny(), load_tiny()
    half.unet.to(torch.bfloat16)
    results = [ZeroStage(one, frames[0], frames[5], 0, FAST).edit(frames[1:2], [1]) for one in (whole, half)]
    assert half.predict_noise(torch.zeros(1, 8, 8, 8), 300, half.encode_prompt("")).dtype == torch.float32
    assert 0 < float((results[0] - results[1]).abs().mean()) < 0.02


def test_large_seeds_are_fine(backbone: UNetBackbone, frames: torch.Tensor) -> None:
    found = stage(backbone, frames, replace(FAST, seed=2**64 - 1)).features(frames[1], 1)
    assert bool(found.isfinite().all())
    with pytest.raises(InputError, match="seed"):
        replace(FAST, seed=2**64)


def test_capture_changes_nothing(backbone: UNetBackbone) -> None:
    latents = torch.randn(2, 8, 8, 16, generator=torch.Generator().manual_seed(2))
    capture = Capture({3: frozenset({"value"}), 9: frozenset({"query", "key"})})
    hook = GuidedPass([capture], Pass(0, 300, (0, 1), (8, 16)))
    plain = backbone.predict_noise(latents, 300, backbone.empty_embedding)
    captured = backbone.predict_noise(latents, 300, backbone.empty_embedding, hook)
    torch.testing.assert_close(plain, captured)
    assert {layer: set(names) for layer, names in capture.tensors.items()} == {3: {"value"}, 9: {"query", "key"}}
    assert capture.tensors[9]["query"].shape == (2, 4, 8 * 16, 16)


def test_features_stop_after_the_block(backbone: UNetBackbone) -> None:
    latents = torch.randn(1, 8, 8, 16, generator=torch.Generator().manual_seed(2))
    later: list[int] = []
    handle = backbone.unet.up_blocks[2].register_forward_pre_hook(lambda *_: later.append(1))
    try:
        found = backbone.features(latents, 261, backbone.empty_embedding, 1)
    finally:
        handle.remove()
    assert not later and found.shape[-2:] == (4, 8)


def test_v_prediction_is_turned_into_noise(backbone: UNetBackbone) -> None:
    arguments = {
        "alphas_cumprod": backbone.alphas_cumprod, "empty_embedding": backbone.empty_embedding, "scaling_factor": 1.0,
    }  # fmt: skip
    other = UNetBackbone(backbone.unet, backbone.vae, prediction_type="v_prediction", **arguments)  # type: ignore[arg-type]
    latents = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(3))
    raw = other.unet(latents, 300, other.empty_embedding).sample
    alpha = other.alphas_cumprod[300]
    velocity = alpha.sqrt() * raw + (1 - alpha).sqrt() * latents
    torch.testing.assert_close(other.predict_noise(latents, 300, other.empty_embedding), velocity)


def test_guidance_one_costs_no_second_pass_and_two_changes_the_result(
    backbone: UNetBackbone, frames: torch.Tensor
) -> None:
    prompted = UNetBackbone(
        backbone.unet, backbone.vae, prediction_type="epsilon", alphas_cumprod=backbone.alphas_cumprod,
        empty_embedding=backbone.empty_embedding, scaling_factor=1.0,
        prompt_encoder=lambda prompt: torch.full((1, 4, 32), float(len(prompt))),
    )  # fmt: skip
    calls: list[int] = []
    handle = backbone.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    pictures = {}
    for prompt, scale in (("red", 1.0), ("red", 2.0), ("", 2.0)):
        zero = stage(prompted, frames, replace(FAST, prompt=prompt, guidance_scale=scale, k=-1))
        before = len(calls)
        pictures[prompt, scale] = zero.edit(frames[1:2], [1]), len(calls) - before
    handle.remove()
    steps = FAST.num_inference_steps
    assert [number for _, number in pictures.values()] == [3 * steps, 4 * steps, 3 * steps]
    assert float((pictures["red", 1.0][0] - pictures["red", 2.0][0]).abs().max()) > 1e-4
    with pytest.raises(InputError, match="holds the empty prompt only"):
        stage(backbone, frames, replace(FAST, prompt="red"))


def test_adain_moves_the_statistics() -> None:
    generator = torch.Generator().manual_seed(0)
    content, style = torch.randn(2, 4, 6, 8, generator=generator), torch.randn(1, 4, 6, 8, generator=generator) * 3 + 2
    moved = adain(content, style)
    torch.testing.assert_close(moved.mean((2, 3)), style.mean((2, 3)).expand(2, 4), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(moved.std((2, 3)), style.std((2, 3)).expand(2, 4), atol=1e-3, rtol=1e-3)


def test_batches_are_halved_when_memory_runs_out() -> None:
    tried: list[int] = []

    def work(items: list[int]) -> list[torch.Tensor]:
        tried.append(len(items))
        if len(items) > 2:
            raise torch.cuda.OutOfMemoryError("too much")
        return [torch.tensor(item) for item in items]

    done = list(halving(work, range(7), 6))
    assert [index for index, _ in done] == list(range(7)) == [int(value) for _, value in done]
    assert tried == [6, 3, 1, 1, 1, 1, 1, 1, 1]

    def broken(items: list[int]) -> list[torch.Tensor]:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        list(halving(broken, range(3), 2))
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"))

    def never(items: list[int]) -> Iterator[torch.Tensor]:
        raise torch.cuda.OutOfMemoryError("too much")

    with pytest.raises(Zero2HeroError, match="smaller size"):
        list(halving(never, range(3), 2))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k: expected"),
        ({"k": "all"}, "adaptive"),
        ({"num_inference_steps": 0}, "steps"),
        ({"gamma": 1.5}, "gamma"),
        ({"block": 4}, "block"),
        ({"layers": (2,)}, "layers"),
        ({"timestep": 1000}, "timestep"),
    ],
)
def test_settings_check_themselves(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(FAST, **change)  # type: ignore[arg-type]


def test_wrong_sizes_are_refused(backbone: UNetBackbone, frames: torch.Tensor) -> None:
    with pytest.raises(ShapeError, match="anchor's size"):
        ZeroStage(backbone, frames[0], frames[1, :, :, :64], 0, FAST)
    with pytest.raises(ShapeError, match="anchor's size"):
        stage(backbone, frames).edit(frames[:1, :, :, :64], [0])
    with pytest.raises(ShapeError, match="masks"):
        stage(backbone, frames).edit(frames[:1], [0], masks=torch.ones(2, 1, *SIZE))
    with pytest.raises(ShapeError, match="one of each"):
        stage(backbone, frames).edit(frames[:2], [0])
    with pytest.raises(InputError, match="multiples of 64"):
        backbone.encode(torch.zeros(1, 3, 72, 64))
    with pytest.raises(InputError, match="k: expected 1 to 8"):
        stage(backbone, frames, replace(FAST, k=40)).edit(frames[:1], [0])
