"""benchmarks/RESULTS.md: every figure with the command that makes it again."""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...files.json_file import finite, write_json
from ...files.whole import write_text
from ..quality.measures import BETTER_LOW, LPIPS, VBENCH
from ..quality.statistics import spread
from .markdown import some
from .markdown import table as markdown_table
from .plots import draw_plots
from .plots_speed import draw_memory, draw_speed
from .report_fidelity import FILE as FIDELITY
from .report_fidelity import fidelity_section
from .report_speed import memory_section, speed_section
from .stored import read_reports

FILE = "RESULTS.md"
UNITS = {"psnr": "PSNR, dB", "psnr inside": "inside the object, dB", "psnr outside": "outside, dB", "ssim": "SSIM"}
UNITS |= {"ssim gaussian": "SSIM, gaussian", "warp error": "warp error, 1e-3", "flicker": "flicker excess, 1e-3"}
UNITS |= {"tOF": "tOF, px", "lpips": "LPIPS", "lpips authors": "LPIPS (authors' form)"}
UNITS |= {"psnr anchor": "anchor, dB", "psnr last": "last frame, dB", "anchor - last": "anchor - last, dB"}
UNITS |= {"drift": "drift, dB", "colour drift": "drift of the mean colour, 1/255"}
UNITS |= {name: name for name in VBENCH}
SCALE = {"warp error": 1e3, "flicker": 1e3}
DIGITS = {"psnr": 2, "psnr inside": 2, "psnr outside": 2, "drift": 2, "colour drift": 2}
DIGITS |= dict.fromkeys(("ssim", "ssim gaussian", *LPIPS, *VBENCH), 4)
ENOUGH = 5  # clips, for a difference to count
HEAD = """# Results

Made by `zero2hero bench`; do not edit, run it again. All figures of quality are of the bundled tiny models on tasks
that `zero2hero dataset` makes: they prove the method and compare settings, they say nothing of the real models.

Means are over the frames other than the anchor, then over clips; the spread after ± is the standard deviation over
clips; in brackets, where several seeds ran, that of the seeds' means. Below it stands the mean difference to the row in
italics, clip by clip, with its standard deviation. Higher is better for PSNR, SSIM, and VBench's subject consistency
and motion smoothness (means over the whole clip); lower for LPIPS (on AlexNet, which its authors' form feeds half the
contrast), warp error, flicker excess and tOF (the last two against the truth, or against the original where only the
anchor has one), for what is lost from the anchor to the last frame, and for drift: how much PSNR falls, and how much
further off the mean colour goes, from the first painted key frame to the last. Seconds are of one CPU thread, a frame;
those of trainings leave out the pictures that they start from. Ablations of Zero-Stage change one setting at a time and
start, as the paper does, from the reference's statistics (AdaIN).
"""


def write_results(out: Path, report: dict[str, Any]) -> list[str]:
    """Put a report's tables among those of earlier runs in out/results, draw plots, write out/RESULTS.md; returns the
    names of tables that stay as they were, for they stand on more clips or seeds."""
    out.joinpath("results").mkdir(parents=True, exist_ok=True)
    path = out / "results" / f"quality_{report['suite']}.json"
    known = json.loads(path.read_text(encoding="utf-8"))["tables"] if path.exists() else []
    tables = {table["name"]: table for table in known}
    older = [
        new["name"]
        for new in report["tables"]
        if (old := tables.get(new["name"])) and (len(old["clips"]), old["seeds"]) > (len(new["clips"]), new["seeds"])
    ]
    for table in report["tables"]:
        if table["name"] not in older:
            tables[table["name"]] = table | {"machine": platform.machine()}
    write_json(path, {"suite": report["suite"], "tables": list(tables.values())})
    write_page(out)
    return older


def join_rows(out: Path, report: dict[str, Any], order: Mapping[str, Sequence[str]]) -> list[str]:
    """Put the rows of a report's tables into the tables that out/results holds, compared with the base rows there, and
    write out/RESULTS.md; returns the names of tables that stand on other clips or frames, or are not there.

    Args: order: the labels of each table's rows in their order.
    """
    path = out / "results" / f"quality_{report['suite']}.json"
    if not path.exists():
        return [table["name"] for table in report["tables"]]
    known = json.loads(path.read_text(encoding="utf-8"))["tables"]
    tables = {table["name"]: table for table in known}
    others = []
    for new in json.loads(json.dumps(finite(report["tables"]))):
        old = tables.get(new["name"])
        if old is None or any(old[name] != new[name] for name in ("clips", "frames", "measures")):
            others.append(new["name"])
            continue
        base = old["rows"][old["base"]]["values"]
        rows = old["rows"] | {label: _against(row, base) for label, row in new["rows"].items()}
        labels = [label for label in order[new["name"]] if label in rows]
        old["rows"] = {label: rows[label] for label in (*labels, *(label for label in rows if label not in labels))}
        old["commits"] = sorted({*old["commits"], *new["commits"]})
    write_json(path, {"suite": report["suite"], "tables": known})
    write_page(out)
    return others


def _against(row: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """A row with its differences to a base row, clip by clip."""
    values = {}
    for measure, value in row["values"].items():
        pairs = zip(value["clips"], base[measure]["clips"], strict=True)
        apart = [a - b for a, b in pairs if a is not None and b is not None]
        whole = len(apart) == len(value["clips"])
        difference = {"difference": _mean(apart), "difference spread": spread(apart)} if whole else {}
        values[measure] = value | {"difference": None, "difference spread": None} | difference
    return dict(finite(row | {"values": values}))


def write_page(out: Path) -> None:
    """RESULTS.md and its plots from what lies in out/results."""
    parts = [HEAD]
    reports = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted((out / "results").glob("quality_*.json"))
    ]
    if lacking := unmeasured([table for report in reports for table in report["tables"]]):
        parts.append(f"{lacking}\n")
    for report in reports:
        plots = draw_plots(out / "plots", report["suite"], report["tables"])
        parts.append(f"# Suite {report['suite']}\n")
        for table in report["tables"]:
            why = diagnosis(out / "diagnoses" / f"{report['suite']}_{table['name']}.md", table)
            parts.append(section(report["suite"], table, plots.get(table["name"], []), why))
    if (path := out / "results" / FIDELITY).exists():
        parts.append(fidelity_section(json.loads(path.read_text(encoding="utf-8"))))
    if speed := read_reports(out, "speed"):
        parts.append(speed_section(speed, draw_speed(out / "plots", speed)))
    if memory := read_reports(out, "memory"):
        parts.append(memory_section(memory, draw_memory(out / "plots", memory)))
    _write(out / FILE, "\n".join(parts))


def _write(path: Path, text: str) -> None:
    write_text(path, text)


def section(suite: str, table: dict[str, Any], plots: list[str], why: str = "") -> str:
    """One table as Markdown. why: what people found out about its losses, kept in out/diagnoses."""
    frames = "all frames" if table["frames"] is None else f"frames {', '.join(map(str, table['frames']))}"
    command = f"zero2hero bench quality --suite {suite} --work runs/bench --out benchmarks --tables {table['name']}"
    command += f" --clips {len(table['clips'])} --seeds {table['seeds']} {shlex.join(table['options'])}".rstrip()
    if "motion smoothness" in shown_measures(table):
        command += " --amt AMT"  # a checkout
    some_row = next(label for label in table["rows"] if label != table["base"])
    clips, seeds = (some(count, word) for count, word in counted(table))
    facts = f"{clips} ({', '.join(table['clips'])}), {frames}, {seeds}"
    lines = [
        f"## {table['title']}\n",
        f"{table['question']}\n",
        f"{facts}; {commits(table)}. One row (all of them without `--rows`):\n",
        f'    {command} --rows "{some_row}"\n',
        markdown(table),
        *(f"{label} was not measured: {reason}\n" for label, reason in table.get("not measured", {}).items()),
        *losses(table),
        *gains(table),
        *([f"{why.strip()}\n"] if why else []),
        *(f"![{table['title']}]({plot})\n" for plot in [*plots, *table.get("pictures", [])]),
    ]
    return "\n".join(lines)


def counted(table: dict[str, Any]) -> tuple[tuple[int, str], tuple[int, str]]:
    """How many clips and seeds."""
    return (len(table["clips"]), "clip"), (table["seeds"], "seed")


def shown_measures(table: dict[str, Any]) -> list[str]:
    """The measures that some row has."""
    return [name for name in table["measures"] if any(_known(row, name) for row in table["rows"].values())]


def unmeasured(tables: Sequence[dict[str, Any]]) -> str:
    """Which learned measures tables lack, and why, in one line; empty where they lack none."""
    columns: dict[str, list[str]] = {}
    for table in tables:
        for measure, reason in table.get("columns not measured", {}).items():
            columns.setdefault(reason, []).append(UNITS[measure])
    if not columns:
        return ""
    parts = (f"{', '.join(dict.fromkeys(names))}: {reason}" for reason, names in columns.items())
    return f"Not measured where a table does not show it: {' '.join(parts)}"


def markdown(table: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    measures = shown_measures(table)
    head = ["", *(UNITS[name] for name in measures), "s a frame"]
    lines = []
    for label, row in table["rows"].items():
        name = f"*{label}*" if label == table["base"] else label
        cells = [cell(row["values"][measure], measure, label == table["base"]) for measure in measures]
        lines.append([name, *cells, f"{_mean(row['seconds a frame']):.1f}"])
    return markdown_table(head, lines)


def commits(table: dict[str, Any]) -> str:
    """Which code made the figures."""
    return f"commit{'s' * (len(table['commits']) > 1)} {', '.join(table['commits'])}"


def diagnosis(path: Path, table: dict[str, Any]) -> str:
    """What people found out about a table, kept beside it. Its first line names the commits of the figures that it was
    written for; where others have come since, that is said."""
    if not path.exists():
        return ""
    about, _, text = path.read_text(encoding="utf-8").partition("\n")
    now = commits(table)
    return text if about.strip() == now else f"(Written for earlier figures, of {about.strip()}.)\n\n{text.strip()}"


def _known(row: dict[str, Any], measure: str) -> bool:
    return row["values"][measure]["mean"] is not None


def _compared(row: dict[str, Any], measure: str) -> bool:
    return row["values"][measure]["difference"] is not None


def cell(value: dict[str, Any], measure: str, base: bool) -> str:
    """Mean and spread, and the difference to the base row."""
    if value["mean"] is None:
        return "-"
    scale, digits = SCALE.get(measure, 1), DIGITS.get(measure, 2)

    def pair(mean: float, spread: float | None, sign: str = "") -> str:
        text = f"{mean * scale:{sign}.{digits}f}"
        return text if spread is None else f"{text} ± {spread * scale:.{digits}f}"

    text = pair(value["mean"], value["spread"])
    if value["seeds"] is not None:
        text += f" ({value['seeds'] * scale:.{digits}f})"
    if base or value["difference"] is None:
        return text
    return f"{text}<br>{pair(value['difference'], value['difference spread'], '+')}"


def losses(table: dict[str, Any]) -> list[str]:
    """Where another row beats the base row on average, said plainly."""
    lines = []
    for measure in table["measures"]:
        better = [
            f"{label} by {abs(row['values'][measure]['difference']) * SCALE.get(measure, 1):.{DIGITS.get(measure, 2)}f}"
            for label, row in table["rows"].items()
            if _compared(row, measure)
            and (row["values"][measure]["difference"] < 0) is (measure in BETTER_LOW)
            and row["values"][measure]["difference"] != 0
        ]
        if better:
            lines.append(f"- {UNITS[measure]}: {'; '.join(better)}")
    if not lines:
        return [f"No row is better than *{table['base']}* in any column.\n"]
    return [f"Better than *{table['base']}*:\n", *lines, ""]


def gains(table: dict[str, Any]) -> list[str]:
    """Rows that beat the base row by more than the spread of the difference over clips, in no more time (but for the
    spread of that). Fewer than five clips say nothing."""
    if len(table["clips"]) < ENOUGH:
        return []
    base, lines = table["rows"][table["base"]]["seconds a frame"], []
    for label, row in table["rows"].items():
        better = [
            UNITS[measure]
            for measure in table["measures"]
            if _compared(row, measure)
            and row["values"][measure]["difference"] * (-1 if measure in BETTER_LOW else 1)
            > row["values"][measure]["difference spread"]
        ]
        slower = [mine - its for mine, its in zip(row["seconds a frame"], base, strict=True)]
        if better and _mean(slower) <= spread(slower):
            lines.append(f"- {label}: {', '.join(better)}")
    return ["Better by more than the spread of the difference, in no more time:\n", *lines, ""] if lines else []


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def table_text(table: dict[str, Any]) -> str:
    """A table for the terminal."""
    wide = {name: max(16, len(name) + 2) for name in shown_measures(table)}
    lines = [f"\n{table['title']} ({', '.join(some(count, word) for count, word in counted(table))})"]
    lines.append(f"{'':42s}" + "".join(f"{name:>{width}s}" for name, width in wide.items()))
    for label, row in table["rows"].items():
        cells = [
            f"{row['values'][name]['mean'] * SCALE.get(name, 1):.{DIGITS.get(name, 2)}f}" if _known(row, name) else "-"
            for name in wide
        ]
        lines.append(f"{label:42s}" + "".join(f"{cell:>{wide[name]}s}" for name, cell in zip(wide, cells, strict=True)))
    lines += [f"{label:42s} not measured: {reason}" for label, reason in table.get("not measured", {}).items()]
    return "\n".join(lines)
