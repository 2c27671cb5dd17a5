"""Checks the types of core and nodes with mypy: `python tests/check_types.py [mypy's options]`.

The nodes import the core through their common parent, which is the checkout itself and may have any name. So a link of
a fixed name leads to it, and both are checked as packages below that name.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAME = "zero2hero_ext"


def main() -> int:
    """Run mypy; its exit status."""
    folder = ROOT / ".mypy_cache" / "linked"
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / NAME
    if not link.is_symlink() or link.resolve() != ROOT:
        link.unlink(missing_ok=True)
        link.symlink_to(ROOT, target_is_directory=True)
    packages = [part for package in ("zero2hero_core", "nodes") for part in ("-p", f"{NAME}.{package}")]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml", *packages, *sys.argv[1:]],
        cwd=folder,
        env={**os.environ, "MYPYPATH": os.pathsep.join([str(folder), str(ROOT / "typings")])},
        stdout=subprocess.PIPE,
        text=True,
    )
    sys.stdout.write("\n".join(line.removeprefix(f"{NAME}/") for line in done.stdout.splitlines()) + "\n")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
