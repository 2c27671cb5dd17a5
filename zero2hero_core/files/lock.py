"""One job at a time in a folder: a lock that ends with its process.

The file `.zero2hero.lock` is locked by the system: `flock`, else POSIX record locks (`lockf`, which network disks
know), on Windows a byte far beyond the file's end, so that others can read who holds it. Where the file system knows
none of these, the file `.zero2hero.locked` stands for the lock: it names its process, and one left by a dead process of
the same machine is removed; of another machine nobody can know, so the user is told. Both files go with the lock.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checks import InputError
from .guard import LOCKS, Identity, identity

LOCK, LOCKED = LOCKS
_FAR = 1 << 30  # the byte that is locked on Windows, where locked bytes cannot be read
_HELD_ELSEWHERE = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
_UNKNOWN = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class Unsupported(Exception):
    """The file system knows no locks."""


@dataclass
class _Held:
    thread: int
    depth: int
    process: int


_held: dict[Identity, _Held] = {}
_registry = threading.Lock()


@contextmanager
def locked_folder(folder: Path, command: str, parts: Sequence[str] = ()) -> Iterator[None]:
    """Within the block, the folder is this thread's: no other run in it, nor in those of its sub folders that are
    `parts`. Within it, the same thread may lock it again. The folder is made; if nothing is in it, it goes in the end.

    Args: command: what the error of others calls this run.
    Raises: InputError that names who holds it (command, process, machine, since when), or why it cannot be locked.
    """
    try:
        folders = _make(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); choose another folder.") from error
    try:
        with _register(folder) as first:
            if not first:
                yield
                return
            _check_parents(folder)
            try:
                release = _acquire(folder, _about(command, parts))
            except OSError as error:
                raise InputError(
                    f"{folder}: cannot be locked ({error.strerror}); check the permissions of {LOCK} in it, or choose "
                    "another folder."
                ) from error
            try:
                yield
            finally:
                release()
    finally:
        for path in folders:
            with suppress(OSError):  # unless something is in it
                path.rmdir()


def _make(folder: Path) -> list[Path]:
    """Make the folder; returns what has been made, the innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


@contextmanager
def _register(folder: Path) -> Iterator[bool]:
    """Yields whether the folder is locked for the first time. Raises: InputError when another thread holds it."""
    key, thread = identity(folder), threading.get_ident()
    assert key is not None
    with _registry:
        entry = _held.get(key)
        if entry is not None and entry.process != os.getpid():  # of the process that this one was forked from
            entry = None
        if entry is not None and entry.thread != thread:
            raise InputError(
                f"{folder}: in use by another job of this process ({os.getpid()}); wait for it to end, or choose "
                "another folder."
            )
        if entry is None:
            entry = _held[key] = _Held(thread, 0, os.getpid())
        entry.depth += 1
        first = entry.depth == 1
    try:
        yield first
    finally:
        with _registry:
            entry.depth -= 1
            if not entry.depth:
                del _held[key]


def _ours(folder: Path) -> bool:
    key = identity(folder)
    with _registry:
        entry = None if key is None else _held.get(key)
        return entry is not None and entry.process == os.getpid()


def _check_parents(folder: Path) -> None:
    """Raise `InputError` when a folder above is locked by a job of another process that owns this one."""
    inner = Path(os.path.realpath(folder))
    for parent in inner.parents:
        if _ours(parent):
            continue
        about = _holder(parent)
        if about and inner.relative_to(parent).parts[0] in about.get("parts", ()):
            raise _in_use(parent, about)


def _holder(folder: Path) -> dict[str, Any] | None:
    """What is known of the process that has locked a folder; None where it is free."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR)
    except OSError:  # free, or no file that this user may lock
        about = _read(folder / LOCKED)
        return about if about and not _is_dead(about) else None
    try:
        success = _lock(descriptor)
        return None if success else _read(folder / LOCK) or {}
    except Unsupported:
        return None
    finally:
        os.close(descriptor)


def _about(command: str, parts: Sequence[str]) -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": command,
        "parts": list(parts),
        "born": _born(os.getpid()),
    }


def _acquire(folder: Path, about: dict[str, Any]) -> Any:
    """Lock the folder; returns the function that unlocks it."""
    path = folder / LOCK
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # another run, which had made the folder, has ended without a result
            folder.mkdir(parents=True, exist_ok=True)
            continue
        try:
            success = _lock(descriptor)
        except Unsupported:
            os.close(descriptor)
            with suppress(OSError):
                path.unlink()
            return _acquire_by_file(folder, about)
        except BaseException:
            os.close(descriptor)
            raise
        if not success:
            os.close(descriptor)
            raise _in_use(folder, _read(path) or {})
        if _is_at(descriptor, path):
            break
        os.close(descriptor)  # who held it before has removed the file meanwhile
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, json.dumps(about).encode())
    process = os.getpid()

    def release() -> None:
        if os.getpid() != process:  # a forked process ends: the lock is its parent's
            return
        with suppress(OSError):
            if sys.platform == "win32":  # an open file cannot be removed there
                _unlock(descriptor)
                os.close(descriptor)
                path.unlink()
            else:  # while it is locked, so that nobody else's is removed
                path.unlink()
        if sys.platform != "win32":
            os.close(descriptor)

    return release


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> bool:
        """Try to lock an open file; returns whether it worked. Raises: Unsupported, OSError."""
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno in _HELD_ELSEWHERE:
                return False
            if error.errno in _UNKNOWN:
                raise Unsupported from error
            raise
        return True

    def _unlock(descriptor: int) -> None:
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> bool:
        """Try to lock an open file; returns whether it worked. Raises: Unsupported, OSError."""
        for lock in (fcntl.flock, fcntl.lockf):
            try:
                lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError as error:
                if error.errno in _HELD_ELSEWHERE:
                    return False
                if error.errno not in _UNKNOWN:
                    raise
        raise Unsupported


def _acquire_by_file(folder: Path, about: dict[str, Any]) -> Any:
    """The lock where the file system knows none: a file that only one process can make."""
    path = folder / LOCKED
    while True:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            there = _read(path)
            if there is None or not _is_dead(there):
                remedy = f"; if that run has ended, remove {path}"
                raise _in_use(folder, there or {}, remedy) from None
            with suppress(FileNotFoundError):
                path.unlink()
            continue
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(about, file)
        return lambda: path.unlink(missing_ok=True)


def _is_dead(about: dict[str, Any]) -> bool:
    """Whether a process of this machine has ended; of another machine nobody knows."""
    if about.get("host") != socket.gethostname() or sys.platform == "win32":
        return False
    try:
        os.kill(int(about["pid"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, KeyError, ValueError):
        return False
    return about.get("born") != _born(int(about["pid"]))  # another process has its number now


def _born(process: int) -> str | None:
    """What tells a process from a later one of the same number, where the system tells (Linux)."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return about if isinstance(about, dict) else None


def _in_use(folder: Path, about: dict[str, Any], remedy: str = "") -> InputError:
    who = f"`{about.get('command', 'another run')}`"
    if "pid" in about:
        who += f" (process {about['pid']} on {about['host']}, since {about['since']})"
    return InputError(f"{folder}: in use by {who}; wait for it to end, or choose another folder{remedy}.")
