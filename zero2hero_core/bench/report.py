"""benchmarks/RESULTS.md: every figure with the command that makes it again."""

from __future__ import annotations

import json
import math
import platform
import subprocess
from pathlib import Path
from typing import Any

from .measures import BETTER_LOW
from .plots import draw_plots
from .plots_speed import draw_memory, draw_speed
from .report_speed import memory_section, speed_section
from .stored import read_reports
from .suites import OWN, OWN_TASK

FILE = "RESULTS.md"
UNITS = {"psnr": "PSNR, dB", "psnr inside": "inside the object, dB", "psnr outside": "outside, dB", "ssim": "SSIM"}
UNITS |= {"ssim gaussian": "SSIM, gaussian", "warp error": "warp error, 1e-3", "flicker": "flicker, 1e-3"}
UNITS |= {"tOF": "tOF, px"}
SCALE = {"warp error": 1e3, "flicker": 1e3}
DIGITS = {"psnr": 2, "psnr inside": 2, "psnr outside": 2, "ssim": 4, "ssim gaussian": 4}
SAME_TIME = 1.05  # seconds vary by so much from run to run
HEAD = """# Results

Made by `zero2hero bench`; do not edit, run it again. All figures of quality are of the bundled tiny models on tasks
that `zero2hero dataset` makes: they prove the method and compare settings, they say nothing of the real models.

Means are over the frames other than the anchor, then over clips; the spread after ± is the standard deviation over
clips. Below it stands the mean difference to the row in italics, clip by clip, with its standard deviation. Higher is
better for PSNR and SSIM, lower for warp error, flicker and tOF. Seconds are of one CPU thread, a frame; those of
trainings leave out the pictures that they start from.
"""


def revision() -> str:
    """The commit of the checkout that runs, with a + where it was changed; "unknown" outside one."""
    here = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "zero2hero_core")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def write_results(out: Path, report: dict[str, Any]) -> None:
    """Put a report's tables among those of earlier runs in out/results, draw plots, write out/RESULTS.md."""
    out.joinpath("results").mkdir(parents=True, exist_ok=True)
    path = out / "results" / f"quality_{report['suite']}.json"
    known = json.loads(path.read_text(encoding="utf-8"))["tables"] if path.exists() else []
    tables = {table["name"]: table for table in known}
    for table in report["tables"]:
        tables[table["name"]] = table | {"commit": revision(), "machine": platform.machine()}
    _write(path, json.dumps({"suite": report["suite"], "tables": list(tables.values())}, indent=1) + "\n")
    write_page(out)


def write_page(out: Path) -> None:
    """RESULTS.md and its plots from what lies in out/results."""
    parts = [HEAD]
    for path in sorted((out / "results").glob("quality_*.json")):
        stored = json.loads(path.read_text(encoding="utf-8"))
        plots = draw_plots(out / "plots", stored["suite"], stored["tables"])
        parts.append(f"# Suite {stored['suite']}\n")
        for table in stored["tables"]:
            why = out / "diagnoses" / f"{stored['suite']}_{table['name']}.md"
            text = why.read_text(encoding="utf-8") if why.exists() else ""
            parts.append(section(stored["suite"], table, plots.get(table["name"], []), text))
    if speed := read_reports(out, "speed"):
        parts.append(speed_section(speed, draw_speed(out / "plots", speed)))
    if memory := read_reports(out, "memory"):
        parts.append(memory_section(memory, draw_memory(out / "plots", memory)))
    _write(out / FILE, "\n".join(parts))


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def section(suite: str, table: dict[str, Any], plots: list[str], why: str = "") -> str:
    """One table as Markdown. why: what people found out about its losses, kept in out/diagnoses."""
    frames = "all frames" if table["frames"] is None else f"frames {', '.join(map(str, table['frames']))}"
    command = f"zero2hero bench quality --suite {suite} --work runs/bench --out benchmarks --tables {table['name']}"
    if table["name"] == OWN:
        command += " --own-clips " + " ".join(f"{name.removeprefix(f'{OWN_TASK}-')}.mp4" for name in table["clips"])
    else:
        command += f" --clips {len(table['clips'])} --seeds {table['seeds']}"
    some_row = next(label for label in table["rows"] if label != table["base"])
    clips, seeds = (f"{count} {word}{'s' * (count > 1)}" for count, word in counted(table))
    facts = f"{clips} ({', '.join(table['clips'])}), {frames}, {seeds}"
    lines = [
        f"## {table['title']}\n",
        f"{table['question']}\n",
        f"{facts}; commit {table.get('commit', 'unknown')}. One row (all of them without `--rows`):\n",
        f'    {command} --rows "{some_row}"\n',
        markdown(table),
        *losses(table),
        *gains(table),
        *([f"{why.strip()}\n"] if why else []),
        *(f"![{table['title']}]({plot})\n" for plot in [*plots, *table.get("pictures", [])]),
    ]
    return "\n".join(lines)


def counted(table: dict[str, Any]) -> tuple[tuple[int, str], tuple[int, str]]:
    """How many clips and seeds."""
    return (len(table["clips"]), "clip"), (table["seeds"], "seed")


def markdown(table: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    shown = [name for name in table["measures"] if any(_known(row, name) for row in table["rows"].values())]
    head = ["", *(UNITS[name] for name in shown), "s a frame"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for label, row in table["rows"].items():
        name = f"*{label}*" if label == table["base"] else label
        cells = [cell(row["values"][measure], measure, label == table["base"]) for measure in shown]
        lines.append("| " + " | ".join([name, *cells, f"{seconds_a_frame(table, row):.1f}"]) + " |")
    return "\n".join(lines) + "\n"


def seconds_a_frame(table: dict[str, Any], row: dict[str, Any]) -> float:
    """Seconds of the whole method, shared out over its frames."""
    count = len(table["frames"]) if table["frames"] else max(1, len(row["by frame"]))
    return row["seconds"].get("total", math.nan) / count


def _known(row: dict[str, Any], measure: str) -> bool:
    return row["values"][measure]["mean"] == row["values"][measure]["mean"]


def cell(value: dict[str, Any], measure: str, base: bool) -> str:
    """Mean and spread, and the difference to the base row."""
    if value["mean"] != value["mean"]:
        return "-"
    scale, digits = SCALE.get(measure, 1), DIGITS.get(measure, 2)

    def pair(mean: float, spread: float, sign: str = "") -> str:
        text = f"{mean * scale:{sign}.{digits}f}"
        return text if spread != spread else f"{text} ± {spread * scale:.{digits}f}"

    text = pair(value["mean"], value["spread"])
    return text if base else f"{text}<br>{pair(value['difference'], value['difference spread'], '+')}"


def losses(table: dict[str, Any]) -> list[str]:
    """Where another row beats the base row on average, said plainly."""
    found = []
    for measure in table["measures"]:
        better = [
            f"{label} by {abs(row['values'][measure]['difference']) * SCALE.get(measure, 1):.{DIGITS.get(measure, 2)}f}"
            for label, row in table["rows"].items()
            if (row["values"][measure]["difference"] < 0) is (measure in BETTER_LOW)
            and row["values"][measure]["difference"] != 0
            and _known(row, measure)
        ]
        if better:
            found.append(f"- {UNITS[measure]}: {'; '.join(better)}")
    if not found:
        return [f"No row is better than *{table['base']}* in any column.\n"]
    return [f"Better than *{table['base']}*:\n", *found, ""]


def gains(table: dict[str, Any]) -> list[str]:
    """Rows that beat the base row by more than the spread of the difference, and take no longer."""
    allowed = seconds_a_frame(table, table["rows"][table["base"]]) * SAME_TIME
    found = []
    for label, row in table["rows"].items():
        better = [
            UNITS[measure]
            for measure in table["measures"]
            if row["values"][measure]["difference"] * (-1 if measure in BETTER_LOW else 1)
            > row["values"][measure]["difference spread"]
        ]
        if better and seconds_a_frame(table, row) <= allowed:
            found.append(f"- {label}: {', '.join(better)}")
    return ["Better by more than the spread of the difference, in no more time:\n", *found, ""] if found else []


def table_text(table: dict[str, Any]) -> str:
    """A table for the terminal."""
    shown = [name for name in table["measures"] if any(_known(row, name) for row in table["rows"].values())]
    lines = [
        f"\n{table['title']} ({', '.join(f'{count} {word}' + 's' * (count > 1) for count, word in counted(table))})"
    ]
    lines.append(f"{'':42s}" + "".join(f"{name:>16s}" for name in shown))
    for label, row in table["rows"].items():
        values = [row["values"][name]["mean"] * SCALE.get(name, 1) for name in shown]
        digits = [DIGITS.get(name, 2) for name in shown]
        lines.append(f"{label:42s}" + "".join(f"{v:16.{d}f}" for v, d in zip(values, digits, strict=True)))
    return "\n".join(lines)
