"""Which training steps a report of memory is about."""

from __future__ import annotations

from dataclasses import dataclass

from ...checks import InputError, setting
from ...hero_stage.memory.model_size import FLUX1_DEV, FLUX2_KLEIN_4B, ModelSize

GB = 10**9
MODELS = {
    "flux1": (FLUX1_DEV, ("nf4", "fp8")),
    "klein": (FLUX2_KLEIN_4B, ("bf16", "fp8", "nf4")),
}
# What the package promises at 512 px and rank 32, in GB.
BARS = {("FLUX.1-dev", "nf4"): 16, ("FLUX.2-klein-4B", "bf16"): 12, ("FLUX.2-klein-4B", "nf4"): 8}


@dataclass(frozen=True)
class MemoryCases:
    """Cases of a report: every weights form that a model is given in, at every size and rank.

    Args: models: of `MODELS`; sizes: sides of the pictures in pixels; ranks: of the LoRA; weights: some of the forms,
    None for all; count, measure: not only compute; device: a GPU, for measuring.
    Raises: InputError where no case is left.
    """

    models: tuple[str, ...] = tuple(MODELS)
    sizes: tuple[int, ...] = (256, 512, 768, 1024)
    ranks: tuple[int, ...] = (32, 128)
    weights: tuple[str, ...] | None = None
    count: bool = False
    measure: bool = False
    device: str = "cuda"

    def __post_init__(self) -> None:
        if not self.forms:
            known = {name: forms for name, (_, forms) in MODELS.items() if name in self.models}
            raise InputError(f"{setting('weights')}: expected some of {known}, got {' '.join(self.weights or ())}.")

    @property
    def forms(self) -> list[tuple[ModelSize, str]]:
        """Models with their weights forms."""
        chosen = [MODELS[name] for name in self.models]
        return [(size, form) for size, forms in chosen for form in forms if not self.weights or form in self.weights]

    @property
    def kind(self) -> str:
        """The surest way that is taken."""
        return "measured" if self.measure else "counted" if self.count else "computed"
