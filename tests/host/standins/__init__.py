"""Nodes for the tests: random embeddings in the place of FLUX's text encoders, which would need 5 GB; the best shift of
the whole picture in the place of RAFT, whose weights are not here."""

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


class Shift(torch.nn.Module):
    """Called as RAFT is. Where no shift to the side explains the pictures the flow is their difference, which closes no
    loop."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(20.0), requires_grad=False)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> list[torch.Tensor]:
        left, right = source[..., 40:-40], target.unfold(-1, source.shape[-1] - 80, 1)
        misses = (right.movedim(-2, 0) - left).abs().mean((1, 2, 3, 4))
        flow = torch.zeros_like(source[:, :2])
        if float(misses.min()) < 0.02:
            flow[:, 0] = float(misses.argmin()) - 40
            return [flow]
        return [(source - target)[:, :2] * self.scale]


class StandInOpticalFlow:
    """What the host's Load Optical Flow Model gives, but for the network in it."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("OPTICAL_FLOW",), "load", "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, object]]:  # the host's name
        return {"required": {}}

    def load(self) -> tuple[object]:
        import comfy.model_management as management
        from comfy.model_patcher import ModelPatcher

        device, offload = management.get_torch_device(), management.unet_offload_device()
        return (ModelPatcher(Shift().eval(), load_device=device, offload_device=offload),)


NODE_CLASS_MAPPINGS = {"StandInFluxText": StandInFluxText, "StandInOpticalFlow": StandInOpticalFlow}
