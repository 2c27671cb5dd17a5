"""Zero-to-Hero for ComfyUI: the entry point that the host loads from its custom_nodes folder.

The method itself is in `zero2hero_core`, which needs no ComfyUI. This file does nothing that needs the host, so that
pytest can collect the repository; it defines no node yet.
"""

from pathlib import Path

if (Path(__file__).parent / "web").is_dir():
    WEB_DIRECTORY = "./web"
