"""From a host's FLUX MODEL to a diffusers transformer on the same weights, for training.

The host's FLUX blocks update their activations in place and cannot be trained through; diffusers' can. Both share
memory: a diffusers parameter is a block of rows of a host's tensor. Weights that were loaded under inference mode
cannot be saved for the backward pass, but an ordinary tensor on the same storage can, so nothing is copied unless the
type differs from the one that is computed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.model_management
import folder_paths
import torch

from ...zero2hero_core.backbones.flux.dit import DiTBackbone
from ...zero2hero_core.backbones.flux.precision import FP8, check_weights, store_linear, stored_linears
from ...zero2hero_core.backbones.flux.single_file import original_pieces
from ...zero2hero_core.backbones.meta_device import build_on_meta
from ...zero2hero_core.backbones.surface import Family, TextEmbedding
from ...zero2hero_core.checks import InputError, Zero2HeroError
from .flux import HostCodec, flux_family, host_text, ordinary, recommended
from .services import check_cancel, compute_dtype

AS_LOADED = "as loaded"
WEIGHTS = [AS_LOADED, "fp8", "nf4"]  # how a training may hold the model, the largest first
PREFIX = "diffusion_model."
_WIDE = (torch.float32, torch.bfloat16, torch.float16)
_FLOATS = (*_WIDE, FP8, torch.float8_e5m2)


@contextmanager
def training_mode() -> Iterator[None]:
    """Inside, tensors can be trained on although the host runs its nodes under inference mode."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def skeleton(model: Any, family: Family) -> Any:
    """The diffusers transformer of a MODEL's sizes, without memory (meta device)."""
    transformer = model.model.diffusion_model
    params = transformer.params
    settings = {
        "in_channels": transformer.in_channels,
        "num_layers": len(transformer.double_blocks),
        "num_single_layers": len(transformer.single_blocks),
        "attention_head_dim": params.hidden_size // params.num_heads,
        "num_attention_heads": params.num_heads,
        "joint_attention_dim": params.context_in_dim,
        "guidance_embeds": params.guidance_embed,
        "axes_dims_rope": tuple(params.axes_dim),
    }
    if family.has_pooled:
        return build_on_meta(
            "FluxTransformer2DModel", settings | {"pooled_projection_dim": params.vec_in_dim}, Path("model")
        )
    settings |= {"mlp_ratio": params.mlp_ratio, "rope_theta": params.theta}
    return build_on_meta("Flux2Transformer2DModel", settings, Path("model"))


def host_tensor(model: Any, name: str) -> torch.Tensor:
    """The MODEL's value of a diffusers parameter, patches (LoRA) included: a view of the host's tensor where it can be.

    Raises: InputError for weights in a form that only their own code can read (scaled fp8, gguf).
    """
    parts = []
    for source in original_pieces(name):
        whole = _whole(model, source.key)
        size = len(whole) // source.parts
        parts.append(whole[source.part * size : (source.part + 1) * size])
    if len(parts) == 1 or _touch(parts):
        first = parts[0]
        return first if len(parts) == 1 else first.as_strided((sum(map(len, parts)), *first.shape[1:]), first.stride())
    return torch.cat(parts)


def _touch(parts: list[torch.Tensor]) -> bool:
    """Whether blocks of rows follow each other in one tensor."""
    ends = [part.storage_offset() + len(part) * part.stride(0) for part in parts]
    same = all(part.untyped_storage().data_ptr() == parts[0].untyped_storage().data_ptr() for part in parts)
    return same and ends[:-1] == [part.storage_offset() for part in parts[1:]]


def _whole(model: Any, key: str) -> torch.Tensor:
    """A host's tensor as an ordinary one on the same memory; with its patches applied, a copy."""
    base, (name, parameter) = model.model, _parameter(model, key)
    scaling = base.model_config.scaled_fp8 if hasattr(type(base.model_config), "scaled_fp8") else None
    if scaling is not None or type(parameter.data) is not torch.Tensor or parameter.dtype not in _FLOATS:
        raise InputError(
            "model: its weights are stored in a form that cannot be trained on (scaled fp8, gguf or another "
            "quantisation); load the bf16 or plain fp8 file, and choose weights nf4 or fp8 here to save memory."
        )
    is_patched = getattr(base, "current_weight_patches_uuid", None) == model.patches_uuid
    backup = model.backup.get(name)  # what the weight was before the host put patches on it, perhaps another MODEL's
    tensor = same_memory(parameter.data if backup is None or is_patched else backup.weight)
    if name not in model.patches or (backup is not None and is_patched):
        return tensor
    return comfy.lora.calculate_weight(model.patches[name], tensor.to(torch.float32, copy=True), name).to(tensor.dtype)


def _parameter(model: Any, key: str) -> tuple[str, torch.nn.Parameter]:
    """A weight of the MODEL and the name under which the host keeps its patches and its backup.

    Checkpoints call the factors of query and key norms `.scale`; the host does so too up to 0.13, `.weight` after it.
    """
    module_name, _, kind = key.rpartition(".")
    kinds = (kind, "weight") if kind == "scale" else (kind,)
    try:
        module = model.model.diffusion_model.get_submodule(module_name)
        kind, parameter = next((kind, value) for kind in kinds if (value := getattr(module, kind, None)) is not None)
    except (AttributeError, StopIteration) as error:
        raise InputError(f"model: lacks the weights {key}; connect another FLUX MODEL.") from error
    return f"{PREFIX}{module_name}.{kind}", parameter


def same_memory(tensor: torch.Tensor) -> torch.Tensor:
    """An ordinary tensor on the memory of an inference tensor, which autograd may save; it must not be written to."""
    if not tensor.is_inference():
        return tensor.detach()
    with torch.inference_mode(False):
        empty = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        return empty.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())


class TrainingBackbone(DiTBackbone):
    """Diffusers' transformer on a MODEL's weights, with the host's VAE.

    Cancel is looked at before each pass that is not trained on: a training step that was broken off could not be
    resumed exactly.

    Attributes: place, compute_dtype: where and in which type the host computes. guidance: of the CONDITIONING. vae: the
    host's.
    """

    place: torch.device
    compute_dtype: torch.dtype
    guidance: float
    vae: Any

    def deciding(self) -> Iterator[torch.Tensor]:
        """What the result of a training depends on, besides pictures and settings: weights and text.

        The VAE counts by its weights, not by the latents it makes: these may differ in their last bits from one start
        of the host to the next (another kernel, tiles for want of memory), and a broken off training must be found.
        """
        yield from self.transformer.state_dict().values()
        yield from self.vae.first_stage_model.state_dict().values()
        yield self.text.tokens
        if self.text.pooled is not None:
            yield self.text.pooled

    def _run(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not torch.is_grad_enabled():
            check_cancel()
        return super()._run(*args, **kwargs)


def prepare_training(model: Any, vae: Any, conditioning: Any) -> TrainingBackbone:
    """A backbone of the MODEL's sizes whose weights have no memory yet; call it inside `training_mode`.

    Raises: InputError naming the socket that is wired wrongly.
    """
    family = flux_family(model)
    text, guidance = host_text(model, family, conditioning)
    pooled = None if text.pooled is None else ordinary(text.pooled)
    backbone = TrainingBackbone(
        skeleton(model, family),
        family,
        codec=HostCodec(vae, model),
        text=TextEmbedding(ordinary(text.tokens), pooled),
        name=type(model.model.model_config).__name__,
        recommended=recommended(family),
    )
    backbone.place, backbone.compute_dtype = model.load_device, compute_dtype(model.model)
    backbone.guidance, backbone.vae = guidance, vae
    return backbone


def held_as(model: Any, weights: str) -> str:
    """How a training holds the MODEL's weights: "as loaded", which is the host's own memory, "fp8" or "nf4".

    What the host loaded as float8 is held as "fp8": its own has no factors and no backward pass.
    """
    return "fp8" if weights == AS_LOADED and model.model.get_dtype() not in _WIDE else weights


def load_weights(backbone: TrainingBackbone, model: Any, weights: str) -> None:
    """Give a prepared backbone the MODEL's weights; MODEL stays as it is. Call it inside `training_mode`.

    Args: weights: "as loaded" shares the host's memory where it can (`held_as`); "fp8" and "nf4" keep a smaller copy on
    the device.
    Raises: InputError for weights that cannot be read, or nf4 without what it needs.
    """
    transformer, device, dtype = backbone.transformer, backbone.place, backbone.compute_dtype
    weights = held_as(model, weights)
    if weights != AS_LOADED:
        check_weights(weights, device)
    with torch.inference_mode():
        if device.type != "cpu":
            comfy.model_management.unload_all_models()
        if weights == AS_LOADED and not _is_dynamic(model):
            comfy.model_management.load_models_gpu([model], force_full_load=True)
    if weights != AS_LOADED:
        for name in stored_linears(transformer):
            _fill(transformer, name, model, None, dtype)
            store_linear(transformer, name, weights, device)
    _fill(transformer, "", model, device, dtype)
    if weights == "nf4":
        transformer.is_loaded_in_4bit = True  # peft asks for it
    transformer.eval().requires_grad_(False)


def _is_dynamic(model: Any) -> bool:
    """Whether the host (0.15 and later, on NVIDIA) brings weights to the device only while they are used.

    Such a MODEL never lies on the device as a whole: its weights, patched, are copied there once, by the training.
    """
    return bool(getattr(model, "is_dynamic", bool)())


def cancelled() -> bool:
    """Whether the user pressed Cancel."""
    return bool(comfy.model_management.processing_interrupted())


@contextmanager
def saving_on_cancel(save: Callable[[], None]) -> Iterator[None]:
    """Inside, Cancel ends in the host's exception, after `save` where the run has not saved by itself."""
    try:
        yield
    except comfy.model_management.InterruptProcessingException:
        save()
        raise
    except Zero2HeroError:
        check_cancel()  # the run stopped since it was asked to, and has saved
        raise


def training_folder(name: str) -> Path:
    """Where a training keeps checkpoints, curve and samples: output/zero2hero/name."""
    return Path(folder_paths.get_output_directory()) / "zero2hero" / name


def _fill(transformer: Any, inside: str, model: Any, device: torch.device | None, dtype: torch.dtype) -> None:
    """Give the parameters under a module that have no memory yet the MODEL's values, one after the other."""
    for module_name, module in transformer.get_submodule(inside).named_modules(prefix=inside):
        for kind, parameter in list(module.named_parameters(recurse=False)):
            if parameter.device.type == "meta":
                value = host_tensor(model, f"{module_name}.{kind}")
                value = value.to(device or value.device, dtype)
                setattr(module, kind, torch.nn.Parameter(value, requires_grad=False))
