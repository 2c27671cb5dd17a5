"""The folder that a job writes to: kept apart from what the job reads, locked, old results replaced when new ones are
whole."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..checks import InputError, setting
from ..files.guard import Reading, Results, check_apart, content, remove_leftovers, staged
from ..files.lock import locked_folder
from ..files.names import check_name

# Settings that name what is read: pictures or a video; folders of Zero-Stage; single files; folders of a model.
PICTURES = (
    "video",
    "reference",
    "key",
    "edit",
    "mask",
    "foreground",
    "control",
    "stylised",
    "truth",
    "own_clips",
    "footage",
)
ZERO_FOLDERS = ("zero", "zero_anchor", "witness", "repair")
FILES = ("matches", "lora", "adapter", "text_embedding", "empty_embedding", "python", "blender")
TREES = ("clips", "held_out", "model", "controlnet", "zero_model", "hero_model", "vae", "tokenizer", "amt", "weights")


def readings(values: Mapping[str, Any]) -> list[Reading]:
    """What a job reads, as far as it exists. values: its settings by name (`request.flat_values`)."""
    out = values.get("out")
    rows = []
    for option, value in values.items():
        for name in _names(value):
            if option in ("also", *PICTURES) or (option in ZERO_FOLDERS and not (Path(name) / "frames").is_dir()):
                rows.append(_pictures(setting(option), name))
            elif option in ZERO_FOLDERS:
                states = (Path(name) / "zero.json", Path(name) / "propagate.json")
                pictures = _pictures(setting(option), str(Path(name) / "frames"))
                rows.append(Reading(setting(option), name, (*pictures.files, *states), pictures.folders))
            elif option in FILES:
                rows.append(Reading(setting(option), name, (Path(name),)))
            elif option in TREES:
                rows.append(Reading(setting(option), name, _tree(Path(name), out)))
    return rows


def _names(value: Any) -> list[str]:
    several = value.values() if isinstance(value, Mapping) else value
    several = several if isinstance(several, Iterable) and not isinstance(several, str) else [several]
    return [str(name) for name in several if isinstance(name, str | Path)]


def _pictures(option: str, name: str) -> Reading:
    path = Path(name)
    if path.is_dir():
        return Reading(option, name, _images(path.iterdir()), (path,))
    if glob.has_magic(name) and not path.exists():
        files = _images(Path(file) for file in glob.glob(name, recursive=True))
        return Reading(option, name, files, tuple(dict.fromkeys(file.parent for file in files)))
    return Reading(option, name, (path,))


def _images(files: Iterable[Path]) -> tuple[Path, ...]:
    from ..video.image_reader import IMAGE_SUFFIXES

    return tuple(file for file in files if file.suffix.lower() in IMAGE_SUFFIXES)


def _tree(path: Path, out: str | Path | None) -> tuple[Path, ...]:
    """All files of a model; results in a folder of their own within it are no part of it."""
    files = [path]
    for place, folders, names in os.walk(path):
        folders[:] = [name for name in folders if out is None or not _same(Path(place) / name, Path(out))]
        files += [Path(place) / name for name in names]
    return tuple(files)


def _same(a: Path, b: Path) -> bool:
    return a.exists() and b.exists() and os.path.samefile(a, b)


def check_folder(out: Path, *, may_exist: bool, remedies: tuple[str, ...] = ()) -> None:
    """Raise `InputError` unless `out` can be made, or is an empty folder, or `may_exist` and it is a folder.

    Args: remedies: settings that allow a folder with content.
    """
    check_name(out)
    name = setting("out")
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise InputError(f"{name} {out}: expected a folder, but {there} is a file; choose another name.")
    if not os.access(there, os.W_OK):
        raise InputError(f"{name} {out}: {there} is not writable; choose another folder.")
    if content(out) and not may_exist:
        remedy = f" or add {' or '.join(map(setting, remedies))}" if remedies else ""
        raise InputError(f"{name} {out}: is not empty; choose another folder{remedy}.")


@contextmanager
def job_folder(
    values: Mapping[str, Any], command: str, results: Results, *, remedies: tuple[str, ...] = (), empty: bool = True
) -> Iterator[Path]:
    """Within the block the folder `out` of the settings is this job's; yields the folder to write to, which is `out`
    or, where results of an earlier run are replaced, one within it (`files.guard.staged`).

    Args: values: the job's settings by name. results: what it writes. remedies: settings that allow a folder with
    content, for the error. empty: demand an empty folder without them.
    Raises: InputError when the folder cannot be used, holds what the job reads, or another run works in it.
    """
    out = Path(values["out"])
    resume, overwrite = bool(values.get("resume")), bool(values.get("overwrite"))
    check_folder(out, may_exist=True)
    check_apart(out, results, readings(values))
    with locked_folder(out, f"zero2hero {command}", results.parts()):
        check_folder(out, may_exist=resume or overwrite or not empty, remedies=remedies)
        remove_leftovers(out, results)
        with staged(out, command, results, resume=resume, overwrite=overwrite) as work:
            yield work
