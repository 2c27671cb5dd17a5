"""What the `zero2hero dataset` commands share: output options, and the tasks of one run."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import add_common, progress, say

if TYPE_CHECKING:
    from ..evaluation.dataset.info import TaskInfo
    from ..files.guard import Results


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """--out, what to do about an earlier run, and the options that every command has."""
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the data set")
    again = output.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="keep the tasks that are made already")
    again.add_argument("--overwrite", action="store_true", help="replace tasks of the same name")
    add_common(parser)
    parser.set_defaults(results=results)


def results(args: argparse.Namespace) -> Results:
    """What every command of these writes in --out, beside the folder of a task, whose name is known later."""
    from ..files.guard import Results

    return Results(("zero.json",))


class DatasetJob:
    """The tasks of one command: progress, what is kept, the list of all tasks, the report. Use it in a `with` block."""

    def __init__(self, args: argparse.Namespace, total: int) -> None:
        from ..jobs.folder import check_folder

        check_folder(args.out, may_exist=True, remedies=("overwrite",))
        self.args, self._started = args, time.perf_counter()
        self.tasks: list[dict[str, Any]] = []
        self._bar = progress(args)
        self._row = self._bar.add_task("frames", total=total)

    def __enter__(self) -> DatasetJob:
        from ..evaluation.dataset.writer import remove_unfinished

        with ExitStack() as stack:
            stack.enter_context(self._locked())
            remove_unfinished(self.args.out)
            self._bar.start()
            stack.callback(self._bar.stop)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def _locked(self) -> AbstractContextManager[None]:
        from ..files.lock import locked_folder

        return locked_folder(self.args.out, f"zero2hero dataset {self.args.dataset_command}")

    def make(self, info: TaskInfo, write: Callable[..., dict[str, Any] | None], *material: Any, **options: Any) -> None:
        """Make one task with `write(writer, *material, progress=...)`, unless --resume finds it made."""
        from ..evaluation.dataset.writer import TaskWriter, is_made
        from ..files.guard import Results, check_apart
        from ..jobs.folder import readings

        check_apart(self.args.out, results(self.args) | Results(folders=(info.name,)), readings(vars(self.args)))
        reused = bool(self.args.resume and is_made(self.args.out / info.name, info))
        facts = None
        if reused:
            self._bar.advance(self._row, info.frames)
        else:
            with TaskWriter(self.args.out, info, overwrite=self.args.overwrite) as writer:
                facts = write(writer, *material, progress=lambda: self._bar.advance(self._row), **options)
        row = {
            "name": info.name,
            "folder": str(self.args.out / info.name),
            "kind": info.kind,
            "appearance": info.appearance,
            "frames": info.frames,
            "truth_frames": len(info.truth_frames),
            "size": [info.size_hw[1], info.size_hw[0]],
            "reused": reused,
        }
        self.tasks.append(row | (facts or {}))

    def report(self) -> dict[str, Any]:
        """List all tasks of the folder in zero.json; return what the command has done."""
        from ..evaluation.dataset.writer import INDEX, write_index

        with self._locked():
            write_index(self.args.out)
        reused = sum(row["reused"] for row in self.tasks)
        kept = f" ({reused} from before)" if reused else ""
        say(self.args, f"{len(self.tasks)} tasks{kept}: {self.args.out}")
        return {
            "command": f"dataset {self.args.dataset_command}",
            "out": str(self.args.out),
            "index": str(self.args.out / INDEX),
            "tasks": self.tasks,
            "seconds": {"total": round(time.perf_counter() - self._started, 3)},
        }
