"""Prompts: the CLIP text encoders of SD 1.x and 2.x, and the empty prompt without a tokenizer.

The two families differ in three ways. SD 1.x: CLIP ViT-L, quick GELU, all 12 layers, padded with the end token.
SD 2.x: OpenCLIP ViT-H, GELU, 23 of its 24 layers followed by the final norm (the "penultimate layer"), padded with
token 0. Begin and end tokens are the last two of the vocabulary (49406, 49407) in both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...checks import InputError, check_shape
from ..weights import Source, Weights, fill_module, open_component, open_weights, read_json

EMBEDDING_KEY = "empty_embedding"
_CLIP_PREFIXES = ("cond_stage_model.transformer.text_model.", "cond_stage_model.transformer.")
_OPEN_CLIP_PREFIXES = ("cond_stage_model.model.", "conditioner.embedders.0.model.")
_OPEN_CLIP_LAYERS = 23
# Stored beside the encoder in some files, and not part of it.
_NOT_WEIGHTS = ("position_ids", "logit_scale", "text_projection", "text_projection.weight", "attn_mask")
_OPEN_CLIP_NAMES = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


class PromptEncoder:
    """Turns prompts into the text context of the UNet.

    Without a tokenizer it knows one prompt, the empty one.
    """

    def __init__(self, text_encoder: Any, tokenizer: Any = None, *, pad_with_end: bool = True) -> None:
        """Keep the parts.

        Args:
            text_encoder: a `CLIPTextModel`.
            tokenizer: a `CLIPTokenizer`, or None.
            pad_with_end: pad with the end token (SD 1.x) or with token 0 (SD 2.x); a tokenizer pads by its own rule.
        """
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.pad_with_end = pad_with_end

    @property
    def length(self) -> int:
        """Number of tokens of a context, 77 in SD."""
        return int(self.text_encoder.config.max_position_embeddings)

    def tokens(self, prompts: Sequence[str]) -> torch.Tensor:
        """Return the token ids (B, L) of prompts.

        Raises:
            InputError: a prompt that is not empty and no tokenizer, or a prompt of more than L - 2 tokens.
        """
        if self.tokenizer is not None:
            rows = self.tokenizer(
                list(prompts), padding="max_length", max_length=self.length, truncation=False
            ).input_ids
            longest = max(len(ids) for ids in rows)
            if longest > self.length:
                raise InputError(f"prompt: expected at most {self.length - 2} tokens, got {longest - 2}; shorten it.")
            return torch.tensor(rows, dtype=torch.long)
        spoken = [prompt for prompt in prompts if prompt.strip()]
        if spoken:
            raise InputError(
                f"prompt '{spoken[0]}': these weights come without a tokenizer, and only the empty prompt "
                "needs none; give the tokenizer folder or leave the prompt empty."
            )
        end = int(self.text_encoder.config.vocab_size) - 1
        ids = torch.full((len(prompts), self.length), end if self.pad_with_end else 0, dtype=torch.long)
        ids[:, 0], ids[:, 1] = end - 1, end
        return ids

    @torch.no_grad()
    def encode(self, prompts: str | Sequence[str]) -> torch.Tensor:
        """Return the text context (B, L, D) of one prompt or several, in the encoder's dtype and on its device.

        Raises:
            InputError: see `tokens`; or no prompt at all.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not prompts:
            raise InputError("prompts: expected at least one, got none; give an empty string for the empty prompt.")
        device = next(self.text_encoder.parameters()).device
        states: torch.Tensor = self.text_encoder(self.tokens(prompts).to(device)).last_hidden_state
        return states

    __call__ = encode


def text_encoder_in_file(weights: Weights, *, device: torch.device, dtype: torch.dtype) -> PromptEncoder | None:
    """Return the prompt encoder (no tokenizer) of a single-file checkpoint, or None if it holds none.

    Raises:
        InputError: the encoder is incomplete or of another shape.
    """
    open_clip = True
    prefix = next((p for p in _OPEN_CLIP_PREFIXES if f"{p}token_embedding.weight" in weights.shapes), None)
    if prefix is None:
        open_clip = False
        prefix = next((p for p in _CLIP_PREFIXES if f"{p}embeddings.token_embedding.weight" in weights.shapes), None)
    if prefix is None:
        return None
    config = text_config(weights, prefix, open_clip=open_clip)
    model = _clip_on_meta(config)
    sources = {name: text_source(name, prefix, open_clip=open_clip) for name in model.state_dict()}
    names = [
        key
        for key in weights.under(prefix)
        if not key.endswith(_NOT_WEIGHTS)
        and not ((m := re.search(r"\.resblocks\.(\d+)\.", key)) and int(m[1]) >= config["num_hidden_layers"])
    ]
    _fill(model, sources, weights, names, device, dtype)
    return PromptEncoder(model, pad_with_end=not open_clip)


def text_encoder_in_folder(
    folder: Path, tokenizer_folder: Path | None, *, device: torch.device, dtype: torch.dtype
) -> PromptEncoder:
    """Return the prompt encoder of a diffusers folder.

    Args:
        folder: MODEL/text_encoder.
        tokenizer_folder: MODEL/tokenizer, or None.
        device, dtype: of the encoder.

    Raises:
        InputError: another kind of encoder, incomplete weights, or what `load_tokenizer` refuses.
    """
    config = read_json(folder / "config.json")
    kinds = config.get("architectures") or ["CLIPTextModel"]
    if kinds != ["CLIPTextModel"]:
        raise InputError(
            f"{folder}: expected a CLIPTextModel, got {', '.join(map(str, kinds))}; choose an SD 1.5 or 2.1."
        )
    weights = open_component(folder, "model")
    model = _clip_on_meta(config)
    sources = {}
    for name in model.state_dict():
        bare = name.removeprefix("text_model.")  # transformers 5.6 dropped this prefix; files have either
        sources[name] = Source(bare if bare in weights.shapes else f"text_model.{bare}")
    names = [key for key in weights.shapes if not key.endswith(_NOT_WEIGHTS)]
    _fill(model, sources, weights, names, device, dtype)
    tokenizer = None if tokenizer_folder is None else load_tokenizer(tokenizer_folder)
    return PromptEncoder(model, tokenizer, pad_with_end=config.get("hidden_act", "quick_gelu") == "quick_gelu")


def load_tokenizer(folder: Path) -> Any:
    """Return the `CLIPTokenizer` in a folder (vocab.json and merges.txt, or tokenizer.json); never downloads."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if not ({"vocab.json", "merges.txt"} <= names or "tokenizer.json" in names):
        raise InputError(
            f"{folder}: expected a CLIP tokenizer folder with vocab.json and merges.txt, found none there."
        )
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: could not read the tokenizer ({error}); fetch its files again.") from error


def text_config(weights: Weights, prefix: str, *, open_clip: bool) -> dict[str, Any]:
    """Return the `CLIPTextConfig` values that the tensors under `prefix` have; heads are 64 wide in both families."""
    names = ("token_embedding.weight", "positional_embedding", r"transformer\.resblocks\.(\d+)\.", "mlp.c_fc.weight")
    if not open_clip:
        names = (
            "embeddings.token_embedding.weight",
            "embeddings.position_embedding.weight",
            r"encoder\.layers\.(\d+)\.",
            "mlp.fc1.weight",
        )
    numbers = [int(m[1]) for key in weights.under(prefix) if (m := re.match(names[2], key[len(prefix) :]))]
    wide = [shape[0] for key, shape in weights.shapes.items() if key.startswith(prefix) and key.endswith(names[3])]
    tables = [weights.shapes.get(f"{prefix}{name}", ()) for name in names[:2]]
    if not numbers or not wide or any(len(table) != 2 for table in tables):
        raise InputError(
            f"{weights.path}: expected a whole text encoder under {prefix}, got a part; fetch the file again."
        )
    layers = max(numbers) + 1
    if open_clip:
        # Some files were saved without the unused last layer already.
        layers = layers if layers == _OPEN_CLIP_LAYERS else layers - 1
    (vocabulary, width), (positions, _) = tables
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": wide[0],
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // 64),
        "max_position_embeddings": positions,
        "hidden_act": "gelu" if open_clip else "quick_gelu",
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": 0 if open_clip else vocabulary - 1,
    }


def text_source(name: str, prefix: str, *, open_clip: bool) -> Source:
    """Return where a single file keeps a `CLIPTextModel` parameter; OpenCLIP stacks query, key and value as rows."""
    name = name.removeprefix("text_model.")
    if not open_clip:
        return Source(f"{prefix}{name}")
    if name in _OPEN_CLIP_NAMES:
        return Source(f"{prefix}{_OPEN_CLIP_NAMES[name]}")
    _, _, layer, *middle, kind = name.split(".")
    module, place = ".".join(middle), f"{prefix}transformer.resblocks.{layer}"
    if module in _OPEN_CLIP_LAYER:
        return Source(f"{place}.{_OPEN_CLIP_LAYER[module]}.{kind}")
    row = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj").index(module)
    return Source(f"{place}.attn.in_proj_{kind}", row, 3)


def read_empty_embedding(path: Path, *, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Return a stored empty-prompt embedding (1, L, D).

    Raises:
        InputError: not a safetensors file with one tensor (L, D) or (1, L, D), or one named "empty_embedding".
    """
    weights = open_weights(path)
    key = EMBEDDING_KEY if EMBEDDING_KEY in weights.shapes else next(iter(weights.shapes), None)
    if key is None or (key != EMBEDDING_KEY and len(weights.shapes) != 1):
        raise InputError(f"{path}: expected one tensor named {EMBEDDING_KEY}, got {len(weights.shapes)} others.")
    embedding = weights.read(key)
    embedding = embedding.unsqueeze(0) if embedding.ndim == 2 else embedding
    check_shape(str(path), embedding, (1, "tokens", "width"))
    if not torch.isfinite(embedding.float()).all():
        raise InputError(f"{path}: expected finite values, got NaN or infinity; store the embedding again.")
    return embedding.to(device=device, dtype=dtype)


def _clip_on_meta(config: dict[str, Any]) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    try:
        settings = CLIPTextConfig.from_dict(config)
        with torch.device("meta"):
            return CLIPTextModel(settings)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"text encoder: its configuration cannot be built ({error}); fetch config.json again."
        ) from error


def _fill(
    model: Any,
    sources: dict[str, Source],
    weights: Weights,
    names: list[str],
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    fill_module(model, sources, weights, what="text encoder", names=names, device=device, dtype=dtype)
    for module in model.modules():
        # The positions are not stored: give them a value, now that the module has left the meta device.
        if getattr(module, "position_ids", None) is not None:
            module.position_ids = torch.arange(module.position_ids.shape[-1], device=device).unsqueeze(0)
