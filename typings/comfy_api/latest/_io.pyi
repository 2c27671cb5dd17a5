from collections.abc import Sequence
from enum import Enum
from typing import Any, ClassVar

class FolderType(str, Enum):
    input = "input"
    output = "output"
    temp = "temp"

class UploadType(str, Enum):
    image = "image_upload"
    audio = "audio_upload"
    video = "video_upload"

class Hidden(str, Enum):
    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"

class _HiddenHolder:
    unique_id: str | None
    prompt: dict[str, Any] | None
    extra_pnginfo: dict[str, Any] | None

class Input:
    def __init__(self, id: str, *, optional: bool = ..., tooltip: str | None = ...) -> None: ...

class Output:
    def __init__(
        self, id: str, *, display_name: str | None = ..., tooltip: str | None = ..., is_output_list: bool = ...
    ) -> None: ...

_Input = Input
_Output = Output

class Schema:
    def __init__(
        self,
        *,
        node_id: str,
        display_name: str,
        category: str,
        description: str,
        inputs: Sequence[Input],
        outputs: Sequence[Output],
        hidden: Sequence[Hidden] = ...,
        is_output_node: bool = ...,
    ) -> None: ...

class NodeOutput:
    def __init__(self, *args: Any, ui: Any = ...) -> None: ...

class ComfyNode:  # `execute` has the arguments of each node, so no common form
    hidden: ClassVar[_HiddenHolder | None]
    @classmethod
    def define_schema(cls) -> Schema: ...

class _Socket:
    Input: type[_Input]
    Output: type[_Output]

def Custom(io_type: str) -> type[_Socket]: ...

class Image(_Socket): ...
class Mask(_Socket): ...
class Model(_Socket): ...
class Vae(_Socket): ...
class Conditioning(_Socket): ...
class Latent(_Socket): ...
class Audio(_Socket): ...
class Video(_Socket): ...

class Int:
    class Input(_Input):
        def __init__(
            self,
            id: str,
            *,
            optional: bool = ...,
            tooltip: str | None = ...,
            default: int = ...,
            min: int = ...,
            max: int = ...,
            step: int = ...,
            control_after_generate: bool = ...,
            force_input: bool = ...,
        ) -> None: ...

    Output: type[_Output]

class Float:
    class Input(_Input):
        def __init__(
            self,
            id: str,
            *,
            optional: bool = ...,
            tooltip: str | None = ...,
            default: float,
            min: float,
            max: float,
            step: float,
            round: float = ...,
        ) -> None: ...

    Output: type[_Output]

class Boolean:
    class Input(_Input):
        def __init__(self, id: str, *, optional: bool = ..., tooltip: str | None = ..., default: bool) -> None: ...

class String:
    class Input(_Input):
        def __init__(self, id: str, *, optional: bool = ..., tooltip: str | None = ..., default: str) -> None: ...

    Output: type[_Output]

class Combo:
    class Input(_Input):
        def __init__(
            self,
            id: str,
            *,
            options: list[str],
            optional: bool = ...,
            tooltip: str | None = ...,
            default: str = ...,
            upload: UploadType = ...,
        ) -> None: ...

class MultiType:
    class Input(_Input):
        def __init__(
            self, id: str, types: Sequence[type[_Socket]], *, optional: bool = ..., tooltip: str | None = ...
        ) -> None: ...
