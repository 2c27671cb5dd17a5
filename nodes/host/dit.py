"""Hero-Stage on the host's own FLUX model: `backbones.surface.DiTSurface` over MODEL, VAE and CONDITIONING.

Keys and values are captured and appended through the host's `optimized_attention_override`, which it calls for every
attention of a diffusion transformer: double blocks first, then single blocks, as the core numbers its layers. The
position ids of a condition are shifted through the `post_input` patch. So weights, LoRA patches and offloading stay
the host's business. A condition pass is left, by an exception as on Cancel, at the last layer's keys and values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.patcher_extension
import torch

from ...zero2hero_core.attention.conditions import Condition, ConditionCapture, ConditionInject, PassEnds
from ...zero2hero_core.attention.protocol import AttentionHook
from ...zero2hero_core.backbones.surface import DiTSurface, TextEmbedding
from ...zero2hero_core.checks import InputError
from ...zero2hero_core.hero_stage.memory.estimate import condition_bytes
from .flux import HostCodec, flux_family, host_text, recommended
from .services import check_cancel, compute_dtype


class _Override:
    """Hands each attention of one pass to a hook of the core, numbered as they come."""

    def __init__(self, hook: AttentionHook):
        self.hook, self.layer = hook, 0

    def __call__(
        self,
        function: Callable[..., torch.Tensor],
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        heads: int,
        mask: torch.Tensor | None = None,
        *_: Any,
        skip_output_reshape: bool = False,
        **__: Any,
    ) -> torch.Tensor:
        if mask is not None:
            raise InputError("model: another patch on it uses an attention mask, which Hero-Stage cannot; remove it.")
        if query.ndim != 4:
            raise InputError(
                f"model: expected the attention of FLUX, on queries of 4 dimensions, got one on {query.ndim}: another "
                "patch adds it; connect the MODEL without it."
            )
        out = self.hook(self.layer, query, key.to(query.dtype), value.to(query.dtype))
        self.layer += 1
        return out if skip_output_reshape else out.transpose(1, 2).flatten(2)


class HostDiT:
    """The host's FLUX model as `restore_latents` and `HeroStage` see it.

    Args:
        model, vae, conditioning: as they come from the sockets.
        on_pass: called after every sampling pass, for progress. Cancel is looked at before each pass.

    Attributes: conditions: how many the caller keeps on the device while it samples; the host is asked for their room.
    Raises: InputError naming the socket that is wired wrongly.
    """

    multiple = 16

    def __init__(self, model: Any, vae: Any, conditioning: Any, *, on_pass: Callable[[], None] | None = None):
        self.model, self.base, self.on_pass = model, model.model, on_pass
        self.family = flux_family(model)
        self.text, self.guidance = host_text(model, self.family, conditioning)
        self.codec = HostCodec(vae, model)
        self.recommended: Mapping[str, Any] = recommended(self.family)
        self.name = type(self.base.model_config).__name__
        transformer = self.base.diffusion_model
        self.layers = len(transformer.double_blocks) + len(transformer.single_blocks)
        self.conditions, self._loaded_for = 0, 0

    @property
    def device(self) -> torch.device:
        """Where the host computes."""
        device: torch.device = self.model.load_device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Type that activations are computed in."""
        return compute_dtype(self.base)

    @property
    def channels(self) -> int:
        """Channels C of packed latents."""
        channels: int = self.base.diffusion_model.in_channels
        return channels

    def condition(
        self,
        packed: torch.Tensor,
        index: int,
        noise_hw: tuple[int, int],
        *,
        guidance: float,
        text: TextEmbedding | None = None,
        strength: float = 1.0,
    ) -> Condition:
        """As the core's: timestep 0, attention to itself; the caller has that condition's LoRA switched on."""
        source = text or self.text
        blank = TextEmbedding(source.tokens[:1, :1] * 0, source.pooled)  # the text stream goes unread here
        (h, w), (like_h, like_w) = packed.shape[-2:], noise_hw
        time = self.family.condition_times(index)

        def move(inputs: dict[str, Any]) -> dict[str, Any]:
            ids = inputs["img_ids"].float()
            factors = ids.new_ones(ids.shape[-1])
            factors[1], factors[2] = like_h / h, like_w / w
            ids = ids * factors
            ids[..., 0] += time
            return {**inputs, "img_ids": ids}

        hook = ConditionCapture(text_tokens=1, last=self.layers - 1)
        with suppress(PassEnds):
            self._run(packed, torch.zeros(len(packed)), guidance, blank, hook, move)
        return Condition(hook.keys_values, strength)

    def velocity(
        self,
        packed: torch.Tensor,
        sigma: torch.Tensor,
        conditions: Sequence[Condition] = (),
        *,
        guidance: float,
        text: TextEmbedding | None = None,
    ) -> torch.Tensor:
        """As the core's: noise - latents of noisy packed latents, (N, C, h, w), float32; sigma in (0, 1]."""
        hook = ConditionInject(conditions) if conditions else None
        noisy, clean = self._run(packed, sigma, guidance, text or self.text, hook)
        if self.on_pass:
            self.on_pass()
        return self.codec.pack((noisy - clean) / sigma.to(noisy).view(-1, 1, 1, 1))

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) in [0, 1] -> packed latents (N, C, h, w), float32."""
        self._loaded_for = 0  # the VAE may have pushed the model out
        return self.codec.encode(images)

    def decode(self, packed: torch.Tensor) -> torch.Tensor:
        """Packed latents -> images (N, 3, H, W) in [0, 1]."""
        self._loaded_for = 0
        return self.codec.decode(packed)

    def _run(
        self,
        packed: torch.Tensor,
        sigma: torch.Tensor,
        guidance: float,
        text: TextEmbedding,
        hook: AttentionHook | None,
        move: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One pass through the host's model: its input and what it takes for the clean latents."""
        check_cancel()
        count, device = len(packed), self.device
        x = self.codec.unpack(packed.to(device, torch.float32))
        self._load(x)
        override = None if hook is None else _Override(hook)
        inputs = {"guidance": torch.full((count,), float(guidance), device=device)}
        if text.pooled is not None:
            inputs["y"] = text.pooled.to(device).expand(count, -1)
        words = text.tokens.to(device).expand(count, -1, -1)
        options = self._options(override, move)
        clean = self.base.apply_model(
            x, sigma.to(device, torch.float32), c_crossattn=words, transformer_options=options, **inputs
        )
        if override is not None and override.layer != self.layers:
            raise InputError(
                f"model: a patch on it skips or repeats blocks ({override.layer} attention layers ran, expected "
                f"{self.layers}); connect the MODEL without it."
            )
        return x, clean

    def _options(self, override: _Override | None, move: Any) -> dict[str, Any]:
        """The MODEL's own options with ours on top; nothing of the MODEL is changed."""
        options = dict(self.model.model_options.get("transformer_options", {}))
        options["wrappers"] = comfy.patcher_extension.copy_nested_dicts(self.model.wrappers)
        if override is not None:
            options["optimized_attention_override"] = override
        if move is not None:
            patches = dict(options.get("patches", {}))
            patches["post_input"] = [*patches.get("post_input", []), move]
            options["patches"] = patches
        return options

    def _load(self, x: torch.Tensor) -> None:
        """Ask the host for the model, once per batch size and after each use of the VAE."""
        if self._loaded_for < len(x):
            memory = self.base.memory_required(list(x.shape)) + self._kept_bytes(x)
            comfy.model_management.load_models_gpu([self.model], memory_required=memory)
            self._loaded_for = len(x)

    def _kept_bytes(self, x: torch.Tensor) -> int:
        """Keys and values of the conditions: the first pass asks for them, though none is there yet, because the
        sampling, which reads them, does not ask again."""
        tokens = x.shape[-2] * x.shape[-1] // self.codec.patch**2
        width = self.base.diffusion_model.params.hidden_size
        return len(x) * self.conditions * condition_bytes(self.layers, tokens, width, self.dtype.itemsize)


if TYPE_CHECKING:
    _surface: type[DiTSurface] = HostDiT
