"""Stages know models by their surface only."""

from __future__ import annotations

import re
from pathlib import Path

ALLOWED = {"surface", "weights"}  # weights: reading safetensors files, no model


def test_stages_import_no_model(repository: Path) -> None:
    found = {}
    for stage in ("zero_stage", "hero_stage"):
        for path in (repository / "zero2hero_core" / stage).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            found[path.name] = set(re.findall(r"\bbackbones(?:\.| import )(\w+)", text)) - ALLOWED
    assert len(found) > 10 and not any(found.values()), found
