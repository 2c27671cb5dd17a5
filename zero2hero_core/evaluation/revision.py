"""Which code made a figure."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path


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
