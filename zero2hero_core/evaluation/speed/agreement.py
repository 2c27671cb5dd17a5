"""Whether both sides of a row of speed compute the same; the times of a row whose sides do not are worth nothing."""

from __future__ import annotations

from typing import Any

# Largest difference of the two sides. Hero-Stage's is relative, of losses or latents; each precision has its own.
HERO = {"float32": 1e-4, "bfloat16": 5e-2}
# Zero-Stage's is the mean over pixels in [0, 1]. Rounding alone gives 1e-7 on a CPU, other feature noise 4e-3; a GPU
# rounds the inputs of its convolutions (TF32), and a match between near equals may fall the other way.
# A GPU's limit is a guess: none was at hand.
ZERO = {"cpu": 1e-4, "cuda": 1e-3}


def disagreement(row: dict[str, Any]) -> str | None:
    """What is wrong where the two sides of a row do not compute the same."""
    if not row["sides"]:  # only counted
        return None
    limit = ZERO[row["device"]] if row["part"] == "zero" else HERO[row["settings"]["dtype"]]
    if row["difference"] <= limit:
        return None
    draws = f", {row['draws']} noise levels" if "draws" in row else ""
    what = f"{row['model']}, {row['what']}, {row['size']} px{draws}"
    return f"{what}: the two sides differ by {row['difference']:.1e}; the times are worth nothing."
