"""Times of sides that run in turns, and whether the sides compute the same: the times of a row whose sides do not are
worth nothing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ...stopwatch import Stopwatch

# Largest difference of the two sides. Hero-Stage's is relative, of losses or latents; each precision has its own.
HERO_DIFFERENCE = {"float32": 1e-4, "bfloat16": 5e-2}
# Zero-Stage's is the mean over pixels in [0, 1]. Rounding alone gives 1e-7 on a CPU, other feature noise 4e-3; a GPU
# rounds the inputs of its convolutions (TF32), and a match between near equals may fall the other way.
# A GPU's limit is a guess: none was at hand.
ZERO_DIFFERENCE = {"cpu": 1e-4, "cuda": 1e-3}


class Clock:
    """Seconds: of the processor where one CPU thread computes (what a wall clock shows on an idle machine), else on the
    wall, with the GPU's queue empty where a GPU computes."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self.kind = "processor" if self.device.type == "cpu" and torch.get_num_threads() == 1 else "wall"

    def __call__(self) -> float:
        wall = self.wall()
        return time.process_time() if self.kind == "processor" else wall

    def wall(self) -> float:
        """Seconds on the wall."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class PartTimer(Stopwatch):
    """Adds up seconds of a clock under names, in `seconds`."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock.device)
        self.clock = clock

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens within the block as `name`."""
        begin = self.clock()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self.clock() - begin

    @contextmanager
    def calls(self, owner: Any, **parts: str) -> Iterator[None]:
        """Count calls of methods of `owner` within the block; parts: method -> name."""
        for method, name in parts.items():
            setattr(owner, method, self._counted(getattr(owner, method), name))
        try:
            yield
        finally:
            for method in parts:
                delattr(owner, method)  # the class's own methods come back

    def _counted(self, method: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return method(*args, **kwargs)

        return call


class ModelClock:
    """Adds up the seconds inside the outermost model calls, also of calls that an exception ends early; a context
    manager.

    Args:
        unet: its children, and the blocks in their lists, count too, for they may be called one by one.
        vae: what counts are its `encode` and `decode`.
    """

    def __init__(self, unet: torch.nn.Module, vae: Any, clock: Clock) -> None:
        self.seconds, self._depth, self._begin = 0.0, 0, 0.0
        self._unet, self._vae, self._clock = unet, vae, clock

    def __enter__(self) -> ModelClock:
        watched = {id(self._unet): self._unet}
        for child in self._unet.children():
            blocks = list(child) if isinstance(child, torch.nn.ModuleList) else [child]
            watched.update({id(block): block for block in blocks})
        self._handles: list[Any] = []
        for block in watched.values():
            self._handles.append(block.register_forward_pre_hook(self._enter))
            self._handles.append(block.register_forward_hook(self._leave, always_call=True))
        self._vae.encode, self._vae.decode = self._timed(self._vae.encode), self._timed(self._vae.decode)
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
        del self._vae.encode, self._vae.decode  # the class's own methods come back

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._enter()
            try:
                return method(*args, **kwargs)
            finally:
                self._leave()

        return call

    def _enter(self, *_: object) -> None:
        if self._depth == 0:
            self._begin = self._clock()
        self._depth += 1

    def _leave(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.seconds += self._clock() - self._begin


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Compute with so many CPU threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Side:
    """What is timed. run: gets a timer for its parts; runs: calls of it in a turn; units: frames, steps ... that these
    make together, by which times are divided (a share where they make only a part of one)."""

    run: Callable[[PartTimer], object]
    runs: int = 1
    units: float = 1.0


def take_turns(sides: Mapping[str, Side], clock: Clock, turns: int, *, warm: bool = True) -> dict[str, Any]:
    """Run the sides in turns, the order reversed in every second one; seconds per unit of each.

    Args: warm: run all of them once before.
    Returns: side -> {"seconds": median, "all_seconds": by turn, "wall_seconds": median, "parts": name -> mean}.
    """
    for side in sides.values() if warm else ():
        side.run(PartTimer(clock))
    taken: dict[str, list[tuple[float, float, dict[str, float]]]] = {name: [] for name in sides}
    for turn in range(turns):
        for name in list(sides)[:: -1 if turn % 2 else 1]:
            taken[name].append(_turn(sides[name], clock))
    return {name: _side_report(rows) for name, rows in taken.items()}


def _turn(side: Side, clock: Clock) -> tuple[float, float, dict[str, float]]:
    """Seconds that count, on the wall, and by part, per unit."""
    watch = PartTimer(clock)
    begin, wall = clock(), clock.wall()
    for _ in range(side.runs):
        side.run(watch)
    counted, passed = clock() - begin, clock.wall() - wall
    parts = {name: seconds / side.units for name, seconds in watch.seconds.items()}
    return counted / side.units, passed / side.units, parts


def _side_report(taken: list[tuple[float, float, dict[str, float]]]) -> dict[str, Any]:
    parts = {name for _, _, seconds in taken for name in seconds}
    return {
        "seconds": statistics.median(counted for counted, _, _ in taken),
        "all_seconds": [counted for counted, _, _ in taken],
        "wall_seconds": statistics.median(wall for _, wall, _ in taken),
        "parts": {name: statistics.fmean(seconds.get(name, 0.0) for _, _, seconds in taken) for name in sorted(parts)},
    }


def ratio(sides: Mapping[str, Any], over: str, under: str) -> dict[str, float]:
    """Median, least and greatest of the ratios within the turns.

    Example: over 6 and 4 seconds, under 2 and 1: ratios 3 and 4, so median 3.5.
    """
    values = [a / b for a, b in zip(sides[over]["all_seconds"], sides[under]["all_seconds"], strict=True)]
    return {"median": statistics.median(values), "least": min(values), "greatest": max(values)}


def disagreement(row: dict[str, Any]) -> str | None:
    """What is wrong where the two sides of a row do not compute the same."""
    if not row["sides"]:  # only counted
        return None
    limit = ZERO_DIFFERENCE[row["device"]] if row["part"] == "zero" else HERO_DIFFERENCE[row["settings"]["dtype"]]
    if row["difference"] <= limit:
        return None
    draws = f", {row['draws']} noise levels" if "draws" in row else ""
    what = f"{row['model']}, {row['what']}, {row['size']} px{draws}"
    return f"{what}: the two sides differ by {row['difference']:.1e}; the times are worth nothing."
