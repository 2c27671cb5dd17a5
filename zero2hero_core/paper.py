"""What the paper says (Zero-to-Hero, arXiv 2505.23134): modes of training, values of settings. Imports nothing."""

from __future__ import annotations

from typing import Any

# mode of training -> what its conditions show (Table 1)
MODES: dict[str, tuple[str, ...]] = {
    "explicit": ("zero", "frame"),
    "implicit": ("zero",),
    "zero-ref": ("zero",),
    "tgt-ref": ("frame",),
}
# settings of Zero-Stage; also what counts where a model advises nothing
ZERO: dict[str, Any] = {"timestep": 261, "block": 1, "ensemble": 8, "adain_start": True, "track": False}
# settings of the training of Hero-Stage
TRAINING: dict[str, Any] = {
    "rank": 128,
    "learning_rate": 1e-4,
    "decay": False,
    "batch": 1,
    "draws": 1,
    "crop": 1.0,
    "light": 0.0,
    "shift": 0,
    "high_noise": 0.0,
}
# settings of its sampling
RESTORING: dict[str, Any] = {"num_inference_steps": 25, "samples": 1}


def training_steps(mode: str) -> int:
    """Steps of the training in a mode: 400 with two conditions, 600 with one, which take the same time."""
    return 400 if len(MODES[mode]) > 1 else 600
