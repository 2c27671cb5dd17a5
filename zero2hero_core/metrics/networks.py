"""The networks behind the learned measures, from weight files: AlexNet for LPIPS, DINO ViT-B/16 for subject
consistency, AMT-S for motion smoothness.

Nothing is downloaded unless `fetch=True` asks for it: a file is taken from where the caller says, else from the folder
in which torch.hub keeps what was fetched before; when it is in neither, the error says which file is missing, where it
can be had and how to ask for it. AlexNet and the ViT are written here in plain torch, so that neither torchvision nor
the package lpips has to be importable; of the package only its small file of channel weights is read. AMT-S is its
authors' own code, which may not be used commercially (CC BY-NC 4.0) and stays where the user has put it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ..checks import InputError, Zero2HeroError, check_images
from ..files.weight_files import Weights, find_weights, hub_file, read_weights

ALEXNET_URL = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
DINO_URL = "https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth"
AMT_URL = "https://huggingface.co/lalala125/AMT/resolve/main/amt-s.pth"

_CONVOLUTIONS = ((0, 4, 2, False), (3, 1, 2, True), (6, 1, 1, True), (8, 1, 1, False), (10, 1, 1, False))
_LPIPS_SHIFT, _LPIPS_SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_DINO_SIDE, _HEAD = 224, 64
_AMT_PACKAGES = ("networks", "utils")
_AMT_SIDE = 113  # padded to 128: below it the coarsest of its four levels is one pixel, and the result is nan
_BLOCK = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")


class AlexNetLpips:
    """AlexNet's five rectified convolutions and the weights that LPIPS gives to their channels.

    Source: Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks", with torchvision's names
    of weights; arXiv 1801.03924.
    """

    def __init__(self, backbone: Weights, linear: Weights, device: torch.device | str = "cpu") -> None:
        names = [f"features.{index}.{part}" for index, *_ in _CONVOLUTIONS for part in ("weight", "bias")]
        _check_names("backbone", backbone, names, "AlexNet's weights as torchvision names them")
        lines = [f"lin{layer}.model.1.weight" for layer in range(len(_CONVOLUTIONS))]
        _check_names("linear", linear, lines, "the file weights/v0.1/alex.pth of the package lpips")
        self._layers = {name: backbone[name].float().to(device) for name in names}
        self.weights: Sequence[torch.Tensor] = [linear[name].float().flatten().to(device) for name in lines]

    def features(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        """Features of pictures (N, 3, H, W), sides from 31 up, in [-1, 1] by LPIPS's definition: for each layer
        (N, C, h, w)."""
        values, levels = (pictures - _colours(_LPIPS_SHIFT, pictures)) / _colours(_LPIPS_SCALE, pictures), []
        for index, stride, padding, pooled in _CONVOLUTIONS:
            if pooled:
                values = F.max_pool2d(values, 3, 2)
            weight, bias = self._layers[f"features.{index}.weight"], self._layers[f"features.{index}.bias"]
            values = F.relu(F.conv2d(values, weight, bias, stride, padding))
            levels.append(values)
        return levels


def load_lpips(
    backbone: str | Path | None = None,
    linear: str | Path | None = None,
    *,
    fetch: bool = False,
    device: torch.device | str = "cpu",
) -> AlexNetLpips:
    """The network of LPIPS-Alex, version 0.1.

    Args:
        backbone: torchvision's file alexnet-owt-7be5be79.pth; when None, where torch.hub keeps it.
        linear: the file weights/v0.1/alex.pth of the package lpips; when None, that of the installed lpips or
            torchmetrics.
        fetch: download the backbone (233 MB) when it is not there.
    Raises: InputError when a file is missing, damaged or another; Zero2HeroError when the download fails.
    """
    state = _weights("backbone", backbone, ALEXNET_URL, fetch, "LPIPS needs AlexNet's weights (233 MB)")
    place = Path(linear) if linear is not None else _installed_linear()
    if place is None:
        raise InputError("LPIPS needs the weights of its channels: pip install lpips, or pass its alex.pth as linear.")
    return AlexNetLpips(state, read_weights("linear", place), device)


class DinoFeatures:
    """DINO's vision transformer: pictures to the feature of the class token, prepared as VBench does.

    Source: Caron et al. 2021 (arXiv 2104.14294), with its names of weights and its places of odd sizes; VBench (arXiv
    2311.17982) for the preparation: 8 bits, short side 224, bilinear without antialiasing, ImageNet's mean and
    deviation.
    """

    def __init__(self, state: Weights, device: torch.device | str = "cpu") -> None:
        self.depth = max(1, len({name.split(".")[1] for name in state if name.startswith("blocks.")}))
        layers = ["patch_embed.proj", *(f"blocks.{i}.{part}" for i in range(self.depth) for part in _BLOCK), "norm"]
        names = ["cls_token", "pos_embed", *(f"{layer}.{part}" for layer in layers for part in ("weight", "bias"))]
        _check_names("weights", state, names, "DINO's file dino_vitbase16_pretrain.pth")
        self._state = {name: state[name].float().to(device) for name in names}
        self.device = torch.device(device)

    @torch.no_grad()
    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) in [0, 1] -> (N, D), D = 768 for ViT-B, on the network's device."""
        check_images("pictures", pictures)
        return torch.cat([self._tokens(self._prepare(picture[None].to(self.device)))[:, 0] for picture in pictures])

    def _prepare(self, picture: torch.Tensor) -> torch.Tensor:
        height, width = picture.shape[-2:]
        short = min(height, width)
        size = (int(_DINO_SIDE * height / short), int(_DINO_SIDE * width / short))
        bits = picture.float().clamp(0, 1).mul(255).round()
        bits = F.interpolate(bits, size, mode="bilinear", align_corners=False).round()
        return (bits / 255 - _colours(_IMAGENET_MEAN, bits)) / _colours(_IMAGENET_STD, bits)

    def _tokens(self, picture: torch.Tensor) -> torch.Tensor:
        kernel, bias = self._state["patch_embed.proj.weight"], self._state["patch_embed.proj.bias"]
        patches = F.conv2d(picture, kernel, bias, stride=kernel.shape[-1])
        tokens = torch.cat([self._state["cls_token"], patches.flatten(2).transpose(1, 2)], 1)
        tokens = tokens + self._places(patches.shape[-2], patches.shape[-1])
        for index in range(self.depth):
            tokens = self._block(tokens, f"blocks.{index}.")
        return self._norm(tokens, "norm")

    def _places(self, rows: int, columns: int) -> torch.Tensor:
        places = self._state["pos_embed"]
        side = round((places.shape[1] - 1) ** 0.5)
        if (rows, columns) == (side, side):
            return places
        grid = places[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        scale = ((rows + 0.1) / side, (columns + 0.1) / side)  # DINO's 0.1: the size must not be rounded down
        grid = F.interpolate(grid, scale_factor=scale, mode="bicubic", align_corners=False)
        return torch.cat([places[:, :1], grid.flatten(2).transpose(1, 2)], 1)

    def _block(self, tokens: torch.Tensor, name: str) -> torch.Tensor:
        qkv = self._linear(self._norm(tokens, name + "norm1"), name + "attn.qkv")
        query, key, value = qkv.unflatten(-1, (3, -1, _HEAD)).permute(2, 0, 3, 1, 4)
        context = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        tokens = tokens + self._linear(context, name + "attn.proj")
        hidden = F.gelu(self._linear(self._norm(tokens, name + "norm2"), name + "mlp.fc1"))
        return tokens + self._linear(hidden, name + "mlp.fc2")

    def _linear(self, tokens: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(tokens, self._state[name + ".weight"], self._state[name + ".bias"])

    def _norm(self, tokens: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = self._state[name + ".weight"], self._state[name + ".bias"]
        return F.layer_norm(tokens, tokens.shape[-1:], weight, bias, eps=1e-6)


def load_dino(
    weights: str | Path | None = None, *, fetch: bool = False, device: torch.device | str = "cpu"
) -> DinoFeatures:
    """DINO ViT-B/16, the features of VBench's subject consistency.

    Args:
        weights: DINO's file dino_vitbase16_pretrain.pth; when None, where torch.hub keeps it.
        fetch: download it (343 MB) when it is not there.
    Raises: InputError when the file is missing, damaged or another; Zero2HeroError when the download fails.
    """
    advice = "Subject consistency needs the weights of DINO ViT-B/16 (343 MB)"
    return DinoFeatures(_weights("weights", weights, DINO_URL, fetch, advice), device)


def load_amt(
    code: str | Path,
    weights: str | Path | None = None,
    *,
    fetch: bool = False,
    device: torch.device | str = "cpu",
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """AMT-S, the interpolation of VBench's motion smoothness: (before, after) -> the frame halfway, all (3, H, W).

    Source: Li et al. 2023 (arXiv 2304.09790); padded to multiples of 16 as in VBench (arXiv 2311.17982).
    Args:
        code: a checkout of github.com/MCG-NKU/AMT: the folder that holds networks/AMT-S.py, whose code is run. Its
            licence, CC BY-NC 4.0, forbids commercial use.
        weights: AMT's file amt-s.pth; when None, where torch.hub keeps it.
        fetch: download the weights (12 MB) when they are not there; the code is never downloaded.
    Raises: InputError when the code or the file is missing, damaged or another; Zero2HeroError when the download fails.
    """
    network = _amt_network(Path(code))
    state: Any = _weights("weights", weights, AMT_URL, fetch, "Motion smoothness needs the weights of AMT-S (12 MB)")
    try:
        network.load_state_dict(state.get("state_dict", state))
    except (RuntimeError, TypeError) as error:
        raise InputError(f"weights: expected AMT's file amt-s.pth, but it does not fit AMT-S: {error}") from error
    network.to(device).eval()

    @torch.no_grad()
    def interpolate(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        height, width = before.shape[-2:]
        if min(height, width) < _AMT_SIDE:
            raise InputError(
                f"AMT-S: expected sides from {_AMT_SIDE} pixels up, got {height} x {width} (height x width); "
                "enlarge the frames."
            )
        below, right = -height % 16, -width % 16
        top, left = below // 2, right // 2
        edges = (left, right - left, top, below - top)
        pair = (F.pad(frame[None].to(device, torch.float32), edges, mode="replicate") for frame in (before, after))
        half = torch.full((1, 1, 1, 1), 0.5, device=device)
        outcome = network(*pair, half, scale_factor=1.0, eval=True)["imgt_pred"][0]
        between: torch.Tensor = outcome[:, top : top + height, left : left + width]
        return between.to(before.device)

    return interpolate


def _amt_network(code: Path) -> torch.nn.Module:
    """The network of a checkout, imported under the names that its files use. Other modules of these names, the host's
    `utils` among them, are set aside meanwhile, and none of AMT's stays behind."""
    if not (code / "networks" / "AMT-S.py").is_file():
        raise InputError(
            f"code: expected a checkout of github.com/MCG-NKU/AMT with networks/AMT-S.py, found none in {code}; "
            "clone it there (its licence forbids commercial use)."
        )
    modules = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in _AMT_PACKAGES}
    sys.path.insert(0, str(code))
    try:
        network: torch.nn.Module = importlib.import_module("networks.AMT-S").Model(
            corr_radius=3, corr_lvls=4, num_flows=3
        )
        return network
    except ImportError as error:
        raise InputError(f"code: {code} cannot be imported: {error}") from error
    finally:
        sys.path.remove(str(code))
        for name in [name for name in sys.modules if name.split(".")[0] in _AMT_PACKAGES]:
            del sys.modules[name]
        sys.modules.update(modules)


def _weights(name: str, file: str | Path | None, url: str, fetch: bool, need: str) -> Weights:
    if fetch and file is None and not hub_file(url).is_file():
        _download(name, url, need)
    return find_weights(name, file, url, need, offer="fetch=True to download it")


def _download(name: str, url: str, need: str) -> None:
    place = hub_file(url)
    place.parent.mkdir(parents=True, exist_ok=True)
    digest = place.stem.rsplit("-", 1)[-1] if url == ALEXNET_URL else None  # torchvision's names end in it
    try:
        torch.hub.download_url_to_file(url, str(place), digest, progress=False)
    except (OSError, RuntimeError) as error:
        raise Zero2HeroError(
            f"{need}; they could not be fetched from {url}: {error}. Download the file elsewhere and pass it as {name}."
        ) from error


def _installed_linear() -> Path | None:
    for package, below in (("lpips", "weights/v0.1"), ("torchmetrics", "functional/image/lpips_models")):
        spec = importlib.util.find_spec(package)  # finds it without importing it
        for folder in (spec and spec.submodule_search_locations) or ():
            if (file := Path(folder) / below / "alex.pth").is_file():
                return file
    return None


def _check_names(name: str, state: Weights, names: list[str], kind: str) -> None:
    missing = [key for key in names if key not in state]
    if missing:
        raise InputError(
            f"{name}: expected {kind}, but {', '.join(missing[:4])} ... ({len(missing)} names) are missing."
        )


def _colours(values: tuple[float, float, float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(3, 1, 1)
