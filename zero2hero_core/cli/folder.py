"""What every command does about its files before the work: --json, and the folder that results go to."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager
from pathlib import Path

from ..files.guard import Results, check_named_file
from ..files.json_file import check_report_place


def check_report(args: argparse.Namespace) -> None:
    """Raise `InputError` when --json names what the command reads or writes, or what cannot be written."""
    from ..jobs.folder import readings

    inputs, results_of = readings(vars(args)), getattr(args, "results", None)
    results = results_of(args) if results_of is not None else Results()
    for option in ("out", "work"):
        if (folder := getattr(args, option, None)) is not None:
            check_named_file("--json", args.json, inputs, Path(folder), results if option == "out" else Results())
    if getattr(args, "out", None) is None:
        check_named_file("--json", args.json, inputs)
    check_report_place("--json", args.json)


def job_folder(
    args: argparse.Namespace, command: str, results: Results, *, remedies: tuple[str, ...] = (), empty: bool = True
) -> AbstractContextManager[Path]:
    """`jobs.folder.job_folder` for the arguments of a command."""
    from ..jobs import folder

    return folder.job_folder(vars(args), command, results, remedies=remedies, empty=empty)
