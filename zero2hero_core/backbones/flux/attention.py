"""Attention processors of the FLUX families that hand query, key and value to a hook.

FLUX.1 and FLUX.2 share the joint attention of the double blocks. The single blocks differ: FLUX.1's attention has
linear layers of its own and no output projection, FLUX.2's reads and writes through projections shared with the MLP.
Both families rotate neighbouring channels and put text rows first.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch

from ...attention.conditions import attend as attend  # measured by `evaluation.speed`, which puts its own here
from ...attention.protocol import AttentionHook, HookSlot
from ...checks import InputError

FROM_SLOT: Any = object()  # stands for whatever hook the slot holds at the time


class Rotary:
    """Rotary embedding of queries and keys. All layers of a pass get the same cosines and sines, so that they are made
    into complex numbers once."""

    def __init__(self) -> None:
        self._of: weakref.ref[torch.Tensor] | None = None
        self._turns: torch.Tensor

    def turns(self, rotary: tuple[torch.Tensor, torch.Tensor], device: torch.device) -> torch.Tensor:
        """Cosines and sines (N, d), each held twice in a row, as complex numbers (N, d / 2)."""
        if self._of is None or self._of() is not rotary[0] or self._turns.device != device:
            cos, sin = (part.to(device)[..., ::2].float().contiguous() for part in rotary)
            self._of, self._turns = weakref.ref(rotary[0]), torch.complex(cos, sin)
        return self._turns

    @staticmethod
    def turn(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
        """Rotated (B, heads, N, d): neighbouring channels are a complex number, turned by one product."""
        pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)


class HookedJointAttention:
    """Processor of the attention modules that diffusers' FLUX blocks share: joint with text, or on one stream."""

    def __init__(self, layer: int, slot: HookSlot, rotary: Rotary):
        self.layer, self.slot, self.rotary = layer, slot, rotary

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
        hook: Any = FROM_SLOT,
        **_: Any,
    ) -> Any:
        """Image stream (B, N, C), and the text stream (B, T, C) in double blocks."""

        def heads(x: torch.Tensor) -> torch.Tensor:
            split: torch.Tensor = x.unflatten(-1, (-1, attn.head_dim)).transpose(1, 2)
            return split

        hook = self.slot.hook if hook is FROM_SLOT else hook
        needs_query = hook is None or "query" in hook.needs(self.layer)
        query = attn.norm_q(heads(attn.to_q(hidden_states))) if needs_query else None
        key = attn.norm_k(heads(attn.to_k(hidden_states)))
        value = heads(attn.to_v(hidden_states))
        text = 0 if encoder_hidden_states is None else encoder_hidden_states.shape[1]
        if encoder_hidden_states is not None:
            if query is not None:
                query = torch.cat([attn.norm_added_q(heads(attn.add_q_proj(encoder_hidden_states))), query], 2)
            key = torch.cat([attn.norm_added_k(heads(attn.add_k_proj(encoder_hidden_states))), key], 2)
            value = torch.cat([heads(attn.add_v_proj(encoder_hidden_states)), value], 2)
        out = self.attend(query, key, value, attention_mask, image_rotary_emb, hook)
        if encoder_hidden_states is None:
            return out
        return attn.to_out[1](attn.to_out[0](out[:, text:])), attn.to_add_out(out[:, :text])

    def attend(
        self,
        query: torch.Tensor | None,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        rotary: tuple[torch.Tensor, torch.Tensor] | None,
        hook: AttentionHook | None,
    ) -> torch.Tensor:
        """Rotary embedding and the hook's attention, or plain attention when there is none: (B, heads, N, d) ->
        (B, N, heads * d)."""
        if rotary is not None:
            turns = self.rotary.turns(rotary, key.device)
            query, key = query if query is None else Rotary.turn(query, turns), Rotary.turn(key, turns)
        if hook is None:
            assert query is not None
            out = attend(query, key, value, mask)
        else:
            out = hook(self.layer, query, key, value.to(key.dtype))
        return out.transpose(1, 2).flatten(2).to(value.dtype)


class HookedParallelAttention(HookedJointAttention):
    """Processor of FLUX.2's single blocks: one projection into query, key, value and the MLP, and one out of both."""

    def __call__(  # type: ignore[override]  # these blocks have one stream
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
        hook: Any = FROM_SLOT,
        **_: Any,
    ) -> torch.Tensor:
        """Both streams, text rows first, (B, T + N, C)."""
        hook = self.slot.hook if hook is FROM_SLOT else hook
        projection = attn.to_qkv_mlp_proj(hidden_states)
        width = attn.inner_dim
        query, key, value, mlp = projection.split([width, width, width, projection.shape[-1] - 3 * width], -1)
        query, key, value = (x.unflatten(-1, (-1, attn.head_dim)).transpose(1, 2) for x in (query, key, value))
        out = self.attend(attn.norm_q(query), attn.norm_k(key), value, attention_mask, image_rotary_emb, hook)
        both: torch.Tensor = attn.to_out(torch.cat([out, attn.mlp_act_fn(mlp)], -1))
        return both


class _SendHook:
    """Sends the hook of a pass along with its arguments: gradient checkpointing runs blocks again in the backward
    pass, when the slot may hold another hook."""

    def __init__(self, slot: HookSlot):
        self.slot = slot

    def __call__(self, _module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        arguments = {**(kwargs.get("joint_attention_kwargs") or {}), "hook": self.slot.hook}
        return args, {**kwargs, "joint_attention_kwargs": arguments}


def attention_layers(transformer: Any) -> dict[int, Any]:
    """Attention modules by layer number: double blocks first, then single blocks.

    Raises: InputError when the model is not of the FLUX layout.
    """
    double = getattr(transformer, "transformer_blocks", None)
    single = getattr(transformer, "single_transformer_blocks", None)
    if double is None or single is None:
        raise InputError(
            f"Hero-Stage: expected a FLUX.1 or FLUX.2 transformer, got {type(transformer).__name__}; "
            "choose a model of these families."
        )
    return dict(enumerate([*(block.attn for block in double), *(block.attn for block in single)]))


def install_hooks(transformer: Any) -> HookSlot:
    """Put the hooked processors on a transformer (once); returns the slot that holds the running hook."""
    slot, rotary = HookSlot(), Rotary()
    for layer, attention in attention_layers(transformer).items():
        processor = getattr(attention, "processor", None)
        if isinstance(processor, HookedJointAttention):
            return processor.slot
        parallel = hasattr(attention, "to_qkv_mlp_proj")
        attention.set_processor((HookedParallelAttention if parallel else HookedJointAttention)(layer, slot, rotary))
    transformer.register_forward_pre_hook(_SendHook(slot), with_kwargs=True)
    return slot
