"""What figures say of their making: commit, machine, date."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any


def now() -> str:
    """The time of the making, UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def machine(device: str = "cpu") -> dict[str, Any]:
    """What figures depend on."""
    import diffusers
    import peft
    import torch

    facts: dict[str, Any] = {"cpu": platform.machine(), "cpu_count": os.cpu_count()}
    facts |= {"threads": torch.get_num_threads(), "python": platform.python_version(), "torch": torch.__version__}
    facts |= {"diffusers": diffusers.__version__, "peft": peft.__version__}
    if hasattr(os, "getloadavg"):
        facts["load_average"] = os.getloadavg()[0]
    if torch.device(device).type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


@cache
def revision() -> str:
    """The commit of the checkout that runs, with a + where it was changed; "unknown" outside one."""
    here = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "zero2hero_core")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
