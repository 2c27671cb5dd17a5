"""Prompts, classifier-free guidance, ControlNets and features of a text-guided UNet, with small real classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from zero2hero_core.attention.guidance import Guidance, Pass, Role
from zero2hero_core.backbones.sd.controlnet import Control, load_controlnet
from zero2hero_core.backbones.sd.guided import GuidedUNet
from zero2hero_core.backbones.sd.unet import UNetBackbone
from zero2hero_core.checks import InputError, ShapeError
from zero2hero_core.diffusion.ddim import stable_diffusion_alphas
from zero2hero_core.tiny.unet import load_tiny

SHAPE: dict[str, Any] = {
    "in_channels": 4,
    "block_out_channels": (32, 64, 64, 96),
    "cross_attention_dim": 16,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
NAMES = {  # of diffusers -> of the original layout, by hand from both published files
    "controlnet_cond_embedding.conv_in.weight": "input_hint_block.0.weight",
    "controlnet_cond_embedding.blocks.0.bias": "input_hint_block.2.bias",
    "controlnet_cond_embedding.blocks.5.weight": "input_hint_block.12.weight",
    "controlnet_cond_embedding.conv_out.bias": "input_hint_block.14.bias",
    "controlnet_down_blocks.0.weight": "zero_convs.0.0.weight",
    "controlnet_down_blocks.11.bias": "zero_convs.11.0.bias",
    "controlnet_mid_block.weight": "middle_block_out.0.weight",
    "conv_in.weight": "input_blocks.0.0.weight",
    "time_embedding.linear_2.bias": "time_embed.2.bias",
    "down_blocks.1.resnets.0.conv1.weight": "input_blocks.4.0.in_layers.2.weight",
    "down_blocks.0.attentions.1.proj_in.weight": "input_blocks.2.1.proj_in.weight",
    "down_blocks.2.downsamplers.0.conv.weight": "input_blocks.9.0.op.weight",
    "mid_block.attentions.0.proj_in.weight": "middle_block.1.proj_in.weight",
    "mid_block.resnets.1.norm2.weight": "middle_block.2.out_layers.0.weight",
}


@pytest.fixture(scope="module")
def unet() -> Any:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(**SHAPE).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def tensors(unet: Any) -> dict[str, torch.Tensor]:
    """A ControlNet of the UNet's shape whose zero convolutions are not zero."""
    from diffusers import ControlNetModel

    state = ControlNetModel.from_unet(unet).state_dict()
    generator = torch.Generator().manual_seed(1)
    for name, tensor in state.items():
        if name.startswith(("controlnet_down", "controlnet_mid", "controlnet_cond_embedding.conv_out")):
            state[name] = torch.randn(tensor.shape, generator=generator) * 0.1
    return {name: tensor.contiguous() for name, tensor in state.items()}


@pytest.fixture(scope="module")
def backbone(unet: Any) -> UNetBackbone:
    empty = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(2))
    options = {"prediction_type": "epsilon", "alphas_cumprod": stable_diffusion_alphas(), "scaling_factor": 1.0}
    return UNetBackbone(unet, load_tiny().vae, empty_embedding=empty, **options)


def normal(*shape: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def now(rows: int = 2) -> Pass:
    return Pass(4, 701, tuple(range(rows)), (16, 16))


LATENTS, TEXT = normal(2, 4, 16, 16), normal(1, 5, 16, seed=4)
HINTS = {frame: torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(frame)) for frame in range(3)}


def test_alone_it_is_the_backbone(backbone: UNetBackbone) -> None:
    plain = backbone.predict_noise(LATENTS, 701, backbone.empty_embedding)
    assert torch.equal(GuidedUNet(backbone).guided_noise(LATENTS, now()), plain)
    tiny = load_tiny()
    latents = normal(1, 8, 16, 16)
    assert torch.equal(
        GuidedUNet(tiny).guided_noise(latents, now(1)), tiny.predict_noise(latents, 701, tiny.empty_embedding)
    )


def test_guidance_without_a_classifier(backbone: UNetBackbone) -> None:
    with_text, without = (backbone.predict_noise(LATENTS, 701, text) for text in (TEXT, backbone.empty_embedding))
    guided = GuidedUNet(backbone, TEXT, guidance_scale=7.5).guided_noise(LATENTS, now())
    assert torch.equal(guided, without + 7.5 * (with_text - without))
    negative = normal(1, 5, 16, seed=5)
    other = backbone.predict_noise(LATENTS, 701, negative)
    guided = GuidedUNet(backbone, TEXT, negative, guidance_scale=3.0).guided_noise(LATENTS, now())
    assert torch.equal(guided, other + 3.0 * (with_text - other))


def test_single_frames_may_have_prompts_of_their_own(backbone: UNetBackbone) -> None:
    denoiser = GuidedUNet(backbone, TEXT, prompts={1: normal(1, 5, 16, seed=6)})
    both = denoiser.guided_noise(LATENTS, now())
    alone = [backbone.predict_noise(LATENTS[:1], 701, TEXT)]
    alone.append(backbone.predict_noise(LATENTS[1:], 701, normal(1, 5, 16, seed=6)))
    assert torch.allclose(both, torch.cat(alone), atol=1e-5)


class Seen(Guidance):
    """Notes the passes that it is called in."""

    def __init__(self) -> None:
        self.passes: list[Pass] = []

    def role(self, layer: int, step: int) -> Role:
        return Role.CHAIN if layer == 9 else Role.NONE

    def attend(self, now: Pass, layer: int, query: Any, key: Any, value: Any, following: Any) -> torch.Tensor:
        self.passes.append(now)
        attended: torch.Tensor = following(layer, query, key, value)
        return attended


def test_guidances_see_both_halves_and_change_nothing_by_looking_on(backbone: UNetBackbone) -> None:
    seen, denoiser = Seen(), GuidedUNet(backbone, TEXT, guidance_scale=2.0)
    assert torch.equal(denoiser.guided_noise(LATENTS, now(), [seen]), denoiser.guided_noise(LATENTS, now()))
    assert [one.conditional for one in seen.passes] == [True, False] and seen.passes[0] == now()


class Features:
    """Notes the features that come; adds a number to them at one level."""

    name = "features"

    def __init__(self, level: int | None = None, error: bool = False) -> None:
        self.level, self.error = level, error
        self.shapes: dict[int, tuple[int, ...]] = {}

    def acts(self, level: int, step: int) -> bool:
        return True

    def guide(self, now: Pass, level: int, features: torch.Tensor) -> torch.Tensor:
        if self.error:
            raise RuntimeError("stop")
        self.shapes[level] = tuple(features.shape)
        return features + 0.5 if level == self.level else features


def test_features_come_before_the_skip_is_joined(backbone: UNetBackbone) -> None:
    look, denoiser = Features(), GuidedUNet(backbone, TEXT)
    plain = denoiser.guided_noise(LATENTS, now())
    assert torch.equal(denoiser.guided_noise(LATENTS, now(), features=[look]), plain)
    assert look.shapes == {0: (2, 96, 2, 2), 1: (2, 96, 4, 4), 2: (2, 64, 8, 8), 3: (2, 64, 16, 16)}
    for level in range(4):
        assert not torch.allclose(denoiser.guided_noise(LATENTS, now(), features=[Features(level)]), plain)
    with pytest.raises(RuntimeError, match="stop"):
        denoiser.guided_noise(LATENTS, now(), features=[Features(error=True)])
    assert torch.equal(denoiser.guided_noise(LATENTS, now()), plain)
    assert not any(block._forward_pre_hooks for block in backbone.unet.up_blocks)


def place() -> dict[str, Any]:
    return {"device": torch.device("cpu"), "dtype": torch.float32}


def test_controls_add_up_and_act_in_their_window(
    backbone: UNetBackbone, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    save_file(tensors, tmp_path / "net.safetensors")
    net = load_controlnet(tmp_path / "net.safetensors", backbone.unet, **place())

    def noise(*controls: Control, **options: Any) -> torch.Tensor:
        return GuidedUNet(backbone, TEXT, controls=controls).guided_noise(LATENTS, now(), **options)

    plain, one = noise(), noise(Control(net, HINTS))
    assert not torch.allclose(plain, one, atol=1e-3)
    assert torch.equal(noise(Control(net, HINTS, strength=0.0)), plain)
    assert torch.equal(noise(Control(net, HINTS), controlled=False), plain)
    assert torch.allclose(noise(Control(net, HINTS, 0.4), Control(net, HINTS, 0.6)), one, atol=1e-4)
    # timestep 701 of 1000 is the share 0.298
    assert torch.equal(noise(Control(net, HINTS, start=0.3)), plain)
    assert torch.equal(noise(Control(net, HINTS, end=0.3)), one)
    other = {0: HINTS[0], 1: HINTS[2]}
    changed = noise(Control(net, other))
    assert torch.allclose(changed[0], one[0], atol=1e-5) and not torch.allclose(changed[1], one[1], atol=1e-4)


def test_a_net_of_zero_convolutions_adds_nothing(backbone: UNetBackbone, tmp_path: Path) -> None:
    from diffusers import ControlNetModel

    net = ControlNetModel.from_unet(backbone.unet)
    plain = GuidedUNet(backbone, TEXT).guided_noise(LATENTS, now())
    assert torch.equal(GuidedUNet(backbone, TEXT, controls=[Control(net, HINTS)]).guided_noise(LATENTS, now()), plain)


@pytest.mark.parametrize("shape", [(3, 64, 64), (3, 120, 128), (1, 128, 128)])
def test_a_hint_has_the_size_of_the_frame(backbone: UNetBackbone, shape: tuple[int, ...]) -> None:
    from diffusers import ControlNetModel

    control = Control(ControlNetModel.from_unet(backbone.unet), {0: HINTS[0], 1: torch.zeros(shape)})
    with pytest.raises(ShapeError, match=r"hint of frame 1: expected shape \(3, 128, 128\), got "):
        GuidedUNet(backbone, TEXT, controls=[control]).guided_noise(LATENTS, now())


def test_a_folder_says_what_no_shape_tells(
    backbone: UNetBackbone, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
    residuals = {}
    for name, values in {"plain": {}, "pooled": {"global_pool_conditions": True}}.items():
        (tmp_path / "config.json").write_text(json.dumps({"_class_name": "ControlNetModel", **values}))
        net = load_controlnet(tmp_path, backbone.unet, **place())
        residuals[name] = Control(net, HINTS).residuals(LATENTS, 701, TEXT.expand(2, -1, -1), (0, 1))
    assert residuals["plain"].middle.shape == (2, 96, 2, 2)
    torch.testing.assert_close(residuals["pooled"].middle, residuals["plain"].middle.mean((2, 3), keepdim=True))
    (tmp_path / "config.json").write_text('{"controlnet_conditioning_channel_order": "bgr"}')
    net = load_controlnet(tmp_path, backbone.unet, **place())
    turned = Control(net, {frame: hint.flip(0) for frame, hint in HINTS.items()})
    other = turned.residuals(LATENTS, 701, TEXT.expand(2, -1, -1), (0, 1))
    assert torch.equal(other.middle, residuals["plain"].middle)


def test_every_name_is_that_of_diffusers_converter(unet: Any, tensors: dict[str, torch.Tensor]) -> None:
    from diffusers.loaders import single_file_utils

    converted = single_file_utils.convert_controlnet_checkpoint(original(tensors, unet), {"layers_per_block": 2})
    assert converted.keys() == tensors.keys() and len(converted) == 340
    assert all(converted[name] is tensor for name, tensor in tensors.items())


def original(tensors: dict[str, torch.Tensor], unet: Any) -> dict[str, torch.Tensor]:
    from zero2hero_core.backbones.sd.controlnet import _original_name

    return {_original_name(name, 2): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("layout", ["folder", "original", "original with prefix"])
def test_every_layout_gives_the_same_net(
    unet: Any, tensors: dict[str, torch.Tensor], tmp_path: Path, layout: str
) -> None:
    names = original(tensors, unet)
    reverse = {tensor.data_ptr(): name for name, tensor in names.items()}
    assert {name: reverse[tensors[name].data_ptr()] for name in NAMES} == NAMES
    path = tmp_path / "net.safetensors"
    if layout == "folder":
        path = tmp_path
        save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
        (tmp_path / "config.json").write_text('{"_class_name": "ControlNetModel"}', encoding="utf-8")
    else:
        prefix = "control_model." if layout.endswith("prefix") else ""
        save_file({prefix + name: tensor for name, tensor in names.items()}, path)
    net = load_controlnet(path, unet, **place())
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"lora_unet_x.lora_down.weight": (1,)}, "a LoRA or a ControlLoRA"),
        ({"model.diffusion_model.out.2.weight": (1,), "control_model.input_hint_block.0.weight": (1,)}, "a whole"),
        ({"first_stage_model.encoder.down.0.x": (1,), "model.diffusion_model.x": (1,)}, "got a whole checkpoint"),
        ({"encoder.down.0.block.0.norm1.bias": (1,), "decoder.up.0.block.0.norm1.bias": (1,)}, "got a VAE"),
        ({"time_embedding.linear_1.bias": (1,), "conv_norm_out.bias": (1,)}, "got a UNet"),
        ({"lora_controlnet": (1,), "input_hint_block.0.weight": (1,)}, "got a LoRA or a ControlLoRA"),
        ({"image_proj.proj.weight": (1,), "ip_adapter.1.to_k_ip.weight": (1,)}, "got an IP adapter"),
        ({"controlnet_cond_embedding.conv_in.bias": (1,), "down_blocks.0.motion_modules.0.a": (1,)}, "a video model"),
        ({"label_emb.0.0.weight": (1,), "input_hint_block.0.weight": (1,)}, "SDXL"),
        ({"controlnet_blocks.0.weight": (1,)}, "FLUX or SD3"),
        ({"adapter.body.0.block1.weight": (1,)}, "a T2I adapter"),
        ({"something": (1,)}, "another model"),
        ({"input_hint_block.0.weight": (16, 3, 3, 3)}, "missing tensors for the ControlNet"),
    ],
)
def test_other_files_are_refused(unet: Any, tmp_path: Path, keys: dict[str, tuple[int, ...]], words: str) -> None:
    path = tmp_path / "file.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in keys.items()}, path)
    with pytest.raises(InputError, match=words) as caught:
        load_controlnet(path, unet, **place())
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_another_context_and_numbers_that_are_none(unet: Any, tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    name, path = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight", tmp_path / "net.safetensors"
    save_file(tensors | {name: torch.zeros(96, 24)}, path)
    with pytest.raises(InputError, match=r"expected shape \(96, 16\), got \(96, 24\)"):
        load_controlnet(path, unet, **place())
    save_file(tensors | {name: torch.full((96, 16), torch.nan)}, path)
    with pytest.raises(InputError, match="NaN or infinity"):
        load_controlnet(path, unet, **place())
    (tmp_path / "net.pth").write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match="pickle"):
        load_controlnet(tmp_path / "net.pth", unet, **place())
    with pytest.raises(InputError, match="control_strength: expected a value from 0 to 2, got 3"):
        Control(None, HINTS, strength=3.0)
