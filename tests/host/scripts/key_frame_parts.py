"""OpticalFlow and SelectKeyFrames called directly: a real RAFT of random weights, previews, Cancel. Prints JSON."""

from __future__ import annotations

import json

import comfy.model_management as management
import torch
from comfy.model_patcher import ModelPatcher
from parts import Pressed, difference, outcome, pictures
from torchvision.models.optical_flow import raft_large
from zero2hero_ext.nodes.host import services
from zero2hero_ext.nodes.key_frames import OpticalFlow, SelectKeyFrames
from zero2hero_ext.nodes.work import key_frames as work
from zero2hero_ext.zero2hero_core.checks import InputError
from zero2hero_ext.zero2hero_core.flow.clip import ClipFlows, clip_flows
from zero2hero_ext.zero2hero_core.flow.raft import raft_function
from zero2hero_ext.zero2hero_core.propagation import coverage, survey

FLOW = {"engine": "dis", "longest_side": 0, "law": "unflow", "photometric": False, "soft": False}
SELECT = {"method": "advice", "count": 0, "every": 2, "smallest_gap": 1, "largest_gap": 3, "keys_so_far": ""}


def told(node, **given) -> str:
    """The message of the error that a node ends in."""
    try:
        node.execute(**given)
    except InputError as error:
        return str(error)
    return ""


def shown(node, **given) -> int:
    """How many pictures a node shows while it works."""
    seen = []
    keep = services.comfy.utils.ProgressBar.update_absolute

    def count(bar, value, total=None, preview=None):
        seen.extend([1] if preview is not None else [])
        return keep(bar, value, total, preview)

    services.comfy.utils.ProgressBar.update_absolute = count
    try:
        node.execute(**given)
    finally:
        services.comfy.utils.ProgressBar.update_absolute = keep
    return len(seen)


with torch.inference_mode():  # as the host runs its nodes
    torch.manual_seed(0)
    network = raft_large(weights=None, progress=False).eval()
    model = ModelPatcher(network, load_device=management.get_torch_device(), offload_device=torch.device("cpu"))
    frames = pictures(3, 128, 1)
    flows, _, _, flow_map = OpticalFlow.execute(frames=frames, optical_flow=model, **FLOW).args
    core = clip_flows(frames.movedim(-1, 1), flow=raft_function(network))
    found = {
        "raft": [difference(flows.forward, core.forward), difference(flows.backward, core.backward)],
        "largest": float(core.forward.abs().max()),
        "flow map": list(flow_map.shape),
    }

    still = ClipFlows(torch.zeros(3, 64, 64, 2), torch.zeros(3, 64, 64, 2))
    clip = pictures(4, 64, 2)
    given = {"frames": clip, "flow": still} | SELECT
    with Pressed(survey, "frame_difference", 2) as pressed:
        found["cancelled frames"] = [outcome(SelectKeyFrames, **given), pressed.calls]
    with Pressed(coverage, "key_map", 2) as pressed:
        found["cancelled chains"] = [outcome(SelectKeyFrames, **given), pressed.calls]
    with Pressed(network, "forward", 2) as pressed:
        found["cancelled flow"] = [outcome(OpticalFlow, frames=frames, optical_flow=model, **FLOW), pressed.calls]
    found["shown"] = [shown(SelectKeyFrames, **given), shown(OpticalFlow, frames=frames, optical_flow=model, **FLOW)]

    keep, work.free_memory = work.free_memory, lambda device: 10
    found["memory"] = told(OpticalFlow, frames=frames, **FLOW)
    work.free_memory = keep
    found["another"] = told(OpticalFlow, frames=frames, optical_flow=object(), **FLOW)
    found["short flow"] = told(SelectKeyFrames, **given | {"frames": pictures(6, 64)})
print(json.dumps(found))
