"""A HERO_LORA on the host's FLUX model: forward hooks on the linear layers, there only during a condition's pass.

The LoRA is named after diffusers' modules. The host stacks query, key and value (in FLUX.1's single blocks the MLP's
input too) in one layer, so each adapter adds to its own block of that layer's output. No weight is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...zero2hero_core.backbones.flux.single_file import original_pieces
from ...zero2hero_core.backbones.surface import Family, LoRASurface
from ...zero2hero_core.checks import InputError
from ...zero2hero_core.hero_stage.lora.formats import AUTHORS_FAMILY, DOUBLE, FileContent, read_authors, read_ours
from .lora_files import HeroLora
from .train import host_tensor, skeleton

_Adapter = tuple[int, torch.Tensor, torch.Tensor, torch.Tensor | None]  # first row, down, up, bias


def fit(lora: HeroLora, model: Any, family: Family) -> FileContent:
    """The LoRA's adapters, checked against a MODEL; the authors' format is converted with its weights.

    Raises: InputError naming the socket, when it was made for another model.
    """
    made_for = lora.metadata.family if lora.metadata else AUTHORS_FAMILY
    if made_for != family.name:
        raise InputError(
            f"hero_lora: {lora.name} was trained for {made_for}, the connected MODEL is {family.name}; connect the "
            "MODEL it was trained on, or train one for this MODEL."
        )
    transformer, path = skeleton(model, family), Path(lora.name)
    try:
        if lora.metadata is not None:
            return read_ours(path, lora.state, lora.metadata.spec, lora.metadata.count, transformer)
        for name, linear in transformer.named_modules():
            if name.startswith("transformer_blocks.") and name.endswith(DOUBLE["out"]):
                for kind in ("weight", "bias"):
                    setattr(linear, kind, torch.nn.Parameter(host_tensor(model, f"{name}.{kind}").float(), False))
        return read_authors([(path, lora.state)], transformer)
    except InputError as error:
        raise InputError(f"hero_lora: {error}") from error


class HostLoRA:
    """Adapters on the host's model as `restore_latents` switches them: all are off unless `active`.

    Args: content: see `fit`.
    """

    def __init__(self, model: Any, content: FileContent):
        self.model, self.count, self.scaling = model, content.count, content.spec.scaling
        self._places: list[dict[str, list[_Adapter]]] = [{} for _ in range(content.count)]
        for key, down in content.state.items():
            if not key.endswith(".lora_A.weight"):
                continue
            prefix = key.removesuffix(".lora_A.weight")
            index, _, name = prefix.removeprefix("condition_").partition(".")
            (source,) = original_pieces(f"{name}.weight")
            up, bias = content.state[f"{prefix}.lora_B.weight"], content.state.get(f"{prefix}.lora_B.bias")
            adapter = (len(up) * source.part, down, up, bias)
            self._places[int(index)].setdefault(source.key.removesuffix(".weight"), []).append(adapter)

    @contextmanager
    def active(self, index: int, /) -> Iterator[None]:
        """Inside, the adapters of condition `index` act; their weights are on the device only there."""
        transformer, device = self.model.model.diffusion_model, self.model.load_device
        with ExitStack() as hooks:
            for name, adapters in self._places[index].items():
                hook = _adding([_move(adapter, device) for adapter in adapters], self.scaling)
                hooks.callback(transformer.get_submodule(name).register_forward_hook(hook).remove)
            yield


if TYPE_CHECKING:
    _surface: type[LoRASurface] = HostLoRA


def _move(adapter: _Adapter, device: torch.device) -> _Adapter:
    first, down, up, bias = adapter
    down, up = (tensor.to(device, torch.float32) for tensor in (down, up))
    return first, down, up, None if bias is None else bias.to(device, torch.float32)


def _adding(adapters: list[_Adapter], scaling: float) -> Callable[..., torch.Tensor]:
    def add(_module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        x = inputs[0].float()
        for first, down, up, bias in adapters:
            update = torch.nn.functional.linear(x @ down.T, up, bias) * scaling
            output[..., first : first + len(up)] += update
        return output

    return add
