"""The section of fidelity-oriented encoding on the page of results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..quality.statistics import spread
from .markdown import table

FILE = "fidelity.json"
SHOWN = (1, 2, 5, 10, 20)  # rounds
_NAMES = {"0.0": "plain encoding", "0.5": "half of the loss made up for", "1.0": "**fidelity-oriented encoding (E*)**"}


def fidelity_section(report: Mapping[str, Any]) -> str:
    """The section, in Markdown."""
    return "\n".join(
        [
            "# Fidelity-oriented encoding",
            "",
            "Mean squared error to the start, 1e-3, after rounds of encoding and decoding: "
            f"{report['clips']} held-out rendered pictures of {report['size']} pixels, mean ± standard deviation. The "
            f"bundled autoencoder loses nothing after its first round; this one is of Stable Diffusion's class, with "
            f"{report['parameters']} parameters, trained for {report['steps']} steps on rendered scenes (commit "
            f"{report['commit']}).",
            "",
            rounds_text(report),
            "",
            "Made by `zero2hero bench fidelity --out benchmarks`.",
            "",
        ]
    )


def rounds_text(report: Mapping[str, Any]) -> str:
    """The table, in Markdown."""
    rounds = [number for number in SHOWN if number <= len(next(iter(report["rows"].values())))]
    head = ["encoding", *(f"{number} round{'s' * (number > 1)}" for number in rounds)]
    return table(head, [[_NAMES[name], *(_cell(row[n - 1]) for n in rounds)] for name, row in report["rows"].items()])


def _cell(errors: list[float]) -> str:
    return f"{1e3 * sum(errors) / len(errors):.1f} ± {1e3 * spread(errors):.1f}"
