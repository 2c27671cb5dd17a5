"""Run a Python script with a ComfyUI around it and the extension imported as the package `zero2hero_ext`.

    HOST_PYTHON bootstrap.py COMFYUI_FOLDER BASE_DIRECTORY SCRIPT [--host FLAG ...] [-- ARGUMENT ...]

The host gets --cpu, --base-directory and the flags; the script sees its arguments in sys.argv. Tests start this through
the fixture `run_in_host`.
"""

from __future__ import annotations

import importlib.util
import runpy
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def start_host(comfyui: str, base: str, flags: list[str]) -> None:
    """Put the host's modules within reach, its settings read from flags of ours."""
    sys.path[0] = comfyui
    sys.argv = ["main.py", "--cpu", "--base-directory", base, *flags]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.cli_args


def import_extension() -> None:
    """Make `zero2hero_ext` a package, as the host does under a name of its own."""
    spec = importlib.util.spec_from_file_location("zero2hero_ext", REPOSITORY / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["zero2hero_ext"] = module
    spec.loader.exec_module(module)


def main() -> None:
    """Split the command line, start the host, run the script as __main__."""
    comfyui, base, script, *rest = sys.argv[1:]
    split = rest.index("--") if "--" in rest else len(rest)
    start_host(comfyui, base, [flag for flag in rest[:split] if flag != "--host"])
    sys.path.insert(1, str(Path(script).parent))  # what scripts share
    import_extension()
    sys.argv = [script, *rest[split + 1 :]]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
