"""What the nodes need of the host: schema, folders, progress, Cancel, memory. Works on ComfyUI 0.3.64 and 0.33.0.

Only this file and its neighbours import comfy, comfy_api or folder_paths.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.model_management as model_management
import comfy.utils
import folder_paths
import torch
from comfy.cli_args import args
from comfy_api.latest import ComfyExtension, InputImpl, Types, io, ui

if TYPE_CHECKING:
    import PIL.Image

__all__ = [
    "ComfyExtension",
    "InputImpl",
    "Progress",
    "SaveTarget",
    "Types",
    "check_cancel",
    "compute_dtype",
    "free_memory",
    "graph_metadata",
    "input_path",
    "input_videos",
    "io",
    "model_file",
    "model_files",
    "model_folders",
    "new_output",
    "save_picture",
    "temporary_folder",
    "total_memory",
    "ui",
    "video_file",
]


VIDEO_SUFFIXES = {".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi"}  # not every system's table has all of them


def check_cancel() -> None:
    """Raise the host's `InterruptProcessingException` when the user pressed Cancel; let it pass through."""
    model_management.throw_exception_if_processing_interrupted()


class Progress:
    """The bar on the running node. Every step also checks for Cancel."""

    def __init__(self, total: int) -> None:
        self._bar = comfy.utils.ProgressBar(total)

    def step(self, n: int = 1, preview: torch.Tensor | None = None) -> None:
        """Go `n` steps on; show `preview`, one picture (3, H, W) in [0, 1], on the node."""
        check_cancel()
        picture = None if preview is None else ("JPEG", _pil(preview), args.preview_size)
        self._bar.update_absolute(self._bar.current + n, preview=picture)


def free_memory(device: torch.device | str | None = None) -> int:
    """Return the bytes that are free: of the device the host computes on, or of "cpu" (main memory)."""
    return int(model_management.get_free_memory(_device(device)))


def total_memory(device: torch.device | str | None = None) -> int:
    """Return the bytes there are in all: of the device the host computes on, or of "cpu" (main memory)."""
    return int(model_management.get_total_memory(_device(device)))


def compute_dtype(base: Any) -> torch.dtype:
    """Return the type that the host computes a MODEL's `model` in, whatever its weights are stored as."""
    dtype: torch.dtype = base.manual_cast_dtype or base.get_dtype()
    return dtype


def input_videos() -> list[str]:
    """Return the names of the videos in the input folder, sorted."""
    folder = Path(folder_paths.get_input_directory())
    files = [path.name for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    videos = set(folder_paths.filter_files_content_types(files, ["video"]))  # by the system's table of types
    return sorted(name for name in files if name in videos or Path(name).suffix.lower() in VIDEO_SUFFIXES)


def input_path(name: str) -> Path:
    """Return where `name` of an upload widget lies ("clip.mp4", also "clip.mp4 [output]"); it may be missing."""
    return Path(folder_paths.get_annotated_filepath(name))


def temporary_folder() -> Path:
    """Return the host's folder for files that do not outlive it; it exists."""
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def model_files(kind: str) -> list[str]:
    """Return the files of a model folder ("loras", "checkpoints" ...) as names for a widget."""
    return list(folder_paths.get_filename_list(kind))


def model_file(kind: str, name: str) -> Path:
    """Return where a file of `model_files` lies. Raises: FileNotFoundError."""
    return Path(folder_paths.get_full_path_or_raise(kind, name))


def model_folders(kind: str) -> list[Path]:
    """Return the folders of a kind of model; new files go into the first."""
    return [Path(folder) for folder in folder_paths.get_folder_paths(kind)]


@dataclass(frozen=True)
class SaveTarget:
    """A free place in the output folder. path: the file or folder to write; subfolder: below the output folder."""

    path: Path
    subfolder: str

    @property
    def saved(self) -> ui.SavedResult:
        """What the front end needs to show the file."""
        return ui.SavedResult(self.path.name, self.subfolder, io.FolderType.output)


def new_output(prefix: str, suffix: str, size_hw: tuple[int, int] = (0, 0)) -> SaveTarget:
    """Return a free name in the output folder, numbered as the host does: prefix_00001_suffix.

    Args: prefix: may hold folders and the host's %date% fields; suffix: with its dot, or "" for a folder; size_hw: for
    %width% and %height% in the prefix.
    Raises: Exception (the host's) when the prefix leads out of the output folder.
    """
    height, width = size_hw
    root = folder_paths.get_output_directory()
    folder, stem, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, root, width, height)
    return SaveTarget(Path(folder) / f"{stem}_{counter:05}_{suffix}", subfolder)


def graph_metadata(cls: type[io.ComfyNode]) -> dict[str, str]:
    """Return the graph as texts under the names that the front end reads back ("prompt", "workflow").

    The node's schema must ask for the hidden `prompt` and `extra_pnginfo`. Empty with the host's --disable-metadata.
    """
    hidden = cls.hidden
    if args.disable_metadata or hidden is None:
        return {}
    # The host notes its fingerprints in the prompt; some are NaN, which the front end's JSON does not know.
    prompt = {key: {k: v for k, v in node.items() if k != "is_changed"} for key, node in (hidden.prompt or {}).items()}
    values = ({"prompt": prompt} if prompt else {}) | (hidden.extra_pnginfo or {})
    return {name: _JSON_STRING.sub(_escape_braces, json.dumps(value)) for name, value in values.items()}


_JSON_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


def _escape_braces(string: re.Match[str]) -> str:
    """The front end finds the end of a graph in a .webm by counting braces, also those within texts."""
    return string[0].replace("{", "\\u007b").replace("}", "\\u007d")


def save_picture(path: Path, picture: torch.Tensor, texts: dict[str, str]) -> None:
    """Write one picture (3, H, W) in [0, 1] as a PNG with texts in it."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    _pil(picture).save(path, pnginfo=info)


def video_file(video: object) -> Path | None:
    """Return the file behind a VIDEO, None where it is made of parts, lies in memory or is only a stretch of a file."""
    if not isinstance(video, InputImpl.VideoFromFile):
        return None
    # Hosts after 0.8 can trim a VIDEO without a new file.
    if any(getattr(video, f"_VideoFromFile__{name}", 0) for name in ("start_time", "duration")):
        return None
    source = video.get_stream_source()
    return Path(source) if isinstance(source, str) else None


def _device(device: torch.device | str | None) -> torch.device | None:
    return None if device is None else torch.device(device)


def _pil(picture: torch.Tensor) -> PIL.Image.Image:
    from PIL import Image  # loaded only where pictures are shown

    pixels = picture.detach().float().clamp(0, 1).mul(255).round().byte().movedim(0, -1)
    return Image.fromarray(pixels.cpu().contiguous().numpy())
