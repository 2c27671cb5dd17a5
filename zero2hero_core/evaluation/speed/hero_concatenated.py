"""Masked concatenation: the authors' own way to run conditions, written plainly (paper, Hero-Stage; EasyControl).

One forward over [text, noise, condition 1, condition 2, ...]. Text and noise see everything, a condition sees itself
only; condition tokens are modulated with timestep 0, and the LoRA of a condition acts on its rows only. Nothing of it
can be kept from one step to the next.

This is what the condition passes of `dit.DiTBackbone` are checked and timed against; no result is made with it. It
calls the parts of the stock diffusers transformers one by one and uses neither their attention processors nor a hook.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ...attention.conditions import attend, from_tokens, position_ids, to_tokens
from ...backbones.flux.dit import DiTBackbone, TextEmbedding
from ...checks import InputError, ShapeError, check_shape

# (module name, condition index, its input rows) -> what the adapter adds to the output, or None where there is none
ConditionLoRA = Callable[[str, int, torch.Tensor], "torch.Tensor | None"]

FLUX1_MODULATIONS = {"image": "norm1", "text": "norm1_context", "single": "norm"}  # in each block
FLUX2_MODULATIONS = {  # one for all blocks
    "image": "double_stream_modulation_img",
    "text": "double_stream_modulation_txt",
    "single": "single_stream_modulation",
}
ADAPTED = ("to_q", "to_k", "to_v", "to_out.0", "to_qkv_mlp_proj", "to_out")  # attention layers that may carry LoRA


def peft_condition_lora(transformer: Any, adapters: Sequence[str] = ("condition_0", "condition_1")) -> ConditionLoRA:
    """What the peft LoRA adapters of a transformer add, as a function; which of them is switched on does not matter.

    Args: adapters: adapter name of condition 0, 1, ...
    Raises: InputError when an adapter is missing, or acts on a layer that the concatenation does not adapt.
    """
    layers = {name: module for name, module in transformer.named_modules() if hasattr(module, "lora_A")}
    for adapter in adapters:
        names = [name for name, module in layers.items() if adapter in module.lora_A]
        if not names:
            raise InputError(f"LoRA: expected an adapter '{adapter}' on {type(transformer).__name__}, found none.")
        for name in names:
            if ".attn." not in name or name.split(".attn.")[1] not in ADAPTED:
                raise InputError(f"LoRA '{adapter}': expected layers {', '.join(ADAPTED)} of attention, got {name}.")

    def added(name: str, index: int, rows: torch.Tensor) -> torch.Tensor | None:
        layer, adapter = layers.get(name), adapters[index]
        if layer is None or adapter not in layer.lora_A:
            return None
        down, up = layer.lora_A[adapter], layer.lora_B[adapter]
        low = down(layer.lora_dropout[adapter](rows.to(down.weight.dtype)))
        added: torch.Tensor = (up(low) * layer.scaling[adapter]).to(rows.dtype)
        return added

    return added


def concatenated_velocity(
    backbone: DiTBackbone,
    packed: torch.Tensor,
    sigma: torch.Tensor,
    conditions: Sequence[torch.Tensor],
    *,
    guidance: float | torch.Tensor,
    text: TextEmbedding | None = None,
    lora: ConditionLoRA | None = None,
    places: Sequence[int] | None = None,
    lora_on_all_rows: bool = False,
) -> torch.Tensor:
    """Flow-matching velocity of noisy packed latents (N, C, h, w), float32, with the conditions beside them.

    Args: sigma: (N,) in [0, 1]. conditions: packed latents, (N, C, h_i, w_i) each. lora: what the adapters add.
    places: index of each condition, which decides its time in the position ids; default 0, 1, ...
    lora_on_all_rows: compute every LoRA on all rows and mask the result, as the authors do; equal, at their cost.
    Raises: ShapeError when latents do not fit.
    """
    places = range(len(conditions)) if places is None else places
    if len(places) != len(conditions):
        raise InputError(f"places: expected one for each of {len(conditions)} conditions, got {len(places)}.")
    for name, grid in (("noisy latents", packed), *((f"condition {i}", c) for i, c in enumerate(conditions))):
        check_shape(name, grid, ("N", backbone.channels, "h", "w"))
        if len(grid) != len(packed):
            raise ShapeError(f"{name}: expected {len(packed)} images, got {len(grid)}.")
    run = _Concatenated(backbone, text or backbone.text, packed, conditions, lora, lora_on_all_rows)
    run.place_tokens(places)
    return run(sigma, guidance)


class _Concatenated:
    """One forward pass, in the order of the blocks. Rows: text, noise, conditions."""

    def __init__(
        self,
        backbone: DiTBackbone,
        text: TextEmbedding,
        packed: torch.Tensor,
        conditions: Sequence[torch.Tensor],
        lora: ConditionLoRA | None,
        lora_on_all_rows: bool,
    ):
        self.backbone, self.model, self.lora, self.all_rows = backbone, backbone.transformer, lora, lora_on_all_rows
        self.is_flux2 = hasattr(self.model, "double_stream_modulation_img")
        self.latents = [x.to(backbone.device, backbone.dtype) for x in (packed, *conditions)]
        self.grids = [(x.shape[2], x.shape[3]) for x in self.latents]
        self.noise, *self.sizes = [h * w for h, w in self.grids]
        self.words = text.tokens.to(self.latents[0]).expand(len(packed), -1, -1)
        self.pooled, self.text = text.pooled, self.words.shape[1]

    def place_tokens(self, places: Sequence[int]) -> None:
        """Rotary embedding of all rows; whose row each is; the mask as a bias on the scores (rows, rows)."""
        family, noisy = self.backbone.family, self.grids[0]
        ids = [torch.zeros(self.text, family.axes), position_ids(noisy, family.axes)]
        if family.numbers_text:
            ids[0][:, -1] = torch.arange(self.text)
        for place, grid in zip(places, self.grids[1:], strict=True):
            ids.append(position_ids(grid, family.axes, like_hw=noisy, time=family.condition_times(place)))
        self.rotary = self.model.pos_embed(torch.cat(ids).to(self.backbone.device))
        owners = [torch.full((size,), index) for index, size in enumerate(self.sizes)]
        owner = torch.cat([torch.full((self.text + self.noise,), -1), *owners]).to(self.backbone.device)
        seen = (owner[:, None] == -1) | (owner[:, None] == owner[None, :])
        self.bias = torch.zeros_like(seen, dtype=self.backbone.dtype).masked_fill(~seen, float("-inf"))
        self.owner = owner[:, None]

    def __call__(self, sigma: torch.Tensor, guidance: float | torch.Tensor) -> torch.Tensor:
        """Velocity (N, C, h, w), float32."""
        model = self.model
        now, clean = (self.time_embedding(s.to(self.latents[0]), guidance) for s in (sigma, torch.zeros_like(sigma)))
        image = model.x_embedder(torch.cat([to_tokens(x) for x in self.latents], 1))
        words = model.context_embedder(self.words)
        for number, block in enumerate(model.transformer_blocks):
            image, words = self.double_block(f"transformer_blocks.{number}.attn", block, image, words, now, clean)
        rows = torch.cat([words, image], 1)
        for number, block in enumerate(model.single_transformer_blocks):
            rows = self.single_block(f"single_transformer_blocks.{number}.attn", block, rows, now, clean)
        noise = rows[:, self.text : self.text + self.noise]
        return from_tokens(model.proj_out(model.norm_out(noise, now)).float(), self.grids[0])

    def time_embedding(self, sigma: torch.Tensor, guidance: float | torch.Tensor) -> torch.Tensor:
        """Embedding (N, C) of noise level and guidance, and of the pooled text where the family has it."""
        times = [sigma * 1000]
        if getattr(self.model.config, "guidance_embeds", False):
            times.append((torch.as_tensor(guidance).to(sigma) * 1000).expand(len(sigma)))
        if self.is_flux2:
            time: torch.Tensor = self.model.time_guidance_embed(times[0], times[1] if len(times) > 1 else None)
            return time
        assert self.pooled is not None
        time_and_text: torch.Tensor = self.model.time_text_embed(*times, self.pooled.to(sigma).expand(len(sigma), -1))
        return time_and_text

    def modulation(self, block: Any, stream: str, now: torch.Tensor, clean: torch.Tensor) -> list[torch.Tensor]:
        """Shift, scale and gate of attention, then of the MLP in double blocks: (N, rows or 1, C) each."""
        if self.is_flux2:
            owner, names = self.model, FLUX2_MODULATIONS
        else:
            owner, names = block, FLUX1_MODULATIONS
        linear, parts = getattr(owner, names[stream]).linear, 3 if stream == "single" else 6
        main, conditions = (linear(torch.nn.functional.silu(x))[:, None].chunk(parts, -1) for x in (now, clean))
        if stream == "text" or not self.sizes:
            return list(main)
        count = self.noise + (self.text if stream == "single" else 0)
        sizes = (count, sum(self.sizes))
        return [
            torch.cat([x.expand(-1, size, -1) for x, size in zip(pair, sizes, strict=True)], 1)
            for pair in zip(main, conditions, strict=True)
        ]

    def linear(self, name: str, layer: Any, x: torch.Tensor) -> torch.Tensor:
        """A linear layer of the base model, plus each condition's LoRA on the condition's rows (the last ones of x)."""
        out: torch.Tensor = getattr(layer, "base_layer", layer)(x)
        if self.lora is None:
            return out
        before = x.shape[1] - sum(self.sizes)
        if self.all_rows:
            owner = self.owner[-x.shape[1] :]
            for index in range(len(self.sizes)):
                added = self.lora(name, index, x)
                out = out if added is None else out + added * (owner == index)
            return out
        parts = list(out.split([before, *self.sizes], 1))
        for index, rows in enumerate(x.split([before, *self.sizes], 1)[1:]):
            added = self.lora(name, index, rows)
            if added is not None:
                parts[index + 1] = parts[index + 1] + added
        return torch.cat(parts, 1)

    def attention(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Masked attention with rotary embedding: (N, heads, rows, d) -> (N, rows, heads * d)."""
        from diffusers.models.embeddings import apply_rotary_emb

        query, key = apply_rotary_emb(query, self.rotary), apply_rotary_emb(key, self.rotary)
        return attend(query, key, value, self.bias).transpose(1, 2).flatten(2)

    def double_block(
        self, name: str, block: Any, image: torch.Tensor, words: torch.Tensor, now: torch.Tensor, clean: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Image rows (noise, conditions) and text rows after one double block."""
        attn, text = block.attn, self.text
        mod, text_mod = (self.modulation(block, stream, now, clean) for stream in ("image", "text"))
        norm, text_norm = (getattr(x, "norm", x) for x in (block.norm1, block.norm1_context))
        x, y = norm(image) * (1 + mod[1]) + mod[0], text_norm(words) * (1 + text_mod[1]) + text_mod[0]

        def heads(rows: torch.Tensor) -> torch.Tensor:
            split: torch.Tensor = rows.unflatten(-1, (-1, attn.head_dim))
            return split.transpose(1, 2)

        q, k, v = (heads(self.linear(f"{name}.{n}", getattr(attn, n), x)) for n in ("to_q", "to_k", "to_v"))
        query = torch.cat([attn.norm_added_q(heads(attn.add_q_proj(y))), attn.norm_q(q)], 2)
        key = torch.cat([attn.norm_added_k(heads(attn.add_k_proj(y))), attn.norm_k(k)], 2)
        out = self.attention(query, key, torch.cat([heads(attn.add_v_proj(y)), v], 2))
        image = image + mod[2] * self.linear(f"{name}.to_out.0", attn.to_out[0], out[:, text:])
        words = words + text_mod[2] * attn.to_add_out(out[:, :text])
        image = image + mod[5] * block.ff(block.norm2(image) * (1 + mod[4]) + mod[3])
        words = words + text_mod[5] * block.ff_context(block.norm2_context(words) * (1 + text_mod[4]) + text_mod[3])
        return image, words

    def single_block(
        self, name: str, block: Any, rows: torch.Tensor, now: torch.Tensor, clean: torch.Tensor
    ) -> torch.Tensor:
        """All rows after one single block."""
        attn, (shift, scale, gate) = block.attn, self.modulation(block, "single", now, clean)
        x = getattr(block.norm, "norm", block.norm)(rows) * (1 + scale) + shift
        if self.is_flux2:
            joined, width = self.linear(f"{name}.to_qkv_mlp_proj", attn.to_qkv_mlp_proj, x), 3 * attn.inner_dim
            parts, mlp = joined[..., :width].chunk(3, -1), attn.mlp_act_fn(joined[..., width:])
        else:
            parts = tuple(self.linear(f"{name}.{n}", getattr(attn, n), x) for n in ("to_q", "to_k", "to_v"))
            mlp = block.act_mlp(block.proj_mlp(x))
        query, key, value = (part.unflatten(-1, (-1, attn.head_dim)).transpose(1, 2) for part in parts)
        out = torch.cat([self.attention(attn.norm_q(query), attn.norm_k(key), value), mlp], -1)
        if self.is_flux2:
            return rows + gate * self.linear(f"{name}.to_out", attn.to_out, out)
        return rows + gate * torch.as_tensor(block.proj_out(out))
