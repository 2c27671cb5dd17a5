"""The networks of the learned measures: numbers of their own packages, files that are missing or wrong, no download
unasked.

The weights are random, drawn from a seed: the real files cannot be part of the repository.
"""

from __future__ import annotations

import importlib
import sys
import types
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from zero2hero_core.checks import InputError, Zero2HeroError
from zero2hero_core.metrics.learned import lpips, motion_smoothness, subject_consistency
from zero2hero_core.metrics.networks import AlexNetLpips, DinoFeatures, load_amt, load_dino, load_lpips
from zero2hero_core.tiny.scenes.scene import Scene

ALEXNET = ((0, 64, 3, 11), (3, 192, 64, 5), (6, 384, 192, 3), (8, 256, 384, 3), (10, 256, 256, 3))
VIT_BLOCK = {
    "norm1": (1,),
    "attn.qkv": (3, 1),
    "attn.proj": (1, 1),
    "norm2": (1,),
    "mlp.fc1": (4, 1),
    "mlp.fc2": (1, 4),
}
WIDTH, DEPTH = 128, 2


@cache
def alexnet() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """AlexNet's weights and LPIPS's channel weights, with the names of their files."""
    generator = torch.Generator().manual_seed(0)
    backbone, linear = {}, {}
    for layer, (index, out, into, side) in enumerate(ALEXNET):
        kernel = torch.randn(out, into, side, side, generator=generator)
        backbone[f"features.{index}.weight"] = kernel * (2 / (into * side**2)) ** 0.5
        backbone[f"features.{index}.bias"] = torch.randn(out, generator=generator) * 0.1
        linear[f"lin{layer}.model.1.weight"] = torch.rand(1, out, 1, 1, generator=generator) * 0.2
    return backbone, linear


@cache
def vit() -> dict[str, torch.Tensor]:
    """A vision transformer of two blocks and 128 channels, with the names of DINO's file."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.1

    state = {"cls_token": draw(1, 1, WIDTH), "pos_embed": draw(1, 197, WIDTH)}
    state |= {"patch_embed.proj.weight": draw(WIDTH, 3, 16, 16), "patch_embed.proj.bias": draw(WIDTH)}
    for block in range(DEPTH):
        for name, sizes in VIT_BLOCK.items():
            shape = [size * WIDTH for size in sizes]
            state[f"blocks.{block}.{name}.weight"] = draw(*shape) + (len(shape) == 1)
            state[f"blocks.{block}.{name}.bias"] = draw(shape[0])
    return state | {"norm.weight": draw(WIDTH) + 1, "norm.bias": draw(WIDTH)}


@cache
def scene_frames(appearance: int, size: int) -> torch.Tensor:
    return Scene(2_000_003, 2, size).frames(appearance)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder where torch.hub keeps its files, and no way to the net."""

    def refuse(url: str, *_: object, **__: object) -> None:
        raise AssertionError(f"downloads {url} unasked")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    return tmp_path / "hub" / "checkpoints"


# LPIPS


def test_lpips_equals_its_package() -> None:
    """The numbers are lpips 0.1.4's, with `backbone, linear = alexnet()`:

    net = lpips.LPIPS(net="alex", pnet_rand=True)
    net.net.load_state_dict({key: backbone["features." + key.split(".", 1)[1]] for key in net.net.state_dict()})
    net.load_state_dict(linear, strict=False)
    net(2 * pictures - 1, 2 * truth - 1), net(pictures, truth)
    """
    network, generator = AlexNetLpips(*alexnet()), torch.Generator().manual_seed(1)
    random = [torch.rand(2, 3, 40, 52, generator=generator) for _ in range(2)]
    assert lpips(*random, network).tolist() == pytest.approx([0.1971284, 0.2026787], abs=1e-5)
    assert lpips(*random, network, form="authors").tolist() == pytest.approx([0.0571011, 0.0601622], abs=1e-5)
    rendered = scene_frames(1, 64), scene_frames(0, 64)
    assert lpips(*rendered, network).tolist() == pytest.approx([0.0620789, 0.0860364], abs=1e-5)
    assert lpips(*rendered, network, form="authors").tolist() == pytest.approx([0.0056647, 0.0105523], abs=1e-5)
    assert lpips(rendered[0], rendered[0], network).tolist() == [0, 0]


def test_lpips_in_a_mask() -> None:
    network, mask = AlexNetLpips(*alexnet()), torch.zeros(2, 1, 64, 64)
    rendered = scene_frames(1, 64), scene_frames(0, 64)
    whole = lpips(*rendered, network)
    assert torch.allclose(lpips(*rendered, network, 1 - mask), whole)
    assert bool(lpips(*rendered, network, mask).isnan().all())
    halves = [rendered[0][..., :32], rendered[1][..., 32:]]  # the left half differs
    mask[..., :32] = 1
    left, right = (lpips(torch.cat(halves, -1), rendered[1], network, part) for part in (mask, 1 - mask))
    assert bool((left > right).all())


def test_lpips_is_loaded_from_files(tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, linear = (tmp_path / name for name in ("a.pth", "b.pth"))
    torch.save(alexnet()[0] | {"classifier.6.bias": torch.zeros(3)}, backbone)
    torch.save(alexnet()[1], linear)
    pair = scene_frames(1, 64), scene_frames(0, 64)
    expected = lpips(*pair, AlexNetLpips(*alexnet()))
    assert torch.equal(lpips(*pair, load_lpips(backbone, linear)), expected)
    package = tmp_path / "site" / "lpips"  # as it lies in an installed lpips, which is not imported
    (package / "weights" / "v0.1").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    linear.rename(package / "weights" / "v0.1" / "alex.pth")
    monkeypatch.syspath_prepend(str(package.parent))
    importlib.invalidate_caches()
    hub.mkdir(parents=True)
    backbone.rename(hub / "alexnet-owt-7be5be79.pth")
    assert torch.equal(lpips(*pair, load_lpips()), expected)
    assert torch.equal(lpips(*pair, load_lpips(fetch=True)), expected)  # it is there: nothing to fetch


# Subject consistency


def test_dino_features_equal_dinos_own_code() -> None:
    """The numbers come from vision_transformer.py of github.com/facebookresearch/dino with torchvision's transforms:

    model = VisionTransformer(
        patch_size=16, embed_dim=128, depth=2, num_heads=2, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6)
    ).eval()
    model.load_state_dict(vit())
    frames = Resize(224, antialias=False)((frames * 255).round().byte()) / 255
    model(Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))(frames))[0, :5]
    """
    torch.set_num_threads(1)  # in how many parts a sum is taken decides its last bit, and that what a value rounds to
    network, frames = DinoFeatures(vit()), scene_frames(0, 96)
    for part, expected in (
        (frames, [0.29071, -2.92688, 2.43115, 0.75547, 0.32187]),
        (frames[..., :60, :], [0.64973, -3.11376, 2.57034, 0.53709, 0.36511]),  # 224 x 358: 14 x 22 patches
        (frames[..., 10:58], [0.73499, -3.10933, 2.44195, 0.50469, 0.26171]),  # 448 x 224: 28 x 14 patches
    ):
        features = network(part)
        assert features.shape == (2, WIDTH)
        assert features[0, :5].tolist() == pytest.approx(expected, abs=1e-4)


def test_dino_features_equal_torchs_transformer() -> None:
    state, frame = vit(), scene_frames(0, 96)[0]
    places = (np.arange(224) + 0.5) * 96 / 224 - 0.5
    rows, columns = np.meshgrid(places, places, indexing="ij")
    bits = (frame.double().numpy() * 255).round()
    large = np.stack([map_coordinates(c, [rows, columns], order=1, mode="nearest") for c in bits]).round() / 255
    mean, deviation = (np.array(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    patches = torch.from_numpy((large - mean) / deviation).float().unfold(1, 16, 16).unfold(2, 16, 16)
    patches = patches.permute(1, 2, 0, 3, 4).reshape(196, -1)
    embedded = patches @ state["patch_embed.proj.weight"].flatten(1).T + state["patch_embed.proj.bias"]
    tokens = torch.cat([state["cls_token"], embedded[None]], 1) + state["pos_embed"]
    names = {"self_attn.in_proj_": "attn.qkv.", "self_attn.out_proj.": "attn.proj.", "linear1.": "mlp.fc1."}
    names |= {"linear2.": "mlp.fc2.", "norm1.": "norm1.", "norm2.": "norm2."}
    for block in range(DEPTH):
        layer = torch.nn.TransformerEncoderLayer(
            WIDTH, 2, 4 * WIDTH, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
        ).eval()
        parts = [(a + end, state[f"blocks.{block}.{b}{end}"]) for a, b in names.items() for end in ("weight", "bias")]
        layer.load_state_dict(dict(parts))
        tokens = layer(tokens).detach()
    expected = torch.layer_norm(tokens[0, 0], (WIDTH,), state["norm.weight"], state["norm.bias"], 1e-6)
    assert torch.allclose(DinoFeatures(state)(frame[None])[0], expected, atol=1e-4)


def test_dino_is_loaded_from_a_file(tmp_path: Path, hub: Path) -> None:
    torch.save(vit(), tmp_path / "dino.pth")
    frames = scene_frames(0, 96)
    features = load_dino(tmp_path / "dino.pth")(frames)
    assert torch.equal(features, DinoFeatures(vit())(frames))
    assert 0 < float(subject_consistency(features)) < 1
    hub.mkdir(parents=True)
    (tmp_path / "dino.pth").rename(hub / "dino_vitbase16_pretrain.pth")
    assert torch.equal(load_dino()(frames), features)


# Motion smoothness

AMT_CODE = """
import torch
from networks.blocks import halves

class Model(torch.nn.Module):
    def __init__(self, corr_radius, corr_lvls, num_flows):
        super().__init__()
        assert (corr_radius, corr_lvls, num_flows) == (3, 4, 3)
        self.gain = torch.nn.Parameter(torch.zeros(1))

    def forward(self, before, after, embt, scale_factor, eval):
        # 131 x 140 becomes 144 x 144: the border repeated 6 times above, 7 below, twice left, twice right.
        assert before.shape == (1, 3, 144, 144) and (before[..., :6, :] == before[..., 6:7, :]).all()
        assert (before[..., 6, :] != before[..., 7, :]).any()
        assert (before[..., :2] == before[..., 2:3]).all() and (before[..., 2] != before[..., 3]).any()
        assert embt.shape == (1, 1, 1, 1) and scale_factor == 1 and eval and not self.training
        return {"imgt_pred": self.gain * halves(before, after, embt)}
"""


@pytest.fixture
def amt(tmp_path: Path) -> Path:
    """A checkout with the layout of AMT's repository, whose network takes the mean of two frames, and its weights."""
    for name in ("networks/blocks", "utils"):
        (tmp_path / "AMT" / name).mkdir(parents=True)
    (tmp_path / "AMT/utils/flow.py").write_text("def mix(a, b, share):\n    return a * share + b * (1 - share)\n")
    (tmp_path / "AMT/networks/blocks/__init__.py").write_text("from utils.flow import mix as halves")
    (tmp_path / "AMT/networks/AMT-S.py").write_text(AMT_CODE)
    torch.save({"state_dict": {"gain": torch.ones(1)}}, tmp_path / "amt-s.pth")
    return tmp_path


def test_amt_is_loaded_from_a_checkout_and_leaves_no_trace(amt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = {name: types.ModuleType(name) for name in ("networks", "utils", "utils.flow")}
    for name, module in mine.items():
        monkeypatch.setitem(sys.modules, name, module)
    paths, modules = list(sys.path), set(sys.modules)
    interpolate = load_amt(amt / "AMT", amt / "amt-s.pth")
    assert sys.path == paths and set(sys.modules) == modules and all(sys.modules[name] is mine[name] for name in mine)
    clip = torch.rand(3, 3, 131, 140, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(interpolate(clip[0], clip[2]), (clip[0] + clip[2]) / 2)
    by_hand = motion_smoothness(clip, lambda before, after: (before + after) / 2)
    assert torch.allclose(motion_smoothness(clip, interpolate), by_hand)
    with pytest.raises(InputError, match="sides from 113 pixels up, got 112 x 140"):
        interpolate(clip[0, :, :112], clip[2, :, :112])


def test_amt_says_what_is_wrong(amt: Path, hub: Path) -> None:
    with pytest.raises(InputError, match=r"code: expected a checkout of github.com/MCG-NKU/AMT .* found none in"):
        load_amt(amt, amt / "amt-s.pth")
    with pytest.raises(InputError, match=r"AMT-S \(12 MB\).*pass the file amt-s.pth as weights, or fetch=True"):
        load_amt(amt / "AMT")
    torch.save({"state_dict": {"other": torch.ones(1)}}, amt / "wrong.pth")
    with pytest.raises(InputError, match="weights: expected AMT's file amt-s.pth"):
        load_amt(amt / "AMT", amt / "wrong.pth")
    (amt / "AMT" / "networks" / "AMT-S.py").write_text("import a_module_that_is_not_here")
    paths = list(sys.path)
    with pytest.raises(InputError, match="cannot be imported.*a_module_that_is_not_here"):
        load_amt(amt / "AMT", amt / "amt-s.pth")
    assert sys.path == paths and "networks.AMT-S" not in sys.modules


# Files


def test_nothing_is_downloaded_unasked(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(alexnet()[1], tmp_path / "alex.pth")
    with pytest.raises(InputError, match=r"AlexNet's weights \(233 MB\), and they are not here.*Nothing .* unasked"):
        load_lpips(linear=tmp_path / "alex.pth")
    with pytest.raises(InputError, match=r"DINO ViT-B/16 \(343 MB\).*pass the file dino_vitbase16_pretrain.pth"):
        load_dino()
    assert not hub.exists()
    asked = []

    def download(url: str, place: str, digest: str | None, progress: bool) -> None:
        asked.append((url, digest))
        torch.save(vit() if "dino" in url else alexnet()[0], place)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    assert load_dino(fetch=True).depth == DEPTH
    assert len(load_lpips(linear=tmp_path / "alex.pth", fetch=True).weights) == 5
    load_dino(fetch=True)
    assert asked == [
        ("https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth", None),
        ("https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", "7be5be79"),
    ]


def test_a_failed_download_says_what_to_do(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(Zero2HeroError, match=r"could not be fetched .*no route.*Download the file elsewhere") as caught:
        load_dino(fetch=True)
    assert caught.value.exit_status == 1


def test_wrong_files_are_explained(tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, other, broken = (tmp_path / name for name in ("good.pth", "other.pth", "broken.pth"))
    torch.save(alexnet()[0], good)
    torch.save({"weight": torch.ones(1)}, other)
    broken.write_bytes(b"PK\3\4 and nothing more")
    with pytest.raises(InputError, match="backbone: expected AlexNet's weights .*features.0.weight, .* are missing"):
        load_lpips(other, other)
    with pytest.raises(InputError, match="linear: expected the file weights/v0.1/alex.pth"):
        load_lpips(good, other)
    with pytest.raises(InputError, match="weights: expected DINO's file"):
        load_dino(other)
    with pytest.raises(InputError, match="weights: .*broken.pth cannot be read as torch weights"):
        load_dino(broken)
    with pytest.raises(InputError, match="weights: expected a file of weights, found none at .*absent.pth"):
        load_dino(tmp_path / "absent.pth")
    torch.save([1, 2], other)
    with pytest.raises(InputError, match="weights: expected named weights, got list"):
        load_dino(other)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install lpips"):
        load_lpips(good)
