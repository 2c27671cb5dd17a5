"""LoRA of Hero-Stage: one peft adapter per condition on the attention projections of a DiT (paper, Hero-Stage; the
layers are EasyControl's, for FLUX.2 the fused projections that hold the same weights).

An adapter is on only during the pass of its condition, so it never touches noise or text tokens. Switching changes no
`requires_grad`; peft's own switches do, and an adapter that is off in the backward pass would lose its gradients. A
block that is recomputed in the backward pass sees the hook and the adapter of its first run.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ...backbones.surface import LoRASurface, TrainableDiT
from ...checks import InputError
from .formats import LoRASpec, adapter_shapes, check_state, find_linears, some

__all__ = ["HeroLoRA", "LoRASpec", "checkpoint_blocks"]

_DEFAULT = LoRASpec()


class HeroLoRA:
    """peft adapters `condition_0`, `condition_1`, ... on a backbone's transformer, all off unless `active`.

    The adapters are float32 whatever the base is; the base is frozen. Their start: down ~ N(0, 1 / rank^2), up = 0, so
    nothing changes until they are trained.

    Args:
        backbone: its transformer is changed in place until `remove`.
        count: number of conditions.
        generator: of the start values, drawn in a fixed order; None is a fresh one with seed 0.
        biased: names of modules whose adapters end with a bias (start: 0); files in the authors' format need it.

    Raises: InputError when the transformer carries adapters already, or lacks a group of layers.
    """

    def __init__(
        self,
        backbone: TrainableDiT,
        count: int,
        spec: LoRASpec = _DEFAULT,
        *,
        generator: torch.Generator | None = None,
        biased: Collection[str] = (),
    ):
        if count < 1:
            raise InputError(f"LoRA: expected at least one condition, got {count}.")
        _refuse_adapters(backbone.transformer)
        self.groups, linears = find_linears(backbone.transformer, spec.layers)
        if stray := set(biased) - set(linears):
            raise InputError(f"LoRA: a bias was wanted where no adapter is ({some(stray)}).")
        self.backbone, self.count, self.spec = backbone, count, spec
        self._shapes = adapter_shapes(linears, spec.rank, count, biased)
        self.current: int | None = None
        self._on: list[str] = []  # what is on; one list that all layers share, so a switch costs the same for any depth
        # weak: weights that are replaced by smaller ones meanwhile must not stay in memory
        self._trained_before = [weakref.ref(p) for p in backbone.transformer.parameters() if p.requires_grad]
        backbone.transformer.requires_grad_(False)
        self._layers: dict[str, Any] = self._inject(list(linears))
        self._fill(generator or torch.Generator().manual_seed(0))

    def _inject(self, names: list[str]) -> dict[str, Any]:
        """Wrap the linear layers; weights stay empty. Returns module name -> peft layer."""
        from peft import LoraConfig, inject_adapter_in_model

        transformer = self.backbone.transformer
        for index in range(self.count):
            config = LoraConfig(
                r=self.spec.rank,
                lora_alpha=self.spec.alpha or self.spec.rank,  # type: ignore[arg-type]  # a float works
                target_modules="|".join(name.replace(".", r"\.") for name in names),
                init_lora_weights=False,
            )
            inject_adapter_in_model(config, transformer, f"condition_{index}", low_cpu_mem_usage=True)
            del transformer.peft_config  # a note of peft's, which warns when it finds one at the second adapter
        layers = {name: transformer.get_submodule(name) for name in names}
        for layer in layers.values():
            layer._active_adapter = self._on
        return layers

    def _fill(self, generator: torch.Generator) -> None:
        """Start values; float32, where peft would take over the type of the base."""
        for key, shape in self._shapes.items():
            layer, linear, kind = self._place(key)
            if key.endswith("lora_A.weight"):
                start = torch.randn(shape, generator=generator, device=generator.device) / self.spec.rank
            else:
                start = torch.zeros(shape)
            setattr(linear, kind, nn.Parameter(start.to(layer.base_layer.weight.device)))
            if kind == "bias":
                layer.lora_bias[key.partition(".")[0]] = True

    def _place(self, key: str) -> tuple[Any, nn.Module, str]:
        """A key's peft layer, the linear layer in it, and the name of the parameter there."""
        adapter, _, rest = key.partition(".")
        module, side, kind = rest.rsplit(".", 2)
        layer = self._layers[module]
        return layer, getattr(layer, side)[adapter], kind

    @contextmanager
    def active(self, index: int | None) -> Iterator[None]:
        """Inside, adapter `index` is on (None: all are off); afterwards, what was on before."""
        self._check_present()
        if index is not None and not 0 <= index < self.count:
            raise InputError(f"LoRA: expected a condition from 0 to {self.count - 1}, got {index}.")
        before = self.current
        self._switch(index)
        try:
            yield
        finally:
            self._switch(before)

    def _switch(self, index: int | None) -> None:
        self._on[:] = [] if index is None else [f"condition_{index}"]
        self.current = index

    def _named(self) -> dict[str, nn.Parameter]:
        self._check_present()
        places = {key: self._place(key) for key in self._shapes}
        return {key: getattr(linear, kind) for key, (_, linear, kind) in places.items()}

    def parameters(self) -> list[nn.Parameter]:
        """Adapter weights of all conditions, in the order of `state_dict`."""
        return list(self._named().values())

    def state_dict(self) -> dict[str, torch.Tensor]:
        """`condition_0.transformer_blocks.0.attn.to_q.lora_A.weight` ... -> tensor; not copies, as in torch."""
        return {key: parameter.detach() for key, parameter in self._named().items()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over all weights, in place.

        Raises: InputError, with nothing changed, unless keys, shapes and values fit.
        """
        own = self._named()
        check_state(state, self._shapes)
        with torch.no_grad():
            for key, parameter in own.items():
                parameter.copy_(state[key])

    def remove(self) -> None:
        """Take the adapters off: the transformer is what it was before, also in `requires_grad`."""
        transformer = self.backbone.transformer
        for name, layer in self._layers.items():
            parent, _, child = name.rpartition(".")
            setattr(transformer.get_submodule(parent), child, layer.base_layer)
        for reference in self._trained_before:
            if (parameter := reference()) is not None:
                parameter.requires_grad_(True)
        self._layers, self._trained_before = {}, []
        self._switch(None)

    def _check_present(self) -> None:
        if not self._layers:
            raise InputError("LoRA: it was removed from its model; make or load one again.")


if TYPE_CHECKING:
    _surface: type[LoRASurface] = HeroLoRA


def _refuse_adapters(transformer: Any) -> None:
    """Raise `InputError` if a transformer carries peft adapters."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in transformer.named_modules():
        if isinstance(module, BaseTunerLayer):
            raise InputError(
                f"LoRA: expected a model without adapters, {name} carries one; remove() the former LoRA first, or take "
                "a model with no LoRA loaded."
            )


class _FirstRun(AbstractContextManager[None]):
    """Puts back hook and adapter of a block's first run while it is recomputed; may be entered again and again."""

    def __init__(self, backbone: TrainableDiT, lora: HeroLoRA | None):
        self.backbone, self.lora, self.hook = backbone, lora, backbone.slot.hook
        self.index = lora.current if lora is not None else None
        self._inside = ExitStack()

    def __enter__(self) -> None:
        self._inside.enter_context(self.backbone.hooked(self.hook))
        if self.lora is not None:
            self._inside.enter_context(self.lora.active(self.index))

    def __exit__(self, *_: object) -> None:
        self._inside.close()


def checkpoint_blocks(backbone: TrainableDiT, lora: HeroLoRA | None, enabled: bool = True) -> None:
    """Switch gradient checkpointing of every block on or off: the block's insides are recomputed in the backward pass.

    By then another hook or adapter may be on; each block remembers those of its first run and has them back while it is
    recomputed. Passes without gradients are not affected.
    """
    from torch.utils.checkpoint import checkpoint

    def run(block: nn.Module, *args: Any) -> Any:
        return checkpoint(
            block,
            *args,
            use_reentrant=False,
            preserve_rng_state=False,  # the blocks draw no random numbers
            context_fn=lambda: (nullcontext(), _FirstRun(backbone, lora)),
        )

    if enabled:
        backbone.transformer.enable_gradient_checkpointing(run)
    else:
        backbone.transformer.disable_gradient_checkpointing()
