"""Zero-Stage in a real host: equal to the core on diffusers, on native MODELs, with the host's LoRA and Cancel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CLOSE = 1e-4  # between the host's path and diffusers', equal weights, float32
Answer = Callable[..., Any]


def test_tiny_models_are_those_of_the_core(answer: Answer) -> None:
    got = answer("zero_tiny.py")
    assert got.pop("recommended") == {"timestep": 51, "block": 2, "adain_start": False, "track": True}
    assert len(got) == 14
    assert {name: value for name, value in got.items() if value > CLOSE} == {}


def test_nodes_equal_the_core_and_leave_the_model_alone(answer: Answer) -> None:
    got = answer("zero_nodes.py")
    for name in ("fixed 1", "adaptive", "all", "batch 1", "each on its own"):
        assert got[name] < CLOSE
        assert got[f"{name} decoded"] < CLOSE
    assert got["shapes"] == [[3, 128, 640, 3], [3, 128, 128]] and got["preview"] == 3
    assert "weak" in got["match ui"][0]
    assert got["ksampler"] is True and got["patches left"] == []
    assert len(got["said"]) == 2
    assert "reference is the anchor itself" in got["ui"][0] and "mask is empty in every frame" in got["ui"][0]


@pytest.fixture(scope="module")
def refusals() -> dict[str, list[str]]:
    """Wrong wiring -> words that its one sentence holds, the socket first."""
    return {
        "flux": ["InputError: model:", "Flux", "Stable Diffusion 1.5 or 2.1"],
        "sdxl": ["InputError: model:", "SDXL", "Stable Diffusion 1.5 or 2.1"],
        "vae": ["InputError: vae:", "8 latent channels", "same checkpoint"],
        "conditioning": ["InputError: conditioning:", "32 wide", "CLIP Text Encode"],
        "reference size": ["InputError: reference:", "64 x 64", "64 x 32"],
        "reference count": ["InputError: reference:", "one picture", "got 2"],
        "frames count": ["InputError: correspondence:", "these 1 frames", "got 2", "DIFTCorrespondence"],
        "frames size": ["InputError: correspondence:", "48 x 32", "64 x 64", "DIFTCorrespondence"],
        "mask size": ["ShapeError: mask:", "64 x 64", "32 x 32"],
        "mask count": ["ShapeError: mask:", "2", "got 3"],
        "k": ["InputError: k:", "at most 8", "got 9"],
        "anchor": ["InputError: anchor_index:", "0 to 1", "got 2"],
        "tokens": ["InputError: tokens:", "fixed, adaptive, all", "got 'some'"],
        "track": ["InputError: track:", "auto, on, off", "got 'maybe'"],
        "layers": ["InputError: layers:", "coarse (3-5)", "got 'all'"],
        "video vae": ["InputError: vae:", "for pictures", "for video"],
        "few steps": ["InputError: model:", "1000 steps", "got 50", "leave out"],
        "flow": ["InputError: model:", "ModelSamplingDiscreteFlow", "leave out"],
        "max_k": ["InputError: max_k:", "1 to 16", "got 64"],
        "sides": ["InputError: frames:", "multiples of 64", "64 x 48", "resize"],
    }


def test_lora_cancel_velocity_and_refusals(answer: Answer, refusals: dict[str, list[str]]) -> None:
    got = answer("zero_laws.py")
    assert got["plain"] < CLOSE and got["plain again"] == 0 and got["after cancel"] == 0
    assert got["lora changes"] > 30 * got["lora as merged"] and got["lora as merged"] < CLOSE
    assert got["velocity"] < CLOSE < got["velocity changes"]
    assert got["cancel"] == [["InterruptProcessingException", passes] for passes in (1, 2, 4)]
    assert "the correspondence holds 2 of each part; set max_k" in got["two matches"]
    assert "matches" not in got["eight matches"]
    assert set(got["refused"]) == set(refusals)
    for name, words in refusals.items():
        text = got["refused"][name]
        assert text.startswith(words[0]) and all(word in text for word in words) and "\n" not in text


@pytest.mark.parametrize("kind", ["sd15", "sd21-v"])
def test_full_size_checkpoint_equals_diffusers(answer: Answer, tmp_path: Path, kind: str) -> None:
    got = answer("zero_sd.py", tmp_path, kind)
    for path in tmp_path.glob("*.safetensors"):  # 2 GB that pytest would keep
        path.unlink()
    assert got["type"] == {"sd15": "EPS", "sd21-v": "V_PREDICTION"}[kind]
    for name in ("drawn", "features", "latents", "picture"):
        assert got[name] < CLOSE * max(1.0, got[f"size of {name}"]), got


def graph(**changed: Any) -> dict[str, Any]:
    """Demo clip through both nodes, in API format."""
    native = {"model": ["1", 0], "vae": ["1", 1], "conditioning": ["1", 2]}
    match = {"max_k": 8, "timestep": -1, "block": -1, "ensemble": 1, "neighbourhood": 1.0, "seed": 0, "track": "auto"}
    sample = {"tokens": "fixed", "k": 1, "gamma": 1.0, "tau": 1.0, "steps": 2, "layers": "all (3-11)"}
    sample |= {"adain_start": True, "batch": 2, "frames": ["2", 0], "reference": ["2", 1], "correspondence": ["3", 0]}
    return {
        "1": {"class_type": "ZeroToHeroTinyModels", "inputs": {}},
        "2": {"class_type": "ZeroToHeroDemoClip", "inputs": {"clip": 0, "frame_count": 3, "size": 64}},
        "3": {
            "class_type": "DIFTCorrespondence",
            "inputs": native | match | {"frames": ["2", 0], "anchor_index": ["2", 4]},
        },
        "4": {"class_type": "MaskedCiAKSampler", "inputs": native | sample | changed},
        "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "zero"}},
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 1], "vae": ["1", 1]}},
        "7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "decoded"}},
    }


def test_in_a_graph(server: Any) -> None:
    outputs = server.queue(graph())
    edited, decoded = server.files(outputs, "5"), server.files(outputs, "7")
    assert len(edited) == len(decoded) == 3
    assert len(outputs["3"]["images"]) == 3 and "weak" in outputs["3"]["text"][0]


def test_a_wrong_socket_is_named_to_the_user(server: Any) -> None:
    with pytest.raises(Exception, match=r"model: expected a Stable Diffusion 1.5 or 2.1 model, got Flux"):
        server.queue(graph(model=["1", 3]))
