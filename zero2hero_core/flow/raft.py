"""Optical flow by RAFT (Teed & Deng, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow", ECCV 2020, arXiv
2003.12039): torchvision's `raft_large` with its weights C_T_SKHT_V2, trained on FlyingChairs and FlyingThings3D, then
on Sintel, KITTI and HD1K.

torchvision is imported when RAFT is asked for, and not needed otherwise. The weights are read from a file that lies on
this machine; nothing is downloaded. Axes and signs are those of `flow/warp.py`.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ..checks import InputError
from ..files.weight_files import find_weights
from .warp import FlowFunction, check_flow_pair

RAFT_URL = "https://download.pytorch.org/models/raft_large_C_T_SKHT_V2-ff5fadd5.pth"

_STRIDE = 8  # one feature for so many pixels
_SMALLEST_SIDE = 128  # below it the coarsest of the four correlation levels is a single feature, and the result nan
_LONGEST_MESSAGE = 300


def load_raft(weights: str | Path | None = None, *, device: torch.device | str = "cpu") -> FlowFunction:
    """RAFT as a function (source, target) -> where each pixel of `source` lies in `target`; its model is loaded once.

    The function takes pictures (3, H, W) of one size, at least 16 x 16, in [0, 1] (clipped to it) and gives (H, W, 2),
    (dx, dy) in pixels, float32, on the device of `source`; it raises ShapeError, and InputError when a picture is too
    small or not finite. RAFT itself takes [-1, 1] and sides that are multiples of 8 and at least 128: pictures are
    padded to them by repeating their borders, half on each side, and the flow is cut back.

    Source: arXiv 2003.12039, as torchvision has it, with its 12 updates. Differs: the authors' own evaluation takes 24
    to 32.
    Args:
        weights: torchvision's file raft_large_C_T_SKHT_V2-ff5fadd5.pth; when None, where torch.hub keeps it.
        device: where the model lies and computes.
    Raises: InputError when torchvision or the file is missing, or the file is damaged or another.
    """
    return raft_function(_network(weights).to(device).eval(), device=device)


def raft_function(network: Any, *, device: torch.device | str = "cpu") -> FlowFunction:
    """A RAFT that is loaded already as the function that `load_raft` gives.

    Args: network: torchvision's `raft_large` or one that is called like it, (source, target) in [-1, 1], (1, 3, H, W)
        each -> a list whose last is (1, 2, H, W); on `device`, in evaluation mode. device: where it computes.
    """

    @torch.no_grad()
    def raft_flow(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        check_flow_pair(source, target)
        height, width = source.shape[-2:]
        left, right = _padding(width)
        top, bottom = _padding(height)
        inputs = (picture[None].detach().to(device, torch.float32).clamp(0, 1) * 2 - 1 for picture in (source, target))
        flow = network(*(F.pad(picture, (left, right, top, bottom), mode="replicate") for picture in inputs))[-1][0]
        inner: torch.Tensor = (
            flow[:, top : top + height, left : left + width].permute(1, 2, 0).contiguous().to(source.device)
        )
        return inner

    return raft_flow


def _network(weights: str | Path | None) -> Any:
    """`raft_large`, made without weights, which torchvision would download, and given those of the file."""
    try:
        from torchvision.models.optical_flow import raft_large
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that was built for another torch
        raise InputError(
            f"Optical flow by RAFT needs torchvision, which cannot be imported here ({error}): "
            f"pip install the torchvision that belongs to torch {torch.__version__}"
        ) from error
    need = "Optical flow by RAFT needs the weights C_T_SKHT_V2 of torchvision's raft_large (20 MB)"
    state = find_weights("weights", weights, RAFT_URL, need)
    with torch.random.fork_rng(devices=[]):  # the weights that it draws are thrown away: leave the caller's draws alone
        network = raft_large(weights=None, progress=False)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(
            f"weights: expected torchvision's file {Path(RAFT_URL).name}, but it does not fit raft_large: "
            + textwrap.shorten(str(error), _LONGEST_MESSAGE, placeholder=" ...")
        ) from error
    return network


def _padding(length: int) -> tuple[int, int]:
    """What to add before and after a side of `length` pixels."""
    missing = max(_SMALLEST_SIDE, length + -length % _STRIDE) - length
    return missing // 2, missing - missing // 2
