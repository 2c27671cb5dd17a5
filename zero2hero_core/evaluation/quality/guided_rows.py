"""The parts of Rerender-A-Video and FRESCO, switched on one after another: rows of their tables."""

from __future__ import annotations

from typing import Any

from .specs import Spec

STRIDE = tuple(range(0, 16, 3))  # key frames of 16
WITHOUT: dict[str, Any] = dict.fromkeys(("cross_window", "shape_window", "pixel_window", "colour_window"))
WITHOUT |= {"strength": 0.95}  # shape-aware fusion acts in the first tenth of the steps
CROSS = {"cross_window": (0.0, 1.0)}
SHAPE = CROSS | {"shape_window": (0.0, 0.1)}
PIXELS = SHAPE | {"pixel_window": (0.5, 0.8)}
RERENDER_ROWS = {
    "Keys alone": Spec("rerender", WITHOUT),
    "+ attention to anchor and previous": Spec("rerender", WITHOUT | CROSS),
    "+ shape-aware fusion": Spec("rerender", WITHOUT | SHAPE),
    "+ pixel-aware fusion, plain encoding": Spec("rerender", WITHOUT | PIXELS | {"pixel": {"compensation": 0.0}}),
    "+ fidelity-oriented encoding": Spec("rerender", WITHOUT | PIXELS),
    "+ AdaIN to the anchor": Spec("rerender", WITHOUT | PIXELS | {"colour_window": (0.8, 1.0)}),
}
FRESCO_PARTS = ("cross", "flow", "features")
FRESCO_ROWS = {
    "Keys alone": Spec("fresco"),
    "+ cross-frame attention": Spec("fresco", {"parts": ("cross",)}),
    "+ attention along the flow": Spec("fresco", {"parts": ("cross", "temporal")}),
    "+ attention by the original's likeness": Spec("fresco", {"parts": ("cross", "flow")}),
    "+ optimised features": Spec("fresco", {"parts": FRESCO_PARTS}),
    "+ still background": Spec("fresco", {"parts": FRESCO_PARTS, "foreground": True}),
    "optimised features, aligned pixels": Spec("fresco", {"parts": FRESCO_PARTS, "pixel_window": (0.5, 0.8)}),
    "cross-frame attention, optimised features": Spec("fresco", {"parts": ("cross", "features")}),
}
