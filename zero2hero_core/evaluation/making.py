"""What figures say of their making: commit, machine, settings, date."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from typing import Any

from .revision import revision
from .speed.clocks import Clock
from .speed.speed_settings import HeroSpeed, ZeroSpeed


def facts(part: str, settings: ZeroSpeed | HeroSpeed, clock: Clock) -> dict[str, Any]:
    """What every row of a report says of its making."""
    return {
        "part": part,
        "model": settings.model,
        "device": settings.device,
        "settings": settings.told,
        "clock": clock.kind,
        "machine": machine(settings.device),
        "commit": revision(),
        "date": now(),
    }


def now() -> str:
    """The time of the making, UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def machine(device: str = "cpu") -> dict[str, Any]:
    """What figures depend on."""
    import diffusers
    import peft
    import torch

    found: dict[str, Any] = {"cpu": platform.machine(), "cpu_count": os.cpu_count()}
    found |= {"threads": torch.get_num_threads(), "python": platform.python_version(), "torch": torch.__version__}
    found |= {"diffusers": diffusers.__version__, "peft": peft.__version__}
    if hasattr(os, "getloadavg"):
        found["load_average"] = os.getloadavg()[0]
    if torch.device(device).type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found
