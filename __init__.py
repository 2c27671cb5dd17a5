"""Zero-to-Hero for ComfyUI: the entry point that the host loads from its custom_nodes folder.

The method itself is in `zero2hero_core`, which needs no ComfyUI. Nothing of the host is imported until the host calls
`comfy_entrypoint`, so that pytest can collect the repository.
"""

from pathlib import Path
from typing import Any

if (Path(__file__).parent / "web").is_dir():
    WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> Any:
    """Return the extension with all its nodes."""
    from .nodes.extension import comfy_entrypoint as entrypoint

    return await entrypoint()
