"""`zero2hero doctor`: what is installed and found here, and what is missing."""

from __future__ import annotations

import argparse
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from ..version import __version__
from .console import add_common, say

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "safetensors",
    "av",
    "numpy",
    "pillow",
    "matplotlib",
    "rich",
)
ENCODERS = {"h264": "libx264", "vp9": "libvpx-vp9", "ffv1": "ffv1"}
EXAMPLES = """\
Exit status 0 means that the program can work here. COMFYUI_PATH tells where ComfyUI is (default: ~/comfy/ComfyUI).

examples:
  zero2hero doctor
  zero2hero doctor --json doctor.json
"""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    description = "Show versions, devices, video encoders, the bundled models and ComfyUI; say what is missing."
    parser = subparsers.add_parser("doctor", help="show what is installed", description=description, epilog=EXAMPLES)
    add_common(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Look around; the report's `problems` lists what keeps the program from working."""
    problems: list[str] = []
    versions: dict[str, str | None] = {"zero2hero": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        versions[name] = _version(name)
        if versions[name] is None:
            problems.append(f"{name} is not installed: pip install {name}.")
    report: dict[str, Any] = {
        "command": "doctor",
        "versions": versions,
        "platform": platform.platform(),
        "devices": _devices(problems),
        "encoders": _encoders(problems),
        "tiny": _tiny_models(),
        "comfyui": _comfyui(),
        "problems": problems,
    }
    say(args, "\n".join(_lines(report)))
    return report


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _devices(problems: list[str]) -> list[dict[str, Any]]:
    devices: list[dict[str, Any]] = [{"device": "cpu", "cores": os.cpu_count()}]
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library that torch needs is missing
        problems.append(f"torch cannot be imported ({error}): install it again.")
        return devices
    devices[0]["threads"] = torch.get_num_threads()
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = round(properties.total_memory / 2**30, 1)
        devices.append({"device": f"cuda:{index}", "name": properties.name, "memory_gib": memory})
    if torch.backends.mps.is_available():
        devices.append({"device": "mps"})
    return devices


def _encoders(problems: list[str]) -> dict[str, bool]:
    try:
        import av
    except (ImportError, OSError) as error:
        problems.append(f"av cannot be imported ({error}): install it again.")
        return dict.fromkeys(ENCODERS, False)

    def has(name: str) -> bool:
        try:
            return bool(av.codec.Codec(name, "w").name)
        except ValueError:  # PyAV's UnknownCodecError
            return False

    encoders = {codec: has(encoder) for codec, encoder in ENCODERS.items()}
    if not encoders["h264"]:
        problems.append("the FFmpeg inside av has no H.264 encoder (libx264): install av from PyPI.")
    return encoders


def _tiny_models() -> dict[str, Any]:
    try:
        from ..tiny import dit
        from ..tiny import unet as model
    except (ImportError, OSError) as error:
        return {"found": False, "reason": str(error)}
    folder = model.weights_folder()
    missing = [
        name for name in (model.UNET_FILE, model.AUTOENCODER_FILE, dit.DIT_FILE) if not (folder / name).is_file()
    ]
    if missing:
        return {"found": False, "folder": str(folder), "reason": f"{' and '.join(missing)} missing"}
    try:
        metadata = model.weights_metadata(folder)
        metadata |= {f"dit {name}": text for name, text in dit.dit_metadata(folder).items()}
        return {"found": True, "folder": str(folder), "metadata": metadata}
    except Exception as error:  # safetensors has errors of its own; whatever it is, the reason is shown
        return {"found": False, "folder": str(folder), "reason": f"the weights cannot be read: {error}"}


def _comfyui() -> dict[str, Any]:
    folder = Path(os.environ.get("COMFYUI_PATH") or "~/comfy/ComfyUI").expanduser()
    if not (folder / "comfy").is_dir():
        return {"found": False, "path": str(folder)}
    checkpoints = folder / "models" / "checkpoints"
    names = sorted(path.relative_to(checkpoints).as_posix() for path in checkpoints.rglob("*.safetensors"))
    return {"found": True, "path": str(folder), "checkpoints": names}


def _lines(report: dict[str, Any]) -> list[str]:
    rows = [(name, version or "missing") for name, version in report["versions"].items()]
    for device in report["devices"]:
        rows.append((device["device"], ", ".join(f"{k} {v}" for k, v in device.items() if k != "device")))
    encoders = ", ".join(name if present else f"no {name}" for name, present in report["encoders"].items())
    rows.append(("encoders", encoders))
    tiny, comfyui = report["tiny"], report["comfyui"]
    rows.append(("tiny models", f"found in {tiny['folder']}" if tiny["found"] else f"not found: {tiny['reason']}"))
    metadata = tiny.get("metadata", {})  # of the learning curve, the last line will do
    rows += [("", f"{name}: {value.strip().splitlines()[-1]}") for name, value in metadata.items() if value.strip()]
    rows.append(("ComfyUI", f"{'found' if comfyui['found'] else 'not found'}: {comfyui['path']}"))
    rows += [("", f"checkpoint {name}") for name in comfyui.get("checkpoints", [])]
    rows.append(("result", " ".join(report["problems"]) or "ready"))
    return [f"{name:<14}{text}".rstrip() for name, text in rows]
