"""Names of what can be chosen in propagation, without anything heavy."""

from __future__ import annotations

from typing import Literal, get_args

Engine = Literal["auto", "change", "flow", "patch"]
ENGINES: tuple[str, ...] = get_args(Engine)
