"""The host's own optical-flow model, as OpticalFlowLoader gives it (hosts from about 0.33 on)."""

from __future__ import annotations

from typing import Any

import comfy.model_management as model_management
import torch

from ...zero2hero_core.checks import InputError


def loaded_network(optical_flow: Any) -> tuple[Any, torch.device]:
    """The network of an OPTICAL_FLOW, loaded by the host, and the device that it lies on.

    Raises: InputError when something else is connected.
    """
    network = getattr(optical_flow, "model", None)
    if not isinstance(network, torch.nn.Module) or not hasattr(optical_flow, "load_device"):
        raise InputError(
            f"optical_flow: expected the model of Load Optical Flow Model, got {type(optical_flow).__name__}; connect "
            "that node, or nothing."
        )
    model_management.load_models_gpu([optical_flow])
    return network, torch.device(optical_flow.load_device)
