"""How an edit is carried from its key frame to other frames."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..checks import InputError, check_range, setting
from .blending import BlendSettings
from .change import ChangeSettings, Operator
from .names import ENGINES, Engine
from .patch_carry import CarrySettings


@dataclass(frozen=True)
class PropagationSettings:
    """Which engine carries, and how.

    engine: "auto" puts what the edit did onto each frame's own pixels, mixed at each place by what the edit kept of the
    frame there (`propagation.change`); "change" is its plain form, the difference; "flow" moves the edit's pixels along
    the optical flow; "patch" moves patches of the edit so that they fit the frame.
    flow_side: longest side, in pixels, of the pictures that motion is found on.
    cuts: look for cuts, which nothing is carried across.
    round_trip: keys, too, get what was carried from them to another frame and back, worn as all others, where they
    would get the edit itself: for what is to learn from the wear.
    blending: of two keys.
    """

    engine: Engine = "auto"
    flow_side: int = 960
    seed: int = 0
    cuts: bool = True
    round_trip: bool = False
    change: ChangeSettings = field(default_factory=ChangeSettings)
    patch: CarrySettings = field(default_factory=CarrySettings)
    blending: BlendSettings = field(default_factory=BlendSettings)

    @property
    def operator(self) -> Operator:
        """How the engines that are no patches carry the change."""
        if self.engine == "flow":
            return "pixels"
        plain = self.engine == "change" and self.change.operator == "auto"
        return "difference" if plain else self.change.operator

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise InputError(f"{setting('engine')}: expected one of {', '.join(ENGINES)}, got {self.engine!r}.")
        check_range("flow_side", self.flow_side, 64, 16384)
