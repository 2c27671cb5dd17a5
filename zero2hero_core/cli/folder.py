"""What every command does about its files before the work: which options read, and the folder that results go to."""

from __future__ import annotations

import argparse
import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..files.guard import Reading, Results, check_apart, check_named_file, remove_leftovers, staged
from ..files.json_file import check_report_place
from ..files.lock import locked_folder

# Options that name what is read: pictures or a video; folders of `zero2hero zero`; single files; folders of a model.
PICTURES = ("video", "reference", "mask", "truth", "own_clips")
ZERO_FOLDERS = ("zero", "zero_anchor")
FILES = ("matches", "lora", "text_embedding", "empty_embedding", "python", "blender")
TREES = ("model", "zero_model", "hero_model", "vae", "tokenizer", "amt", "weights")


def readings(args: argparse.Namespace) -> list[Reading]:
    """What the arguments of any command read, as far as it exists."""
    out = getattr(args, "out", None)
    found = []
    for option, names in vars(args).items():
        for name in names if isinstance(names, list | tuple) else [names]:
            if not isinstance(name, str | Path):
                continue
            if option == "also":
                found.append(_pictures("--also", str(name).partition("=")[2]))
            elif option in PICTURES:
                found.append(_pictures(_flag(option), str(name)))
            elif option in ZERO_FOLDERS:
                frames, state = Path(name) / "frames", Path(name) / "zero.json"
                pictures = _pictures(_flag(option), str(frames))
                found.append(Reading(_flag(option), str(name), (*pictures.files, state), pictures.folders))
            elif option in FILES:
                found.append(Reading(_flag(option), str(name), (Path(name),)))
            elif option in TREES:
                found.append(Reading(_flag(option), str(name), _tree(Path(name), out)))
    return found


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _pictures(option: str, name: str) -> Reading:
    path = Path(name)
    if path.is_dir():
        return Reading(option, name, _images(path.iterdir()), (path,))
    if glob.has_magic(name) and not path.exists():
        files = _images(Path(file) for file in glob.glob(name, recursive=True))
        return Reading(option, name, files, tuple(dict.fromkeys(file.parent for file in files)))
    return Reading(option, name, (path,))


def _images(files: Iterator[Path]) -> tuple[Path, ...]:
    from ..video.image_reader import IMAGE_SUFFIXES

    return tuple(file for file in files if file.suffix.lower() in IMAGE_SUFFIXES)


def _tree(path: Path, out: str | Path | None) -> tuple[Path, ...]:
    """All files of a model; results in a folder of their own within it are no part of it."""
    found = [path]
    for place, folders, names in os.walk(path):
        folders[:] = [name for name in folders if out is None or not _same(Path(place) / name, Path(out))]
        found += [Path(place) / name for name in names]
    return tuple(found)


def _same(a: Path, b: Path) -> bool:
    return a.exists() and b.exists() and os.path.samefile(a, b)


def check_report(args: argparse.Namespace) -> None:
    """Raise `InputError` when --json names what the command reads or writes, or what cannot be written."""
    read, named = readings(args), getattr(args, "results", None)
    results = named(args) if named is not None else Results()
    for option in ("out", "work"):
        if (folder := getattr(args, option, None)) is not None:
            check_named_file("--json", args.json, read, Path(folder), results if option == "out" else Results())
    if getattr(args, "out", None) is None:
        check_named_file("--json", args.json, read)
    check_report_place("--json", args.json)


@contextmanager
def job_folder(
    args: argparse.Namespace, command: str, results: Results, *, remedy: str = "", empty: bool = True
) -> Iterator[Path]:
    """Within the block, args.out is this command's; yields the folder to write to, which is args.out or, where results
    of an earlier run are replaced, one within it (`files.guard.staged`).

    Args: remedy: options that allow a folder with content, for the error. empty: demand an empty folder without them.
    Raises: InputError when the folder cannot be used, holds what the command reads, or another run works in it.
    """
    from ..jobs.clip import check_folder

    out = Path(args.out)
    resume, overwrite = bool(getattr(args, "resume", False)), bool(getattr(args, "overwrite", False))
    check_folder(out, may_exist=True, remedy=remedy)
    check_apart(out, results, readings(args))
    with locked_folder(out, f"zero2hero {command}", results.parts()):
        check_folder(out, may_exist=resume or overwrite or not empty, remedy=remedy)
        remove_leftovers(out, results)
        with staged(out, command, results, resume=resume, overwrite=overwrite) as work:
            yield work
