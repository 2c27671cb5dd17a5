"""Which layers a LoRA has, the names and shapes of its tensors, and the way from the authors' files (EasyControl's) to
ours.

Theirs: `transformer_blocks.{i}.attn.processor.{q,k,v,proj}_loras.{c}.{down,up}.weight` for condition c, in single
blocks q, k and v only, at times behind `transformer.` or `module.`. No alpha is stored; their loader takes alpha =
rank, so the scaling is 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...backbones.surface import StoredSmaller
from ...checks import InputError

# group -> linear layer, in double blocks (image stream) and in single blocks
DOUBLE = {"q": "attn.to_q", "k": "attn.to_k", "v": "attn.to_v", "out": "attn.to_out.0"}
SINGLE = {"q": "attn.to_q", "k": "attn.to_k", "v": "attn.to_v", "qkv_mlp": "attn.to_qkv_mlp_proj"}
GROUPS = tuple(dict.fromkeys([*DOUBLE, *SINGLE]))


@dataclass(frozen=True)
class LoRASpec:
    """Size and place of the adapters.

    rank: of the update. alpha: the update is scaled by alpha / rank; None is the rank, a scaling of 1 (the authors').
    layers: groups out of "q", "k", "v", "out" (double blocks only) and, for FLUX.2's single blocks, "qkv_mlp"; empty is
    every group that the model has.

    Raises: InputError for a rank below 1, an alpha that is not above 0, an unknown group or one named twice.
    """

    rank: int = 32
    alpha: float | None = None
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"LoRA rank: expected a whole number from 1 up, got {self.rank}; 32 is usual.")
        if self.alpha is not None and not (math.isfinite(self.alpha) and self.alpha > 0):
            raise InputError(
                f"LoRA alpha: expected a number above 0, got {self.alpha}; leave it out for a scaling of 1."
            )
        _check_groups(self.layers, GROUPS)

    @property
    def scaling(self) -> float:
        """What the update is multiplied by."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


def _check_groups(layers: Sequence[str], choices: Collection[str]) -> None:
    wrong = [name for name in layers if name not in choices]
    if wrong or len(set(layers)) < len(layers):
        raise InputError(
            f"LoRA layers: expected some of {', '.join(choices)}, each once, got {', '.join(layers)}; "
            "leave them out for all."
        )


def find_linears(transformer: Any, layers: Sequence[str] = ()) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Layers that adapters go on: the groups, and module name -> linear layer in the order in which they run.

    Raises: InputError naming the choices, when the transformer has no such group.
    """
    places = []
    for stack, table in (("transformer_blocks", DOUBLE), ("single_transformer_blocks", SINGLE)):
        for i, block in enumerate(getattr(transformer, stack)):
            modules = dict(block.named_modules())
            places += [(g, f"{stack}.{i}.{name}", modules[name]) for g, name in table.items() if name in modules]
    present = {group for group, _, _ in places}
    choices = tuple(group for group in GROUPS if group in present)
    _check_groups(layers, choices)
    groups = tuple(group for group in choices if not layers or group in layers)
    return groups, {name: module for group, name, module in places if group in groups}


def adapter_shapes(
    linears: Mapping[str, Any], rank: int, count: int, biased: Collection[str] = ()
) -> dict[str, tuple[int, ...]]:
    """Keys of a state dict and the shapes of its tensors, in their fixed order.

    Args: linears: module name -> linear layer; biased: modules whose adapters end with a bias.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for index in range(count):
        for name, linear in linears.items():
            key = f"condition_{index}.{name}"
            shapes[f"{key}.lora_A.weight"] = (rank, linear.in_features)
            shapes[f"{key}.lora_B.weight"] = (linear.out_features, rank)
            if name in biased:
                shapes[f"{key}.lora_B.bias"] = (linear.out_features,)
    return shapes


def check_state(state: Mapping[str, torch.Tensor], shapes: Mapping[str, Sequence[int]], name: str = "LoRA") -> None:
    """Raise `InputError` unless `state` has these tensors, of these shapes, and finite values."""
    for kind, keys in (("missing", shapes.keys() - state.keys()), ("unexpected", state.keys() - shapes.keys())):
        if keys:
            raise InputError(
                f"{name}: expected {len(shapes)} tensors, {len(keys)} are {kind} ({some(keys)}); "
                "it is incomplete, or was made for other layers or another number of conditions."
            )
    for key, shape in shapes.items():
        if tuple(state[key].shape) != tuple(shape):
            raise InputError(
                f"{name}: {key}: expected shape {tuple(shape)}, got {tuple(state[key].shape)}; "
                "it was made with another rank or for a model of another width."
            )
    for key in shapes:
        if not bool(torch.isfinite(state[key]).all()):
            raise InputError(f"{name}: {key} holds NaN or infinity; take an earlier checkpoint.")


def some(keys: Iterable[str]) -> str:
    """The first three names, for a message."""
    names = sorted(keys)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


OURS, AUTHORS = "zero2hero", "authors"
AUTHORS_FAMILY = "flux1"

_OURS = re.compile(r"condition_\d+\.(?P<module>.+)\.lora_(?:A\.weight|B\.weight|B\.bias)")
_AUTHORS = re.compile(
    r"(?:(?:transformer|module)\.)*(?!single.*\.proj_)(?P<block>(?:single_)?transformer_blocks\.\d+)"
    r"\.attn\.processor\.(?P<what>q|k|v|proj)_loras\.(?P<index>\d+)\.(?P<side>down|up)\.weight"
)
_GROUPS = {"q": "q", "k": "k", "v": "v", "proj": "out"}
_SIDES = {"down": "lora_A.weight", "up": "lora_B.weight"}


@dataclass(frozen=True)
class FileContent:
    """Adapters read from files, fit for `HeroLoRA(backbone, count, spec, biased=...)` and its `load_state_dict`."""

    spec: LoRASpec
    count: int
    state: Mapping[str, torch.Tensor]

    @property
    def biased(self) -> frozenset[str]:
        """Modules whose adapters end with a bias."""
        return frozenset(_module(key) for key in self.state if key.endswith(".bias"))


def which_format(path: Path, keys: Iterable[str]) -> str:
    """`OURS` or `AUTHORS`, by the names of all tensors.

    Raises: InputError showing what was seen and what is accepted, for any other name.
    """
    names = list(keys)
    for kind, pattern in ((OURS, _OURS), (AUTHORS, _AUTHORS)):
        strays = [name for name in names if not pattern.fullmatch(name)]
        if names and not strays:
            return kind
        if len(strays) < len(names):
            raise InputError(
                f"{path}: {len(strays)} of {len(names)} tensors do not belong in a LoRA of this format "
                f"({some(strays)}); give the file as it was saved."
            )
    raise InputError(
        f"{path}: expected a LoRA of Hero-Stage, got tensors named {some(names) or '(none)'}; accepted are "
        "condition_0.transformer_blocks.0.attn.to_q.lora_A.weight ... (this package) and "
        "transformer_blocks.0.attn.processor.q_loras.0.down.weight ... (the authors, EasyControl)."
    )


def read_ours(
    path: Path, state: Mapping[str, torch.Tensor], spec: LoRASpec, count: int, transformer: Any
) -> FileContent:
    """Check tensors of our format against the model. Raises: InputError when anything does not fit."""
    _, linears = find_linears(transformer, spec.layers)
    content = FileContent(spec, count, state)
    _check_count(path, {int(key.partition(".")[0].removeprefix("condition_")) for key in state}, count)
    _check_model(path, state, linears)
    check_state(state, adapter_shapes(linears, spec.rank, count, content.biased), str(path))
    return content


def read_authors(files: Sequence[tuple[Path, Mapping[str, torch.Tensor]]], transformer: Any) -> FileContent:
    """Adapters of the authors' format; the conditions of several files follow each other.

    Their output projection's LoRA reads the *output* y = W x + b of the projection: y + up(down(y)). As a function of x
    that is an ordinary adapter with down' = down W, plus the constant up(down(b)), which goes into the bias that peft
    allows behind `up`. So the conversion is exact, for this base model's W and b.

    Raises: InputError when anything does not fit the model, or the files differ in rank or layers.
    """
    (first, content), *others = [(path, _read_one(path, state, transformer)) for path, state in files]
    count, union = content.count, dict(content.state)
    for path, other in others:
        if other.spec != content.spec:
            raise InputError(f"{path}: has {_spec(other)}, but {first} has {_spec(content)}; give files trained alike.")
        for key, tensor in other.state.items():
            index, rest = key.removeprefix("condition_").split(".", 1)
            union[f"condition_{count + int(index)}.{rest}"] = tensor
        count += other.count
    return FileContent(content.spec, count, union)


def _read_one(path: Path, state: Mapping[str, torch.Tensor], transformer: Any) -> FileContent:
    ours: dict[str, torch.Tensor] = {}
    groups, indices = set(), set()
    for key, tensor in state.items():
        match = _AUTHORS.fullmatch(key)
        assert match is not None
        group, index = _GROUPS[match["what"]], int(match["index"])
        ours[f"condition_{index}.{match['block']}.{DOUBLE[group]}.{_SIDES[match['side']]}"] = tensor
        groups.add(group)
        indices.add(index)
    downs = [tensor for key, tensor in ours.items() if key.endswith("lora_A.weight")]
    if not downs or downs[0].ndim != 2 or not len(downs[0]):
        raise InputError(f"{path}: expected matrices `down` of shape (rank, width), got none; the file is damaged.")
    _check_count(path, indices, len(indices))
    layers, linears = find_linears(transformer, tuple(sorted(groups)))
    spec, count = LoRASpec(len(downs[0]), None, layers), len(indices)
    _check_model(path, ours, linears)
    check_state(ours, adapter_shapes(linears, spec.rank, count), str(path))
    return FileContent(spec, count, _read_input(ours, linears, count))


def _read_input(state: dict[str, torch.Tensor], linears: Mapping[str, Any], count: int) -> dict[str, torch.Tensor]:
    """The output projections' adapters, turned into ones that read the projection's input."""
    for name, linear in linears.items():
        if not name.endswith(DOUBLE["out"]):
            continue
        weight = _wide_weight(linear)
        for index in range(count):
            key = f"condition_{index}.{name}"
            down, up = (state[f"{key}.{side}"].cpu().double() for side in _SIDES.values())
            state[f"{key}.lora_A.weight"] = (down @ weight).float()
            if linear.bias is not None:
                state[f"{key}.lora_B.bias"] = (up @ (down @ linear.bias.detach().cpu().double())).float()
    return state


def _wide_weight(linear: Any) -> torch.Tensor:
    """The weight (out, in) that a linear layer applies, however it is stored; float64 on the CPU."""
    from peft.utils.integrations import dequantize_module_weight

    if isinstance(linear, StoredSmaller):
        return linear.wide_weight()
    return dequantize_module_weight(linear).detach().cpu().double()


def _check_count(path: Path, indices: Collection[int], count: int) -> None:
    if sorted(indices) != list(range(len(indices))) or len(indices) != count:
        numbers = ", ".join(str(index) for index in sorted(indices)[:4])
        raise InputError(f"{path}: expected {count} conditions, numbered from 0, got {numbers}; take a whole file.")


def _check_model(path: Path, state: Mapping[str, torch.Tensor], linears: Mapping[str, Any]) -> None:
    """Raise `InputError` naming both models, unless number of blocks and width agree."""
    theirs = {_module(key): t.shape[-1] if t.ndim else 0 for key, t in state.items() if key.endswith("lora_A.weight")}
    there, here = _describe(theirs), _describe({name: linear.in_features for name, linear in linears.items()})
    if there != here:
        raise InputError(
            f"{path}: made for a model with {there}, this one has {here}; give the LoRA of this model, whole."
        )


def _describe(widths: Mapping[str, int]) -> str:
    """Blocks and width of a model, from module names and the widths of their inputs."""
    blocks: dict[str, set[int]] = {"transformer_blocks": set(), "single_transformer_blocks": set()}
    for name in widths:
        stack, _, rest = name.partition(".")
        number = rest.partition(".")[0]
        if stack in blocks and number.isdigit():
            blocks[stack].add(int(number))
    double, single = (max(numbers, default=-1) + 1 for numbers in blocks.values())
    return f"{double} double and {single} single blocks of width {max(widths.values(), default=0)}"


def _module(key: str) -> str:
    match = _OURS.fullmatch(key)
    return match["module"] if match else key


def _spec(content: FileContent) -> str:
    return f"rank {content.spec.rank} on {', '.join(content.spec.layers)}"
