"""Cancel in the middle of every node: bytes of all tensors and of the heap before, at that moment and after.

Each node runs through once before, so that what the host and the nodes keep anyway (loaded models, tables) is there.
Prints by node what the test looks at.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import comfy.model_base
import comfy.model_management as management
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from diffusers import FluxTransformer2DModel
from parts import MATCH, RESTORE, SAMPLE, TRAIN, Pressed, outcome, pictures, random_lora
from zero2hero_ext.nodes.evaluation import PixelSwap, VideoMetrics
from zero2hero_ext.nodes.hero_stage import HeroRestore
from zero2hero_ext.nodes.hero_training import HeroLoRATrainer
from zero2hero_ext.nodes.host.lora_files import read_hero_lora
from zero2hero_ext.nodes.host.tiny import tiny_conditioning, tiny_model, tiny_vae
from zero2hero_ext.nodes.host.tiny_dit import load_tiny_dit_model
from zero2hero_ext.nodes.key_frames import OpticalFlow, SelectKeyFrames
from zero2hero_ext.nodes.models import ZeroToHeroDemoClip
from zero2hero_ext.nodes.video import VideoLoad, VideoSave
from zero2hero_ext.nodes.zero_stage import DIFTCorrespondence, MaskedCiAKSampler
from zero2hero_ext.zero2hero_core.flow.clip import ClipFlows
from zero2hero_ext.zero2hero_core.jobs import matching
from zero2hero_ext.zero2hero_core.metrics import ssim
from zero2hero_ext.zero2hero_core.propagation import survey
from zero2hero_ext.zero2hero_core.tiny.dit import load_tiny_dit
from zero2hero_ext.zero2hero_core.tiny.scenes.scene import Scene
from zero2hero_ext.zero2hero_core.video.source import FrameSource
from zero2hero_ext.zero2hero_core.video.writer import VideoWriter

COUNT, SIZE = 4, 128
LOAD = {"file": "clip.mkv", "anchor_frame": 0, "force_rate": 0.0, "start": 0, "maximum": 0, "stride": 1}
LOAD |= {"short_side": 0, "width": 0, "height": 0, "fit": "crop", "multiple": 16}
SAVE = {"fps": 8.0, "filename_prefix": "clip", "format": "mkv", "crf": -1}
FLOW = {"engine": "dis", "longest_side": 0, "law": "unflow", "photometric": False, "soft": True}
KEYS = {"method": "uniform", "count": 0, "every": 2, "smallest_gap": 1, "largest_gap": 3, "keys_so_far": ""}
SOUND = {"waveform": torch.zeros(1, 1, 44100), "sample_rate": 44100}
BASE = Path(folder_paths.base_path)


class NoMotion(torch.nn.Module):
    """In the place of RAFT."""

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> list[torch.Tensor]:
        return [torch.zeros_like(source[:, :2])]


class _Heap(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "a", "b", "c", "mapped", "d", "e", "used", "f", "g")]


def heap() -> int:
    """Bytes that the C library has handed out, tensors that only C++ holds included; 0 where it does not tell."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(library, "mallinfo2"):  # not glibc, or one before 2.33
        return 0
    library.mallinfo2.restype = _Heap
    facts = library.mallinfo2()
    return int(facts.used + facts.mapped)


def tensor_bytes() -> int:
    """Bytes of the memory behind all tensors, each block once."""
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    blocks = [tensor.untyped_storage() for tensor in tensors if tensor.device.type != "meta"]
    return sum({block.data_ptr(): block.nbytes() for block in blocks}.values())


def files() -> set[str]:
    """Everything in the host's folders."""
    return {path.relative_to(BASE).as_posix() for path in BASE.rglob("*") if path.is_file()}


def marks() -> dict[str, Any]:
    """What a node could leave on models and host."""
    patchers = [zero_model, hero_model, vae.patcher]
    parts = [part for patcher in patchers for part in patcher.model.modules()]
    digest = hashlib.sha256()
    for tensor in (tensor for patcher in patchers for tensor in patcher.model.state_dict().values()):
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return {
        "hooks": sum(len(hooks) for part in parts for name, hooks in vars(part).items() if name.endswith("_hooks")),
        "attributes": sum(len(vars(part)) for part in parts),
        "options": [str(patcher.model_options) for patcher in patchers],
        "patches": [str([patcher.patches, patcher.object_patches, patcher.backup]) for patcher in patchers],
        "weights": digest.hexdigest(),
        "loaded models": len(management.current_loaded_models),
        "mode": [torch.is_inference_mode_enabled(), torch.is_grad_enabled(), management.processing_interrupted()],
    }


def measure(node: Any, given: dict[str, Any], owner: Any, unit: str) -> dict[str, Any]:
    """Once through, then cancelled in the middle."""
    names = [{"name": f"{given['weights']}_{kind}"} if "weights" in given else {} for kind in ("whole", "broken")]
    marks_before = marks()
    with Pressed(owner, unit) as whole:
        outcome(node, **given | names[0])
    gc.collect()
    known, before, then = files(), (tensor_bytes(), heap()), dict[str, Any]()
    middle = (whole.calls + 1) // 2
    with Pressed(owner, unit, middle, lambda: then.update(bytes=(tensor_bytes(), heap()), files=files())) as pressed:
        said = outcome(node, **given | names[1])
    gc.collect()
    bytes_after, marks_after = (tensor_bytes(), heap()), marks()
    return {
        "said": said,
        "units": [whole.calls, pressed.at, pressed.calls - pressed.at],
        "bytes": dict(zip(("tensors", "heap"), zip(before, then["bytes"], bytes_after, strict=True), strict=True)),
        "files": {"then": sorted(then["files"] - known), "left": sorted(files() - known)},
        "marks": [name for name, mark in marks_before.items() if mark != marks_after[name]],
    }


def cases() -> dict[str, tuple[Any, dict[str, Any], Any, str]]:
    """Name -> node, its inputs, and the unit of work: where that is found and its name."""
    lora = BASE / "models" / "hero.safetensors"
    lora.parent.mkdir(exist_ok=True)
    random_lora(load_tiny_dit(), lora)
    frames, reference = pictures(COUNT, SIZE, 1), pictures(1, SIZE, 2)
    zero = {"model": zero_model, "vae": vae, "conditioning": tiny_conditioning(), "frames": frames}
    hero = {"model": hero_model, "vae": vae, "conditioning": hero_prompt}
    hero |= {"frames": frames[:2], "zero_frames": frames[:2]}
    matches = DIFTCorrespondence.execute(**zero, **MATCH).args[0]
    given = {"correspondence": matches, "reference": reference}
    training = hero | TRAIN | {"crop": 1.0, "reference": reference, "frames": frames[:1], "zero_frames": frames[:1]}
    loading = BASE / "input" / LOAD["file"]
    loading.parent.mkdir(exist_ok=True)
    VideoSave.execute(frames=frames, **SAVE)
    shutil.copyfile(next((BASE / "output").glob("clip*.mkv")), loading)
    model, trained = comfy.model_base.BaseModel, FluxTransformer2DModel
    still = ModelPatcher(NoMotion(), load_device=torch.device("cpu"), offload_device=torch.device("cpu"))
    management.load_models_gpu([still])
    flows = ClipFlows(*torch.zeros(2, COUNT - 1, SIZE, SIZE, 2))
    return {
        "DIFTCorrespondence": (DIFTCorrespondence, zero | MATCH, model, "apply_model"),
        "MaskedCiAKSampler": (MaskedCiAKSampler, zero | SAMPLE | {"steps": 3} | given, model, "apply_model"),
        "HeroRestore": (HeroRestore, hero | RESTORE | {"hero_lora": read_hero_lora(lora)}, model, "apply_model"),
        "HeroLoRATrainer": (HeroLoRATrainer, training | {"weights": "as loaded"}, trained, "forward"),
        "HeroLoRATrainer fp8": (HeroLoRATrainer, training | {"weights": "fp8"}, trained, "forward"),
        "ZeroToHeroDemoClip": (ZeroToHeroDemoClip, {"clip": 0, "frame_count": 4, "size": SIZE}, Scene, "render"),
        "VideoLoad": (VideoLoad, LOAD, FrameSource, "__getitem__"),
        "VideoSave": (VideoSave, SAVE | {"frames": frames, "audio": SOUND}, VideoWriter, "write"),
        "VideoMetrics": (VideoMetrics, {"frames": frames, "truth": frames + 0.1}, ssim, "ssim"),
        "PixelSwap": (PixelSwap, given, matching, "pixel_swap"),
        "OpticalFlow": (OpticalFlow, {"frames": frames, "optical_flow": still} | FLOW, NoMotion, "forward"),
        "SelectKeyFrames": (SelectKeyFrames, {"frames": frames, "flow": flows} | KEYS, survey, "frame_difference"),
    }


with torch.inference_mode():  # as the host runs its nodes
    zero_model, vae, (hero_model, hero_prompt) = tiny_model(), tiny_vae(), load_tiny_dit_model()
    management.load_models_gpu([zero_model, hero_model, vae.patcher])
    found = {name: measure(*case) for name, case in cases().items()}
print(json.dumps(found))
