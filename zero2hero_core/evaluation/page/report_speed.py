"""Speed and memory on the page of results: tables from what is stored, and nothing that was not measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..speed.memory_cases import GB
from ..speed.speed_settings import COMMON, DECIDE, MODELS, defaults
from .markdown import some, table
from .stored import COMMAND, Row, memory_commands, memory_rows, page_order, speed_command, speed_key, speed_rows

NOT_MEASURED = "not measured"
MEASURE = ("--measure", "--device", "cuda")
# (part, what) -> the ratio that is judged, and its goal on a CPU and on a GPU: at least, or at most
GOALS: dict[tuple[str, str], tuple[str, str, float, float]] = {
    ("zero", "frame"): ("straightforward / ours", "at least", 8.0, 8.0),
    ("hero", "training step"): ("straightforward / ours", "at least", 1.5, 2.0),
    ("hero", "frame"): ("ours / bare base", "at most", 1.25, 1.25),
}
NAMES = {
    "tiny": "tiny models",
    "sd15": "SD 1.5's size",
    "klein": "FLUX.2-klein-4B's size",
    "flux1": "FLUX.1-dev's size",
}
# What a case is called where an option is not the default; blocks, frames and steps are always told, threads by the
# machine's name.
OPTIONS: dict[str, Callable[[Any], str]] = {
    "k": lambda k: "k = -1 (all tokens)" if k == -1 else f"k = {k}",
    "ensemble": lambda count: some(count, "noise draw"),
    "batch": lambda count: f"{some(count, 'frame')} at once",
    "rank": lambda rank: f"rank {rank}",
    "dtype": str,
}
SPEED = """# Speed

Ours against a straightforward rendering of the authors' procedure (`zero2hero_core/evaluation/speed/`, the files that
are called so; checked against their own code's numbers in tests/parity): one process, equal weights, in turns. Models
of a real size have random weights. Seconds are medians over the turns, of the processor where one CPU thread computes,
else on the wall; a ratio is the median of the ratios within each turn, with the least and the greatest behind it.
"""
MEMORY = """# Memory of training

Peak of one training step of Hero-Stage in explicit mode (two conditions) with gradient checkpointing and AdamW in
float32, in GB (10^9 bytes). *Computed* adds up tensor sizes and an assumed CUDA context of {context:.1f} GB; *counted*
runs the real step on tensors without content, the same context added; *measured* is what a GPU's allocator reserved.
"""


def speed_section(stored: list[dict[str, Any]], plots: Sequence[str] = ()) -> str:
    """The tables of speed as Markdown.

    Args: stored: reports of `zero2hero bench speed` (`stored.read_reports`). plots: links of `draw_speed`.
    """
    rows = with_missing(speed_rows(stored))
    zero = [row for row in rows if row["part"] == "zero"]
    steps = [row for row in rows if row["what"] == "training step"]
    frames = [row for row in rows if row["part"] == "hero" and row["what"] == "frame"]
    parts = [
        SPEED,
        "## Zero-Stage: a frame\n",
        "The time of the reference and of the anchor is shared out over the frames of the clip. *By arithmetic*: the "
        "ratio of multiply-adds in model calls.\n",
        _speed_table(
            zero,
            ("straightforward", "ours"),
            ("straightforward / ours",),
            {"by arithmetic": _arithmetic, "outside model calls": _outside},
        ),
        "## Hero-Stage: a training step\n",
        "One update with two conditions. *Without encoding*: the straightforward way with pictures encoded once. *By "
        "arithmetic*: the first ratio, of multiply-adds.\n",
        _speed_table(
            steps,
            ("straightforward", "without encoding", "ours"),
            ("straightforward / ours", "without encoding / ours"),
            {"by arithmetic": _arithmetic},
        ),
        "## Hero-Stage: a restored frame\n",
        "*Bare base*: sampling without conditions. Straightforward: two steps are timed, for all cost the same. *By "
        "arithmetic*: the first ratio, of multiply-adds.\n",
        _speed_table(
            frames,
            ("straightforward", "bare base", "ours"),
            ("ours / bare base", "straightforward / ours"),
            {"by arithmetic": _arithmetic},
        ),
        *(f"![seconds by part]({plot})\n" for plot in plots),
    ]
    return "\n".join(parts)


def with_missing(rows: list[Row]) -> list[Row]:
    """Rows with times, and rows without for what needs a GPU and had none; what was only counted goes to these."""
    timed = [row for row in rows if row["sides"]]
    on_a_gpu = [row for part, models in MODELS.items() for m in models[1:] for row in _cases_on_a_gpu(part, m)]
    wanted = {speed_key(row): row for row in on_a_gpu}
    for row in (row for row in rows if not row["sides"]):
        decide = [name for name in DECIDE[row["part"], row["what"]] if name not in ("threads", "dtype", "blocks")]
        settings = {name: row["settings"][name] for name in decide}
        case = row | {"device": "cuda", "settings": defaults(row["part"], row["model"], "cuda") | settings}
        facts = {"by_arithmetic": row["by_arithmetic"], "counted_by": speed_command(row)}
        wanted[speed_key(case)] = wanted.get(speed_key(case), case) | facts
    for row in timed:
        wanted.pop(speed_key(row), None)
    return sorted([*timed, *wanted.values()], key=page_order)


def _cases_on_a_gpu(part: str, model: str) -> list[Row]:
    usual = defaults(part, model, "cuda")
    row = {"part": part, "model": model, "device": "cuda", "settings": usual, "sides": {}, "ratios": {}}
    training = [{"what": "training step", "size": size, "draws": draws} for size, draws in usual.get("training", ())]
    return [row | case for case in (*training, *({"what": "frame", "size": size} for size in usual["sizes"]))]


def _speed_table(
    rows: list[Row], sides: Sequence[str], ratios: Sequence[str], more: Mapping[str, Callable[[Row], str]]
) -> str:
    head = ["", "on", *(f"{side}, s" for side in sides), *ratios, *more, "goal"]
    lines = []
    for row in rows:
        cells = [case_name(row), machine_name(row)]
        cells += [seconds(row["sides"][side]["seconds"]) if side in row["sides"] else NOT_MEASURED for side in sides]
        cells += [ratio_text(row, name) for name in ratios]
        lines.append([*cells, *(tell(row) for tell in more.values()), goal(row)])
    return table(head, lines) + "\n" + "\n".join(["Made by:\n", *(_making(row) for row in rows), ""])


def case_name(row: Row) -> str:
    """What a row is of, in words; options that are not the default are among them."""
    settings = row["settings"]
    words = [NAMES[row["model"]], f"{row['size']} px"]
    if settings.get("blocks"):
        words.insert(1, "only {} + {} blocks".format(*settings["blocks"]))
    if "draws" in row:
        words.append(some(row["draws"], "noise level"))
    if "frames" in settings:
        words.append(some(settings["frames"], "frame"))
    if "draws" not in row:
        words.append(some(settings["steps"], "step"))
    known = defaults(row["part"], row["model"], row["device"])
    names = [name for name in DECIDE[row["part"], row["what"]] if name in OPTIONS and settings[name] != known[name]]
    return ", ".join([*words, *(OPTIONS[name](settings[name]) for name in names)])


def machine_name(row: Row) -> str:
    """What a row was computed on; a GPU's CPU threads only where they are not the default."""
    if not row["sides"]:
        return "GPU"
    machine, threads = row["machine"], row["settings"]["threads"]
    if "gpu" not in machine:
        return f"CPU, {some(threads, 'thread')}"
    return str(machine["gpu"]) + (f", {some(threads, 'CPU thread')}" if threads != COMMON["threads"] else "")


def seconds(value: float) -> str:
    """Three digits: 243, 57.5, 6.17, 0.565."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3}f}"


def ratio_text(row: Row, name: str) -> str:
    """Median and span of a ratio."""
    if name not in row["ratios"]:
        return NOT_MEASURED
    value, turns = row["ratios"][name], len(next(iter(row["sides"].values()))["all_seconds"])
    if turns == 1:
        return f"{value['median']:.2f} (one turn)"
    return f"{value['median']:.2f} ({value['least']:.2f} to {value['greatest']:.2f})"


def goal(row: Row) -> str:
    """The project's goal for a row, and whether it is met."""
    name, side, cpu, gpu = GOALS[row["part"], row["what"]]
    bar = cpu if row["device"] == "cpu" else gpu
    if row["settings"].get("blocks"):
        return f"{side} {bar:g}: not judged"
    if name not in row["ratios"]:
        return f"{side} {bar:g}: {NOT_MEASURED}"
    value = row["ratios"][name]["median"]
    return f"{side} {bar:g}: {'met' if (value >= bar if side == 'at least' else value <= bar) else '**missed**'}"


def _outside(row: Row) -> str:
    outside = row["sides"].get("ours", {}).get("outside_model")
    return NOT_MEASURED if outside is None else f"{outside:.1%}"


def _arithmetic(row: Row) -> str:
    return f"{row['by_arithmetic']:.2f}" if "by_arithmetic" in row else "-"


def _making(row: Row) -> str:
    command = f"- {case_name(row)}: `{speed_command(row)}`"
    if not row["sides"]:
        return f"{command}; {NOT_MEASURED}" + (f"; counted: `{row['counted_by']}`" if "counted_by" in row else "")
    machine = row["machine"]
    facts = [some(row["settings"]["turns"], "turn"), f"commit {row['commit']}", f"torch {machine['torch']}"]
    if "cpu_count" in machine:
        facts.append(some(machine["cpu_count"], "CPU"))
    if row["date"]:
        facts.append(row["date"][:10])
    return f"{command}; {', '.join(facts)}"


def row_text(row: Row) -> str:
    """A row of speed for the terminal."""
    words = [f"{side} {seconds(found['seconds'])} s" for side, found in row["sides"].items()]
    words += [f"{name} {ratio_text(row, name)}" for name in row["ratios"]]
    if "by_arithmetic" in row:
        words.append(f"by arithmetic {_arithmetic(row)}")
    return f"{case_name(row)}, {row['what']}: {', '.join(words)}; goal {goal(row).replace('*', '')}"


def memory_section(stored: list[dict[str, Any]], plots: Sequence[str] = ()) -> str:
    """The tables of memory as Markdown.

    Args: stored: reports of `zero2hero bench memory` (`stored.read_reports`). plots: links of `draw_memory`.
    """
    rows = memory_rows(stored)
    context = max((row.get("of_which_assumed_bytes", 0) for row in rows), default=0) / GB
    texts = [MEMORY.format(context=context)]
    if not rows:
        return "\n".join([*texts, f"Nothing is stored yet: `{COMMAND.format('memory')}`.\n"])
    cases = sorted({(row["resolution"], row["rank"]) for row in rows})
    forms = list(dict.fromkeys((row["model"], row["weights"]) for row in rows))
    values = {(row["model"], row["weights"], row["resolution"], row["rank"]): row["computed_bytes"] for row in rows}
    lines = [
        [*form, *(f"{values[form + case] / GB:.1f}" if form + case in values else "-" for case in cases)]
        for form in forms
    ]
    limited = [row for row in rows if "limit_bytes" in row or "measured" in row]
    texts += [
        "## Computed\n",
        table(["model", "weights", *(f"{size} px, rank {rank}" for size, rank in cases)], lines),
        _counted(rows),
        _made_by("Counted by", [row for row in rows if "counted_bytes" in row], "--count"),
        _made_by("Only computed, by", [row for row in rows if "counted_bytes" not in row]),
        "## Measured, and the project's limits\n",
        table(
            ["model", "weights", "pixels", "rank", "computed", "counted", "measured", "limit"],
            [_memory_line(row) for row in limited],
        ),
        _made_by("Measured by", [row for row in limited if "measured" in row], *MEASURE),
        _made_by("Not measured; with a GPU:", [row for row in limited if "measured" not in row], *MEASURE),
        *(f"![memory by resolution]({plot})\n" for plot in plots),
    ]
    return "\n".join(filter(None, texts))


def _made_by(how: str, rows: list[Row], *options: str) -> str:
    """The commands of rows; nothing where there are none."""
    return f"{how} {', '.join(f'`{command}`' for command in memory_commands(rows, *options))}.\n" if rows else ""


def _counted(rows: list[Row]) -> str:
    """How far what is computed lies above what is counted."""
    shares = [row["computed_bytes"] / counted_total(row) for row in rows if "counted_bytes" in row]
    if not shares:
        return "Not counted.\n"
    return f"{len(shares)} of them were counted too: computed is {min(shares):.2f} to {max(shares):.2f} times that.\n"


def counted_total(row: Row) -> int:
    """Counted bytes with the assumed CUDA context, as the computed ones have it."""
    return int(row["counted_bytes"] + row["of_which_assumed_bytes"])


def measured_bytes(row: Row) -> int | None:
    """What a GPU's allocator reserved; None where nothing was measured."""
    reserved: int | None = row.get("measured", {}).get("reserved_bytes")
    return reserved


def _memory_line(row: Row) -> list[str]:
    reserved = measured_bytes(row)
    measured = NOT_MEASURED if reserved is None else f"{reserved / GB:.1f} ({row['measured']['device']})"
    if row.get("measured", {}).get("out_of_memory"):
        measured = f"out of memory ({row['measured']['device']})"
    counted = f"{counted_total(row) / GB:.1f}" if "counted_bytes" in row else "-"
    cells = [row["model"], row["weights"], str(row["resolution"]), str(row["rank"])]
    return [*cells, f"{row['computed_bytes'] / GB:.1f}", counted, measured, _limit(row, reserved)]


def _limit(row: Row, reserved: int | None) -> str:
    limit = row.get("limit_bytes")
    if limit is None:
        return ""
    size = row["computed_bytes"] if reserved is None else reserved
    judged = "met" if size <= limit else "**missed**"
    return f"{limit / GB:g}: {judged}" + (f" as computed, {NOT_MEASURED}" if reserved is None else "")


def memory_text(row: Row) -> str:
    """A row of memory for the terminal, in GB."""
    model, weights, pixels, rank, computed, counted, measured, limit = _memory_line(row)
    text = (
        f"{model}, {weights}, {pixels} px, rank {rank}: computed {computed} GB, counted {counted}, measured {measured}"
    )
    return text.replace("counted -", "not counted").replace("measured not", "not") + (
        f"; limit {limit}" if limit else ""
    )
