"""The one way to write a file: under a temporary name beside its own, which it gets when it is whole."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..checks import InputError, Zero2HeroError
from .guard import check_regular
from .names import check_name, temporary_name

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_PLACE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EINVAL)


@contextmanager
def whole_file(target: Path, *, overwrite: bool = True, kinds: tuple[type[Exception], ...] = ()) -> Iterator[Path]:
    """Yields the path to write to; when the block ends, the file has its name. After an error nothing of it is left,
    and what stood there before stays.

    Args: overwrite: replace a file that is there. kinds: further errors of a writing library, explained as the
    system's.
    Raises: InputError when the place cannot be written to or is no plain file; Zero2HeroError when the disk is full.
    """
    check_name(target)
    check_regular(target)
    temporary = temporary_name(target)
    try:
        with explained(target, *kinds):
            yield temporary
            publish(temporary, target, overwrite)
    finally:
        if target.parent.is_dir():
            temporary.unlink(missing_ok=True)


def write_text(target: Path, text: str) -> None:
    """Write a text as UTF-8, replacing what is there. Raises: as `whole_file`."""
    with whole_file(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def publish(temporary: Path, target: Path, overwrite: bool) -> None:
    """Give a finished temporary file its name. Raises: InputError when the name was taken meanwhile."""
    if target.exists() and not overwrite:
        raise InputError(f"{target}: was made by something else meanwhile; choose another name or allow overwriting.")
    os.replace(temporary, target)


def check_target(target: Path, overwrite: bool) -> None:
    """Raise `InputError` unless the file can be written there."""
    check_name(target)
    check_parent(target)
    if target.is_dir():
        raise InputError(f"{target}: expected the name of a file to write, got a folder.")
    check_regular(target)
    if target.exists() and not overwrite:
        raise InputError(f"{target}: exists already; choose another name or allow overwriting.")


def check_parent(target: Path) -> None:
    """Raise `InputError` unless the folder of the target exists and is writable."""
    if not target.parent.is_dir():
        raise InputError(f"{target}: the folder {target.parent} does not exist; create it first.")
    if not os.access(target.parent, os.W_OK):
        raise InputError(f"{target}: the folder {target.parent} is not writable; choose another one.")


@contextmanager
def explained(target: Path, *kinds: type[Exception]) -> Iterator[None]:
    """Within the block, errors of the system (and of these kinds) while `target` is written become one clear line.

    Raises: Zero2HeroError when the disk is full or writing failed; InputError when the place cannot be written to.
    """
    explainable: tuple[type[Exception], ...] = (OSError, *kinds)
    try:
        yield
    except explainable as error:
        number, reason = getattr(error, "errno", None), getattr(error, "strerror", None) or error
        if number in FULL:
            raise Zero2HeroError(
                f"{target}: no space left on the disk; nothing was kept. Free some and repeat."
            ) from error
        if number in _REFUSALS:
            raise InputError(f"{target}: the folder {target.parent} is not writable; choose another one.") from error
        if number in _NO_PLACE:
            raise InputError(f"{target}: cannot be written ({reason}); choose another place.") from error
        raise Zero2HeroError(f"{target}: writing failed ({reason}); nothing was kept.") from error
