"""Pairs from many clips, random looks, simulated wear, adapters of a smaller rank."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from tiny_models import random_dit
from zero2hero_core.checks import InputError, ShapeError
from zero2hero_core.hero_stage.lora.reduction import reduce_rank
from zero2hero_core.hero_stage.training.clip_pairs import WORN, ClipPairs, TruePicture
from zero2hero_core.hero_stage.training.looks import RandomLook
from zero2hero_core.hero_stage.training.pairs import PairSource
from zero2hero_core.hero_stage.training.trainer import HeroSettings, HeroTrainer
from zero2hero_core.hero_stage.training.wear import simulate_wear
from zero2hero_core.tiny.unet import load_tiny


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass
class Clip:
    """Frames of one colour; the truth is twice as bright, what was carried half as bright as that."""

    level: float
    size: int = 32
    numbers: tuple[int, ...] = (0, 3)

    def read(self, number: int, carrier: str) -> TruePicture:
        frame = torch.full((3, self.size, self.size), self.level + number / 100)
        return TruePicture(frame, frame * 2, None if carrier == WORN else frame)


@pytest.fixture(scope="module")
def backbone():
    return random_dit(load_tiny().vae)


def test_pairs_come_from_all_clips_frames_and_carriers(backbone) -> None:
    clips = [Clip(0.1), Clip(0.3)]
    pairs = ClipPairs(backbone, clips, ["zero", WORN], shift=4)
    assert isinstance(pairs, PairSource)
    draws = [pairs.draw(chance) for chance in [generator(1)] for _ in range(80)]
    levels = {round(float(backbone.decode(pair.conditions[1]).mean()), 2) for pair in draws}
    assert levels == {0.10, 0.13, 0.30, 0.33}
    for pair in draws:
        frame, target = (backbone.decode(packed).mean() for packed in (pair.conditions[1], pair.target))
        assert float(target) == pytest.approx(2 * float(frame), abs=0.02)
    carried = [float((pair.conditions[0] - pair.conditions[1]).abs().max()) < 1e-5 for pair in draws]
    assert 20 < sum(carried) < 60  # the carrier that gives the frame itself, and the simulated one


def test_the_generator_decides(backbone) -> None:
    pairs = ClipPairs(backbone, [Clip(0.1), Clip(0.3)], [WORN], shift=4)
    one, again = (pairs.draw(generator(7)) for _ in range(2))
    assert torch.equal(one.target, again.target) and torch.equal(one.conditions[0], again.conditions[0])


def test_a_trainer_draws_from_a_source(backbone) -> None:
    pairs = ClipPairs(backbone, [Clip(0.1)], ["zero"])
    trainer = HeroTrainer(backbone, pairs, HeroSettings(rank=2, steps=2, crop=0.5))
    try:
        before = {name: tensor.clone() for name, tensor in trainer.lora.state_dict().items()}
        trainer.step()
        assert any(not torch.equal(before[name], tensor) for name, tensor in trainer.lora.state_dict().items())
    finally:
        trainer.close()


def test_a_training_begins_with_given_weights(backbone) -> None:
    pairs = ClipPairs(backbone, [Clip(0.1)], ["zero"])
    first = HeroTrainer(backbone, pairs, HeroSettings(rank=2, steps=2))
    first.step()
    state = {name: tensor.clone() for name, tensor in first.lora.state_dict().items()}
    first.close()
    second = HeroTrainer(backbone, pairs, HeroSettings(rank=2, steps=2), start=state)
    assert all(torch.equal(state[name], tensor) for name, tensor in second.lora.state_dict().items())
    second.close()
    with pytest.raises(InputError):
        HeroTrainer(backbone, pairs, HeroSettings(rank=3, steps=2), start=state)
    HeroTrainer(backbone, pairs, HeroSettings(rank=2, steps=2)).close()  # nothing was left on the model


def test_bad_sources(backbone) -> None:
    with pytest.raises(InputError, match="at least one clip"):
        ClipPairs(backbone, [], ["zero"])
    with pytest.raises(InputError, match="got implicit"):
        ClipPairs(backbone, [Clip(0.1)], ["zero"], mode="implicit")
    pairs, chance = ClipPairs(backbone, [Clip(0.1), Clip(0.1, size=64)], ["zero"]), generator(1)
    with pytest.raises(ShapeError, match="one size"):
        for _ in range(20):
            pairs.draw(chance)


def test_a_look_is_a_function_of_colour_alone() -> None:
    pictures = torch.rand(2, 3, 8, 8, generator=generator(1))
    look = RandomLook(generator(5))
    changed = look(pictures)
    shuffled = torch.randperm(64, generator=generator(2))
    moved = pictures.flatten(2)[:, :, shuffled].view_as(pictures)
    assert torch.allclose(look(moved), changed.flatten(2)[:, :, shuffled].view_as(pictures), atol=1e-6)
    assert torch.allclose(look(pictures[1:]), changed[1:], atol=1e-6)
    assert float((changed - pictures).abs().mean()) > 0.03
    assert torch.allclose(RandomLook(generator(5), 0.0)(pictures), pictures, atol=1e-5)
    assert float((RandomLook(generator(6))(pictures) - changed).abs().mean()) > 0.03


def test_wear_keeps_the_picture_and_has_every_strength() -> None:
    y, x = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 64), indexing="ij")
    truth = torch.stack([x, y, (x * 6).sin() * 0.5 + 0.5])
    errors = [float((simulate_wear(truth, 1 - truth, generator(seed)) - truth).abs().mean()) for seed in range(40)]
    assert min(errors) < 0.02 and 0.03 < sum(errors) / 40 < 0.2 and max(errors) < 0.4
    with pytest.raises(ShapeError):
        simulate_wear(truth, truth[:, :32], generator())


def test_a_smaller_rank_is_the_nearest_one() -> None:
    up, down = torch.randn(12, 4, generator=generator(1)), torch.randn(4, 9, generator=generator(2))
    state = {"condition_0.layer.lora_A.weight": down, "condition_0.layer.lora_B.weight": up}
    same = reduce_rank(state, 4)
    product = same["condition_0.layer.lora_B.weight"] @ same["condition_0.layer.lora_A.weight"]
    assert torch.allclose(product, up @ down, atol=1e-5)
    less = reduce_rank(state, 2)
    assert [tuple(tensor.shape) for tensor in less.values()] == [(2, 9), (12, 2)]
    left = (less["condition_0.layer.lora_B.weight"] @ less["condition_0.layer.lora_A.weight"] - up @ down).norm()
    values = torch.linalg.svdvals(up @ down)
    assert float(left) == pytest.approx(float(values[2:].norm()), rel=1e-4)  # Eckart and Young
    with pytest.raises(InputError, match="rank"):
        reduce_rank(state, 5)
    with pytest.raises(InputError, match="bias"):
        reduce_rank({"condition_0.layer.lora_B.bias": up}, 1)
