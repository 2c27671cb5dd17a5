"""Rerender-A-Video and FRESCO in a real host: equal to the core, composable, never lost without a word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CLOSE = 1e-5  # between the host's path and the core's, equal weights, float32
NEAR = 1e-3  # where features are optimised: the signs of its gradients turn with the last bit
Answer = Callable[..., Any]


@pytest.fixture
def got(answer: Answer) -> dict[str, Any]:
    """What the script printed; it runs once."""
    result: dict[str, Any] = answer("guidance.py")
    return result


def test_both_samplers_equal_the_core(got: dict[str, Any]) -> None:
    assert got["rerender"] < CLOSE and got["fresco attention"] < CLOSE and got["fresco"] < NEAR
    assert got["rerender edit"] == got["fresco edit"] == 0  # the edit is the anchor's picture, to the bit
    assert got["rerender cfg"] < CLOSE  # equal prompts: their difference is 0, whatever the scale
    assert got["rerender again"] == got["after cancel"] == 0


def test_every_part_changes_the_result(got: dict[str, Any]) -> None:
    names = ["without cross_frame", "without pixel_fusion", "without match_colour", "fresco aligned", "foreground"]
    assert all(got[name] > 1e-3 for name in [*names, "given flow"])


def test_guidance_on_a_model_works_with_the_hosts_sampler(got: dict[str, Any]) -> None:
    for name in ("cross", "flow", "features"):
        assert got[f"ksampler {name}"] > 1e-3 and got[f"ksampler {name} finite"]
    assert got["two jobs"] == got["plain after"] == got["off"] == 0


def test_encoding_that_loses_less(got: dict[str, Any]) -> None:
    assert got["fidelity plain"] == 0 and got["fidelity"] < 1


def test_cancel_within_a_step(got: dict[str, Any]) -> None:
    assert got["cancelled"] == [["cancelled", 1], ["cancelled", 4]]


REFUSALS = {
    "flux": ["InputError: model:", "Flux", "Stable Diffusion 1.5 or 2.1"],
    "flux patch": ["InputError: model:", "Flux", "Stable Diffusion 1.5 or 2.1"],
    "own guidance": ["InputError: model:", "cross-frame attention", "guidance of its own"],
    "twice": ["InputError: model:", "cross-frame attention already"],
    "mode": ["InputError: mode:", "anchor and new regions", "'first'"],
    "other before": ["InputError: model:", "with_other_attention", "layer 7", "leave"],
    "other after": ["InputError: model:", "with_other_attention", "layer 7", "leave"],
    "other in sampler": ["InputError: model:", "with_other_attention", "layer 7", "leave"],
    "windows": ["InputError: model:", "context windows"],
    "windows in sampler": ["InputError: model:", "context windows"],
    "no frames": ["InputError: frames:", "got none"],
    "no latents": ["InputError: latents:", "got none", "VAE Encode"],
    "three latents": ["InputError: latents:", "expected 4", "got 3"],
    "other frames": ["InputError: frames:", "128 x 128", "96 x 96"],
    "frames of the batch": ["InputError: latent_image:", "3 latents", "got 4"],
    "other flow": ["InputError: flow:", "these frames"],
    "sides": ["InputError: frames:", "multiples of 64", "100 x 100"],
    "edit size": ["InputError: edit:", "128 x 128", "96 x 96"],
    "edit count": ["InputError: edit:", "one picture", "got 2"],
    "keys": ["InputError: keys:", "4 numbers", "got 3"],
    "keys twice": ["InputError: keys:", "frame 1 twice"],
    "anchor": ["InputError: anchor_index:", "0, 4, 8, 12", "got 3"],
    "area": ["InputError: positive, negative:", "leave areas out"],
}


@pytest.mark.parametrize("name", REFUSALS)
def test_wrong_wiring_gets_one_sentence(got: dict[str, Any], name: str) -> None:
    text, words = got["refused"][name], REFUSALS[name]
    assert text.startswith(words[0]) and all(word in text for word in words) and "\n" not in text, text


def test_no_wrong_wiring_is_left_out(got: dict[str, Any]) -> None:
    assert set(got["refused"]) == set(REFUSALS)


def test_full_size_models_with_lora_and_controlnet(answer: Answer, tmp_path: Path) -> None:
    got = answer("guidance_sd.py", tmp_path)
    for path in tmp_path.glob("*.safetensors"):  # gigabytes that pytest would keep
        path.unlink()
    for layout in ("diffusers", "original"):
        assert got[f"as the core, {layout}"] < 1e-4 * max(1.0, got["size"]), got
    assert all(got[name] > 1e-3 for name in ("control changes", "guidance changes", "lora changes")), got
    assert got["finite"] and got["batch finite"], got
