from collections.abc import Sequence
from typing import Any

import torch

from ._io import ComfyNode, FolderType

class SavedResult(dict[str, Any]):
    def __init__(self, filename: str, subfolder: str, type: FolderType) -> None: ...

class _Preview:
    def as_dict(self) -> dict[str, Any]: ...

class PreviewImage(_Preview):
    def __init__(self, image: torch.Tensor, *, cls: type[ComfyNode] | None = ...) -> None: ...

class PreviewText(_Preview):
    def __init__(self, value: str) -> None: ...

class PreviewVideo(_Preview):
    def __init__(self, values: Sequence[SavedResult]) -> None: ...

class SavedImages(_Preview):
    def __init__(self, results: Sequence[SavedResult]) -> None: ...
