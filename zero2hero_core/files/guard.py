"""What keeps a command from destroying files: results are kept apart from what is read, and replaced only whole.

Paths are compared by what they are (device and number of the file), so links, relative names and file systems that
ignore case make no difference.

A run that replaces older results works in the folder `.zero2hero-NAME.new` within its folder. At the end that one is
renamed to `.zero2hero-NAME.whole`; from then on the new results count, and are moved to their places. A run that dies
before leaves the old results as they were, one that dies in between is finished by the next (`staged`).
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..checks import InputError, setting
from .names import temporary_name

LOCKS = (".zero2hero.lock", ".zero2hero.locked")  # see `files.lock`; they are no content of a folder
_NAMES = ".names.json"
_STAGING_NAME = re.compile(r"\.zero2hero-[\w-]+\.(new|whole)")
_PARTIAL = re.compile(r"\.(?P<stem>.+)\.[0-9a-f]{8}\.partial(?P<suffix>\.\w+)?")

Identity = tuple[int, int] | str


@dataclass(frozen=True)
class Results:
    """What a command writes in its folder, by names relative to it, with / between them.

    files: single files. series: folders, each with the pattern of the files in it that are the command's. folders:
    folders that are the command's as a whole.
    """

    files: tuple[str, ...] = ()
    series: tuple[tuple[str, str], ...] = ()
    folders: tuple[str, ...] = ()

    def __or__(self, other: Results) -> Results:
        """Both."""
        return Results(self.files + other.files, self.series + other.series, self.folders + other.folders)

    def below(self, folder: str) -> Results:
        """The same in a sub folder."""
        return Results(
            tuple(f"{folder}/{name}" for name in self.files),
            tuple((f"{folder}/{name}", pattern) for name, pattern in self.series),
            tuple(f"{folder}/{name}" for name in self.folders),
        )

    def existing(self, out: Path) -> list[Path]:
        """Files that an earlier run has left in `out`; those of `folders` are not listed."""
        paths = [out / name for name in self.files if os.path.lexists(out / name)]
        for name, pattern in self.series:
            if (out / name).is_dir():
                paths += sorted(file for file in (out / name).iterdir() if re.fullmatch(pattern, file.name))
        return paths

    def parts(self) -> tuple[str, ...]:
        """Names of the sub folders of the first level that hold results."""
        nested = [name for name in self.files if "/" in name]
        names = [*nested, *(name for name, _ in self.series), *self.folders]
        return tuple(dict.fromkeys(name.split("/")[0] for name in names))


@dataclass(frozen=True)
class Reading:
    """What an option reads. files: each of them. folders: those whose pictures are read, whatever their names."""

    option: str
    name: str
    files: tuple[Path, ...]
    folders: tuple[Path, ...] = ()


def identity(path: Path) -> Identity | None:
    """What tells an existing file or folder from all others, links followed; None where nothing is."""
    try:
        device, number = _numbers(path)
    except (OSError, ValueError):
        return None
    # Some file systems number no files.
    return (device, number) if number else os.path.normcase(os.path.realpath(path))


def _numbers(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def check_apart(out: Path, results: Results, readings: Iterable[Reading]) -> None:
    """Raise `InputError` when a command that writes `results` in `out` would replace or remove what it reads, or put
    pictures among those that it reads."""
    existing = {identity(file): file for file in results.existing(out)}
    folders = {identity(out / name): out / name for name in results.folders}
    folders |= {identity(folder): folder for folder in out.glob(".zero2hero-*") if _STAGING_NAME.fullmatch(folder.name)}
    picture_folders = [out / name for name, _ in results.series]
    picture_folders += [(out / name).parent for name in results.files if name.lower().endswith(".png")]
    places = {identity(folder): folder for folder in picture_folders}
    for table in (existing, folders, places):
        table.pop(None, None)
    for reading in readings:
        for file in reading.files:
            if target := existing.get(identity(file)):
                raise InputError(
                    f"{reading.option} {reading.name}: expected what this run does not replace, but {target} is one of "
                    f"the results in {setting('out')} {out}; choose another {setting('out')}, or copy it to another "
                    "folder first."
                )
        for path in (*reading.files, *reading.folders):
            for folder in (path, *path.parents, *_resolve(path).parents) if folders else ():
                if target := folders.get(identity(folder)):
                    raise InputError(
                        f"{reading.option} {reading.name}: lies in {target}, which this run replaces; choose another "
                        f"{setting('out')} or name, or copy it to another folder first."
                    )
        for folder in reading.folders:
            if target := places.get(identity(folder)):
                raise InputError(
                    f"{reading.option} {reading.name}: its pictures lie in {target}, where this run writes pictures; "
                    f"choose another {setting('out')}, or copy them to another folder first."
                )


def check_named_file(
    option: str, path: Path, readings: Iterable[Reading], out: Path | None = None, results: Results | None = None
) -> None:
    """Raise `InputError` when a file that the user names, to be written, is one that the command reads, or takes the
    place of its folder `out` or of its `results` there."""
    number, problem = identity(path), f"{option} {path}: expected a file of its own, but"
    for reading in readings:
        if number is not None and number in (identity(file) for file in reading.files):
            raise InputError(f"{problem} {reading.option} {reading.name} reads it; choose another name.")
    if out is None:
        return
    # What does not exist yet is compared by names, without their case, which some file systems do not tell apart.
    place, folder = _fold(path), _fold(out)
    if place == folder or place in folder.parents:
        raise InputError(
            f"{option} {path}: expected a file of its own, but {setting('out')} {out} needs this place; choose another."
        )
    for target in results.existing(out) if results else ():
        if number is not None and number == identity(target):
            place = _fold(target)
    for name in results.files if results else ():
        target = _fold(out / name)
        if target == place or target in place.parents:
            raise InputError(f"{problem} {out / name} is written by the run anyway; choose another name.")
    for name, pattern in results.series if results else ():
        if place.parent == _fold(out / name) and re.fullmatch(pattern, place.name):
            raise InputError(f"{problem} the run writes it in {out / name}; choose another name.")


def _fold(path: Path) -> Path:
    return Path(os.path.realpath(path).casefold())


def _resolve(path: Path) -> Path:
    return Path(os.path.realpath(path))


def content(folder: Path) -> list[Path]:
    """What a folder holds beside the files that lock it; nothing where there is no folder."""
    return sorted(path for path in folder.iterdir() if path.name not in LOCKS) if folder.is_dir() else []


def check_regular(target: Path) -> None:
    """Raise `InputError` for a pipe or a device: a file that is written under another name first would replace it."""
    if target.exists() and not target.is_file() and not target.is_dir():
        raise InputError(f"{target}: expected the name of a file to write, got a pipe or device; choose another name.")


def remove_leftovers(out: Path, results: Results) -> None:
    """Remove temporary files of runs that died, of results in `out` only. Call it with the folder locked."""
    patterns: dict[Path, list[str]] = {}
    for name in results.files:
        patterns.setdefault((out / name).parent, []).append(re.escape(Path(name).name))
    for name, pattern in results.series:
        patterns.setdefault(out / name, []).append(pattern)
    for folder, names in patterns.items():
        for file in content(folder):
            partial = _PARTIAL.fullmatch(file.name)
            target = f"{partial['stem']}{partial['suffix'] or ''}" if partial else ""
            if partial and file.is_file() and any(re.fullmatch(name, target) for name in names):
                file.unlink(missing_ok=True)


@contextmanager
def staged(out: Path, command: str, results: Results, *, resume: bool, overwrite: bool) -> Iterator[Path]:
    """Yields the folder to work in: `out`, or where older results are to be replaced one within it, whose content takes
    their place when the block ends without an error. After an error it stays, for `resume`.

    Call it with the folder locked. Raises: OSError when the new results cannot be moved; they stay, then.
    """
    new, whole = _staging(out, command, "new"), _staging(out, command, "whole")
    if whole.is_dir():  # an earlier run was complete, but died before all of it was in place
        _publish(whole, out, results)
    if not ((overwrite and results.existing(out)) or ((overwrite or resume) and content(new))):
        yield out
        return
    new.mkdir(parents=True, exist_ok=True)
    try:
        yield new
    except BaseException:
        with suppress(OSError):  # unless something is in it
            new.rmdir()
        raise
    names = sorted(file.relative_to(new).as_posix() for file in _files(new))
    (new / _NAMES).write_text(json.dumps(names), encoding="utf-8")
    os.rename(new, whole)
    _publish(whole, out, results)


def begun_in(out: Path, command: str) -> Path:
    """Where a command that is to resume finds what it has begun: see `staged`."""
    new = _staging(out, command, "new")
    return new if content(new) else out


def _staging(out: Path, command: str, state: str) -> Path:
    return out / f".zero2hero-{command.replace(' ', '-')}.{state}"


def final_path(path: Path) -> Path:
    """Where a file lies in the end that is being made in a folder of `staged`."""
    return Path(*(part for part in path.parts if not _STAGING_NAME.fullmatch(part)))


def _files(folder: Path) -> list[Path]:
    """All files below a folder, links not followed, without what locks it."""
    return [Path(place) / name for place, _, names in os.walk(folder) for name in names if name not in (*LOCKS, _NAMES)]


def _publish(whole: Path, out: Path, results: Results) -> None:
    """Move new results to their places, remove older ones that have no successor. May be repeated after a crash."""
    manifest = whole / _NAMES
    if manifest.exists():
        names = set(json.loads(manifest.read_text(encoding="utf-8")))
        for file in _files(whole):
            target = out / file.relative_to(whole)
            target.parent.mkdir(parents=True, exist_ok=True)
            _move(file, target)
        for file in results.existing(out):
            if file.relative_to(out).as_posix() not in names:
                file.unlink(missing_ok=True)
    _remove(whole)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder)


def _move(file: Path, target: Path) -> None:
    try:
        os.replace(file, target)
    except OSError as error:
        if error.errno != errno.EXDEV:  # a sub folder may be a link to another disk
            raise
        temporary = temporary_name(target)
        try:
            shutil.copy2(file, temporary)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        file.unlink()


def clear(folder: Path) -> None:
    """Empty a folder of `staged`, but for what locks it."""
    for path in content(folder):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
