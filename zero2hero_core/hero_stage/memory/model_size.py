"""Sizes of FLUX transformers: parameters, LoRA parameters and bytes, from the numbers of a configuration alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...checks import InputError, check_range

# Bytes a weight: nf4 is half a byte, one byte of scale per 64 weights and four bytes per 256 of these scales.
BYTES = {"fp32": 4.0, "bf16": 2.0, "fp8": 1.0, "nf4": 0.5 + 1 / 64 + 4 / (64 * 256)}
_TIME = 256  # sinusoids of timestep and guidance


@dataclass(frozen=True)
class _Layers:
    """`count` equal linear layers. small: stored in the chosen precision; lora: they carry adapters."""

    inputs: int
    outputs: int
    count: int
    small: bool = True
    lora: bool = False


@dataclass(frozen=True)
class ModelSize:
    """The numbers of a FLUX transformer that decide its memory.

    Args:
        layout: "flux1", or "flux2": fused projections in the single blocks, SwiGLU, modulation shared by all blocks, no
            biases.
        mlp: hidden width of the feed-forward layers.
        text_width, pooled_width: of the text inputs; guidance: has a guidance embedding.
        text_tokens: length of the prompt.
        cell: pixels that a token covers in each direction.

    Raises: InputError for an unknown layout or a size below 1.
    """

    name: str
    layout: str
    double_blocks: int
    single_blocks: int
    width: int
    heads: int
    mlp: int
    in_channels: int
    text_width: int
    pooled_width: int = 0
    guidance: bool = False
    text_tokens: int = 512
    cell: int = 16

    def __post_init__(self) -> None:
        if self.layout not in ("flux1", "flux2"):
            raise InputError(f"model size: expected the layout flux1 or flux2, got {self.layout!r}.")
        for name in ("double_blocks", "single_blocks", "width", "heads", "mlp", "in_channels", "text_width", "cell"):
            check_range(f"model size: {name}", getattr(self, name), 1, 10**6)
        check_range("model size: text_tokens", self.text_tokens, 1, 10**6)

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], *, name: str = "", text_tokens: int = 512, cell: int = 16
    ) -> ModelSize:
        """Sizes from the configuration of diffusers' `FluxTransformer2DModel` or `Flux2Transformer2DModel`, which knows
        neither the prompt nor the autoencoder, hence `text_tokens` and `cell`.

        Raises: InputError when it is of another class.
        """
        flux2 = "timestep_guidance_channels" in config or config.get("_class_name") == "Flux2Transformer2DModel"
        try:
            width = int(config["num_attention_heads"]) * int(config["attention_head_dim"])
            return cls(
                name or ("FLUX.2" if flux2 else "FLUX.1"),
                "flux2" if flux2 else "flux1",
                int(config["num_layers"]),
                int(config["num_single_layers"]),
                width,
                int(config["num_attention_heads"]),
                int(width * float(config.get("mlp_ratio", 3.0))) if flux2 else 4 * width,
                int(config["in_channels"]),
                int(config["joint_attention_dim"]),
                0 if flux2 else int(config["pooled_projection_dim"]),
                bool(config.get("guidance_embeds", False)),
                text_tokens,
                cell,
            )
        except KeyError as error:
            raise InputError(
                f"model size: expected the configuration of a FLUX transformer, it lacks {error}."
            ) from None

    @property
    def fused(self) -> bool:
        """FLUX.2's layout."""
        return self.layout == "flux2"

    @property
    def blocks(self) -> int:
        """Blocks of both kinds, each with one attention layer."""
        return self.double_blocks + self.single_blocks

    def _layers(self) -> Iterator[_Layers]:
        d, m, doubles, singles = self.width, self.mlp, self.double_blocks, self.single_blocks
        yield _Layers(d, d, 4 * doubles, lora=True)  # query, key, value, out of the image stream
        yield _Layers(d, d, 4 * doubles)  # and of the text stream
        yield _Layers(d, 2 * m if self.fused else m, 2 * doubles)
        yield _Layers(m, d, 2 * doubles)
        yield _Layers(d + m, d, singles)
        if self.fused:
            yield _Layers(d, 3 * d + 2 * m, singles, lora=True)
            yield _Layers(d, 6 * d, 2, small=False)
            yield _Layers(d, 3 * d, 1, small=False)
        else:
            yield _Layers(d, d, 3 * singles, lora=True)
            yield _Layers(d, m, singles)
            yield _Layers(d, 6 * d, 2 * doubles)
            yield _Layers(d, 3 * d, singles)
        for inputs in (_TIME, *([_TIME] if self.guidance else []), *([self.pooled_width] if self.pooled_width else [])):
            yield _Layers(inputs, d, 1, small=False)
            yield _Layers(d, d, 1, small=False)
        yield _Layers(self.in_channels, d, 1, small=False)
        yield _Layers(self.text_width, d, 1, small=False)
        yield _Layers(d, 2 * d, 1, small=False)
        yield _Layers(d, self.in_channels, 1, small=False)

    def parameters(self) -> int:
        """Parameters of the transformer."""
        return sum(layer.inputs * layer.outputs * layer.count for layer in self._layers()) + self._small_tensors()

    def _small_tensors(self) -> int:
        """Gains of the query and key norms, and biases where the layout has them."""
        gains = (4 * self.double_blocks + 2 * self.single_blocks) * (self.width // self.heads)
        return gains + (0 if self.fused else sum(layer.outputs * layer.count for layer in self._layers()))

    def lora_parameters(self, rank: int) -> int:
        """Parameters of one condition's LoRA on every layer that takes one (`lora.adapters`)."""
        return sum(rank * (lora.inputs + lora.outputs) * lora.count for lora in self._layers() if lora.lora)

    def weight_bytes(self, weights: str, compute: int = 2) -> int:
        """Bytes of the frozen weights; outside the blocks they stay in the type of `compute` bytes."""
        total = float(compute * self._small_tensors())
        for layer in self._layers():
            each = BYTES[weights] if layer.small and weights in ("fp8", "nf4") else compute
            total += each * layer.inputs * layer.outputs * layer.count
            if layer.small and weights == "fp8":
                total += 4 * layer.outputs * layer.count  # a factor per row
        return round(total)

    def widest_layer(self) -> int:
        """Weights of the largest linear layer in a block: what is unpacked at a time when weights are stored small."""
        return max(layer.inputs * layer.outputs for layer in self._layers() if layer.small)

    def tokens(self, resolution: int | tuple[int, int]) -> int:
        """Image tokens of a resolution, a side of a square or (height, width).

        Raises: InputError unless it is a multiple of `cell`.
        """
        height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
        if height < 1 or width < 1 or height % self.cell or width % self.cell:
            raise InputError(
                f"resolution: expected multiples of {self.cell} from {self.cell} up, got {height} x {width}."
            )
        return (height // self.cell) * (width // self.cell)


FLUX1_DEV = ModelSize("FLUX.1-dev", "flux1", 19, 38, 3072, 24, 12288, 64, 4096, pooled_width=768, guidance=True)
FLUX2_KLEIN_4B = ModelSize("FLUX.2-klein-4B", "flux2", 5, 20, 3072, 24, 9216, 128, 7680)
