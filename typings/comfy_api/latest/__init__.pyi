from fractions import Fraction
from typing import IO, Any

import torch

from . import _io as io
from . import _ui as ui

__all__ = ["ComfyExtension", "InputImpl", "Types", "io", "ui"]

class ComfyExtension:
    async def get_node_list(self) -> list[type[io.ComfyNode]]: ...

class Types:
    class VideoComponents:
        images: torch.Tensor
        audio: dict[str, Any] | None
        frame_rate: Fraction
        def __init__(self, *, images: torch.Tensor, audio: dict[str, Any] | None, frame_rate: Fraction) -> None: ...

class InputImpl:
    class VideoFromFile:
        def get_stream_source(self) -> str | IO[bytes]: ...

    class VideoFromComponents:
        def __init__(self, components: Types.VideoComponents) -> None: ...
