"""RAFT beside torchvision itself, which every host brings: the same file, the same flow; the weights are random."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

CLOSE = 1e-5


def test_raft_equals_torchvisions_own_call(run_in_host: Callable[..., Any], tmp_path: Path) -> None:
    got = json.loads(run_in_host("raft_flow.py", tmp_path / "hub").stdout.splitlines()[-1])
    assert got["same address"]
    assert "and they are not here" in got["said"] and str(tmp_path / "hub" / "checkpoints") in got["said"]
    assert set(got["sizes"]) == {"128 x 136", "120 x 133"}
    for name, size in got["sizes"].items():
        assert size["differs by"] < CLOSE, name
        assert size["largest"] > 100 * CLOSE and size["other way"] > 100 * CLOSE, name
