"""Where guidances meet the host's UNet: patches of a MODEL that hand attention and features to the pass that runs.

Rows of the host's batch come in chunks, one for each entry of the positive or negative CONDITIONING; each chunk goes to
the guidances by itself, as the pass of its prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import comfy.ldm.modules.attention as attention
import torch

from ...zero2hero_core.attention.features import FeatureGuidance, guide_features
from ...zero2hero_core.attention.guidance import Guidance, GuidedPass, Pass
from ...zero2hero_core.checks import InputError
from .unet_checks import LAYERS

LEVELS = {0: 0, 3: 1, 6: 2, 9: 3}  # the host's output block -> level of the decoder that begins there


@dataclass(frozen=True)
class Guided:
    """The pass that is running, and what guides it."""

    now: Pass
    guidances: Sequence[Guidance] = ()
    features: Sequence[FeatureGuidance] = ()

    def for_chunk(self, conditional: bool) -> Pass:
        """The pass of one chunk of the batch."""
        return replace(self.now, conditional=conditional)


class GuidanceHooks:
    """The patches of one MODEL, and the pass that they work for; without one they leave everything as it is.

    The host deep-copies patches when a MODEL is cloned: a copy would part from the pass, so there is none.
    """

    guided: Guided | None = None

    def __deepcopy__(self, _memo: dict[int, Any]) -> GuidanceHooks:
        return self

    def install(self, model: Any) -> None:
        """Put the patches on a MODEL, a clone of the user's. Raises: InputError when another patch makes its output of
        decoder self-attention."""
        refuse_other_attention(model)
        for layer in LAYERS:
            model.set_model_attn1_replace(HookedAttention(layer, self), "output", layer, 0)
        patches = model.model_options["transformer_options"].setdefault("patches", {})
        others = [patch for patch in patches.get("output_block_patch", []) if not isinstance(patch, HookedFeatures)]
        patches["output_block_patch"] = [HookedFeatures(self), *others]  # before what others do to the same features

    @contextmanager
    def guide(self, guided: Guided) -> Iterator[None]:
        """Within the block, passes of the MODEL are guided."""
        before, self.guided = self.guided, guided
        try:
            yield
        finally:
            self.guided = before


class HookedAttention:
    """attn1 replacement of one layer: query, key and value come as (rows, N, heads * d)."""

    def __init__(self, layer: int, hooks: GuidanceHooks) -> None:
        self.layer, self.hooks = layer, hooks

    def __deepcopy__(self, _memo: dict[int, Any]) -> HookedAttention:
        return self

    def __call__(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, extra: dict[str, Any]
    ) -> torch.Tensor:
        guided = self.hooks.guided
        acts = guided is not None and any(
            guidance.role(self.layer, guided.now.step).value != "none" for guidance in guided.guidances
        )
        if guided is None or not acts:
            options = {"attn_precision": extra["attn_precision"], "transformer_options": extra}
            plain: torch.Tensor = attention.optimized_attention(query, key, value, extra["n_heads"], **options)
            return plain
        out = []
        chunks = extra["cond_or_uncond"]
        for number, one in enumerate(zip(*(tensor.chunk(len(chunks)) for tensor in (query, key, value)), strict=True)):
            hook = GuidedPass(guided.guidances, guided.for_chunk(chunks[number] == 0))
            heads = [tensor.unflatten(-1, (extra["n_heads"], -1)).transpose(1, 2) for tensor in one]
            out.append(hook(self.layer, *heads).transpose(1, 2).flatten(2).to(value.dtype))
        return torch.cat(out)


class HookedFeatures:
    """Output block patch: features that enter a level of the decoder, before the skip is joined to them."""

    def __init__(self, hooks: GuidanceHooks) -> None:
        self.hooks = hooks

    def __deepcopy__(self, _memo: dict[int, Any]) -> HookedFeatures:
        return self

    def __call__(
        self, features: torch.Tensor, skip: torch.Tensor, options: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        guided, (kind, block) = self.hooks.guided, options["block"]
        if guided is None or kind != "output" or block not in LEVELS:
            return features, skip
        level = LEVELS[block]
        if not any(guidance.acts(level, guided.now.step) for guidance in guided.features):
            return features, skip
        chunks = options["cond_or_uncond"]
        parts = [
            guide_features(guided.features, guided.for_chunk(chunks[number] == 0), level, one)
            for number, one in enumerate(features.chunk(len(chunks)))
        ]
        return torch.cat(parts), skip


def refuse_context_windows(model_options: dict[str, Any]) -> None:
    """Raise `InputError` when a node cuts the batch into windows."""
    if model_options.get("context_handler") is not None:
        raise InputError(
            "model: context windows cut the frames into parts that this guidance would not see whole; leave the "
            "context-window node out, or paint fewer frames at once."
        )


def refuse_other_attention(model: Any) -> None:
    """Raise `InputError` when a patch that is not ours makes the output of self-attention in the decoder: the host
    keeps one for each layer, so the other would be lost without a word."""
    replaced = model.model_options.get("transformer_options", {}).get("patches_replace", {}).get("attn1", {})
    for place, patch in replaced.items():
        if place[0] == "output" and place[1] in LAYERS and not isinstance(patch, HookedAttention):
            name = getattr(patch, "__qualname__", type(patch).__qualname__).split(".")[0]
            raise InputError(
                f"model: another node ({name}) already makes the output of self-attention in layer {place[1]}; leave "
                "that node out, or this one."
            )
