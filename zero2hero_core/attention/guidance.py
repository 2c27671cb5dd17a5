"""A list of guidances on the attention of one pass: each says by layer and step what it does and what it reads.

The model sees one hook (`AttentionHook`). Inside it the guidances that act in a layer wrap each other like shells: each
is handed query, key and value and `following`, which is what lies inside it, and may change what it hands on and what
comes back. Innermost is the one guidance that makes the output by itself, or else plain self-attention.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial

import torch
import torch.nn.functional as F

from ..checks import InputError
from .protocol import ALL, Attention

NOTHING: frozenset[str] = frozenset()
OUTPUT = "output"


@dataclass(frozen=True)
class Pass:
    """The pass of the model that is running.

    step: its place in the sampling, from 0 (most noise) up; an inversion goes through the same steps backwards.
    timestep: training timestep 0..T-1. frames: places in the clip of the rows of the batch; none in an inversion.
    size_hw: of the latents. conditional: False for the second pass of classifier-free guidance, which has the empty
    prompt.
    """

    step: int
    timestep: int
    frames: tuple[int, ...]
    size_hw: tuple[int, int]
    conditional: bool = True


class Role(Enum):
    """What a guidance does in a layer at a step: nothing, so that it is not called; hand on to what follows; or make
    the output by itself."""

    NONE = "none"
    CHAIN = "chain"
    OUTPUT = "output"


class Guidance:
    """One way of guiding the attention of a sampling; as it stands here it does nothing.

    Of several in a list, earlier ones lie outside later ones; the one that makes the output lies innermost, wherever
    it stands. Rows of a batch are frames (`Pass.frames`), so a guidance may share keys and values between them.
    """

    name = "guidance"  # what messages call it

    def role(self, layer: int, step: int) -> Role:
        """What it does in a layer at a step."""
        return Role.NONE

    def needs(self, layer: int, step: int) -> frozenset[str]:
        """Which of "query", "key", "value" it reads. What nobody in the layer reads is not computed, and is None."""
        return NOTHING

    def changes(self, layer: int, step: int) -> frozenset[str]:
        """Which of "query", "key", "value" it hands on changed; "output" if it changes what comes back."""
        return NOTHING

    def attend(
        self,
        now: Pass,
        layer: int,
        query: torch.Tensor | None,
        key: torch.Tensor | None,
        value: torch.Tensor | None,
        following: Attention,
    ) -> torch.Tensor:
        """Attention output (B, heads, N, head_dim), of the query's shape; called where the role is not NONE."""
        return following(layer, query, key, value)


def plain_attention(
    layer: int, query: torch.Tensor | None, key: torch.Tensor | None, value: torch.Tensor | None
) -> torch.Tensor:
    """Self-attention (B, heads, N, head_dim), which is what a layer does without a guidance."""
    assert query is not None and key is not None and value is not None
    return F.scaled_dot_product_attention(query, key, value)


class GuidedPass:
    """The hook of one pass, made of a list of guidances."""

    def __init__(self, guidances: Sequence[Guidance], now: Pass):
        self.guidances, self.now = guidances, now

    def needs(self, layer: int) -> frozenset[str]:
        """Everything that the guidances of the layer read, and plain attention where none of them makes the output."""
        return _needs(_shells(self.guidances, layer, self.now.step), layer, self.now.step)

    def __call__(
        self, layer: int, query: torch.Tensor | None, key: torch.Tensor | None, value: torch.Tensor | None
    ) -> torch.Tensor:
        """Attention output (B, heads, N, head_dim)."""
        attend: Attention = plain_attention
        for guidance in reversed(_shells(self.guidances, layer, self.now.step)):
            attend = partial(guidance.attend, self.now, following=attend)
        return attend(layer, query, key, value)


def _shells(guidances: Sequence[Guidance], layer: int, step: int) -> list[Guidance]:
    """The guidances that act, from the outermost to the innermost."""
    roles = [(guidance, guidance.role(layer, step)) for guidance in guidances]
    return [guidance for kind in (Role.CHAIN, Role.OUTPUT) for guidance, role in roles if role is kind]


def _needs(shells: Sequence[Guidance], layer: int, step: int) -> frozenset[str]:
    """What shells read, with the plain attention inside them."""
    makes_output = bool(shells) and shells[-1].role(layer, step) is Role.OUTPUT
    return NOTHING.union(NOTHING if makes_output else ALL, *(shell.needs(layer, step) for shell in shells))


def check_guidances(guidances: Sequence[Guidance], layers: Iterable[int], steps: int) -> None:
    """Raise `InputError` where the work of a guidance would be lost: two make the output of a layer at a step, or one
    hands on changed what nobody inside it reads."""
    for layer in layers:
        for step in range(steps):
            shells = _shells(guidances, layer, step)
            makers = [shell.name for shell in shells if shell.role(layer, step) is Role.OUTPUT]
            where = f"in layer {layer} at step {step + 1} of {steps}"
            if len(makers) > 1:
                raise InputError(
                    f"guidances: {' and '.join(makers)} both make the attention's output {where}; give them different "
                    "layers or steps, or leave one out."
                )
            for place, shell in enumerate(shells):
                changes = shell.changes(layer, step)
                inside = _needs(shells[place + 1 :], layer, step)
                if changes and OUTPUT not in changes and not changes & inside:
                    raise InputError(
                        f"guidances: {shell.name} changes {' and '.join(sorted(changes))} {where}, which "
                        f"{shells[-1].name} does not read there; give them different layers or steps."
                    )
