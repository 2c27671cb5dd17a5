"""The command line: `zero2hero COMMAND ...` or `python -m zero2hero_core COMMAND ...`.

Each module of a command has `add_parser(subparsers)`, which sets `func`, and `run(args)`, which does the work and
returns the report that `--json` writes. A report whose list `problems` is not empty counts as failed work. Exit status:
0; 1, the work failed or was interrupted; 2, bad arguments or input. An error is one line on stderr.
"""

from __future__ import annotations

import argparse
import errno
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from ..checks import Unfinished, Zero2HeroError
from ..files.json_file import write_report
from ..version import __version__
from . import (
    ablate,
    bench,
    correspond,
    dataset,
    deflicker,
    demo,
    doctor,
    edit,
    guide,
    hero,
    keyframes,
    propagate,
    tiny,
    zero,
)
from .console import option_of
from .folder import check_report
from .options import Parser, fill_anchors, fill_preset

EXAMPLES = """\
examples:
  zero2hero doctor
  zero2hero demo --out demo
  zero2hero propagate --video clip.mp4 --key 0=edited.png --out result
  zero2hero edit --tiny --video clip.mp4 --anchor 0 --reference edited.png --out result
  zero2hero edit --zero-model sd15.safetensors --hero-model FLUX.2-klein-base-4B --video clip.mp4 --anchor 0 \
      --reference edited.png --out result

Exit status: 0, or 1 when the work failed or was interrupted, or 2 for bad arguments or input.
"""
_NO_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def build_parser() -> argparse.ArgumentParser:
    """The parser with all its commands."""
    parser = Parser("zero2hero", description="Give a whole video the look of one edited frame.", epilog=EXAMPLES)
    parser.add_argument("--version", action="version", version=f"zero2hero {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    for module in (
        doctor,
        demo,
        keyframes,
        propagate,
        deflicker,
        guide,
        edit,
        zero,
        correspond,
        hero,
        ablate,
        bench,
        dataset,
        tiny,
    ):
        module.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (0, 1 or 2)."""
    args = argparse.Namespace(debug="--debug" in (sys.argv[1:] if argv is None else argv), json=None)
    try:
        build_parser().parse_args(argv, args)
        fill_preset(args)
        fill_anchors(args)
        if args.json is not None:
            check_report(args)
        report: dict[str, Any] = args.func(args)
        if args.json is not None:
            write_report(args.json, report)
    except SystemExit as stop:  # argparse, after --help and --version
        return 2 if stop.code else 0
    except KeyboardInterrupt:
        return _fail(args, "interrupted; nothing half-written was left.", 1)
    except Exception as error:
        return _fail(args, *_describe(error, args))
    problems = report.get("problems") or []
    return _fail(args, " ".join(problems), 1) if problems else 0


def _fail(args: argparse.Namespace, message: str, status: int) -> int:
    if args.debug and sys.exc_info()[0] is not None:
        traceback.print_exc()
    print(f"zero2hero: error: {' '.join(message.splitlines())}", file=sys.stderr, flush=True)
    return status


def _describe(error: Exception, args: argparse.Namespace) -> tuple[str, int]:
    """The line to print and the exit status."""
    if isinstance(error, Unfinished):
        return error.worded(option_of, getattr(args, "again", "give the same command")), error.exit_status
    if isinstance(error, Zero2HeroError):
        return error.worded(option_of), error.exit_status
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        if error.errno in _FULL:
            return f"{place}no space left on the disk; free some and repeat.", 1
        remedy = "check the path and its permissions."
        return f"{place}{error.strerror or error}; {remedy}", 2 if error.errno in _NO_PLACE else 1
    if isinstance(error, MemoryError) or any(text in str(error) for text in ("can't allocate memory", "out of memory")):
        return "out of memory: use a smaller --size or --batch, or close other programs.", 1
    kind = type(error).__name__
    return f"unexpected {kind}: {error} (a fault of the program: report what it prints with --debug).", 1


if __name__ == "__main__":
    raise SystemExit(main())
