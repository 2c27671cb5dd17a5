"""Names of files: temporary ones beside a target, names that a file system does not take, and patterns (globs)."""

from __future__ import annotations

import glob
import os
import secrets
from pathlib import Path

from ..checks import InputError

_USUAL_LIMIT = 255  # bytes in a name; most file systems


def temporary_name(target: Path) -> Path:
    """Return a hidden name beside the target that no other writer takes; it fits where the target's own name fits.

    Example: "clip.mp4" becomes ".clip.3f9c01aa.partial.mp4".
    """
    suffix = target.suffix if len(os.fsencode(target.suffix)) <= 16 else ""
    ending = f".{secrets.token_hex(4)}.partial{suffix}"
    room = _name_limit(target.parent) - len(os.fsencode(ending)) - 1
    stem = os.fsencode(target.stem)[:room].decode("utf-8", "ignore")  # a letter cut in the middle goes, too
    return target.with_name(f".{stem}{ending}")


def check_name(path: str | os.PathLike[str]) -> None:
    """Raise `InputError` when a part of `path` is longer than the file system takes."""
    parts, parent = Path(path).parts, Path(path).parent
    longest = max(parts, key=lambda part: len(os.fsencode(part)), default="")
    length, limit = len(os.fsencode(longest)), _name_limit(parent)
    if length > limit:
        raise InputError(
            f"{longest[:40]}...: expected a name of at most {limit} bytes (letters beyond ASCII count more than one), "
            f"got {length}; shorten the name."
        )


def _name_limit(folder: Path) -> int:
    try:
        return min(os.pathconf(folder, "PC_NAME_MAX"), _USUAL_LIMIT)
    except (AttributeError, OSError, ValueError):  # Windows; a folder that is not there
        return _USUAL_LIMIT


def is_pattern(path: str | os.PathLike[str]) -> bool:
    """Tell whether `path` is a glob: what of it does not exist holds *, ? or [; names that exist are literal."""
    return glob.has_magic(str(_split(Path(path))[1]))


def matching_files(pattern: Path) -> list[Path]:
    """Return the files that a glob means; folders that exist are literal, so that "[v1]/*.png" looks into "[v1]"."""
    folder, rest = _split(pattern)
    return [Path(name) for name in glob.glob(os.path.join(glob.escape(str(folder)), rest), recursive=True)]


def _split(path: Path) -> tuple[Path, str]:
    """The part of a path that exists, and the rest ("" when all of it does)."""
    check_name(path)
    parts, there = path.parts, Path(path.anchor)
    rest = list(parts[1:] if path.anchor else parts)
    while rest and (there / rest[0]).exists():
        there /= rest.pop(0)
    return there, os.path.join(*rest) if rest else ""
