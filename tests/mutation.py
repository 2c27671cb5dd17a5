"""Change one thing at a time in a package and see whether its tests notice: a check of the tests, not of the code.

    python tests/mutation.py --package attention --sample 120 --seed 0 --json attention.json

A mutant is one expression or statement changed (a comparison, an operator, a number, a name of a choice, a condition, a
returned value, the order of two arguments). It is killed when a test of the package fails or takes five times its time;
it survives when all pass. Everything happens in a copy of the checkout in a temporary folder. torch and the other
libraries are imported once; each mutant gets a fork of that process. First all tests run once while it is written down
which lines each runs, so that a mutant is shown only to tests that come by, the fastest first.

Left alone: docstrings, annotations, decorators, assertions, what is raised, f-strings, `if TYPE_CHECKING`, texts that a
`check_...` only puts into its message; the order of two equal arguments, or of those of max and min.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CORE = "zero2hero_core"
# Package -> folders of tests that answer for it.
TESTS = {
    "attention": ("attention", "zero_stage"),
    "correspondence": ("correspondence",),
    "hero_stage/training": ("hero_stage/training", "hero_stage"),
    "video": ("video",),
}
PRELOADED = ("torch", "numpy", "av", "PIL.Image", "safetensors.torch", "diffusers", "transformers", "peft")
FACTOR, LEAST_SECONDS = 5, 10  # a mutant may take so many times what its tests took, and this at least
STACK_BYTES = 16 << 30  # address space beyond what the server has

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
}

SYMMETRIC = ("max", "min", "torch.equal", "torch.maximum", "torch.minimum")


@dataclass(frozen=True)
class Mutant:
    """One change of one file."""

    file: str
    line: int
    last_line: int
    before: str
    after: str
    source: str
    at_import: bool  # runs when the module is imported, not when a function is called


def swapped(operator: ast.AST) -> Any:
    """The operator that stands in for another."""
    return SWAPS[type(operator)]()


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)))


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in the place of a node."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        yield ast.Compare(node.left, [swapped(node.ops[0])], node.comparators)
    elif isinstance(node, ast.Compare):
        for i, operator in enumerate(node.ops):
            yield ast.Compare(node.left, [*node.ops[:i], swapped(operator), *node.ops[i + 1 :]], node.comparators)
    elif isinstance(node, ast.BinOp) and type(node.op) in SWAPS and not (_is_text(node.left) or _is_text(node.right)):
        yield ast.BinOp(node.left, swapped(node.op), node.right)
    elif isinstance(node, ast.AugAssign) and type(node.op) in SWAPS:
        yield ast.AugAssign(node.target, swapped(node.op), node.value)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(swapped(node.op), node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        yield node.operand
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield ast.Constant(not node.value)
        elif isinstance(node.value, (int, float)):
            yield ast.Constant(node.value + 1)
        elif isinstance(node.value, str):
            yield ast.Constant("XX" + node.value)
    elif isinstance(node, ast.IfExp):
        yield ast.IfExp(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
    elif isinstance(node, ast.Return) and node.value is not None and not _is_constant(node.value, None):
        yield ast.Return(ast.Constant(None))
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield ast.Pass()
    elif isinstance(node, (ast.Break, ast.Continue)):
        yield ast.Continue() if isinstance(node, ast.Break) else ast.Break()
    elif isinstance(node, ast.Call) and _order_matters(node):
        yield ast.Call(node.func, [node.args[1], node.args[0], *node.args[2:]], node.keywords)


def _order_matters(call: ast.Call) -> bool:
    """Whether the first two arguments are two things, of a function that tells them apart."""
    if len(call.args) < 2 or any(isinstance(argument, ast.Starred) for argument in call.args):
        return False
    return ast.unparse(call.func) not in SYMMETRIC and ast.unparse(call.args[0]) != ast.unparse(call.args[1])


def _is_constant(node: ast.AST, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _tests(node: ast.AST) -> ast.expr | None:
    """The condition of an `if` or `while`, to be turned round as a whole."""
    return node.test if isinstance(node, (ast.If, ast.While)) else None


def sites(node: ast.AST, inside: bool = False) -> Iterator[tuple[ast.AST, ast.AST, bool]]:
    """Node, its stand-in, and whether it runs at import; not below what is left alone."""
    body = getattr(node, "body", None)
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and body and ast.get_docstring(node) is not None:
        body = body[1:]
    if isinstance(node, (ast.Assert, ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom)):
        return
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    for other in changes(node):
        yield node, other, not inside
    if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("check_"):  # names for messages
        for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
            if not any(isinstance(part, ast.Constant) and isinstance(part.value, str) for part in ast.walk(argument)):
                yield from sites(argument, inside)
        return
    if (test := _tests(node)) is not None and not isinstance(test, ast.Compare):
        yield test, ast.UnaryOp(ast.Not(), test), not inside
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        if isinstance(node, ast.FunctionDef):
            for default in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
                yield from sites(default, inside)
        for child in body or ():
            yield from sites(child, inside or isinstance(node, ast.FunctionDef))
        return
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list") or (name == "body" and isinstance(node, ast.Module)):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from sites(child, inside or isinstance(node, ast.Lambda))
    if isinstance(node, ast.Module):
        for child in body or ():
            yield from sites(child, inside)


def replaced(source: str, node: Any, text: str) -> str:
    """The source with the text of one node exchanged; columns of an AST count UTF-8 bytes."""
    lines = source.encode().splitlines(keepends=True)
    head = b"".join(lines[: node.lineno - 1]) + lines[node.lineno - 1][: node.col_offset]
    tail = lines[node.end_lineno - 1][node.end_col_offset :] + b"".join(lines[node.end_lineno :])
    return (head + text.encode() + tail).decode()


def mutants_of(source: str, file: str) -> list[Mutant]:
    """Every mutant of one file."""
    made = []
    for node, other, at_import in sites(ast.parse(source)):
        if not hasattr(node, "lineno"):
            continue
        where: Any = node
        text = ast.unparse(ast.fix_missing_locations(other))
        changed = replaced(source, node, text if isinstance(node, ast.stmt) else f"({text})")
        with suppress(SyntaxError):  # a keyword of a pattern, a text that goes on over the line
            compile(changed, file, "exec")
            before = ast.unparse(node)
            made.append(Mutant(file, where.lineno, where.end_lineno, before, text, changed, at_import))
    return made


def in_fork(work: Callable[[], Any], seconds: float | None = None) -> tuple[str, Any]:
    """Run `work` in a fork: ("done", its result), ("time", None) or ("died", why)."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        if not os.environ.get("MUTATION_DEBUG"):
            os.dup2(quiet, 2)
        if seconds is not None:  # of the processor: other processes on the machine kill no mutant
            resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 2))
            with suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_AS, (STACK_BYTES, STACK_BYTES))
        try:
            answer = json.dumps(work())
        except BaseException:
            answer = json.dumps({"error": traceback.format_exc()})
        with os.fdopen(writing, "w") as stream:
            stream.write(answer)
        os._exit(0)
    os.close(writing)
    clock: threading.Timer | None = None
    if seconds is not None:  # of the wall, for what waits for ever
        clock = threading.Timer(10 * seconds, _end, [child])
        clock.start()
    try:
        with os.fdopen(reading) as stream:
            answer = stream.read()
        _, status = os.waitpid(child, 0)
    finally:
        if clock:
            clock.cancel()
        _end(child)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
        return "time", None
    return ("done", json.loads(answer)) if answer else ("died", status)


def _end(child: int) -> None:
    """End a fork and all that it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)


class Chosen:
    """pytest plugin: run these tests in this order."""

    def __init__(self, order: Sequence[str]):
        self.order = {name: i for i, name in enumerate(order)}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Keep and sort."""
        items[:] = sorted((i for i in items if i.nodeid in self.order), key=lambda i: self.order[i.nodeid])


class Tracer:
    """pytest plugin: which lines of the package each test runs, and its seconds of processor time."""

    def __init__(self, folder: Path):
        self.folder = str(folder) + os.sep
        self.lines: dict[str, set[tuple[str, int]]] = defaultdict(set)
        self.seconds: dict[str, float] = defaultdict(float)
        self.failed: list[str] = []
        self.now: set[tuple[str, int]] = set()
        self.codes: dict[CodeType, bool] = {}

    def _line(self, frame: FrameType, event: str, _: object) -> Any:
        self.now.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line

    def _call(self, frame: FrameType, event: str, _: object) -> Any:
        code = frame.f_code
        ours = self.codes.get(code)
        if ours is None:
            ours = self.codes[code] = code.co_filename.startswith(self.folder)
        return self._line if ours else None

    def _phase(self, item: Any, shared: bool) -> Iterator[None]:
        self.now, begun = set(), time.process_time()
        threading.settrace(self._call)
        sys.settrace(self._call)
        yield
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
        self.seconds[item.nodeid] += time.process_time() - begun
        # A fixture may serve a whole file, but only its first test sets it up.
        self.lines[item.nodeid.partition("::")[0] if shared else item.nodeid] |= self.now

    def pytest_runtest_logreport(self, report: Any) -> None:
        """What fails without a mutant."""
        if report.failed:
            self.failed.append(report.nodeid)


def traced(folder: Path, tests: Sequence[str]) -> dict[str, Any]:
    """In a fork: run all tests once."""
    import pytest

    tracer = Tracer(folder)

    class Plugin:
        @pytest.hookimpl(hookwrapper=True)
        def pytest_runtest_setup(self, item: Any) -> Iterator[None]:
            yield from tracer._phase(item, True)

        @pytest.hookimpl(hookwrapper=True)
        def pytest_runtest_call(self, item: Any) -> Iterator[None]:
            yield from tracer._phase(item, False)

    code = pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:randomly", *tests], plugins=[Plugin(), tracer])
    lines = {name: sorted(found) for name, found in tracer.lines.items()}
    return {"code": int(code), "lines": lines, "seconds": dict(tracer.seconds), "failed": tracer.failed}


class Copy:
    """A copy of the checkout, in which one mutant at a time stands."""

    def __init__(self, folder: Path):
        self.folder = folder
        kept = ("pyproject.toml", "README.md", CORE, "tests", "docs", "nodes")
        for name in kept:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "host", "*.pyc"))
            elif source.exists():
                shutil.copy(source, folder / name)

    def start(self) -> None:
        """Work here: nothing of the package was imported before."""
        os.chdir(self.folder)
        sys.dont_write_bytecode = True
        sys.path[:] = [
            str(self.folder),
            *(p for p in sys.path if Path(p or ".").resolve() not in (ROOT, ROOT / "tests")),
        ]
        assert not any(name.split(".")[0] == CORE for name in sys.modules)

    def try_out(self, mutant: Mutant, order: Sequence[str], seconds: float) -> tuple[str, str]:
        """("killed", by which test), ("timeout", "") or ("survived", "")."""
        path = self.folder / mutant.file
        original = path.read_text(encoding="utf-8")
        path.write_text(mutant.source, encoding="utf-8")
        try:
            how, result = in_fork(lambda: self._run(order), seconds)
        finally:
            path.write_text(original, encoding="utf-8")
        if how == "time":
            return "timeout", ""
        if how == "died" or "error" in result:
            return "killed", "the process ends"
        return ("survived", "") if result["code"] == 0 else ("killed", result["failed"])

    @staticmethod
    def _run(order: Sequence[str]) -> dict[str, Any]:
        import pytest

        failed: list[str] = []

        class Watch:
            def pytest_runtest_logreport(self, report: Any) -> None:
                if report.failed:
                    failed.append(report.nodeid)

        files = list(dict.fromkeys(name.partition("::")[0] for name in order))
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "--tb=no", "--no-header"]
        code = pytest.main([*options, *files], plugins=[Chosen(order), Watch()])
        return {"code": int(code), "failed": failed[0] if failed else "import"}


def check_package(package: str, args: argparse.Namespace, copy: Copy) -> list[dict[str, Any]]:
    """Try a sample of the mutants of a package, printing each. Raises: SystemExit when tests fail without mutants."""
    folder = copy.folder / CORE / package
    files = sorted(path for path in folder.glob("**/*.py"))
    names = [path.relative_to(copy.folder).as_posix() for path in files]
    every = [m for path, name in zip(files, names, strict=True) for m in mutants_of(path.read_text("utf-8"), name)]
    if args.file:
        every = [mutant for mutant in every if args.file in mutant.file]
    sample = sorted(
        random.Random(args.seed).sample(every, min(args.sample, len(every))), key=lambda m: (m.file, m.line, m.after)
    )
    folders = [f"tests/core/{name}" for name in TESTS[package]]
    folders = [name for name in folders if (copy.folder / name).is_dir()]
    how, base = in_fork(lambda: traced(folder, [f for f in folders if not any(f.startswith(g + "/") for g in folders)]))
    if how != "done" or "error" in base or base["failed"] or base["code"]:
        why = base and (base.get("error") or base["failed"] or f"pytest ends with {base['code']}")
        raise SystemExit(f"{package}: the tests fail without a mutant: {why}")
    by_file: dict[str, set[str]] = defaultdict(set)
    by_line: dict[tuple[str, int], set[str]] = defaultdict(set)
    for name, lines in base["lines"].items():
        tests = [name] if "::" in name else [test for test in base["seconds"] if test.partition("::")[0] == name]
        for path, line in lines:
            by_file[path].update(tests)
            by_line[path, line].update(tests)
    print(f"{package}: {len(sample)} of {len(every)} mutants, {len(base['seconds'])} tests", flush=True)
    results = []
    for mutant in sample:
        path = str(copy.folder / mutant.file)
        lines = range(mutant.line, mutant.last_line + 1)
        coming = by_file[path] if mutant.at_import else set().union(*(by_line[path, line] for line in lines))
        order = sorted(coming, key=lambda name: (base["seconds"][name], name))
        limit = LEAST_SECONDS + FACTOR * sum(base["seconds"][name] for name in order)
        begun = time.monotonic()
        outcome, by = copy.try_out(mutant, order, limit) if order else ("survived", "no test comes by")
        row = asdict(mutant) | {"outcome": outcome, "by": by, "seconds": round(time.monotonic() - begun, 2)}
        del row["source"], row["last_line"], row["at_import"]
        results.append(row)
        print(
            f"{outcome:9}{mutant.file}:{mutant.line}: {_short(mutant.before)}  ->  {_short(mutant.after)}", flush=True
        )
    return results


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) < 90 else text[:87] + "..."


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--package", choices=TESTS, action="append", help="all four if left out")
    parser.add_argument("--file", help="only files whose path holds this")
    parser.add_argument("--sample", type=int, default=120, help="mutants of each package")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the results here")
    args = parser.parse_args()
    destination = args.json.resolve() if args.json else None
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell has it ignored
        signal.signal(number, _interrupt)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copy = Copy(Path(folder).resolve())
        os.environ["PYTEST_DEBUG_TEMPROOT"] = folder
        for name in PRELOADED:
            with suppress(ImportError):
                __import__(name)
        import torch

        torch.set_num_threads(1)  # and no thread lives in the server: a fork takes none along
        copy.start()
        try:
            for package in args.package or TESTS:
                results += check_package(package, args, copy)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        finally:
            os.chdir(ROOT)
    killed = sum(row["outcome"] != "survived" for row in results)
    print(f"{killed} of {len(results)} killed ({killed / max(1, len(results)):.1%})")
    if destination:
        destination.write_text(json.dumps({"killed": killed, "of": len(results), "mutants": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
