"""Our flow by RAFT against torchvision's own call, with random weights under the name of its file; prints JSON.

raft_flow.py FOLDER    where torch.hub is to keep its files; empty or not there
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torchvision.models.optical_flow import Raft_Large_Weights, raft_large
from zero2hero_ext.zero2hero_core.checks import InputError
from zero2hero_ext.zero2hero_core.flow.raft import RAFT_URL, load_raft

# (height, width) -> what a call of one's own must add left, right, above and below: multiples of 8, at least 128.
PADDING = {(128, 136): (0, 0, 0, 0), (120, 133): (1, 2, 4, 4)}
OFFICIAL = Raft_Large_Weights.C_T_SKHT_V2


def refusal() -> str:
    """What is said while the file is not there."""
    try:
        load_raft()
    except InputError as error:
        return str(error)
    return ""


@torch.no_grad()
def own_call(network: torch.nn.Module, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The flow (H, W, 2), as torchvision's documentation has it."""
    height, width = source.shape[-2:]
    left, right, above, below = PADDING[height, width]
    first, second = OFFICIAL.transforms()(source[None], target[None])
    first, second = (F.pad(one, (left, right, above, below), mode="replicate") for one in (first, second))
    return network(first, second)[-1][0, :, above : above + height, left : left + width].permute(1, 2, 0)


def main() -> None:
    """Save random weights, compare."""
    torch.hub.set_dir(sys.argv[1])
    torch.hub.download_url_to_file = None  # nothing may come from the net
    found: dict[str, object] = {"same address": OFFICIAL.url == RAFT_URL, "said": refusal()}
    torch.manual_seed(0)
    network = raft_large(weights=None, progress=False).eval()
    file = Path(sys.argv[1]) / "checkpoints" / OFFICIAL.url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    torch.save(network.state_dict(), file)
    flow, sizes = load_raft(), {}
    for height, width in PADDING:
        source, target = torch.rand(2, 3, height, width)
        ours, own = flow(source, target), own_call(network, source, target)
        assert ours.shape == own.shape == (height, width, 2)
        sizes[f"{height} x {width}"] = {
            "differs by": float((ours - own).abs().max()),
            "largest": float(own.abs().max()),
            "other way": float((flow(target, source) - own).abs().max()),
        }
    print(json.dumps(found | {"sizes": sizes}))


if __name__ == "__main__":
    main()
