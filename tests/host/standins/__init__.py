"""A node for the tests: random embeddings in the place of FLUX's text encoders, which would need 5 GB."""

from __future__ import annotations

import torch


class RandomText:
    """What CLIP Text Encode needs of a CLIP."""

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens_scheduled(self, tokens: str) -> list[list[object]]:
        generator = torch.Generator().manual_seed(len(tokens))
        words = torch.randn(1, 8, 4096, generator=generator)
        return [[words, {"pooled_output": torch.randn(1, 768, generator=generator)}]]


class StandInFluxText:
    """Loads nothing."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("CLIP",), "load", "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, object]]:  # the host's name
        return {"required": {}}

    def load(self) -> tuple[RandomText]:
        return (RandomText(),)


NODE_CLASS_MAPPINGS = {"StandInFluxText": StandInFluxText}
