"""Prompts of the FLUX families: encoded once, or read from a stored file.

FLUX.1: 512 tokens of a T5 encoder, and the pooled vector of CLIP ViT-L. FLUX.2-klein: the prompt in the chat template
of Qwen3, 512 tokens, hidden states 9, 18 and 27 side by side. The encoders are larger than most graphics cards that
Hero-Stage runs on, so they are dropped as soon as the prompt is encoded, and for a prompt that never changes (the empty
one, by default) a small stored file does as well.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ...checks import InputError, Zero2HeroError, check_shape
from ...files.tensor_file import write_tensors
from ..sd.text import text_encoder_in_folder
from ..weights import open_component, open_weights, read_json
from .dit import TextEmbedding

TEXT_FILE = "text_embedding.safetensors"
TOKENS = 512
QWEN3_LAYERS = (9, 18, 27)
_LOAD_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, ImportError)


def read_text(path: str | Path, prompt: str | None = None) -> TextEmbedding:
    """Return a stored text embedding on the CPU.

    Args:
        path: .safetensors with `tokens` (1, T, D) or (T, D), and `pooled` (1, P) or (P,) for FLUX.1.
        prompt: when given, the file must be of this prompt; a file that names none is of the empty one.

    Raises: InputError for a missing, damaged or other file, NaN or infinity, or another prompt.
    """
    path = Path(path)
    weights = open_weights(path)
    if "tokens" not in weights.shapes or set(weights.shapes) - {"tokens", "pooled"}:
        raise InputError(
            f"{path}: expected a text embedding with the tensors tokens and, for FLUX.1, pooled; "
            f"got {', '.join(sorted(weights.shapes)[:5]) or 'none'}."
        )
    own_prompt = weights.metadata.get("prompt", "")
    if prompt is not None and own_prompt != prompt:
        raise InputError(
            f"{path}: holds the prompt {own_prompt!r}, wanted is {prompt!r}; encode that one, or give another file."
        )
    tokens = weights.read("tokens")
    pooled = weights.read("pooled") if "pooled" in weights.shapes else None
    tokens = tokens[None] if tokens.ndim == 2 else tokens
    check_shape(f"{path}: tokens", tokens, (1, "tokens", "width"))
    if pooled is not None:
        pooled = pooled[None] if pooled.ndim == 1 else pooled
        check_shape(f"{path}: pooled", pooled, (1, "width"))
    for tensor in (tokens, pooled):
        if tensor is not None and not (tensor.is_floating_point() and torch.isfinite(tensor.float()).all()):
            raise InputError(f"{path}: expected finite floating point values, got NaN, infinity or whole numbers.")
    return TextEmbedding(tokens, pooled)


def save_text(path: str | Path, text: TextEmbedding, prompt: str = "") -> None:
    """Store a text embedding for `read_text`, through a temporary file."""
    path = Path(path)
    tensors = {"tokens": text.tokens} | ({} if text.pooled is None else {"pooled": text.pooled})
    write_tensors(path, {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, {"prompt": prompt})


def encode_prompt(folder: Path, *, flux2: bool, prompt: str, device: torch.device, dtype: torch.dtype) -> TextEmbedding:
    """Encode a prompt with the text encoders of a model folder, on `device`; they are released before it returns.

    The empty prompt of FLUX.1 needs no tokenizer. float16 is not used (T5 overflows in it): bfloat16 stands in.

    Raises:
        InputError: encoders or tokenizers missing, damaged or of another kind; a result that is not finite.
        Zero2HeroError: the device has too little memory.
    """
    dtype = torch.bfloat16 if dtype is torch.float16 else dtype
    try:
        text = (_encode_qwen3 if flux2 else _encode_clip_and_t5)(folder, prompt, device, dtype)
    except torch.cuda.OutOfMemoryError as error:
        raise Zero2HeroError(
            f"text encoder: too little memory on {device}; encode on the CPU once (store it with save_text), "
            f"or give a stored {TEXT_FILE}."
        ) from error
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    for tensor in (text.tokens, text.pooled):
        if tensor is not None and not torch.isfinite(tensor).all():
            raise InputError(f"{folder}: its text encoder gave NaN or infinity; fetch it again or use bfloat16.")
    return text


@torch.no_grad()
def _encode_clip_and_t5(folder: Path, prompt: str, device: torch.device, dtype: torch.dtype) -> TextEmbedding:
    _check_kind(folder / "text_encoder", "CLIPTextModel")
    _check_kind(folder / "text_encoder_2", "T5EncoderModel")
    own = folder / "tokenizer"
    encoder = text_encoder_in_folder(folder / "text_encoder", own if own.is_dir() else None, device=device, dtype=dtype)
    if prompt and encoder.tokenizer is not None:
        ids = _token_ids(encoder.tokenizer, prompt, encoder.length)["input_ids"]
    else:
        ids = encoder.tokens([prompt])  # says what is missing when a prompt has no tokenizer
    pooled = encoder.text_encoder(ids.to(device)).pooler_output.cpu()
    del encoder
    t5 = _load_encoder(folder / "text_encoder_2", "T5EncoderModel", device, dtype)
    ids = torch.full((1, TOKENS), int(t5.config.pad_token_id))
    ids[0, 0] = int(t5.config.eos_token_id)  # the empty prompt is its end token
    if prompt:
        ids = _token_ids(_load_tokenizer(folder / "tokenizer_2"), prompt, TOKENS)["input_ids"]
    return TextEmbedding(t5(ids.to(device)).last_hidden_state.cpu(), pooled)


@torch.no_grad()
def _encode_qwen3(folder: Path, prompt: str, device: torch.device, dtype: torch.dtype) -> TextEmbedding:
    _check_kind(folder / "text_encoder", "Qwen3ForCausalLM", "Qwen3Model")
    tokenizer = _load_tokenizer(folder / "tokenizer")
    try:
        chat = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{folder / 'tokenizer'}: expected the chat template of Qwen3, got none; fetch it again."
        ) from error
    inputs = _token_ids(tokenizer, chat, TOKENS)
    model = _load_encoder(folder / "text_encoder", "Qwen3Model", device, dtype)
    states = model(
        input_ids=inputs["input_ids"].to(device),
        attention_mask=inputs["attention_mask"].to(device),
        output_hidden_states=True,
        use_cache=False,
    ).hidden_states
    if len(states) <= max(QWEN3_LAYERS):
        raise InputError(
            f"{folder / 'text_encoder'}: expected at least {max(QWEN3_LAYERS)} layers, got {len(states) - 1}; "
            "take the text encoder of a FLUX.2-klein model."
        )
    return TextEmbedding(torch.cat([states[layer] for layer in QWEN3_LAYERS], -1).cpu())


def _token_ids(tokenizer: Any, prompt: str, length: int) -> Any:
    return tokenizer(prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt")


def _check_kind(folder: Path, *kinds: str) -> None:
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such text encoder; complete the model folder, or give the text embedding as a file "
            f"({TEXT_FILE})."
        )
    architectures = read_json(folder / "config.json").get("architectures") or [kinds[0]]
    if not set(architectures) <= set(kinds):
        raise InputError(
            f"{folder}: expected a {kinds[0]}, got {', '.join(map(str, architectures))}; take the text encoder of this "
            "model family, or give the text embedding as a file."
        )


def _load_encoder(folder: Path, class_name: str, device: torch.device, dtype: torch.dtype) -> Any:
    """A transformers encoder, whole: its library only warns of missing weights and fills them with noise."""
    import transformers

    open_component(folder, "model")  # truncated files, pickles and pointers are named before anything is read
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    kind = {"dtype" if version >= (4, 56) else "torch_dtype": dtype}
    try:
        with _quiet():
            model, report = getattr(transformers, class_name).from_pretrained(
                str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True, **kind
            )
    except torch.cuda.OutOfMemoryError:
        raise
    except _LOAD_ERRORS as error:
        raise InputError(f"{folder}: the {class_name} could not be loaded ({error}); fetch it again.") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise InputError(
            f"{folder}: {len(missing)} missing tensors for the {class_name} ({', '.join(missing[:3])}); "
            "the file is incomplete, fetch it again."
        )
    return model.to(device).requires_grad_(False).eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's notes on weights that this use leaves out, and without its progress bars."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _load_tokenizer(folder: Path) -> Any:
    import transformers

    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such tokenizer; complete the model folder, or give an embedding as a file ({TEXT_FILE})."
        )
    try:
        return transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except _LOAD_ERRORS as error:
        raise InputError(f"{folder}: could not read the tokenizer ({error}); fetch its files again.") from error
